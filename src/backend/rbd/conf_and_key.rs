//! What this host's ceph.conf and keyrings say, before anything connects.

use std::path::PathBuf;

use super::metavariables::Metavariables;
use super::secret::Look;
use super::{conf_text, secret};
use crate::ceph::{Conf, Connect};
use crate::linux::boot;
use crate::linux::keyring::Key;
use crate::linux::wipe::Wiped;
use crate::model::error::{CallError, DriverError, ErrorKind, Result};
use crate::model::settings;

/// How to connect. A ceph.conf that is called after its cluster, such as `remote.conf`, names the cluster, as it does to `rbd -c`.
pub(super) fn how(options: &settings::Ceph) -> Connect {
    let named = options.conf.extension().filter(|end| *end == "conf").and_then(|_| options.conf.file_stem());
    let cluster = match named.and_then(|name| name.to_str()) {
        Some(name) if options.cluster.is_empty() => name.to_owned(),
        _ if options.cluster.is_empty() => "ceph".to_owned(),
        _ => options.cluster.clone(),
    };
    Connect {
        conf: options.conf.clone(),
        user: options.user.clone(),
        keyring: options.keyring.clone(),
        cluster,
        timeout: options.timeout,
    }
}

/// What there is of the user's key. Needs no cluster.
pub(super) fn key(options: &settings::Ceph) -> Result<Look> {
    survive(options)?;
    let how = how(options);
    let conf = Conf::read(&how).map_err(|e| unread(options, e))?;
    let user = how.user.strip_prefix("client.").unwrap_or(&how.user);
    secret::look(|key| conf.get(key), user)
}

/// An error for a ceph.conf or a keyring that librados would not survive. It reads both as soon as it is told of the ceph.conf, so
/// it cannot be asked which keyrings those are.
pub(super) fn survive(options: &settings::Ceph) -> Result<()> {
    for path in files(options) {
        let text = Wiped::read(&path).unwrap_or_default();
        if let Err(mistake) = conf_text::sections(text.bytes())
            && mistake.deadly
        {
            let message = format!("{}:{}: {}", path.display(), mistake.line, mistake.what);
            return Err(DriverError::new(ErrorKind::Config, message));
        }
    }
    Ok(())
}

/// An error for methods of authentication that librados does not survive, or cannot use.
pub(super) fn require_method(options: &settings::Ceph) -> Result<()> {
    match Conf::read(&how(options)) {
        Ok(conf) => secret::asks_for_key(|key| conf.get(key)).map(drop),
        // Connecting tells.
        Err(_) => Ok(()),
    }
}

/// The ceph.conf, and every file that may hold the key by what is in it.
pub(super) fn files(options: &settings::Ceph) -> Vec<PathBuf> {
    let how = how(options);
    let user = how.user.strip_prefix("client.").unwrap_or(&how.user);
    let entity = format!("client.{user}");
    let text = Wiped::read(&how.conf).unwrap_or_default();
    let sections = conf_text::sections(text.bytes()).unwrap_or_default();
    let host = boot::hostname().unwrap_or_default();
    let variables = Metavariables {
        cluster: &how.cluster,
        user,
        host: host.split('.').next().unwrap_or_default(),
        sections: &sections,
    };
    let mut lists =
        vec!["/etc/ceph/$cluster.$name.keyring,/etc/ceph/$cluster.keyring,/etc/ceph/keyring".to_owned()];
    for section in &sections {
        if [entity.as_str(), "client", "global"].contains(&section.name.as_str()) {
            let named = |entry: &&conf_text::Entry| ["keyring", "keyfile"].contains(&entry.name.as_str());
            let entries = section.entries.iter().filter(named);
            lists.extend(entries.map(|entry| String::from_utf8_lossy(entry.value.bytes()).into_owned()));
        }
    }
    lists.extend(how.keyring.as_ref().map(|path| path.display().to_string()));
    let mut files = vec![how.conf.clone()];
    files.extend(lists.iter().flat_map(|list| secret::paths(&variables.expand(list))));
    files
}

/// Why there is no key, where that may be right: a cluster without cephx asks for none, and only connecting tells.
#[derive(Debug)]
pub enum KeyPlace {
    /// A file or an option, and the key.
    At(String, Key),
    /// The client is told to use none.
    NotAsked,
    /// There is none, and that is why.
    Missing(DriverError),
}

/// Where the user's key is. Needs no cluster.
pub fn key_place(options: &settings::Ceph) -> Result<KeyPlace> {
    Ok(match key(options)? {
        Look::Found(found) => KeyPlace::At(found.place, found.key),
        Look::NotAsked => KeyPlace::NotAsked,
        Look::Missing(why) => KeyPlace::Missing(why),
    })
}

/// Why ceph.conf could not be read: librados tells nobody in which line.
pub(super) fn unread(options: &settings::Ceph, e: CallError) -> DriverError {
    let conf = options.conf.display();
    let text = Wiped::read(&options.conf).unwrap_or_default();
    match (e.call, conf_text::sections(text.bytes())) {
        ("rados_conf_read_file", Err(mistake)) => {
            DriverError::new(ErrorKind::Config, format!("{conf}:{}: {}", mistake.line, mistake.what))
                .caused_by(e)
        }
        _ => e.into(),
    }
}

/// What ceph.conf says of the monitors; nothing when it cannot be read.
pub fn mon_host(options: &settings::Ceph) -> Option<String> {
    survive(options).ok()?;
    Conf::read(&how(options)).ok()?.get("mon_host").filter(|hosts| !hosts.is_empty())
}

//! What `doctor` asks of a cluster: it changes nothing but an object of its own, and waits for nothing longer than one request may take.

use std::path::PathBuf;
use std::time::Instant;

use nix::errno::Errno;
use serde::Deserialize;
use serde_json::json;

use super::admin::Admin;
use super::metavariables::Metavariables;
use super::options::{DEFAULTS, with_defaults};
use super::places::{self, Configured};
use super::secret::Look;
use super::session::{how, place};
use super::{caps, conf_text, header, kinds, map, osdmap, secret};
use crate::ceph::{Conf, Locker, Swap, features};
use crate::linux::boot;
use crate::linux::keyring::Key;
use crate::linux::wipe::Wiped;
use crate::model::error::{CallError, DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::settings;

pub use super::monitors::{Added, Monitor};

/// The object that [`Admin::may_use`] writes, reads and removes.
const PROBE: &str = "rbd_docker_plugin.doctor";
/// How long its lock would last if nobody removed it.
const PROBE_LASTS: std::time::Duration = std::time::Duration::from_secs(5);
/// No host has this name, so no monitor takes it for an address; but it has the form that `profile rbd` asks for.
const NO_ADDRESS: &str = "rbd-docker-plugin-doctor/1";

/// What the cluster says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// `HEALTH_OK`, `HEALTH_WARN` or `HEALTH_ERR`.
    pub status: String,
    /// What is wrong, one line each.
    pub reasons: Vec<String>,
}

/// What was seen of the images of some pools.
#[derive(Debug, Default)]
pub struct Images {
    /// How many there are.
    pub count: usize,
    /// How many of them were looked at: there may be too many for the time.
    pub looked: usize,
    /// Those with features that the kernel lacks, the names of these, and what would help.
    pub lacking: Vec<(ImageSpec, String, String)>,
    /// Those with an advisory lock that bears the host's name.
    pub locked: Vec<(ImageSpec, Locker)>,
    /// Those that cannot be read, or cannot be used as they are.
    pub damaged: Vec<DriverError>,
    /// Those that are no volumes, as `rbd` names them, and why.
    pub no_volumes: Vec<(String, String)>,
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

impl Admin {
    /// The monitors, from the monmap.
    pub fn monitors(&self) -> Vec<Monitor> {
        self.session.monitors().all().to_vec()
    }

    /// How the kernel is to speak to the monitors in a mapping with these options.
    pub fn kernel_link(&self, map_options: Option<&str>) -> Result<KernelLink> {
        let conf = |key: &str| self.cluster().conf(key).unwrap_or_default();
        let defaults = conf(DEFAULTS);
        let words = with_defaults(map_options.unwrap_or_default(), &defaults)?;
        let monitors = self.session.monitors();
        let (addresses, added) = monitors.for_options(&words, &conf("ms_client_mode"));
        let msgr2 = added.is_some() || wants_msgr2(&words);
        Ok(KernelLink { addresses: addresses.to_vec(), added, msgr2, defaults })
    }

    /// Why kernel clients may hang or fail on this cluster; nothing when all is well.
    pub fn beyond_kernels(&self) -> Result<Option<String>> {
        osdmap::beyond_kernels(self.cluster())
    }

    /// How the cluster is.
    pub fn health(&self) -> Result<Health> {
        parse_health(&self.cluster().mon_command(&json!({"prefix": "health", "format": "json"}))?)
    }

    /// What a pool is marked for: `rbd`, `cephfs`, …
    pub fn applications(&self, pool: &str) -> Result<Vec<String>> {
        let ask = json!({"prefix": "osd pool application get", "pool": pool, "format": "json"});
        let answer = self.cluster().mon_command(&ask).map_err(|e| caps::explain(&self.options, e.into()))?;
        let found: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&answer).map_err(|e| {
                let message =
                    format!("what the monitors say of the applications of {pool} is not understood: {e}");
                DriverError::new(ErrorKind::Failed, message)
            })?;
        Ok(found.into_iter().map(|(application, _)| application).collect())
    }

    /// An error when the namespace that is configured for a pool is not there.
    pub fn require_namespace(&self, pool: &str) -> Result<()> {
        let required = self.open(pool, self.namespace_of(pool)).and_then(|io| places::require_namespace(&io));
        required.map_err(|e| caps::explain(&self.options, e))
    }

    /// The namespace that is configured for a pool.
    pub fn namespace_of(&self, pool: &str) -> Option<&str> {
        Configured::new(&self.options).namespace_of(pool)
    }

    /// Whether this user may write and read in a pool, or in the namespace that is configured for it, call methods there and list images: all on an object of our own, which is
    /// removed again, with the same operations that owner records and heartbeats need. The error names the operation.
    pub fn may_use(&self, pool: &str) -> Result<()> {
        let io = self.open(pool, self.namespace_of(pool))?;
        let done = || -> Result<(), CallError> {
            io.omap_swap(PROBE, &[Swap { key: "probe", expected: None, new: Some(b"probe") }])?;
            match io.omap_get(PROBE, &["probe"]) {
                // Another doctor has just removed it.
                Err(e) if e.errno == Errno::ENOENT => {}
                read => drop(read?),
            }
            io.lock_shared(PROBE, "probe", "doctor", "doctor", "", PROBE_LASTS)?;
            io.images().map(drop)
        };
        let done = done();
        let removed = io.remove_object(PROBE);
        done.and(removed).map_err(|e| caps::explain(&self.options, e.into()))
    }

    /// Whether this user may shut others out. A client may not read its own capabilities (`auth get` is denied under `profile rbd`),
    /// and a short fence of some address would still make a new map for every OSD. So the monitors are asked to fence what is no
    /// address: they look at the capability first (EACCES) and at the address only then (EINVAL), and change nothing.
    pub fn may_fence(&self) -> Result<bool> {
        let ask = json!({"prefix": "osd blocklist", "blocklistop": "add", "addr": NO_ADDRESS, "expire": 1.0});
        match self.cluster().mon_command(&ask) {
            Err(e) if matches!(e.errno, Errno::EACCES | Errno::EPERM) => Ok(false),
            Err(e) if e.errno == Errno::EINVAL => Ok(true),
            answer => Ok(answer.map(|_| true)?),
        }
    }

    /// Looks at the header of every image in these pools and their namespaces, until the time is over. `kernel` are the features
    /// that it has, `host` is what the advisory locks of this host are called.
    pub fn look_at_images(
        &self,
        pools: &[String],
        kernel: Option<u64>,
        host: &str,
        until: Instant,
    ) -> Result<Images> {
        let mut seen = Images::default();
        for pool in pools {
            let places = match places::of_pool(&self.session, pool, self.namespace_of(pool)) {
                Err(e) if e.kind == ErrorKind::NotFound => continue,
                places => places?,
            };
            for place in places {
                let images = match self.session.open(&place).and_then(|io| Ok(io.images()?)) {
                    // Another tenant's.
                    Err(e)
                        if e.kind == ErrorKind::Denied && !Configured::new(&self.options).is_home(&place) =>
                    {
                        continue;
                    }
                    images => images.map_err(|e| caps::explain(&self.options, e))?,
                };
                for image in images {
                    seen.count += 1;
                    let spec = match ImageSpec::new(pool, place.1.as_deref(), &image.name) {
                        Ok(spec) => spec,
                        Err(e) => {
                            let parts = [Some(pool.as_str()), place.1.as_deref(), Some(image.name.as_str())];
                            let named = parts.into_iter().flatten().collect::<Vec<_>>().join("/");
                            seen.no_volumes.push((named, e.message));
                            continue;
                        }
                    };
                    if image.id.is_empty() {
                        seen.no_volumes.push((spec.to_string(), "it is an image of format 1".to_owned()));
                        continue;
                    }
                    if Instant::now() < until {
                        self.look_at(&spec, &image.id, kernel, host, &mut seen)?;
                    }
                }
            }
        }
        Ok(seen)
    }

    fn look_at(
        &self,
        spec: &ImageSpec,
        id: &str,
        kernel: Option<u64>,
        host: &str,
        seen: &mut Images,
    ) -> Result<()> {
        let io = self.session.open(&place(spec))?;
        seen.looked += 1;
        let header = match header::read(&io, id) {
            Ok(Some(header)) => header,
            // Half removed, or removed meanwhile.
            Ok(None) => {
                let why = "it has no header: rbd rm ends its removal";
                seen.no_volumes.push((spec.to_string(), why.to_owned()));
                return Ok(());
            }
            // What the cluster does not answer is no fault of the image.
            Err(e) if e.source.is_some() => return Err(e),
            Err(e) => {
                seen.damaged.push(e.context(spec));
                return Ok(());
            }
        };
        if let Some(trouble) = kinds::trouble(spec, &header, None) {
            seen.damaged.push(trouble.why);
            return Ok(());
        }
        let lacking = kernel.map_or(0, |kernel| header.features & !kernel);
        if lacking != 0 {
            let names = features::told(lacking);
            seen.lacking.push((spec.clone(), names, map::without_features(spec, header.features, lacking)));
        }
        if header.features & features::EXCLUSIVE_LOCK == 0 {
            let lockers = io.lockers(&format!("rbd_header.{id}"), "rbd_lock")?;
            seen.locked.extend(
                lockers.into_iter().filter(|held| held.cookie == host).map(|held| (spec.clone(), held)),
            );
        }
        Ok(())
    }
}

/// How the kernel is to speak to the monitors.
#[derive(Debug)]
pub struct KernelLink {
    /// The addresses that it is given.
    pub addresses: Vec<String>,
    /// An option that nobody gave.
    pub added: Option<Added>,
    /// Whether it is to speak the new protocol.
    pub msgr2: bool,
    /// The cluster's own map options, if it has some.
    pub defaults: String,
}

/// A type of keys by its name.
pub fn key_type(kind: u16) -> String {
    secret::type_name(kind)
}

/// Whether these map options make the kernel speak the new protocol.
fn wants_msgr2(words: &[String]) -> bool {
    let mode = words.iter().find_map(|word| word.strip_prefix("ms_mode="));
    mode.is_some_and(|mode| mode != "legacy")
}

pub(super) fn parse_health(answer: &[u8]) -> Result<Health> {
    #[derive(Deserialize)]
    struct Answer {
        status: String,
        #[serde(default)]
        checks: std::collections::BTreeMap<String, Check>,
    }
    #[derive(Deserialize)]
    struct Check {
        summary: Summary,
        #[serde(default)]
        muted: bool,
    }
    #[derive(Deserialize)]
    struct Summary {
        message: String,
    }
    let answer: Answer = serde_json::from_slice(answer).map_err(|e| {
        DriverError::new(ErrorKind::Failed, format!("the cluster's health is not understood: {e}"))
    })?;
    let reasons = answer.checks.into_iter().filter(|(_, check)| !check.muted);
    let reasons = reasons.map(|(name, check)| format!("{}: {}", name, check.summary.message)).collect();
    Ok(Health { status: answer.status, reasons })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_has_a_word_and_reasons_but_for_those_that_are_muted() {
        let answer = br#"{"status":"HEALTH_WARN","checks":{
            "MON_CLOCK_SKEW":{"severity":"HEALTH_WARN","summary":{"message":"clock skew detected on mon.b","count":1},"muted":false},
            "POOL_NO_REDUNDANCY":{"severity":"HEALTH_WARN","summary":{"message":"1 pool(s)","count":1},"muted":true}},"mutes":[]}"#;
        let health = parse_health(answer).unwrap();
        assert_eq!(health.status, "HEALTH_WARN");
        assert_eq!(health.reasons, ["MON_CLOCK_SKEW: clock skew detected on mon.b"]);
        parse_health(b"[]").unwrap_err();
    }

    #[test]
    fn only_a_mode_asks_for_the_new_protocol() {
        let of = |list: &str| wants_msgr2(&with_defaults(list, "").unwrap());
        assert!(!of("") && !of("queue_depth=4,ms_mode=legacy"));
        assert!(of("queue_depth=4, ms_mode=crc"));
    }
}

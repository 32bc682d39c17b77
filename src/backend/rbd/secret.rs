//! The user's key, from where librados itself has it: `key`, `keyfile` or the first keyring that can be read.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::conf_text::{self, Section};
use crate::linux::keyring::Key;
use crate::linux::wipe::Wiped;
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};

/// Kinds of entities that Ceph knows; a keyring with any other is refused as a whole.
const KINDS: [&str; 6] = ["auth", "mon", "osd", "mds", "mgr", "client"];

/// A key, and where it was.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) key: Key,
    pub(super) place: String,
}

/// What there is of a key.
#[derive(Debug)]
pub(super) enum Look {
    /// It was found.
    Found(Found),
    /// The client is told to use none.
    NotAsked,
    /// There is none, and that is why. librados goes on without: a cluster without cephx lets it in, any other does not.
    Missing(DriverError),
}

impl Look {
    /// The key for the kernel, of a client that the cluster has let in.
    pub(super) fn key(self) -> Option<Key> {
        match self {
            Self::Found(found) => Some(found.key),
            Self::NotAsked | Self::Missing(_) => None,
        }
    }
}

/// Whether the client is to use a key by these settings. An error when they name no method that librados can use: with some it ends the whole
/// program.
pub(super) fn asks_for_key(setting: impl Fn(&str) -> Option<String>) -> Result<bool> {
    // The older option goes before the newer one.
    for option in ["auth_supported", "auth_client_required"] {
        let Some(methods) = setting(option).filter(|methods| !methods.is_empty()) else { continue };
        let has = |method: &str| methods.split([',', ';', ' ', '\t']).any(|word| word == method);
        if has("cephx") || has("none") {
            return Ok(has("cephx"));
        }
        let message = format!("{option} = {methods} in ceph.conf is neither cephx nor none");
        return Err(DriverError::new(ErrorKind::Config, message));
    }
    Ok(true)
}

/// Looks for the key of a user by these settings. An error is what librados stumbles over, too.
pub(super) fn look(setting: impl Fn(&str) -> Option<String>, user: &str) -> Result<Look> {
    let conf = |key: &str| setting(key).filter(|value| !value.is_empty());
    if !asks_for_key(&setting)? {
        return Ok(Look::NotAsked);
    }
    let found = |text: &[u8], place: String| {
        let key = Key::from_base64(text).ok_or_else(|| refused(&place, "no key of Ceph's: it is damaged"))?;
        Ok(Look::Found(Found { key, place }))
    };
    if let Some(key) = conf("key") {
        return found(Wiped::from(key).bytes(), "the option key in ceph.conf".to_owned());
    }
    if let Some(path) = conf("keyfile") {
        return found(read(Path::new(&path))?.bytes(), path);
    }
    let entity = format!("client.{user}");
    let keyrings = conf("keyring").unwrap_or_default();
    let missing = |message: String| {
        let message = format!("no keyring holds the key of {entity} ({message})");
        Look::Missing(DriverError::new(ErrorKind::Config, message).hint(format!(
            "ceph auth get {entity} -o /etc/ceph/ceph.{entity}.keyring; a cluster without cephx needs none"
        )))
    };
    let Some(path) = paths(&keyrings).into_iter().find(|path| access(path, AccessFlags::R_OK).is_ok()) else {
        return Ok(missing(format!("looked for {keyrings}")));
    };
    let text = read(&path)?;
    match in_keyring(text.bytes(), &entity) {
        Ok(Some(key)) => Ok(Look::Found(Found { key, place: path.display().to_string() })),
        Ok(None) => Ok(missing(format!("looked in {}, the first that can be read", path.display()))),
        Err((line, what)) => Err(refused(&format!("{}:{line}", path.display()), &what)),
    }
}

/// What a type of keys is called.
pub(super) fn type_name(kind: u16) -> String {
    match kind {
        2 => "2 (aes256k)".to_owned(),
        other => other.to_string(),
    }
}

/// Why a key is of no use to somebody, and the way out.
pub(super) fn unknown_type(to: &str, user: &str, found: &Found) -> DriverError {
    let kind = type_name(found.key.kind());
    DriverError::new(
        ErrorKind::Config,
        format!("the key of client.{user} in {} is of type {kind}, which {to} does not know", found.place),
    )
    .hint(format!(
        "make the user a key of type aes (ceph auth get-or-create --key-type aes, where this Ceph has that option; see ceph auth -h), and write it to {}",
        found.place
    ))
}

/// A list of paths as librados reads it: blanks are a part of them.
pub(super) fn paths(list: &str) -> Vec<PathBuf> {
    list.split([',', ';']).filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

fn read(path: &Path) -> Result<Wiped> {
    Ok(Wiped::read(path).or_call("read", path.display())?)
}

/// Never with the text itself.
fn refused(place: &str, what: &str) -> DriverError {
    DriverError::new(ErrorKind::Config, format!("{place}: {what}"))
}

/// The key of an entity. Like librados it reads all of the keyring first: what is wrong anywhere, in which line.
pub(super) fn in_keyring(text: &[u8], entity: &str) -> Result<Option<Key>, (usize, String)> {
    let sections = conf_text::sections(text).map_err(|mistake| (mistake.line, mistake.what.to_owned()))?;
    let mut key = None;
    for Section { name, line, entries } in &sections {
        if name == "global" {
            continue;
        }
        if !name.split_once('.').is_some_and(|(kind, _)| KINDS.contains(&kind)) {
            return Err((*line, format!("[{name}] is no user: [client.NAME], without blanks")));
        }
        for entry in entries {
            if entry.name == "key" {
                let read = Key::from_base64(entry.value.bytes());
                let read = read.ok_or_else(|| {
                    (
                        entry.line,
                        format!("what stands behind key = of {name} is no key of Ceph's: it is damaged"),
                    )
                })?;
                if name == entity {
                    key = Some(read);
                }
            } else if entry.name != "auid" && !entry.name.starts_with("caps_") {
                return Err((
                    entry.line,
                    "Ceph takes key = and caps … = in a keyring, and nothing else".to_owned(),
                ));
            }
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "AQBmzkBnAAAAABAAAAECAwQFBgcICQoLDA0ODw==";
    const B: &str = "AQBmzkBnAAAAABAAAQECAwQFBgcICQoLDA0ODw==";

    fn key(text: &str) -> Key {
        Key::from_base64(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_key_is_the_one_of_the_user() {
        let text = format!(
            "[client.a] # of ops\n\tkey = {A} ; 2025\n\tcaps mon = \"allow r\"\n# key = no\n[client.b]\r\nkey={B}\r\nauid = 1\n"
        );
        let of = |entity| in_keyring(text.as_bytes(), entity).unwrap();
        assert!(of("client.a") == Some(key(A)) && of("client.b") == Some(key(B)));
        assert!(of("client.c").is_none());
    }

    #[test]
    fn what_ceph_refuses_is_named_by_its_line_and_never_shown() {
        for (text, line, what) in [
            (format!("key = {A}\n"), 0, ""),
            (format!("[client.a]\nkey = {A}"), 2, "line end"),
            (format!("[ client.a ]\nkey = {A}\n"), 1, "no user"),
            (format!("[client.a]\nkey = {A}\n[client]\n"), 3, "no user"),
            (format!("[client.a]\nkey = {A}\n[client.b]\nkey = {}\n", &B[..30]), 4, "damaged"),
            (format!("[client.a]\nkey = {A}\npassword = {B}\n"), 3, "nothing else"),
        ] {
            match in_keyring(text.as_bytes(), "client.a") {
                Ok(found) => assert!(found.is_none() && line == 0, "{text}"),
                Err((at, why)) => {
                    assert!(at == line && why.contains(what), "{text}: {at}: {why}");
                    assert!(!why.contains(A) && !why.contains(B));
                }
            }
        }
    }

    #[test]
    fn settings_are_looked_at_in_the_order_of_librados() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("file"), format!("{A}\r\n")).unwrap();
        std::fs::write(path("ring"), format!("[client.u]\nkey = {B}\n")).unwrap();
        std::fs::write(path("other"), format!("[client.x]\nkey = {B}\n")).unwrap();
        let with = |settings: &[(&str, String)]| {
            let get =
                |name: &str| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
            look(get, "u").unwrap()
        };
        let (ring, none) = (("keyring", path("ring")), path("none"));
        assert!(with(&[("keyfile", path("file")), ring.clone()]).key() == Some(key(A)));
        assert!(with(&[("key", A.to_owned()), ring.clone()]).key() == Some(key(A)));
        assert!(with(std::slice::from_ref(&ring)).key() == Some(key(B)));
        assert!(with(&[("keyring", format!("{none},{}", path("ring")))]).key() == Some(key(B)));
        // The first that can be read is the only one.
        assert!(matches!(
            with(&[("keyring", format!("{};{}", path("other"), path("ring")))]),
            Look::Missing(_)
        ));
        assert!(matches!(with(&[("keyring", none)]), Look::Missing(_)));
        let methods = |option, methods: &str| [ring.clone(), (option, methods.to_owned())];
        for option in ["auth_client_required", "auth_supported"] {
            assert!(matches!(with(&methods(option, "none")), Look::NotAsked));
            assert!(with(&methods(option, "none, cephx")).key() == Some(key(B)));
            let wrong = look(|name| (name == option).then(|| "CEPHX".to_owned()), "u").unwrap_err();
            assert!(wrong.message.contains(&format!("{option} = CEPHX")), "{wrong}");
        }
    }
}

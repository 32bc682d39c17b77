//! The user's key, from where librados itself has it: `key`, `keyfile` or the first keyring that holds it.

use std::fs;
use std::io;

use crate::error::{DriverError, ErrorKind, OrCall, Result};
use crate::linux::keyring::Key;

/// A key, and where it was.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Key,
    pub(super) place: String,
}

/// The key of a user by these settings; none where the cluster asks for none.
pub(super) fn find(setting: impl Fn(&str) -> Option<String>, user: &str) -> Result<Option<Found>> {
    let conf = |key: &str| setting(key).filter(|value| !value.is_empty());
    let found = |text: &str, place: String| Ok(Some(Found { key: decode(text, &place)?, place }));
    if conf("auth_client_required").is_some_and(|methods| !methods.contains("cephx")) {
        return Ok(None);
    }
    if let Some(key) = conf("key") {
        return found(&key, "the option key".to_owned());
    }
    if let Some(path) = conf("keyfile") {
        let text = fs::read_to_string(&path).or_call("read", &path)?;
        return found(text.trim(), path);
    }
    let entity = format!("client.{user}");
    let keyrings = conf("keyring").unwrap_or_default();
    for path in keyrings.split([',', ';', ' ']).filter(|path| !path.is_empty()) {
        let text = match fs::read_to_string(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            text => text.or_call("read", path)?,
        };
        if let Some(key) = in_keyring(&text, &entity) {
            return found(key, path.to_owned());
        }
    }
    Err(DriverError::new(
        ErrorKind::Config,
        format!("no keyring holds the key of {entity} (looked in {keyrings})"),
    )
    .hint(format!("ceph auth get {entity} -o /etc/ceph/ceph.{entity}.keyring")))
}

fn decode(text: &str, place: &str) -> Result<Key> {
    // Never the text itself.
    Key::from_base64(text).ok_or_else(|| {
        DriverError::new(ErrorKind::Config, format!("{place} holds no Ceph key: it is damaged"))
    })
}

/// The line `key = …` in the section of an entity.
pub(super) fn in_keyring<'a>(text: &'a str, entity: &str) -> Option<&'a str> {
    let mut ours = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            ours = section.trim() == entity;
        } else if ours
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == "key"
        {
            return Some(value.trim().trim_matches('"'));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_the_one_of_the_user() {
        let text =
            "[client.a]\n\tkey = AAA==\n\tcaps mon = \"allow r\"\n# key = no\n[ client.b ]\nkey=BBB==\n";
        assert_eq!(in_keyring(text, "client.a"), Some("AAA=="));
        assert_eq!(in_keyring(text, "client.b"), Some("BBB=="));
        assert_eq!(in_keyring(text, "client.c"), None);
        assert_eq!(in_keyring("key = AAA==", "client.a"), None, "outside of any section");
    }
}

//! The mark that tells our devices from those of others, and from each other.
//!
//! It is the last word of the line that is written to map an image. The kernel leaves that word alone and shows it in
//! `config_info` for as long as the device is there:
//!
//! ```text
//! rbd-docker-plugin:<boot id>/<plugin>/<root>.<uuid>    says which plugin, in which boot as it saw it, has mapped it
//! rbd-docker-plugin:<boot id>/<plugin>/<uuid>           what earlier versions wrote: whatever its mount root is
//! rbd-docker-plugin:<uuid>                              and those before them: some plugin of this kind
//! ```
//!
//! `<root>` is a hash of the plugin's mount root: two plugins of one host may have one name, as a managed one and one of the host's have.
//!
//! sysfs takes a page less one byte in one write, so the line may be 4095 bytes long; `line` keeps below that.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::linux::boot;
use crate::model::error::CallError;

/// What the word begins with.
const BEGIN: &str = "rbd-docker-plugin:";

/// Which plugin maps images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maker {
    /// The boot id of its host.
    pub boot_id: String,
    /// Its name.
    pub plugin: String,
    /// Its mount root, as the host calls it.
    pub root: PathBuf,
}

impl Maker {
    /// A word that no other mapping bears.
    pub(super) fn fresh_mark(&self) -> Result<String, CallError> {
        let uuid = boot::random_uuid()?;
        let root = hash(&self.root);
        Ok(format!("{BEGIN}{}/{}/{root}.{uuid}", plain(&self.boot_id), plain(&self.plugin)))
    }
}

/// The mark of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Who made it, where the mark says so.
    maker: Option<Said>,
}

/// What a mark says of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    boot_id: String,
    plugin: String,
    root: Option<String>,
}

impl Mark {
    /// The mark in a `config_info`, if there is one.
    pub(super) fn of(line: &str) -> Option<Self> {
        let word = line.rsplit(' ').next()?.strip_prefix(BEGIN)?;
        let parts: Vec<&str> = word.split('/').collect();
        let maker = match parts[..] {
            [boot_id, plugin, rest] => Some(Said {
                boot_id: boot_id.to_owned(),
                plugin: plugin.to_owned(),
                root: rest.split_once('.').map(|(root, _)| root.to_owned()),
            }),
            _ => None,
        };
        Some(Self { maker })
    }

    /// Whether this plugin may have made it: a mark of an earlier version does not say all of it.
    pub fn may_be_of(&self, maker: &Maker) -> bool {
        self.maker.as_ref().is_none_or(|said| {
            (&said.boot_id, &said.plugin) == (&plain(&maker.boot_id), &plain(&maker.plugin))
                && said.root.as_ref().is_none_or(|root| *root == hash(&maker.root))
        })
    }

    /// The plugin's name, where the mark says it.
    pub fn plugin(&self) -> Option<&str> {
        self.maker.as_ref().map(|said| said.plugin.as_str())
    }
}

/// A part of the mark holds no blank and no slash, and is not long.
fn plain(text: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    text.chars().take(100).map(fits).collect()
}

/// FNV-1a, 64 bits: it is stored, so it has to stay the same in all versions.
fn hash(root: &Path) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", root.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker(boot: &str, plugin: &str, root: &str) -> Maker {
        Maker { boot_id: boot.to_owned(), plugin: plugin.to_owned(), root: root.into() }
    }

    #[test]
    fn a_mark_says_whose_it_is_and_older_ones_stay_understood() {
        let own = maker("b1", "rbd", "/m/rbd");
        let line = format!("192.0.2.1:3300 name=docker rbd foo - {}", own.fresh_mark().unwrap());
        let mark = Mark::of(&line).unwrap();
        assert!(mark.may_be_of(&own) && mark.plugin() == Some("rbd"));
        let others = [
            maker("b1", "rbd@b", "/m/rbd"),
            maker("b2", "rbd", "/m/rbd"),
            maker("b1", "rbd", "/managed/rbd"),
        ];
        for other in &others {
            assert!(!mark.may_be_of(other), "{other:?}");
        }
        let odd = maker("boot of h1", "a b/c", "/m/ a.b");
        assert!(Mark::of(&odd.fresh_mark().unwrap()).unwrap().may_be_of(&odd));
        let without_root = Mark::of("192.0.2.1:3300 name=x rbd foo - rbd-docker-plugin:b1/rbd/0b5c").unwrap();
        assert!(without_root.may_be_of(&own) && without_root.may_be_of(&others[2]));
        assert!(!without_root.may_be_of(&others[0]) && !without_root.may_be_of(&others[1]));
        let earlier = Mark::of("192.0.2.1:3300 name=docker rbd foo - rbd-docker-plugin:0b5c").unwrap();
        assert!(earlier.may_be_of(&own) && earlier.plugin().is_none());
        for line in ["192.0.2.1:3300 name=docker rbd foo -", "", "rbd-docker-plugin:a and more"] {
            assert_eq!(Mark::of(line), None, "{line}");
        }
        assert!(own.fresh_mark().unwrap().len() < 300, "it leaves room for the names");
    }

    #[test]
    fn the_hash_is_what_other_versions_have_written() {
        assert_eq!(hash(Path::new("")), "cbf29ce484222325");
        assert_eq!(hash(Path::new("foobar")), "85944171f73967e8");
    }
}

//! The mark that tells our devices from those of others, and from each other.
//!
//! It is the last word of the line that is written to map an image. The kernel leaves that word alone and shows it in
//! `config_info` for as long as the device is there:
//!
//! ```text
//! rbd-docker-plugin:<boot id>/<plugin>/<uuid>    says which plugin, in which boot as it saw it, has mapped it
//! rbd-docker-plugin:<uuid>                       what earlier versions wrote: some plugin of this kind
//! ```
//!
//! sysfs takes a page less one byte in one write, so the line may be 4095 bytes long; `line` keeps below that.

use crate::linux::boot;
use crate::model::error::CallError;

/// What the word begins with.
const BEGIN: &str = "rbd-docker-plugin:";

/// Which plugin maps images: its boot and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maker {
    /// The boot id of its host.
    pub boot_id: String,
    /// Its name.
    pub plugin: String,
}

impl Maker {
    /// A word that no other mapping bears.
    pub(super) fn fresh_mark(&self) -> Result<String, CallError> {
        let uuid = boot::random_uuid()?;
        Ok(format!("{BEGIN}{}/{}/{uuid}", plain(&self.boot_id), plain(&self.plugin)))
    }
}

/// The mark of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Who made it, where the mark says so.
    maker: Option<(String, String)>,
}

impl Mark {
    /// The mark in a `config_info`, if there is one.
    pub(super) fn of(line: &str) -> Option<Self> {
        let word = line.rsplit(' ').next()?.strip_prefix(BEGIN)?;
        let parts: Vec<&str> = word.split('/').collect();
        let maker = match parts[..] {
            [boot_id, plugin, _] => Some((boot_id.to_owned(), plugin.to_owned())),
            _ => None,
        };
        Some(Self { maker })
    }

    /// Whether this plugin may have made it: a mark of an earlier version does not say whose it is.
    pub fn may_be_of(&self, maker: &Maker) -> bool {
        let own = || (plain(&maker.boot_id), plain(&maker.plugin));
        self.maker.as_ref().is_none_or(|found| *found == own())
    }

    /// The plugin's name, where the mark says it.
    pub fn plugin(&self) -> Option<&str> {
        self.maker.as_ref().map(|(_, plugin)| plugin.as_str())
    }
}

/// A part of the mark holds no blank and no slash, and is not long.
fn plain(text: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    text.chars().take(100).map(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_whose_it_is_and_older_ones_stay_understood() {
        let maker = |boot: &str, plugin: &str| Maker { boot_id: boot.to_owned(), plugin: plugin.to_owned() };
        let own = maker("b1", "rbd");
        let line = format!("192.0.2.1:3300 name=docker rbd foo - {}", own.fresh_mark().unwrap());
        let mark = Mark::of(&line).unwrap();
        assert!(mark.may_be_of(&own) && mark.plugin() == Some("rbd"));
        for other in [maker("b1", "rbd@b"), maker("b2", "rbd")] {
            assert!(!mark.may_be_of(&other), "{other:?}");
        }
        let odd = maker("boot of h1", "a b/c");
        assert!(Mark::of(&odd.fresh_mark().unwrap()).unwrap().may_be_of(&odd));
        let earlier = Mark::of("192.0.2.1:3300 name=docker rbd foo - rbd-docker-plugin:0b5c").unwrap();
        assert!(earlier.may_be_of(&own) && earlier.plugin().is_none());
        for line in ["192.0.2.1:3300 name=docker rbd foo -", "", "rbd-docker-plugin:a and more"] {
            assert_eq!(Mark::of(line), None, "{line}");
        }
        assert!(own.fresh_mark().unwrap().len() < 300, "it leaves room for the names");
    }
}

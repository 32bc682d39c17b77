//! Who a plugin is: on which host, in which of its boots, under which name.
//!
//! A host is known by four things, none of which is enough. A boot id is shared by all containers on one kernel, and by copies of a
//! virtual machine that were made with its memory; a machine id by all machines that were made from one image; a firmware's UUID is
//! missing on many boards, and made up on some; names are given twice. So a host is the same only where nothing that both
//! records say contradicts, and surely the same only where enough is said.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::stored::{Document, Unknown};

/// Who may use an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Host name.
    pub host: String,
    /// The host's machine id, and after a dot its firmware's UUID; empty where it has no machine id. In this form earlier versions
    /// compare it.
    #[serde(default)]
    pub machine_id: String,
    /// The UUID of the host's firmware, empty where it has none; earlier versions have written it with the machine id only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub firmware_id: String,
    /// The kernel's boot id: another one means that the host was restarted since.
    pub boot_id: String,
    /// Name of the plugin instance.
    pub plugin: String,
    /// Its mount root, as the host calls it: tells instances of one name apart.
    pub root: PathBuf,
    /// Since when, seconds since the epoch.
    pub since: u64,
    /// The address of the kernel client that has the image mapped: what a fence shuts out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_addr: Option<String>,
    /// The mount IDs that used it last; may lag behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount_ids: Vec<String>,
    /// What a newer version has written beside.
    #[serde(skip)]
    pub unknown: Unknown,
}

impl Document for Owner {
    fn unknown(&self) -> Option<&Unknown> {
        Some(&self.unknown)
    }

    fn keep(&mut self, unknown: Unknown) {
        self.unknown = unknown;
    }
}

impl Owner {
    /// Whether both may be on one host, in this boot or an earlier one: nothing that both say contradicts.
    pub fn same_host(&self, other: &Self) -> bool {
        let agree = |a: Option<&str>, b: Option<&str>| a.is_none() || b.is_none() || a == b;
        self.host == other.host
            && agree(self.machine(), other.machine())
            && agree(self.firmware(), other.firmware())
    }

    /// Whether both are surely on one host: machines that were made from one image have all but their firmware's UUID in common.
    pub fn surely_same_host(&self, other: &Self) -> bool {
        let both = |a: Option<&str>, b: Option<&str>| a.is_some() && a == b;
        let known = both(self.machine(), other.machine()) && both(self.firmware(), other.firmware());
        self.same_host(other) && (self.boot_id == other.boot_id || known)
    }

    /// Whether both are one plugin, in this life and an earlier one.
    pub fn same_plugin(&self, other: &Self) -> bool {
        self.same_host(other) && (&self.plugin, &self.root) == (&other.plugin, &other.root)
    }

    fn machine(&self) -> Option<&str> {
        let id = self.machine_id.split('.').next().unwrap_or_default();
        tells_machines_apart(id).then_some(id)
    }

    fn firmware(&self) -> Option<&str> {
        let joined = || self.machine_id.split_once('.').map(|(_, firmware)| firmware);
        let apart = (!self.firmware_id.is_empty()).then_some(self.firmware_id.as_str());
        apart.or_else(joined).filter(|id| tells_machines_apart(id))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "plugin {:?} on host {} (since {}",
            self.plugin,
            self.host,
            crate::model::time::rfc3339(self.since)
        )?;
        if !self.mount_ids.is_empty() {
            let short: Vec<String> =
                self.mount_ids.iter().take(4).map(|id| id.chars().take(12).collect()).collect();
            write!(f, ", mount ID {}", short.join(", "))?;
        }
        f.write_str(")")
    }
}

/// Whether an id is one at all: images of machines have an empty one, or a word in its place, and boards zeros, or what their vendor
/// has made up for all of them.
pub fn tells_machines_apart(id: &str) -> bool {
    const FAKE: &str = "03000200-0400-0500-0006-000700080009";
    let all = |digit: char| id.chars().all(|c| c == digit || c == '-');
    !(all('0') || all('f') || id == "uninitialized" || id == FAKE)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The plugin `rbd` of a host.
    pub(crate) fn owner(host: &str, machine: &str, firmware: &str, boot: &str) -> Owner {
        Owner {
            host: host.to_owned(),
            machine_id: machine.to_owned(),
            firmware_id: firmware.to_owned(),
            boot_id: boot.to_owned(),
            plugin: "rbd".to_owned(),
            root: "/m/rbd".into(),
            since: 0,
            client_addr: None,
            mount_ids: Vec::new(),
            unknown: Unknown::default(),
        }
    }

    #[test]
    fn a_host_is_the_same_only_where_nothing_contradicts() {
        let this = owner("h", "m", "u1", "b1");
        for (what, other, same, surely) in [
            ("itself", this.clone(), true, true),
            ("after a restart", owner("h", "m", "u1", "b2"), true, true),
            ("as an earlier version wrote it", owner("h", "m.u1", "", "b2"), true, true),
            ("a container on its kernel, of another name", owner("c", "m", "u1", "b1"), false, false),
            ("a container on its kernel, with another machine id", owner("h", "n", "u1", "b1"), false, false),
            ("a copy with its memory and another firmware", owner("h", "m", "u2", "b1"), false, false),
            ("the same in an earlier version's words", owner("h", "m.u2", "", "b1"), false, false),
            ("a copy without a firmware id", owner("h", "m", "", "b2"), true, false),
            ("a board whose firmware says nothing", owner("h", "m", FAKE, "b2"), true, false),
            ("one without a machine id", owner("h", "", "u1", "b2"), true, false),
            ("one of an image that was never set up", owner("h", "uninitialized", "u1", "b2"), true, false),
            ("a machine id of zeros", owner("h", &"0".repeat(32), "u1", "b2"), true, false),
            ("another host of its name", owner("h", "n", "u2", "b2"), false, false),
        ] {
            assert_eq!((this.same_host(&other), this.surely_same_host(&other)), (same, surely), "{what}");
            assert_eq!((other.same_host(&this), other.surely_same_host(&this)), (same, surely), "{what}");
        }
        let zeros = "0".repeat(32);
        let [a, b] = ["b1", "b2"].map(|boot| owner("h", &zeros, "", boot));
        assert!(a.same_host(&b) && !a.surely_same_host(&b), "both have an id that says nothing");
    }

    /// What many boards of one vendor say.
    const FAKE: &str = "03000200-0400-0500-0006-000700080009";
}

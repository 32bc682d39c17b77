//! Who uses a mounted volume: a multiset of Docker's mount IDs, kept on disk.
//!
//! `docker cp` mounts the ID of a running container a second time, so an ID counts. A Docker engine that was killed never
//! sends its Unmounts, and its successor may use the same ID again, so a use also remembers the engine that asked for it
//! ([`Client`]); a use whose engine is gone is *orphaned*, and dropped once no container holds the device (the caller asks the
//! kernel). The file is bound to the boot: after a restart of the host there is no mount left that it could speak of.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::api::Client;
use crate::model::name::ImageSpec;
use crate::model::stored::{Document, Unknown};
use crate::model::time::now;

/// The uses of one mounted volume, as kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refs {
    /// The boot that the mount belongs to.
    pub boot_id: String,
    /// The image.
    pub spec: ImageSpec,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Since when, seconds since the epoch.
    pub since: u64,
    /// The uses, oldest first.
    pub uses: Vec<Use>,
    /// What a newer version has written beside.
    #[serde(skip)]
    pub unknown: Unknown,
}

impl Document for Refs {
    fn unknown(&self) -> Option<&Unknown> {
        Some(&self.unknown)
    }

    fn keep(&mut self, unknown: Unknown) {
        self.unknown = unknown;
    }
}

/// One mount ID, as one engine uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Docker's ID.
    pub id: String,
    /// How many times it was mounted and not unmounted.
    pub count: u32,
    /// The engine, when the plugin could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Client>,
}

impl Refs {
    /// One more use.
    pub fn add(&mut self, id: &str, client: Option<Client>) {
        match self.uses.iter_mut().find(|u| u.id == id && u.client == client) {
            Some(found) => found.count = found.count.saturating_add(1),
            None => self.uses.push(Use { id: id.to_owned(), count: 1, client }),
        }
    }

    /// One use less, of the engine that came last; false when the ID is not known.
    pub fn drop_one(&mut self, id: &str) -> bool {
        let Some(at) = self.uses.iter().rposition(|u| u.id == id) else { return false };
        if let Some(found) = self.uses.get_mut(at) {
            found.count -= 1;
            if found.count == 0 {
                self.uses.remove(at);
            }
        }
        true
    }

    /// The engines that use it.
    pub fn clients(&self) -> impl Iterator<Item = Client> + '_ {
        self.uses.iter().filter_map(|u| u.client)
    }

    /// The same uses, of nobody: each may be ended, and when no container holds the device any more, those that are left are orphaned.
    #[must_use]
    pub fn of_nobody(&self) -> Self {
        let uses = self.uses.iter().map(|u| Use { client: Some(Client::NOBODY), ..u.clone() });
        Self { uses: uses.collect(), ..self.clone() }
    }

    /// Those of a volume whose own cannot be read: one, of nobody.
    pub fn unknown(boot_id: &str, spec: &ImageSpec, mountpoint: PathBuf) -> Self {
        let uses = vec![Use { id: String::new(), count: 1, client: Some(Client::NOBODY) }];
        Self {
            boot_id: boot_id.to_owned(),
            spec: spec.clone(),
            mountpoint,
            since: now(),
            uses,
            unknown: Unknown::default(),
        }
    }

    /// Drops the uses of engines that are gone; how many.
    pub fn drop_orphans(&mut self, alive: impl Fn(Client) -> bool) -> usize {
        let before = self.uses.len();
        self.uses.retain(|u| u.client.is_none_or(&alive));
        before - self.uses.len()
    }

    /// How many uses there are.
    pub fn total(&self) -> u64 {
        self.uses.iter().map(|u| u64::from(u.count)).sum()
    }

    /// How many times each mount ID uses it.
    pub fn counts(&self) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        for u in &self.uses {
            *counts.entry(u.id.as_str()).or_default() += u64::from(u.count);
        }
        counts
    }

    /// `mounted 2 time(s), by mount ID 4f1c…, 77ab…`, for people.
    pub fn shown(&self) -> String {
        let ids: Vec<String> = self.uses.iter().take(4).map(|u| u.id.chars().take(12).collect()).collect();
        let more = if self.uses.len() > ids.len() { ", …" } else { "" };
        format!("mounted {} time(s), by mount ID {}{more}", self.total(), ids.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs() -> Refs {
        Refs {
            boot_id: "b".into(),
            spec: ImageSpec::new("rbd", None, "a").unwrap(),
            mountpoint: "/m".into(),
            since: 0,
            uses: Vec::new(),
            unknown: Unknown::default(),
        }
    }

    const OLD: Option<Client> = Some(Client { pid: 1, start: 1 });
    const NEW: Option<Client> = Some(Client { pid: 2, start: 2 });

    #[test]
    fn the_same_id_counts() {
        let mut refs = refs();
        refs.add("x", None);
        refs.add("x", None);
        refs.add("y", None);
        assert_eq!(refs.total(), 3);
        assert!(refs.drop_one("x"));
        assert!(refs.drop_one("x"));
        assert!(!refs.drop_one("x"), "a third Unmount of an ID mounted twice");
        assert_eq!(refs.total(), 1);
    }

    #[test]
    fn only_the_uses_of_engines_that_are_gone_are_orphans() {
        let mut refs = refs();
        refs.add("x", OLD);
        refs.add("x", NEW);
        refs.add("y", None);
        assert_eq!(refs.drop_orphans(|c| Some(c) == NEW), 1);
        assert_eq!(refs.clients().collect::<Vec<_>>(), Vec::from_iter(NEW));
        assert_eq!(refs.total(), 2);
    }

    #[test]
    fn an_unmount_takes_the_newest_engines_use() {
        let mut refs = refs();
        refs.add("x", OLD);
        refs.add("x", NEW);
        refs.drop_one("x");
        assert_eq!(refs.clients().collect::<Vec<_>>(), Vec::from_iter(OLD));
    }
}

//! What is remembered of a volume beside its mount: one entry each, for as long as there is something to remember.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use crate::lock;
use crate::model::name::ImageSpec;

/// One volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// A Create is making it right now: List does not show it.
    pub(super) making: bool,
    /// Something of it is left to undo, see [`recovery`](super::recovery).
    pub(super) unsettled: bool,
    /// Why it was taken away from this plugin, until it is mounted again.
    pub(super) lost: Option<String>,
    /// The mount IDs that the store was told of.
    pub(super) published: Option<Vec<String>>,
}

/// All of which there is something to remember. The lock is held for a look at an entry only.
#[derive(Debug, Default)]
pub(super) struct Entries(Mutex<BTreeMap<ImageSpec, Entry>>);

impl Entries {
    /// What is remembered of a volume: nothing, mostly.
    pub(super) fn read<T>(&self, spec: &ImageSpec, read: impl FnOnce(&Entry) -> T) -> T {
        match lock(&self.0).get(spec) {
            Some(entry) => read(entry),
            None => read(&Entry::default()),
        }
    }

    /// Changes what is remembered of a volume.
    pub(super) fn change<T>(&self, spec: &ImageSpec, change: impl FnOnce(&mut Entry) -> T) -> T {
        let mut entries = lock(&self.0);
        let mut entry = entries.remove(spec).unwrap_or_default();
        let answer = change(&mut entry);
        if entry != Entry::default() {
            entries.insert(spec.clone(), entry);
        }
        answer
    }

    /// The volumes that are such.
    pub(super) fn those(&self, such: impl Fn(&Entry) -> bool) -> BTreeSet<ImageSpec> {
        let entries = lock(&self.0);
        entries.iter().filter(|(_, entry)| such(entry)).map(|(spec, _)| spec.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_goes_with_the_last_thing_to_remember() {
        let entries = Entries::default();
        let spec = ImageSpec::new("rbd", None, "a").unwrap();
        assert!(!entries.read(&spec, |entry| entry.unsettled));
        entries.change(&spec, |entry| entry.unsettled = true);
        entries.change(&spec, |entry| entry.lost = Some("fenced".to_owned()));
        assert_eq!(entries.those(|entry| entry.unsettled).len(), 1);
        entries.change(&spec, |entry| entry.unsettled = false);
        assert_eq!(entries.read(&spec, |entry| entry.lost.clone()).as_deref(), Some("fenced"));
        entries.change(&spec, |entry| entry.lost = None);
        assert!(lock(&entries.0).is_empty());
    }
}

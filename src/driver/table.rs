//! The mounted volumes, for reads that must not wait.
//!
//! Entries are replaced whole, under the lock of the volume's uses; a reader holds the lock for a map look-up only.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::refs::Refs;
use crate::model::mount::Attached;
use crate::model::name::ImageSpec;

/// A volume that is mounted on this host by this plugin.
#[derive(Debug, Clone)]
pub(super) struct MountedVolume {
    /// Its uses.
    pub(super) refs: Refs,
    /// What is mounted there.
    pub(super) attached: Attached,
}

impl MountedVolume {
    /// Whether that is this mount, with whatever uses, and not a later one.
    pub(super) fn is_same_mount(&self, other: &Self) -> bool {
        (&self.attached.place, self.refs.since) == (&other.attached.place, other.refs.since)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Table {
    mounted: RwLock<HashMap<ImageSpec, Arc<MountedVolume>>>,
}

impl Table {
    pub(super) fn get(&self, spec: &ImageSpec) -> Option<Arc<MountedVolume>> {
        self.mounted.read().unwrap_or_else(PoisonError::into_inner).get(spec).cloned()
    }

    pub(super) fn put(&self, volume: MountedVolume) {
        let mut mounted = self.mounted.write().unwrap_or_else(PoisonError::into_inner);
        mounted.insert(volume.refs.spec.clone(), Arc::new(volume));
    }

    pub(super) fn remove(&self, spec: &ImageSpec) {
        self.mounted.write().unwrap_or_else(PoisonError::into_inner).remove(spec);
    }

    pub(super) fn all(&self) -> Vec<Arc<MountedVolume>> {
        self.mounted.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

//! Uses of Docker engines that are gone: nobody will end them.
//!
//! They are dropped after a grace, once no container holds the device. Whether one does is asked for all such volumes at once,
//! because it takes a look into every mount namespace of the host, and ever less often while the answer stays the same: with
//! Docker's live-restore, containers outlive their engine for weeks.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Driver;
use super::api::Client;
use super::table::MountedVolume;
use crate::lock;
use crate::model::error::Result;
use crate::model::mount::Attached;
use crate::model::name::ImageSpec;

/// The pause after the first look that finds a container, doubled by each further one up to the longest.
const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(300);

/// The volumes with such uses.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    volumes: Mutex<BTreeMap<ImageSpec, Orphaned>>,
    /// Held by whoever looks.
    looking: Mutex<()>,
}

#[derive(Debug)]
struct Orphaned {
    /// The end of the grace.
    from: Instant,
    next: Instant,
    pause: Duration,
}

impl Driver {
    /// The volumes with uses of engines that are gone for which it is time to look. Asks for each engine once.
    pub(super) fn due_orphans(&self) -> Vec<Arc<MountedVolume>> {
        let mut alive: BTreeMap<Client, bool> = BTreeMap::new();
        let mut orphaned = self.table.all();
        orphaned.retain(|mounted| {
            let gone = |client| !*alive.entry(client).or_insert_with(|| self.host.is_alive(client));
            mounted.refs.clients().any(gone)
        });
        let now = Instant::now();
        let mut volumes = lock(&self.orphans.volumes);
        let specs: HashSet<&ImageSpec> = orphaned.iter().map(|mounted| &mounted.refs.spec).collect();
        volumes.retain(|spec, _| specs.contains(spec));
        orphaned.retain(|mounted| {
            let first = || {
                let from = now + self.settings.orphan_grace;
                Orphaned { from, next: from, pause: FIRST }
            };
            let volume = volumes.entry(mounted.refs.spec.clone()).or_insert_with(first);
            let is_due = volume.next <= now;
            if is_due {
                volume.next = now + volume.pause;
                volume.pause = (volume.pause * 2).min(LONGEST);
            }
            is_due
        });
        orphaned
    }

    /// Drops the uses of these volumes that no engine will end, unless a container holds the device. Skips volumes that an operation
    /// works on.
    pub(super) fn end_orphans(&self, due: &[Arc<MountedVolume>]) {
        let Ok(_alone) = self.orphans.looking.try_lock() else { return };
        let attached: Vec<Attached> = due.iter().map(|mounted| mounted.attached.clone()).collect();
        let held = match self.kind.which_held(&attached) {
            Ok(held) => held,
            Err(e) => {
                tracing::warn!(error = %e, "cannot see what containers hold of a Docker engine that is gone");
                return;
            }
        };
        for (mounted, _) in due.iter().zip(held).filter(|(_, held)| !held) {
            let spec = &mounted.refs.spec;
            if let Some(_guard) = self.guards.try_lock(spec)
                && let Err(e) = self.drop_orphans(mounted)
            {
                tracing::warn!(image = %spec, error = %e, "could not take down what a Docker engine left");
            }
        }
    }

    /// Uses of the volume have come or gone: soon is time to look, if there is still something to look for.
    pub(super) fn hurry_orphans(&self, spec: &ImageSpec) {
        if let Some(volume) = lock(&self.orphans.volumes).get_mut(spec) {
            volume.next = volume.from.max(Instant::now());
            volume.pause = FIRST;
        }
    }

    fn drop_orphans(&self, seen: &MountedVolume) -> Result<()> {
        let spec = &seen.refs.spec;
        {
            let _short = self.lock_uses(spec);
            if !self.table.get(spec).is_some_and(|mounted| mounted.is_same_mount(seen)) {
                return Ok(());
            }
            let drop_them =
                |refs: &mut super::refs::Refs| refs.drop_orphans(|client| self.host.is_alive(client));
            if let Some((dropped, _, saved)) = self.change_uses(spec, drop_them)? {
                tracing::warn!(image = %spec, dropped, "dropped uses that no engine will end");
                saved?;
            }
        }
        lock(&self.orphans.volumes).remove(spec);
        self.end_if_unused(spec)
    }
}

//! Uses come and go under a short lock of their own, whatever operation holds the volume's guard.
//!
//! An Unmount drops its use first, in memory and on disk: Docker does not ask again. Only what follows the last use needs the guard.
//! A volume whose uses are all dropped takes no further one but from the holder of the guard, so what was found unused under
//! the guard stays so. Uses are in the table while a volume is mounted; those of one that is not restored yet are on disk only.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

use super::Driver;
use super::api::Client;
use super::guard::Guard;
use super::refs::Refs;
use super::table::MountedVolume;
use crate::lock;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;

/// The uses of mounted volumes that the table does not have.
#[derive(Debug, Default)]
pub(super) struct Comings {
    /// The Mounts that are under way, by image and mount ID.
    mounts: Mutex<HashMap<(ImageSpec, String), Coming>>,
    /// Uses of volumes that are not restored yet, where the disk did not take what was dropped.
    unsaved: Mutex<HashMap<ImageSpec, Refs>>,
}

#[derive(Debug, Default)]
struct Coming {
    mounts: u32,
    /// So many Unmounts have come for them already.
    dropped: u32,
}

/// A Mount that is under way.
pub(super) struct Arrival<'a> {
    driver: &'a Driver,
    key: (ImageSpec, String),
    pub(super) client: Option<Client>,
    waits: &'a dyn Fn() -> bool,
}

/// What became of a use that an Unmount drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// There was none.
    Unknown,
    /// Its Mount is under way, and will find it dropped.
    Coming,
    /// It is gone, and others are left.
    One,
    /// It is gone, and it was the last.
    Last,
}

impl<'a> Arrival<'a> {
    pub(super) fn begin(
        driver: &'a Driver,
        spec: &ImageSpec,
        id: &str,
        client: Option<Client>,
        waits: &'a dyn Fn() -> bool,
    ) -> Self {
        let key = (spec.clone(), id.to_owned());
        lock(&driver.comings.mounts).entry(key.clone()).or_default().mounts += 1;
        Self { driver, key, client, waits }
    }

    pub(super) fn spec(&self) -> &ImageSpec {
        &self.key.0
    }

    pub(super) fn id(&self) -> &str {
        &self.key.1
    }

    /// Adds the use, unless its client has left (who will not unmount), or its Unmount was here already. The caller holds the lock of
    /// the uses.
    pub(super) fn add_to(&self, refs: &mut Refs) -> Result<()> {
        if !(self.waits)() {
            return Err(DriverError::new(
                ErrorKind::Timeout,
                "the client left before the volume was mounted",
            )
            .hint("it was taken back: the client will not unmount it"));
        }
        if let Some(coming) = lock(&self.driver.comings.mounts).get_mut(&self.key)
            && coming.dropped > 0
        {
            coming.dropped -= 1;
            tracing::warn!(image = %self.spec(), "was unmounted while it was being mounted");
        } else {
            refs.add(self.id(), self.client);
        }
        Ok(())
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        let mut mounts = lock(&self.driver.comings.mounts);
        if let Some(coming) = mounts.get_mut(&self.key) {
            coming.mounts -= 1;
            // A Mount that failed has no use to drop.
            coming.dropped = coming.dropped.min(coming.mounts);
            if coming.mounts == 0 {
                mounts.remove(&self.key);
            }
        }
    }
}

impl Driver {
    /// Held while the uses of a volume change, and for nothing that may have to be waited for.
    pub(super) fn lock_uses(&self, spec: &ImageSpec) -> Guard {
        self.uses.hold(spec)
    }

    /// Whether a further Mount needs no guard: somebody uses it, and nothing is to be done first.
    pub(super) fn is_in_use(&self, spec: &ImageSpec) -> bool {
        !self.is_unsettled(spec) && self.table.get(spec).is_some_and(|mounted| !mounted.refs.uses.is_empty())
    }

    /// One more use of a volume that is in use, without its guard; `None` when that takes more.
    pub(super) fn join(&self, arrival: &Arrival<'_>) -> Result<Option<PathBuf>> {
        let spec = arrival.spec();
        let Some(seen) = self.table.get(spec) else { return Ok(None) };
        if !self.is_in_use(spec)
            || self.has_stale(&seen.refs, arrival)
            || self.may_be_lost(spec)
            || !self.is_still_mounted(&seen)?
        {
            return Ok(None);
        }
        let _short = self.lock_uses(spec);
        match self.table.get(spec) {
            Some(now) if now.is_same_mount(&seen) && !now.refs.uses.is_empty() => {
                if self.has_stale(&now.refs, arrival) {
                    return Ok(None);
                }
                self.add_use(&now, now.refs.clone(), arrival).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Adds a use to `refs`, which are those of the volume or fewer. The caller holds the lock of the uses.
    pub(super) fn add_use(
        &self,
        mounted: &MountedVolume,
        mut refs: Refs,
        arrival: &Arrival<'_>,
    ) -> Result<PathBuf> {
        arrival.add_to(&mut refs)?;
        if let Err(e) = self.save_refs(&refs) {
            // Docker will not unmount what failed to mount, so the use must not be on disk.
            return Err(match self.save_refs(&mounted.refs) {
                Ok(()) => e,
                Err(failure) => {
                    self.mark_unsettled(&mounted.refs.spec);
                    e.also(failure)
                }
            });
        }
        let mountpoint = refs.mountpoint.clone();
        self.table.put(MountedVolume { refs, ..mounted.clone() });
        Ok(mountpoint)
    }

    /// The uses of a volume, mounted or not restored yet.
    pub(super) fn refs_of(&self, spec: &ImageSpec) -> Result<Option<Refs>> {
        if let Some(mounted) = self.table.get(spec) {
            return Ok(Some(mounted.refs.clone()));
        }
        let unsaved = lock(&self.comings.unsaved).get(spec).cloned();
        match unsaved {
            Some(refs) => Ok(Some(refs)),
            None => self.load_refs(spec),
        }
    }

    /// Changes the uses of a volume, if it has any; they are changed in memory even when the disk does not take them. The caller holds
    /// the lock of the uses.
    pub(super) fn change_uses<T>(
        &self,
        spec: &ImageSpec,
        change: impl FnOnce(&mut Refs) -> T,
    ) -> Result<Option<(T, Refs, Result<()>)>> {
        let Some(mut refs) = self.refs_of(spec)? else { return Ok(None) };
        let before = refs.clone();
        let answer = change(&mut refs);
        if refs == before {
            return Ok(Some((answer, refs, Ok(()))));
        }
        self.hurry_orphans(spec);
        let saved = self.save_refs(&refs).inspect_err(|_| self.mark_unsettled(spec));
        match self.table.get(spec) {
            Some(mounted) => {
                self.table.put(MountedVolume { refs: refs.clone(), ..MountedVolume::clone(&mounted) });
            }
            None if saved.is_err() => {
                lock(&self.comings.unsaved).insert(spec.clone(), refs.clone());
            }
            None => {
                lock(&self.comings.unsaved).remove(spec);
            }
        }
        Ok(Some((answer, refs, saved)))
    }

    /// Drops one use of a mount ID, whoever holds the guard; the second is how that was written.
    pub(super) fn drop_use(&self, spec: &ImageSpec, id: &str) -> Result<(Dropped, Result<()>)> {
        let _short = self.lock_uses(spec);
        Ok(match self.change_uses(spec, |refs| refs.drop_one(id))? {
            Some((true, refs, saved)) if refs.uses.is_empty() => {
                if self.table.get(spec).is_none() {
                    self.mark_unsettled(spec);
                }
                (Dropped::Last, saved)
            }
            Some((true, _, saved)) => (Dropped::One, saved),
            _ => match lock(&self.comings.mounts).get_mut(&(spec.clone(), id.to_owned())) {
                Some(coming) if coming.dropped < coming.mounts => {
                    coming.dropped += 1;
                    (Dropped::Coming, Ok(()))
                }
                _ => (Dropped::Unknown, Ok(())),
            },
        })
    }

    /// The images with a use of this mount ID that is not in the table: being mounted, or not restored yet.
    pub(super) fn comes_to(&self, id: &str) -> Vec<ImageSpec> {
        let coming = lock(&self.comings.mounts);
        let mut specs: Vec<ImageSpec> =
            coming.keys().filter(|(_, coming)| coming == id).map(|(spec, _)| spec.clone()).collect();
        drop(coming);
        let unsettled = self.entries.those(|entry| entry.unsettled);
        let has = |refs: Refs| refs.uses.iter().any(|one_use| one_use.id == id);
        specs.extend(unsettled.into_iter().filter(|spec| {
            self.table.get(spec).is_none() && self.refs_of(spec).is_ok_and(|refs| refs.is_some_and(has))
        }));
        specs
    }

    /// A volume is mounted no more, whoever used it.
    pub(super) fn forget_uses(&self, spec: &ImageSpec) -> Result<()> {
        let _short = self.lock_uses(spec);
        self.table.remove(spec);
        lock(&self.comings.unsaved).remove(spec);
        self.host.forget(&self.refs_file(spec))
    }

    /// Enters a mount into the table with the uses that it has by now; `false` when nobody uses it any more.
    pub(super) fn adopt(&self, spec: &ImageSpec, mount: impl FnOnce(Refs) -> MountedVolume) -> Result<bool> {
        let _short = self.lock_uses(spec);
        let Some(refs) = self.refs_of(spec)?.filter(|refs| !refs.uses.is_empty()) else { return Ok(false) };
        // An earlier write may have failed, and the next start believes the disk.
        self.save_refs(&refs)?;
        lock(&self.comings.unsaved).remove(spec);
        self.entries.change(spec, |entry| entry.unsettled = false);
        tracing::info!(image = %spec, uses = refs.total(), "adopted");
        self.table.put(mount(refs));
        Ok(true)
    }
}

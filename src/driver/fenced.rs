//! Volumes that were taken away from this plugin while it had them mounted: another host has fenced this one and taken them over, or
//! an administrator has.
//!
//! The kernel refuses every write to such a device already. What is left is to say so, to take the dead mount away, so that no
//! further container gets it, and to let Docker's later Unmounts succeed.

use std::collections::HashSet;

use super::Driver;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::owner::Owner;
use crate::model::store::Look;
use crate::telemetry::count::{Count, count};

impl Driver {
    /// Gives up every mounted volume that the backend says is lost. Skips volumes that an operation works on.
    pub(super) fn look_for_lost(&self) {
        let mounted: Vec<ImageSpec> =
            self.table.all().iter().map(|volume| volume.refs.spec.clone()).collect();
        if mounted.is_empty() {
            return;
        }
        let look = self.kind.look(&mounted);
        let Some(look) = self.told.answer("whether volumes were taken over", look) else { return };
        let unread: Vec<String> = look.unread.iter().map(|(spec, why)| format!("{spec}: {why}")).collect();
        let read = if unread.is_empty() {
            Ok(())
        } else {
            Err(DriverError::new(ErrorKind::Failed, unread.join("; ")))
        };
        self.told.answer("whose some mounted volumes are", read);
        for (spec, _) in look.lost {
            let Some(_guard) = self.guards.try_lock(&spec) else { continue };
            // It may have been unmounted, and mounted anew, since it was looked at.
            if self.table.get(&spec).is_some()
                && let Err(e) = self.refuse_lost(&spec)
            {
                tracing::error!(image = %spec, error = %e, "was taken away, and cannot be detached yet");
            }
        }
        for spec in look.amiss {
            let Some(_guard) = self.guards.try_lock(&spec) else { continue };
            self.mend(&spec);
        }
    }

    /// Mends the owner record of a volume, unless it was unmounted since it was looked at. The caller holds its guard.
    fn mend(&self, spec: &ImageSpec) {
        if self.table.get(spec).is_none() {
            return;
        }
        match self.kind.mend(spec) {
            Ok(None) => {}
            Ok(Some(why)) => self.part_from(spec, &why),
            Err(e) => tracing::warn!(image = %spec, error = %e, "its owner record cannot be mended yet"),
        }
    }

    fn part_from(&self, spec: &ImageSpec, why: &str) {
        if let Err(e) = self.give_up(spec, why) {
            tracing::error!(image = %spec, error = %e, "was taken away, and cannot be detached yet");
        }
    }

    /// Tells the backend which mount IDs use which volume, where that has changed.
    pub(super) fn note_uses(&self) {
        let mounted = self.table.all();
        let specs: HashSet<&ImageSpec> = mounted.iter().map(|volume| &volume.refs.spec).collect();
        for spec in self.entries.those(|entry| entry.published.is_some()) {
            if !specs.contains(&spec) {
                self.entries.change(&spec, |entry| entry.published = None);
            }
        }
        for volume in &mounted {
            let spec = &volume.refs.spec;
            let ids: Vec<String> = volume.refs.counts().keys().map(|id| (*id).to_owned()).collect();
            if self.entries.read(spec, |entry| entry.published.as_ref() == Some(&ids)) {
                continue;
            }
            match self.kind.note_uses(spec, &ids) {
                Ok(()) => self.entries.change(spec, |entry| entry.published = Some(ids)),
                Err(e) => tracing::debug!(image = %spec, error = %e, "its mount IDs could not be noted"),
            }
        }
    }

    /// Whether a mounted volume may be lost, which whoever holds its guard has to see to. While the store is away its word is not to be
    /// had, and the kernel waits for it as well.
    pub(super) fn may_be_lost(&self, spec: &ImageSpec) -> bool {
        let look = self.kind.look(std::slice::from_ref(spec));
        look.is_ok_and(|look| look != Look::default())
    }

    /// An error when a mounted volume is lost, or when it is not known whose it is: then it is no mount to hand out.
    pub(super) fn refuse_lost(&self, spec: &ImageSpec) -> Result<()> {
        let look = match self.kind.look(std::slice::from_ref(spec)) {
            Ok(look) => look,
            // While the store is away its word is not to be had, and the kernel waits for it as well.
            Err(e) => {
                tracing::warn!(image = %spec, error = %e, "mounted here; it cannot be seen whether it was taken over");
                return Ok(());
            }
        };
        if let Some((_, why)) = look.unread.into_iter().next() {
            let message = format!("{spec} is mounted here, and it is not known whose it is: {why}");
            return Err(DriverError::new(ErrorKind::Failed, message));
        }
        let lost = if look.amiss.is_empty() {
            look.lost.into_iter().next().map(|(_, why)| why)
        } else {
            match self.kind.mend(spec) {
                Err(e) if e.kind == ErrorKind::Unreachable => {
                    tracing::warn!(image = %spec, error = %e, "its owner record cannot be mended yet");
                    None
                }
                mended => mended.map_err(|e| {
                    e.context(format_args!("{spec} is mounted here, and its owner record cannot be mended"))
                })?,
            }
        };
        let Some(why) = lost else { return Ok(()) };
        self.give_up(spec, &why).map_err(|e| {
            DriverError::new(ErrorKind::InUse, format!("{spec} was taken away from this host: {why}"))
                .hint("its old mount could not be detached yet; it is tried again")
                .also(e)
        })
    }

    /// Takes the device away that a lost volume, which this plugin had mounted in this boot, has left behind. One whose owner is on this
    /// host may be that owner's.
    pub(super) fn drop_dead_mapping(&self, spec: &ImageSpec) -> Result<()> {
        let elsewhere = |owner: Owner| owner.boot_id != self.settings.boot_id;
        if self.kind.owner(spec, None)?.is_some_and(elsewhere) {
            self.kind.abandon(spec, None)?;
        }
        Ok(())
    }

    /// Takes the dead mount of a lost volume away; killed half way it is found lost again.
    fn give_up(&self, spec: &ImageSpec, why: &str) -> Result<()> {
        let Some(mounted) = self.table.get(spec) else { return Ok(()) };
        if self.entries.change(spec, |entry| entry.lost.replace(why.to_owned())).is_none() {
            count(Count::Lost);
            let uses = mounted.refs.shown();
            tracing::error!(image = %spec, uses, "FENCED: {why}; containers that use it get I/O errors: restart them");
        }
        let mountpoint = &mounted.refs.mountpoint;
        self.host.detach(mountpoint)?;
        // What is mapped now may be another mapping already: only the device of the dead mount goes.
        self.kind.abandon(spec, Some(&mounted.attached))?;
        // From here on it is a matter of bringing the rest to rest.
        self.mark_unsettled(spec);
        self.forget_uses(spec)?;
        self.host.remove_dir(mountpoint)?;
        // Fenced by hand, it may still be ours on record.
        self.kind.release(spec)?;
        self.entries.change(spec, |entry| entry.unsettled = false);
        tracing::warn!(image = %spec, "detached");
        Ok(())
    }
}

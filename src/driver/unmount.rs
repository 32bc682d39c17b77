//! Unmount: one use less; after the last, unmount → forget → unmap → release.

use std::sync::Arc;

use super::refs::Refs;
use super::table::MountedVolume;
use super::{Driver, SHORT};
use crate::error::Result;
use crate::name::VolumeName;

impl Driver {
    /// See [`VolumeDriver::unmount`](super::api::VolumeDriver::unmount).
    pub(super) fn unmount(&self, name: &str, id: &str) -> Result<()> {
        let (until, _) = self.deadlines(SHORT);
        let volume: VolumeName = name.parse()?;
        let uses = |refs: &Refs| refs.uses.iter().any(|one_use| one_use.id == id);
        let known = self.backend.known_bindings().and_then(|bindings| self.resolve_by(&bindings, &volume));
        let known = known.ok().and_then(|spec| self.table.get(&spec));
        let spec = match known.filter(|mounted| uses(&mounted.refs)) {
            // It is mounted, and used by this ID: nobody needs to be asked.
            Some(mounted) => mounted.refs.spec.clone(),
            // Docker asks once, and a use that stayed would stay for good: so even when the registry of names cannot be read, and when the
            // name means another image by now.
            None => match self.mounted_as(&volume, uses) {
                Some(mounted) => mounted.refs.spec.clone(),
                None => self.resolve(&volume)?,
            },
        };
        Self::is_about(&spec);
        let _guard = self.guards.lock(&spec, until)?;
        if self.table.get(&spec).is_none() {
            self.restore_if_unsettled(&spec)?;
        }
        let Some(mounted) = self.table.get(&spec) else {
            tracing::warn!(image = %spec, "is not mounted, ignoring the request to unmount it");
            return Ok(());
        };
        let mut volume = MountedVolume::clone(&mounted);
        if !volume.refs.drop_one(id) {
            tracing::warn!(image = %spec, "this mount ID does not use the volume, ignoring the request to unmount it");
        }
        self.after_drop(volume)
    }

    /// The one mounted volume that a name can mean, without the registry of names.
    pub(super) fn mounted_as(
        &self,
        name: &VolumeName,
        wanted: impl Fn(&Refs) -> bool,
    ) -> Option<Arc<MountedVolume>> {
        let mut found = self.table.all().into_iter().filter(|volume| {
            let spec = &volume.refs.spec;
            let means = match name.pool() {
                Some(pool) => name.in_pool(pool).is_ok_and(|named| named == *spec),
                None => name.image() == spec.image(),
            };
            means && wanted(&volume.refs)
        });
        match (found.next(), found.next()) {
            (Some(volume), None) => Some(volume),
            _ => None,
        }
    }

    /// A volume has fewer uses than before: remembers that, or takes it down after the last.
    ///
    /// The use is gone even when the volume cannot be taken down: Docker does not ask again. Then it is unsettled.
    pub(super) fn after_drop(&self, volume: MountedVolume) -> Result<()> {
        if !volume.refs.uses.is_empty() {
            self.table.put(volume.clone());
            return self.save_refs(&volume.refs).inspect_err(|_| self.mark_unsettled(&volume.refs.spec));
        }
        let spec = volume.refs.spec.clone();
        if let Err(e) = self.take_down(&volume) {
            self.mark_unsettled(&spec);
            // Without this a restart would take the mount for one in use.
            let saved = if self.table.get(&spec).is_some() { self.save_refs(&volume.refs) } else { Ok(()) };
            if self.table.get(&spec).is_some() {
                self.table.put(volume);
            }
            return Err(match saved {
                Ok(()) => e,
                Err(failure) => e.also(failure),
            });
        }
        Ok(())
    }

    pub(super) fn take_down(&self, volume: &MountedVolume) -> Result<()> {
        let spec = &volume.refs.spec;
        self.host.unmount(&volume.refs.mountpoint)?;
        self.table.remove(spec);
        self.host.forget(&self.refs_file(spec))?;
        self.host.remove_dir(&volume.refs.mountpoint)?;
        self.backend.unmap(spec, volume.device.clone())?;
        self.backend.release(spec)
    }
}

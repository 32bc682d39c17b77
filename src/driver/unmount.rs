//! Unmount: one use less; after the last, unmount → forget → unmap → release.
//!
//! The use is dropped first, before the guard is waited for: Docker asks once, and a use that stayed would stay for good.

use std::sync::Arc;

use super::refs::Refs;
use super::table::MountedVolume;
use super::uses::Dropped;
use super::{Driver, SHORT};
use crate::model::error::Result;
use crate::model::name::{ImageSpec, VolumeName};

impl Driver {
    /// See [`VolumeDriver::unmount`](super::api::VolumeDriver::unmount).
    pub(super) fn unmount(&self, name: &str, id: &str) -> Result<()> {
        let (until, _) = self.deadlines(SHORT);
        let volume: VolumeName = name.parse()?;
        let spec = match self.image_used(&volume, id) {
            Some(spec) => spec,
            None => self.resolve(&volume)?,
        };
        Self::is_about(&spec);
        let (dropped, saved) = self.drop_use(&spec, id)?;
        match dropped {
            Dropped::One => return saved,
            Dropped::Coming => {
                tracing::info!(image = %spec, "is being mounted for this mount ID; it will not be used");
                return Ok(());
            }
            Dropped::Unknown if !self.is_unsettled(&spec) => {
                tracing::warn!(image = %spec, "this mount ID does not use the volume, ignoring the request to unmount it");
                return Ok(());
            }
            Dropped::Unknown | Dropped::Last => {}
        }
        let result = self.guards.lock_whatever_waits(&spec, until).and_then(|_guard| {
            if self.table.get(&spec).is_none() {
                self.restore_if_unsettled(&spec)
            } else {
                self.end_if_unused(&spec)
            }
        });
        result.map_err(|e| {
            // It is taken down in the background.
            self.mark_unsettled(&spec);
            match saved {
                Ok(()) => e,
                Err(failure) => e.also(failure),
            }
        })
    }

    /// The image that a mount ID uses under this name, without asking anybody. The registry of names cannot always be read, and the
    /// name may mean another image by now.
    fn image_used(&self, volume: &VolumeName, id: &str) -> Option<ImageSpec> {
        let uses = |refs: &Refs| refs.uses.iter().any(|one_use| one_use.id == id);
        let coming = self.comes_to(id);
        let known = self.kind.known_bindings().and_then(|bindings| self.resolve_by(&bindings, volume)).ok();
        let known =
            known.filter(|spec| coming.contains(spec) || self.table.get(spec).is_some_and(|m| uses(&m.refs)));
        known.or_else(|| self.mounted_as(volume, uses).map(|mounted| mounted.refs.spec.clone())).or_else(
            || {
                let mut meant = coming.into_iter().filter(|spec| can_mean(volume, spec));
                meant.next().filter(|_| meant.next().is_none())
            },
        )
    }

    /// The one mounted volume that a name can mean, without the registry of names.
    pub(super) fn mounted_as(
        &self,
        name: &VolumeName,
        wanted: impl Fn(&Refs) -> bool,
    ) -> Option<Arc<MountedVolume>> {
        let mounted = self.table.all().into_iter();
        let mut found = mounted.filter(|volume| can_mean(name, &volume.refs.spec) && wanted(&volume.refs));
        match (found.next(), found.next()) {
            (Some(volume), None) => Some(volume),
            _ => None,
        }
    }

    /// Takes a mounted volume down that nobody uses. The caller holds the guard.
    pub(super) fn end_if_unused(&self, spec: &ImageSpec) -> Result<()> {
        match self.table.get(spec) {
            Some(mounted) if mounted.refs.uses.is_empty() => {
                self.take_down(&mounted).inspect_err(|_| self.mark_unsettled(spec))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn take_down(&self, volume: &MountedVolume) -> Result<()> {
        let spec = &volume.refs.spec;
        self.host.unmount(&volume.refs.mountpoint)?;
        self.forget_uses(spec)?;
        self.host.remove_dir(&volume.refs.mountpoint)?;
        self.kind.detach(spec, &volume.attached)?;
        // It is mounted here no more, whatever the store says now.
        self.kind.release(spec).map_err(|e| {
            e.context(format!(
                "{spec} is unmounted and unmapped on this host, but not given back yet, which is tried again by itself"
            ))
        })
    }
}

/// Whether a name can mean the image, whatever the registry of names says.
fn can_mean(name: &VolumeName, spec: &ImageSpec) -> bool {
    match name.pool() {
        Some(pool) => name.in_pool(pool).is_ok_and(|named| named == *spec),
        None => name.image() == spec.image(),
    }
}

//! Remove: nothing, deletion or a new name, as the plugin was told; never of a volume in use.

use super::undo::Undo;
use super::{Driver, Removal, SHORT};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::image::ImageInfo;
use crate::model::name::{ImageSpec, VolumeName};
use crate::model::time;

/// So many names are tried for a renamed image.
const NAMES: u64 = 1000;

impl Driver {
    /// See [`VolumeDriver::remove`](super::api::VolumeDriver::remove).
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let (until, _) = self.deadlines(SHORT);
        let volume: VolumeName = name.parse()?;
        let spec = self.resolve(&volume)?;
        Self::is_about(&spec);
        let _guard = self.guards.lock(&spec, until)?;
        self.restore_if_unsettled(&spec)?;
        // Its last Unmount may wait for the guard.
        self.end_if_unused(&spec)?;
        let info = self.kind.info(&spec)?;
        if let Some(mounted) = self.table.get(&spec) {
            return Err(in_use(name, &mounted.refs.shown()).hint("stop the containers that use it"));
        }
        if self.settings.removal == Removal::Ignore && info.is_some() {
            tracing::info!(image = %spec, "not removed: the plugin was started with --remove ignore");
            return Ok(());
        }
        if let Some(trouble) = info.as_ref().and_then(|info| info.trouble.as_ref())
            && !trouble.removable
        {
            return Err(trouble.why.clone().context(format_args!("volume {name:?} cannot be removed")));
        }
        if info.is_none() {
            tracing::info!(image = %spec, "does not exist, nothing to remove");
            return self.unbind(&spec);
        }
        let mut undo = Undo::default();
        let result = (|| {
            undo.push("release the image", || self.kind.release(&spec));
            let unable = |e: DriverError| e.context(format_args!("Unable to lock image for remove: {name}"));
            self.kind.claim(&spec).map_err(unable)?;
            if let Some(how) = self.kind.stray(&spec)? {
                return Err(in_use(name, &how).hint("unmap it"));
            }
            // Another host may have finished or removed it since we looked.
            match (self.kind.info(&spec)?, self.settings.removal) {
                (None, _) => {}
                (Some(info), _) if info.is_being_made() => self.kind.clear(&spec, &info)?,
                (Some(ImageInfo { size: Some(_), .. }), Removal::Rename) => match self.rename_away(&spec) {
                    // Another host was faster.
                    Err(e) if e.kind == ErrorKind::NotFound => {}
                    renamed => renamed?,
                },
                _ => self.kind.remove(&spec)?,
            }
            self.unbind(&spec)?;
            self.kind.release(&spec)
        })();
        result.map_err(|e| self.undo(&spec, undo, e))
    }

    /// To `zz_<image>`, or `zz_<image>_<date>` when that is taken.
    fn rename_away(&self, spec: &ImageSpec) -> Result<()> {
        let base = format!("zz_{}", spec.image());
        let stamp = time::rfc3339(time::now()).replace([':', '-'], "");
        for attempt in 0..NAMES {
            let image = match attempt {
                0 => base.clone(),
                1 => format!("{base}_{stamp}"),
                n => format!("{base}_{stamp}_{n}"),
            };
            let to = spec.with_image(&image)?;
            let Some(_guard) = self.guards.try_lock(&to) else { continue };
            if self.kind.info(&to)?.is_some() {
                continue;
            }
            let mut undo = Undo::default();
            let result = (|| {
                undo.push("release the new name", || self.kind.release(&to));
                self.kind.claim(&to)?;
                self.kind.rename(spec, &to)?;
                self.kind.release(&to)
            })();
            match result {
                Ok(()) => {
                    tracing::info!(image = %spec, %to, "renamed");
                    self.cache.add(&self.shown_name(&to)?);
                    return Ok(());
                }
                Err(e) => {
                    let taken = e.kind == ErrorKind::AlreadyExists;
                    let e = self.undo(&to, undo, e);
                    if !taken {
                        return Err(
                            e.context(format_args!("Unable to rename with zz_ prefix: RBD Image({spec})"))
                        );
                    }
                }
            }
        }
        Err(DriverError::new(ErrorKind::AlreadyExists, format!("no free name for the renamed image {spec}"))
            .hint(format!("remove some of the images {base}*")))
    }

    /// Takes the bare names of an image that is gone away, and what a check has found in it.
    pub(super) fn unbind(&self, spec: &ImageSpec) -> Result<()> {
        self.kind.forget(spec);
        let bound = self.binding_beside(spec)?;
        self.cache.remove(&self.shown_bound(bound.as_ref(), spec));
        match bound {
            Some(bound) if bound == *spec => self.kind.unbind(spec.image(), spec),
            _ => Ok(()),
        }
    }
}

fn in_use(name: &str, how: &str) -> DriverError {
    DriverError::new(ErrorKind::InUse, format!("volume {name:?} is in use: {how}"))
}

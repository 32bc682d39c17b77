//! The simulated block devices.

use std::path::Path;

use super::{Data, Image, Sim, State};
use crate::backend::{Device, Disks};
use crate::model::block_io::BlockIo;
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::{Checked, Content, Filesystem, Format, FsKind, MountFlags, Settle};
use crate::model::mount::{Attached, Mounted, Place};
use crate::model::name::ImageSpec;

/// Where the numbers begin that filesystems have of their own.
const ANONYMOUS: u32 = 1000;

impl State {
    /// The minor number of a device that is there.
    fn number_of(&self, path: &str) -> Option<u32> {
        self.devices.keys().copied().find(|number| self.device(*number).path == Path::new(path))
    }

    fn is_held(&self, attached: &Attached) -> bool {
        self.number_of(&attached.source).is_some_and(|number| self.held.contains(&number))
    }

    fn image_on(&mut self, device: &Device) -> Result<(ImageSpec, &mut Image)> {
        let gone =
            || DriverError::new(ErrorKind::Failed, format!("{}: no such device", device.path.display()));
        let spec = self.devices.get(&device.number.1).cloned().ok_or_else(gone)?;
        let image = self.images.get_mut(&spec).ok_or_else(gone)?;
        Ok((spec, image))
    }
}

impl Disks for Sim {
    fn probe(&self, device: &Device, _expected: Option<FsKind>) -> Result<Content> {
        let mut state = self.world.look();
        Ok(state.image_on(device)?.1.data.content())
    }

    fn ends_are_zero(&self, device: &Device) -> Result<bool> {
        Ok(self.world.look().image_on(device)?.1.data == Data::Untouched)
    }

    fn format(&self, device: &Device, plan: &Format, _deadline: Deadline) -> Result<()> {
        let mut state = self.world.look();
        let (spec, image) = state.image_on(device)?;
        let made = Filesystem {
            kind: plan.kind,
            type_name: plan.kind.name().to_owned(),
            uuid: Some(plan.uuid.clone()),
        };
        let before = std::mem::replace(&mut image.data, Data::Filesystem(made, String::new()));
        if !matches!(before, Data::Untouched) {
            state.destroyed.push(spec);
        }
        Ok(())
    }

    fn needs_check(&self, _device: &Device, _fs: &Filesystem) -> Result<Option<u32>> {
        Ok(None)
    }

    fn check(&self, _device: &Device, _fs: &Filesystem, _deadline: Deadline) -> Result<Checked> {
        Ok(Checked::NotNeeded)
    }

    fn mount(&self, device: &Device, fs: &Filesystem, target: &Path, flags: &MountFlags) -> Result<Place> {
        let mut state = self.world.look();
        state.image_on(device)?;
        if let Some(refusal) = state.failing.remove("mount") {
            return Err(refusal);
        }
        if !state.folders.contains(target) {
            return Err(DriverError::new(ErrorKind::Failed, format!("{}: no such folder", target.display())));
        }
        // btrfs numbers its mounts by itself.
        let number = match fs.kind {
            FsKind::Btrfs => (0, device.number.1 + ANONYMOUS),
            _ => device.number,
        };
        let place = Place::whole(number);
        state.mounts.push(Mounted {
            target: target.to_owned(),
            place: place.clone(),
            source: device.path.display().to_string(),
            fstype: fs.type_name.clone(),
            read_only: flags.read_only,
            failed: false,
        });
        Ok(place)
    }

    fn twin(&self, _device: &Device, _fs: &Filesystem) -> Result<Option<Mounted>> {
        Ok(None)
    }

    fn settle(&self, _root: &Path, _settle: &Settle) -> Result<()> {
        Ok(())
    }

    fn tidy(&self, _root: &Path, _begun: u64) -> Result<()> {
        Ok(())
    }

    fn is_empty(&self, root: &Path) -> Result<bool> {
        let state = self.world.look();
        let mount = state.mounts.iter().rfind(|mount| mount.target == root);
        let image = mount
            .and_then(|mount| state.devices.get(&state.number_of(&mount.source)?))
            .and_then(|spec| state.images.get(spec));
        Ok(image.is_none_or(|image| !matches!(&image.data, Data::Filesystem(_, files) if !files.is_empty())))
    }

    fn which_held(&self, attached: &[Attached]) -> Result<Vec<bool>> {
        let state = self.world.look();
        Ok(attached.iter().map(|attached| state.is_held(attached)).collect())
    }

    fn refuse_held(&self, target: &Path, attached: &Attached) -> Result<()> {
        if self.world.look().is_held(attached) {
            let message = format!("{} is still in use by a container", target.display());
            return Err(DriverError::new(ErrorKind::InUse, message));
        }
        Ok(())
    }

    fn number(&self, path: &Path) -> Result<Option<(u32, u32)>> {
        let state = self.world.look();
        Ok(state.number_of(&path.to_string_lossy()).map(|number| state.device(number).number))
    }

    fn counters(&self, _path: &Path) -> (Option<u64>, Option<BlockIo>) {
        (None, None)
    }
}

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

impl State {
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
        let place = Place::whole(device.number);
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
            .and_then(|mount| state.devices.get(&mount.place.number.1))
            .and_then(|spec| state.images.get(spec));
        Ok(image.is_none_or(|image| !matches!(&image.data, Data::Filesystem(_, files) if !files.is_empty())))
    }

    fn which_held(&self, attached: &[Attached]) -> Result<Vec<bool>> {
        let state = self.world.look();
        Ok(attached.iter().map(|attached| state.held.contains(&attached.place.number.1)).collect())
    }

    fn refuse_held(&self, target: &Path, attached: &Attached) -> Result<()> {
        if self.world.look().held.contains(&attached.place.number.1) {
            let message = format!("{} is still in use by a container", target.display());
            return Err(DriverError::new(ErrorKind::InUse, message));
        }
        Ok(())
    }

    fn number(&self, path: &Path) -> Result<Option<(u32, u32)>> {
        let state = self.world.look();
        let mut numbers = state.devices.keys().map(|number| state.device(*number));
        Ok(numbers.find(|device| device.path == path).map(|device| device.number))
    }

    fn counters(&self, _path: &Path) -> (Option<u64>, Option<BlockIo>) {
        (None, None)
    }
}

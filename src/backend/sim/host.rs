//! The simulated kernel.

use std::path::{Path, PathBuf};

use super::{Data, Image, Sim, State};
use crate::backend::Device;
use crate::host::{Host, Mounted};
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::{Checked, Content, Filesystem, Format, FsKind, MountFlags, Settle, Usage};
use crate::model::name::ImageSpec;
use crate::model::process::Process;

impl State {
    fn image_on(&mut self, device: &Device) -> Result<(ImageSpec, &mut Image)> {
        let gone =
            || DriverError::new(ErrorKind::Failed, format!("{}: no such device", device.path.display()));
        let spec = self.devices.get(&device.number.1).cloned().ok_or_else(gone)?;
        let image = self.images.get_mut(&spec).ok_or_else(gone)?;
        Ok((spec, image))
    }

    fn unmount(&mut self, target: &Path) {
        if let Some(at) = self.mounts.iter().rposition(|mount| mount.target == target) {
            self.mounts.remove(at);
        }
    }
}

impl Host for Sim {
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

    fn mount(&self, device: &Device, fs: &Filesystem, target: &Path, flags: &MountFlags) -> Result<()> {
        let mut state = self.world.look();
        state.image_on(device)?;
        if let Some(refusal) = state.failing.remove("mount") {
            return Err(refusal);
        }
        if !state.folders.contains(target) {
            return Err(DriverError::new(ErrorKind::Failed, format!("{}: no such folder", target.display())));
        }
        state.mounts.push(Mounted {
            target: target.to_owned(),
            number: device.number,
            source: device.path.display().to_string(),
            fstype: fs.type_name.clone(),
            read_only: flags.read_only,
            failed: false,
        });
        Ok(())
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
            .and_then(|mount| state.devices.get(&mount.number.1))
            .and_then(|spec| state.images.get(spec));
        Ok(image.is_none_or(|image| !matches!(&image.data, Data::Filesystem(_, files) if !files.is_empty())))
    }

    fn unmount(&self, target: &Path) -> Result<()> {
        let mut state = self.world.look();
        if state.busy.contains(target) {
            return Err(DriverError::new(ErrorKind::InUse, format!("{} is busy", target.display())));
        }
        state.unmount(target);
        Ok(())
    }

    fn detach(&self, target: &Path) -> Result<()> {
        self.world.look().unmount(target);
        Ok(())
    }

    fn mounted_at(&self, target: &Path) -> Result<Option<Mounted>> {
        Ok(self.world.look().mounts.iter().rfind(|mounted| mounted.target == target).cloned())
    }

    fn mounts(&self) -> Result<Vec<Mounted>> {
        let state = self.world.look();
        state.fails("mounts")?;
        Ok(state.mounts.clone())
    }

    fn make_dir(&self, dir: &Path) -> Result<()> {
        self.world.look().folders.insert(dir.to_owned());
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        let mut state = self.world.look();
        if state.mounts.iter().any(|mount| mount.target == dir) {
            return Err(DriverError::new(ErrorKind::InUse, format!("{} is a mountpoint", dir.display())));
        }
        state.folders.remove(dir);
        Ok(())
    }

    fn usage(&self, _mount: &Mounted) -> Result<Usage> {
        Ok(Usage {
            size: 1 << 20,
            used: 1 << 10,
            available: (1 << 20) - (1 << 10),
            inodes: 100,
            inodes_used: 1,
            failed: false,
        })
    }

    fn which_held(&self, devices: &[Device]) -> Result<Vec<bool>> {
        let state = self.world.look();
        Ok(devices.iter().map(|device| state.held.contains(&device.number.1)).collect())
    }

    fn refuse_held(&self, target: &Path, device: &Device) -> Result<()> {
        if self.held_elsewhere(device)? {
            let message = format!("{} is still in use by a container", target.display());
            return Err(DriverError::new(ErrorKind::InUse, message));
        }
        Ok(())
    }

    fn save(&self, path: &Path, content: &[u8]) -> Result<()> {
        self.world.look().files.insert(path.to_owned(), content.to_vec());
        Ok(())
    }

    fn load(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        Ok(self.world.look().files.get(path).cloned())
    }

    fn files(&self, folder: &Path) -> Result<Vec<String>> {
        let state = self.world.look();
        let in_folder = |path: &&PathBuf| path.parent() == Some(folder);
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(state.files.keys().filter(in_folder).filter_map(name).collect())
    }

    fn is_alive(&self, process: Process) -> bool {
        process != Process::NOBODY && !self.world.look().dead.contains(&process)
    }

    fn forget(&self, path: &Path) -> Result<()> {
        self.world.look().files.remove(path);
        Ok(())
    }
}

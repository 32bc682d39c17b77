//! The simulated kernel.

use std::path::{Path, PathBuf};

use super::{Sim, State};
use crate::host::Host;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::Usage;
use crate::model::mount::Mounted;
use crate::model::process::Process;

impl State {
    fn unmount(&mut self, target: &Path) {
        if let Some(at) = self.mounts.iter().rposition(|mount| mount.target == target) {
            self.mounts.remove(at);
        }
    }
}

impl Host for Sim {
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

    fn save(&self, path: &Path, content: &[u8]) -> Result<()> {
        self.world.look().files.insert(path.to_owned(), content.to_vec());
        Ok(())
    }

    fn append(&self, path: &Path, content: &[u8]) -> Result<()> {
        self.world.look().files.entry(path.to_owned()).or_default().extend(content);
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

    fn trim_soon(&self) {}

    fn trim_if_wanted(&self) {}
}

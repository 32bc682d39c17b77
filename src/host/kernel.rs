//! The real host: the contracts of [`Host`] on top of `linux/`.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

use crate::host::Host;
use crate::linux::{files, holders, memory, mount, mountinfo, process};
use crate::model::deadline::Deadline;
use crate::model::error::{CallError, DriverError, OrCall, Result};
use crate::model::filesystem::Usage;
use crate::model::mount::Mounted;
use crate::model::process::Process;
use crate::telemetry::count::{Count, count};

/// How long an unmount is tried again on EBUSY. The kernel answers it also while another mount namespace that has received a copy
/// of the mount is being set up or torn down (a container that is just starting): umount(2) takes all copies or none.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(2);

/// The kernel of this host, for real.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelHost;

impl Host for KernelHost {
    fn unmount(&self, target: &Path) -> Result<()> {
        let patience = Deadline::after(UNMOUNT_PATIENCE);
        let mut step = Duration::from_millis(1);
        loop {
            match mount::unmount(target) {
                Ok(_) => return Ok(()),
                Err(cause) if cause.errno != Errno::EBUSY => return Err(cause.into()),
                Err(cause) if patience.left().is_zero() => return Err(busy(target, cause)),
                Err(_) => {
                    count(Count::BusyUnmount);
                    sleep(step);
                }
            }
            step = (step * 2).min(Duration::from_millis(100));
        }
    }

    fn detach(&self, target: &Path) -> Result<()> {
        Ok(mount::detach(target).map(drop)?)
    }

    fn mounted_at(&self, target: &Path) -> Result<Option<Mounted>> {
        if mount::is_mount_root(target)? == Some(false) {
            return Ok(None);
        }
        Ok(self.mounts()?.into_iter().rfind(|mounted| mounted.target == target))
    }

    fn mounts(&self) -> Result<Vec<Mounted>> {
        let entries = mountinfo::read(Path::new(mountinfo::OWN))?;
        Ok(entries.into_iter().map(Mounted::from).collect())
    }

    fn make_dir(&self, dir: &Path) -> Result<()> {
        DirBuilder::new().recursive(true).mode(0o755).create(dir).or_call("mkdir", dir.display())?;
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> Result<()> {
        match fs::remove_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            // Somebody wrote to the folder while nothing was mounted on it: that must not stand in the way of a volume.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                tracing::warn!(dir = %dir.display(), "not empty, left where it is");
                Ok(())
            }
            removed => Ok(removed.or_call("rmdir", dir.display())?),
        }
    }

    fn usage(&self, mount: &Mounted) -> Result<Usage> {
        let target = mount.target.as_path();
        // What was unmounted behind our back would show the filesystem below.
        if mount::is_mount_root(target)? == Some(false) {
            return Err(CallError::new("statvfs", target.display(), Errno::ENODEV).into());
        }
        let stat = statvfs(target).or_call("statvfs", target.display())?;
        let block = stat.fragment_size();
        Ok(Usage {
            size: stat.blocks().saturating_mul(block),
            used: stat.blocks().saturating_sub(stat.blocks_free()).saturating_mul(block),
            available: stat.blocks_available().saturating_mul(block),
            inodes: stat.files(),
            inodes_used: stat.files().saturating_sub(stat.files_free()),
            failed: mount.failed,
        })
    }

    fn save(&self, path: &Path, content: &[u8]) -> Result<()> {
        Ok(files::replace(path, content)?)
    }

    fn append(&self, path: &Path, content: &[u8]) -> Result<()> {
        Ok(files::append(path, content)?)
    }

    fn load(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        Ok(files::load(path)?)
    }

    fn files(&self, folder: &Path) -> Result<Vec<String>> {
        Ok(files::names(folder)?)
    }

    fn is_alive(&self, process: Process) -> bool {
        process::stat(process.pid).is_some_and(|stat| stat.start == process.start)
    }

    fn forget(&self, path: &Path) -> Result<()> {
        Ok(files::remove(path)?)
    }

    fn trim_soon(&self) {
        memory::trim_soon();
    }

    fn trim_if_wanted(&self) {
        memory::trim_if_wanted();
    }
}

/// Names those who keep a mountpoint busy.
fn busy(target: &Path, cause: CallError) -> DriverError {
    let mut who: Vec<String> = holders::of(target, None).iter().map(ToString::to_string).collect();
    let below = holders::mounts_below(target).unwrap_or_default();
    who.extend(below.iter().map(|path| format!("a mount at {}", path.display())));
    holders::in_use(target, who).caused_by(cause)
}

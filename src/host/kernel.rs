//! The real host: the contracts of [`Host`] on top of `linux/`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod};
use nix::sys::statvfs::statvfs;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use crate::backend::Device;
use crate::host::{Host, Mounted};
use crate::linux::exec::Programs;
use crate::linux::{blkdev, files, fs as filesystem, holders, kmsg, mount, mountinfo, probe, process};
use crate::model::deadline::Deadline;
use crate::model::error::{CallError, DriverError, ErrorKind, OrCall, Result};
use crate::model::filesystem::{Checked, Content, Filesystem, Format, FsKind, MountFlags, Settle, Usage};
use crate::model::process::Process;
use crate::telemetry::count::{Count, count};

/// How long an unmount is tried again on EBUSY. The kernel answers it also while another mount namespace that has received a copy
/// of the mount is being set up or torn down (a container that is just starting): umount(2) takes all copies or none.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(2);

/// The kernel and the programs of this host, for real.
#[derive(Debug, Clone)]
pub struct KernelHost {
    programs: Programs,
    last_found: Arc<holders::LastFound>,
}

impl KernelHost {
    /// With the programs that were found at start.
    pub fn new(programs: Programs) -> Self {
        Self { programs, last_found: Arc::default() }
    }
}

impl Host for KernelHost {
    fn probe(&self, device: &Device, expected: Option<FsKind>) -> Result<Content> {
        if let Some(kind) = expected
            && let Some(found) = probe::expect(&device.path, kind)?
        {
            return Ok(Content::Filesystem(found));
        }
        Ok(probe::probe(&device.path)?)
    }

    fn ends_are_zero(&self, device: &Device) -> Result<bool> {
        Ok(blkdev::ends_are_zero(&device.path)?)
    }

    fn format(&self, device: &Device, plan: &Format, deadline: Deadline) -> Result<()> {
        filesystem::format(&self.programs, &device.path, plan, deadline)
    }

    fn needs_check(&self, device: &Device, fs: &Filesystem) -> Result<Option<u32>> {
        filesystem::needs_check(&device.path, fs.kind)
    }

    fn check(&self, device: &Device, fs: &Filesystem, deadline: Deadline) -> Result<Checked> {
        filesystem::check(&self.programs, &device.path, fs, deadline)
            .map_err(|e| filesystem::explain(&device.path, e))
    }

    fn mount(&self, device: &Device, fs: &Filesystem, target: &Path, flags: &MountFlags) -> Result<()> {
        let mut options = mount::parse(&flags.options)?;
        if flags.read_only {
            options = options.make_read_only();
        }
        let log = kmsg::Mark::now();
        let Err(cause) = mount::mount(&device.path, &fs.type_name, target, &options) else { return Ok(()) };
        let name = device.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let refused = filesystem::Refused {
            path: &device.path,
            number: device.number,
            fs,
            flags,
            data: &options.data,
            cause,
            said: log.of_mount(&name),
        };
        Err(refused.explain(&self.programs))
    }

    fn twin(&self, device: &Device, fs: &Filesystem) -> Result<Option<Mounted>> {
        Ok(filesystem::twin_of(&device.path, device.number, fs).map(Mounted::from))
    }

    fn settle(&self, root: &Path, settle: &Settle) -> Result<()> {
        let folder = open_folder(root)?;
        match unlinkat(&folder, "lost+found", UnlinkatFlags::RemoveDir) {
            // Not there, no directory, or not empty: then it is somebody's data.
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENOTEMPTY | Errno::EEXIST) => {}
            Err(errno) => {
                return Err(CallError::new("rmdir", root.join("lost+found").display(), errno).into());
            }
        }
        // The owner first: changing it clears the set-id bits of the mode.
        if settle.uid.is_some() || settle.gid.is_some() {
            fchown(folder.as_fd(), settle.uid.map(Uid::from_raw), settle.gid.map(Gid::from_raw))
                .or_call("fchown", root.display())?;
        }
        if let Some(mode) = settle.mode {
            fchmod(folder.as_fd(), Mode::from_bits_truncate(mode)).or_call("fchmod", root.display())?;
        }
        Ok(())
    }

    fn tidy(&self, root: &Path, begun: u64) -> Result<()> {
        let folder = root.join("lost+found");
        // One that was there before was changed before.
        let is_new =
            |found: &fs::Metadata| u64::try_from(found.ctime()).is_ok_and(|changed| changed >= begun);
        if !fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir() && is_new(&found)) {
            return Ok(());
        }
        match unlinkat(&open_folder(root)?, "lost+found", UnlinkatFlags::RemoveDir) {
            Ok(()) => tracing::debug!(root = %root.display(), "removed the empty lost+found of a check"),
            // Not empty: it holds what the checker has saved.
            Err(errno) => tracing::info!(folder = %folder.display(), %errno, "what a check has added stays"),
        }
        Ok(())
    }

    fn is_empty(&self, root: &Path) -> Result<bool> {
        let is_empty = |dir: &Path, but: &str| -> Result<bool> {
            let mut entries = fs::read_dir(dir).or_call("readdir", dir.display())?;
            Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == but)))
        };
        let kept = root.join("lost+found");
        Ok(is_empty(root, "lost+found")? && (!kept.is_dir() || is_empty(&kept, "")?))
    }

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

    fn which_held(&self, devices: &[Device]) -> Result<Vec<bool>> {
        let devices: Vec<_> = devices.iter().map(|device| (device.path.as_path(), device.number)).collect();
        Ok(holders::held_elsewhere(&devices, &self.last_found)?)
    }

    fn refuse_held(&self, target: &Path, device: &Device) -> Result<()> {
        match holders::who_holds_elsewhere(&device.path, device.number)? {
            Some(holders) => Err(in_use(target, holders.iter().map(ToString::to_string).collect())),
            None => Ok(()),
        }
    }

    fn save(&self, path: &Path, content: &[u8]) -> Result<()> {
        Ok(files::replace(path, content)?)
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
}

impl From<mountinfo::Entry> for Mounted {
    fn from(entry: mountinfo::Entry) -> Self {
        Self {
            target: entry.target,
            number: entry.number,
            source: entry.source,
            fstype: entry.fstype,
            read_only: entry.read_only,
            failed: entry.failed,
        }
    }
}

fn open_folder(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
        .or_call("open", path.display())?;
    Ok(file)
}

/// Names those who keep a mountpoint busy.
fn busy(target: &Path, cause: CallError) -> DriverError {
    let mut who: Vec<String> = holders::of(target, None).iter().map(ToString::to_string).collect();
    let below = holders::mounts_below(target).unwrap_or_default();
    who.extend(below.iter().map(|path| format!("a mount at {}", path.display())));
    in_use(target, who).caused_by(cause)
}

fn in_use(target: &Path, who: Vec<String>) -> DriverError {
    let message = match who.as_slice() {
        [] => format!("{} is still in use", target.display()),
        who => format!("{} is still in use by {}", target.display(), who.join(", ")),
    };
    DriverError::new(ErrorKind::InUse, message).hint("stop what uses it and try again")
}

//! The real block devices: the contracts of [`Disks`] on top of `linux/`.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use crate::backend::{Device, Disks};
use crate::linux::exec::Programs;
use crate::linux::{blkdev, blkstat, fs as filesystem, holders, kmsg, mount, mountinfo, probe};
use crate::model::block_io::BlockIo;
use crate::model::deadline::Deadline;
use crate::model::error::{CallError, OrCall, Result};
use crate::model::filesystem::{Checked, Content, Filesystem, Format, FsKind, MountFlags, Settle};
use crate::model::mount::{Attached, Mounted, Place};

/// What mkfs.ext4 and its checker put into the root of a filesystem.
const LOST_FOUND: &str = "lost+found";

/// The block devices and the programs of this host, for real.
#[derive(Debug, Clone)]
pub struct KernelDisks {
    programs: Programs,
    last_found: Arc<holders::LastFound>,
}

impl KernelDisks {
    /// With the programs that were found at start.
    pub fn new(programs: Programs) -> Self {
        Self { programs, last_found: Arc::default() }
    }
}

impl Disks for KernelDisks {
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

    fn mount(&self, device: &Device, fs: &Filesystem, target: &Path, flags: &MountFlags) -> Result<Place> {
        let mut options = mount::parse(&flags.options)?;
        if flags.read_only {
            options = options.make_read_only();
        }
        let log = kmsg::Mark::now();
        let Err(cause) = mount::mount(&device.path, &fs.type_name, target, &options) else {
            return place(device, fs, target);
        };
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
        match unlinkat(&folder, LOST_FOUND, UnlinkatFlags::RemoveDir) {
            // Not there, no directory, or not empty: then it is somebody's data.
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENOTEMPTY | Errno::EEXIST) => {}
            Err(errno) => {
                return Err(CallError::new("rmdir", root.join(LOST_FOUND).display(), errno).into());
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
        let folder = root.join(LOST_FOUND);
        // One that was there before was changed before.
        let is_new =
            |found: &fs::Metadata| u64::try_from(found.ctime()).is_ok_and(|changed| changed >= begun);
        if !fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir() && is_new(&found)) {
            return Ok(());
        }
        match unlinkat(&open_folder(root)?, LOST_FOUND, UnlinkatFlags::RemoveDir) {
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
        let kept = root.join(LOST_FOUND);
        Ok(is_empty(root, LOST_FOUND)? && (!kept.is_dir() || is_empty(&kept, "")?))
    }

    fn which_held(&self, attached: &[Attached]) -> Result<Vec<bool>> {
        let devices: Vec<_> =
            attached.iter().map(|attached| (Path::new(&attached.source), attached.place.number)).collect();
        Ok(holders::held_elsewhere(&devices, &self.last_found)?)
    }

    fn refuse_held(&self, target: &Path, attached: &Attached) -> Result<()> {
        match holders::who_holds_elsewhere(Path::new(&attached.source), attached.place.number)? {
            Some(holders) => Err(holders::in_use(target, holders.iter().map(ToString::to_string).collect())),
            None => Ok(()),
        }
    }

    fn number(&self, path: &Path) -> Result<Option<(u32, u32)>> {
        Ok(blkdev::number(path)?)
    }

    fn counters(&self, path: &Path) -> (Option<u64>, Option<BlockIo>) {
        (blkstat::size(path), blkstat::io(path))
    }
}

/// What mountinfo calls what is mounted from a device. Only btrfs has a number of its own, so for the others nothing is read.
fn place(device: &Device, fs: &Filesystem, target: &Path) -> Result<Place> {
    if fs.kind != FsKind::Btrfs {
        return Ok(Place::whole(device.number));
    }
    let mounts = mountinfo::read(Path::new(mountinfo::OWN))?;
    let mounted = mounts.into_iter().rfind(|mount| mount.target == target).map(Mounted::from);
    let mounted = mounted.ok_or_else(|| CallError::new("mountinfo", target.display(), Errno::ENOENT))?;
    Ok(mounted.place)
}

fn open_folder(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
        .or_call("open", path.display())?;
    Ok(file)
}

//! What the driver asks of this host's kernel and programs, besides mapping.
//!
//! [`KernelHost`](kernel::KernelHost) does it for real, through `linux/`; the simulator does it in memory. The contracts of
//! [`backend`](crate::backend) hold here too: idempotent, killable, synchronous.

pub mod kernel;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::backend::Device;
use crate::model::deadline::Deadline;
use crate::model::error::Result;
use crate::model::filesystem::{Checked, Content, Filesystem, Format, FsKind, MountFlags, Settle, Usage};
use crate::model::process::Process;

/// The kernel and the programs of this host.
pub trait Host: fmt::Debug + Send + Sync {
    /// What the device holds, by its signatures. A filesystem that is expected is looked for first, and nothing else if it is there.
    fn probe(&self, device: &Device, expected: Option<FsKind>) -> Result<Content>;

    /// Whether the first and the last MiB read as zeros.
    fn ends_are_zero(&self, device: &Device) -> Result<bool>;

    /// Runs `mkfs.<fs>`. The caller made sure that the device is blank. Killed and reaped at the deadline.
    fn format(&self, device: &Device, plan: &Format, deadline: Deadline) -> Result<()>;

    /// Whether the superblock calls for the filesystem's checker; then a checksum of it.
    fn needs_check(&self, device: &Device, fs: &Filesystem) -> Result<Option<u32>>;

    /// Checks a filesystem before it is mounted, when its superblock calls for it, and repairs what its checker calls safe.
    /// `NeedsRepair` when more is needed. A checker that only reads is killed at the deadline; one that writes is waited for. `Busy` when one
    /// that an earlier life of the plugin has begun still runs.
    fn check(&self, device: &Device, fs: &Filesystem, deadline: Deadline) -> Result<Checked>;

    /// Mounts the device at the directory.
    fn mount(&self, device: &Device, fs: &Filesystem, target: &Path, options: &MountFlags) -> Result<()>;

    /// The other mounted filesystem that has this one's UUID, which the kernel takes for this one: a copy, or what it was copied from.
    fn twin(&self, device: &Device, fs: &Filesystem) -> Result<Option<Mounted>>;

    /// Sets a fresh filesystem up: removes an empty `lost+found`, then applies owner and mode to the root.
    fn settle(&self, root: &Path, settle: &Settle) -> Result<()>;

    /// Takes away what a checker that was begun at this time (seconds since the epoch) has added to the root: a `lost+found` that is empty.
    fn tidy(&self, root: &Path, begun: u64) -> Result<()>;

    /// Whether a filesystem holds nothing, but perhaps an empty `lost+found`.
    fn is_empty(&self, root: &Path) -> Result<bool>;

    /// Unmounts what is mounted on top at the directory; nothing mounted is success. `InUse` names who holds it.
    fn unmount(&self, target: &Path) -> Result<()>;

    /// Unmounts lazily: gone from this namespace at once, whoever still uses it keeps a dead filesystem. For a device that was fenced.
    /// Nothing mounted is success.
    fn detach(&self, target: &Path) -> Result<()>;

    /// What is mounted on top at the directory.
    fn mounted_at(&self, target: &Path) -> Result<Option<Mounted>>;

    /// The mounts of this mount namespace.
    fn mounts(&self) -> Result<Vec<Mounted>>;

    /// Makes a directory and its parents.
    fn make_dir(&self, dir: &Path) -> Result<()>;

    /// Removes an empty directory; one that is not there, or not empty, is success.
    fn remove_dir(&self, dir: &Path) -> Result<()>;

    /// Space and inodes of a mounted filesystem, and whether it works; an error when nothing is mounted there any more. Waits for as
    /// long as its storage does not answer.
    fn usage(&self, mount: &Mounted) -> Result<Usage>;

    /// Whether any other mount namespace of this host (a container) has the device mounted.
    fn held_elsewhere(&self, device: &Device) -> Result<bool> {
        Ok(self.which_held(std::slice::from_ref(device))?.contains(&true))
    }

    /// The same of many devices, with one look at all namespaces.
    fn which_held(&self, devices: &[Device]) -> Result<Vec<bool>>;

    /// Refuses with `InUse`, naming the holders, where another mount namespace has the device that is mounted at the directory: an unmount
    /// here would succeed, and leave them with it.
    fn refuse_held(&self, target: &Path, device: &Device) -> Result<()>;

    /// Replaces a file of this boot: write, fsync, rename. After a power failure it may be the old one.
    fn save(&self, path: &Path, content: &[u8]) -> Result<()>;

    /// Reads a file; `None` when it is not there.
    fn load(&self, path: &Path) -> Result<Option<Vec<u8>>>;

    /// The names of the files in a folder; none when it is not there.
    fn files(&self, folder: &Path) -> Result<Vec<String>>;

    /// Whether the process that had this id and start time is still there.
    fn is_alive(&self, process: Process) -> bool;

    /// Removes a file; what is not there is success.
    fn forget(&self, path: &Path) -> Result<()>;
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub target: PathBuf,
    /// Major and minor number of the device, as mountinfo gives it (btrfs shows an anonymous one).
    pub number: (u32, u32),
    /// The source column: `/dev/loop3`.
    pub source: String,
    /// Filesystem type.
    pub fstype: String,
    /// Whether this mount is read-only.
    pub read_only: bool,
    /// Whether its filesystem has made itself read-only after an error.
    pub failed: bool,
}

impl Mounted {
    /// Whether it is a mount of this device. btrfs mounts show a number of their own, so the name counts as well.
    pub fn is_of(&self, device: &Device) -> bool {
        self.number == device.number || Path::new(&self.source) == device.path
    }

    /// The device, by what the mount says of it.
    pub fn device(&self) -> Device {
        Device { path: PathBuf::from(&self.source), number: self.number, hold: None }
    }
}

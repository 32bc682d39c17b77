//! What is asked of this host about block devices with filesystems: to look into them, to make, check and mount what is on them.
//!
//! `block::kernel` does it for real, the simulator in memory. The contracts of [`backend`](super) hold here too: idempotent, killable,
//! synchronous.

use std::fmt;
use std::path::Path;

use super::Device;
use crate::model::block_io::BlockIo;
use crate::model::deadline::Deadline;
use crate::model::error::Result;
use crate::model::filesystem::{Checked, Content, Filesystem, Format, FsKind, MountFlags, Settle};
use crate::model::mount::{Attached, Mounted, Place};

/// The block devices of this host, and the programs for the filesystems on them.
pub trait Disks: fmt::Debug + Send + Sync {
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

    /// Mounts the device at the directory, and answers what mountinfo calls it.
    fn mount(&self, device: &Device, fs: &Filesystem, target: &Path, options: &MountFlags) -> Result<Place>;

    /// The other mounted filesystem that has this one's UUID, which the kernel takes for this one: a copy, or what it was copied from.
    fn twin(&self, device: &Device, fs: &Filesystem) -> Result<Option<Mounted>>;

    /// Sets a fresh filesystem up: removes an empty `lost+found`, then applies owner and mode to the root.
    fn settle(&self, root: &Path, settle: &Settle) -> Result<()>;

    /// Takes away what a checker that was begun at this time (seconds since the epoch) has added to the root: a `lost+found` that is empty.
    fn tidy(&self, root: &Path, begun: u64) -> Result<()>;

    /// Whether a filesystem holds nothing, but perhaps an empty `lost+found`.
    fn is_empty(&self, root: &Path) -> Result<bool>;

    /// Of each of what is attached, whether any other mount namespace of this host (a container) has it mounted; with one look at all
    /// namespaces.
    fn which_held(&self, attached: &[Attached]) -> Result<Vec<bool>>;

    /// Refuses with `InUse`, naming the holders, where another mount namespace has what is mounted at the directory: an unmount here would
    /// succeed, and leave them with it.
    fn refuse_held(&self, target: &Path, attached: &Attached) -> Result<()>;

    /// The number of the device at a path; `None` when there is none any more.
    fn number(&self, path: &Path) -> Result<Option<(u32, u32)>>;

    /// Its size in bytes and what it has done, from what the kernel has in memory: never waits for the device.
    fn counters(&self, path: &Path) -> (Option<u64>, Option<BlockIo>);
}

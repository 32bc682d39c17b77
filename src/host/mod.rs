//! What is asked of this host's kernel for volumes of any kind: mounts, folders, small files, memory.
//!
//! [`KernelHost`](kernel::KernelHost) does it for real, through `linux/`; the simulator does it in memory. The contracts of
//! [`backend`](crate::backend) hold here too: idempotent, killable, synchronous.

pub mod kernel;

use std::fmt;
use std::path::Path;

use crate::model::error::Result;
use crate::model::filesystem::Usage;
use crate::model::mount::Mounted;
use crate::model::process::Process;

/// The kernel of this host.
pub trait Host: fmt::Debug + Send + Sync {
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

    /// Replaces a file of this boot: write, fsync, rename. After a power failure it may be the old one.
    fn save(&self, path: &Path, content: &[u8]) -> Result<()>;

    /// Adds to the end of a file. Killed or without power, a part of it may be missing.
    fn append(&self, path: &Path, content: &[u8]) -> Result<()>;

    /// Reads a file; `None` when it is not there.
    fn load(&self, path: &Path) -> Result<Option<Vec<u8>>>;

    /// The names of the files in a folder; none when it is not there.
    fn files(&self, folder: &Path) -> Result<Vec<String>>;

    /// Whether the process that had this id and start time is still there.
    fn is_alive(&self, process: Process) -> bool;

    /// Removes a file; what is not there is success.
    fn forget(&self, path: &Path) -> Result<()>;

    /// Says that much memory was freed.
    fn trim_soon(&self);

    /// Gives memory that is free back to the kernel, if somebody has said that it is much. Asked now and then.
    fn trim_if_wanted(&self);
}

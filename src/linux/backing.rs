//! Why a loop device fails: the kernel reports every failure of the file behind it as an I/O error, even a full disk.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::loopdev;

/// Below this the store of an image counts as full: less cannot take the next block of any filesystem.
const FULL: u64 = 1 << 20;

/// The folder of the image behind a loop device, when there is no space left in it. `None` when there is, when the device
/// is no loop device, and when nobody can tell: it only explains a failure that has happened.
pub fn full_store(device: &Path) -> Option<PathBuf> {
    let image = loopdev::all().ok()?.into_iter().find(|l| l.path == device)?.backing_path;
    let folder = image.parent()?;
    let stat = statvfs(folder).ok()?;
    (stat.blocks_available().saturating_mul(stat.fragment_size()) < FULL).then(|| folder.to_owned())
}

//! What a block device tells about itself, and its bytes. Everything here opens it read-only.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::uapi;
use crate::model::error::{CallError, OrCall};

/// How much of either end has to be zero before a device counts as blank.
const END: u64 = 1 << 20;

/// What filesystems begin with: the superblock of btrfs is at 64 KiB.
const BEGINNING: i64 = 128 << 10;

/// Opens a block device for reading; anything else is `ENOTBLK`.
pub fn open(path: &Path) -> Result<File, CallError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .or_call("open", path.display())?;
    if !file.metadata().or_call("fstat", path.display())?.file_type().is_block_device() {
        return Err(CallError::new("open", path.display(), Errno::ENOTBLK));
    }
    Ok(file)
}

/// Major and minor number of the device at a path, without opening it; `None` when there is none.
pub fn number(path: &Path) -> Result<Option<(u32, u32)>, CallError> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        found => {
            let number = found.or_call("stat", path.display())?.rdev();
            Ok(Some((libc::major(number), libc::minor(number))))
        }
    }
}

/// Has the kernel read what filesystems begin with, while the caller does something else. It stays in memory for as long as somebody has
/// the device open.
pub fn read_ahead(device: &File) {
    // Only a wish: whoever needs it reads it.
    let _ = posix_fadvise(device, 0, BEGINNING, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
}

/// Its size in bytes; a device without a size has lost what was behind it, and that is `ENXIO`, never "empty".
pub fn size(device: &File, path: &Path) -> Result<u64, CallError> {
    let mut bytes = 0_u64;
    // SAFETY: the descriptor is open, and the kernel writes one u64 to the argument.
    let result = unsafe {
        libc::ioctl(device.as_raw_fd(), uapi::BLKGETSIZE64 as libc::Ioctl, std::ptr::from_mut(&mut bytes))
    };
    Errno::result(result).or_call("BLKGETSIZE64", path.display())?;
    match bytes {
        0 => Err(CallError::new("BLKGETSIZE64", path.display(), Errno::ENXIO)),
        bytes => Ok(bytes),
    }
}

/// Whether the device itself, not a mount of it, refuses writes.
pub fn is_read_only(device: &File, path: &Path) -> Result<bool, CallError> {
    let mut flag: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the kernel writes one int to the argument.
    let result = unsafe {
        libc::ioctl(device.as_raw_fd(), uapi::BLKROGET as libc::Ioctl, std::ptr::from_mut(&mut flag))
    };
    Errno::result(result).or_call("BLKROGET", path.display())?;
    Ok(flag != 0)
}

/// Whether the kernel has given the device to a filesystem (or to device-mapper, RAID, swap …), in whatever mount namespace,
/// even one that no process is in any more. Asking claims the device for an instant: call it under the volume's guard.
pub fn is_claimed(path: &Path) -> Result<bool, CallError> {
    match OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_NONBLOCK).open(path) {
        Ok(_) => Ok(false),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENXIO)) => Ok(false),
        Err(e) => Err(e).or_call("open", path.display()),
    }
}

/// Whether the first and the last MiB read as zeros. Of a device below 2 MiB that is all of it.
pub fn ends_are_zero(path: &Path) -> Result<bool, CallError> {
    let device = open(path)?;
    let size = size(&device, path)?;
    let tail = size.saturating_sub(END);
    Ok(is_zero(&device, 0, size.min(END)).or_call("read", path.display())?
        && is_zero(&device, tail, size - tail).or_call("read", path.display())?)
}

/// Reads exactly `N` bytes at an offset; nothing when the device ends before.
pub fn read_at<const N: usize>(path: &Path, offset: u64) -> Result<Option<Box<[u8; N]>>, CallError> {
    let device = open(path)?;
    let mut buffer = Box::new([0_u8; N]);
    match device.read_exact_at(&mut buffer[..], offset) {
        Ok(()) => Ok(Some(buffer)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e).or_call("read", path.display()),
    }
}

fn is_zero(device: &File, mut offset: u64, mut length: u64) -> io::Result<bool> {
    let mut buffer = vec![0_u8; 64 << 10];
    while length > 0 {
        let want = usize::try_from(length).map_or(buffer.len(), |left| left.min(buffer.len()));
        let part = &mut buffer[..want];
        device.read_exact_at(part, offset)?;
        if part.iter().any(|&b| b != 0) {
            return Ok(false);
        }
        offset += want as u64;
        length -= want as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn only_block_devices_are_opened() {
        assert_eq!(open(Path::new("/dev/null")).unwrap_err().errno, Errno::ENOTBLK);
        assert_eq!(open(Path::new("/dev/no-such")).unwrap_err().errno, Errno::ENOENT);
    }

    #[test]
    fn one_byte_is_seen_and_a_short_device_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(200_000).unwrap();
        assert!(is_zero(&file, 0, 200_000).unwrap());
        file.write_all(b"x").unwrap();
        assert!(!is_zero(&file, 0, 200_000).unwrap());
        assert!(is_zero(&file, 1, 199_999).unwrap());
        assert!(is_zero(&file, 1, 200_000).is_err(), "what cannot be read is not zero");
    }
}

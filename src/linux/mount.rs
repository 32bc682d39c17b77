//! mount(2) and umount2(2).
//!
//! A mount always names its filesystem type: trying every driver of the kernel on a device that somebody else wrote is an attack
//! surface. An unmount is not lazy, because a lazy one reports success while the device stays in use; only a device that is lost
//! already is [detached](detach).
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use sys_mount::{Mount, UnmountFlags};

use super::mountinfo;
use crate::model::error::{CallError, OrCall};
pub use crate::model::mount_options::{Options, parse};

/// Mounts a device.
pub fn mount(device: &Path, fstype: &str, target: &Path, options: &Options) -> Result<(), CallError> {
    Mount::builder()
        .fstype(fstype)
        .flags(options.flags)
        .data(&options.data)
        .mount(device, target)
        .map(drop)
        .or_call("mount", format_args!("{} on {}", device.display(), target.display()))
}

/// Unmounts what is mounted on top at a directory; whether something was. It never follows a symbolic link.
pub fn unmount(target: &Path) -> Result<bool, CallError> {
    umount(target, UnmountFlags::empty())
}

/// Takes what is mounted on top at a directory, and all below it, out of this namespace at once; whether something was. Whoever
/// uses it keeps it until he lets go. For a filesystem whose device is lost.
pub fn detach(target: &Path) -> Result<bool, CallError> {
    umount(target, UnmountFlags::DETACH)
}

fn umount(target: &Path, flags: UnmountFlags) -> Result<bool, CallError> {
    // The constant of this name in sys-mount 3.1 is that of open(2), and umount2(2) answers EINVAL to it.
    let no_follow = UnmountFlags::from_bits_retain(libc::UMOUNT_NOFOLLOW);
    let failed = match sys_mount::unmount(target, flags | no_follow).or_call("umount2", target.display()) {
        Ok(()) => return Ok(true),
        Err(failed) => failed,
    };
    match failed.errno {
        Errno::ENOENT => Ok(false),
        // EINVAL means "no mountpoint", but also "locked here": only mountinfo tells them apart.
        Errno::EINVAL if !is_mountpoint(target)? => Ok(false),
        _ => Err(failed),
    }
}

/// Whether something is mounted at a path, asked of the path alone; `None` where the kernel (before 5.8) does not tell. What is
/// not there is no mount.
pub fn is_mount_root(target: &Path) -> Result<Option<bool>, CallError> {
    let path = CString::new(target.as_os_str().as_bytes())
        .map_err(|_| CallError::new("statx", target.display(), Errno::EINVAL))?;
    let mut answer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC;
    // SAFETY: the path ends with a zero byte and the kernel writes one `statx` to the answer; both outlive the call.
    let result = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, 0, answer.as_mut_ptr()) };
    match Errno::result(result) {
        Ok(_) => {}
        Err(Errno::ENOENT) => return Ok(Some(false)),
        Err(Errno::ENOSYS) => return Ok(None),
        Err(errno) => return Err(CallError::new("statx", target.display(), errno)),
    }
    // SAFETY: all bits of a `statx` may be zero, and the kernel has filled it.
    let answer = unsafe { answer.assume_init() };
    let bit = u64::try_from(libc::STATX_ATTR_MOUNT_ROOT).unwrap_or_default();
    Ok((answer.stx_attributes_mask & bit != 0).then_some(answer.stx_attributes & bit != 0))
}

fn is_mountpoint(target: &Path) -> Result<bool, CallError> {
    Ok(mountinfo::read(Path::new(mountinfo::OWN))?.iter().any(|entry| entry.target == target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_mounted_is_success() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path(), &dir.path().join("missing")] {
            match detach(path) {
                Err(e) if e.errno == Errno::EPERM => println!("skipped: unmounting needs root"),
                detached => assert!(!detached.unwrap()),
            }
        }
        assert!(!unmount(&dir.path().join("missing")).unwrap());
    }
}

//! What a device holds, by its signatures, as libblkid knows them.
//!
//! "Nothing" permits mkfs, so it is said only when libblkid found nothing *and* the places where signatures are could be read:
//! a read error is always an error. A superblock with a wrong checksum still counts as its filesystem; the check before the
//! mount judges it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use libblkid_rs::{BlkidErr, BlkidFltr, BlkidProbe, BlkidSafeprobeRet, BlkidSublks, BlkidSublksFlags};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{blkdev, fs};
use crate::model::error::{CallError, OrCall};
use crate::model::filesystem::{Content, Filesystem, FsKind};

/// Whether the device holds the filesystem that is expected on it: a few reads, where [`probe`] reads all over the device. An ext4 whose
/// superblock vouches for itself is known by that, without all that libblkid asks of a device first.
pub fn expect(path: &Path, kind: FsKind) -> Result<Option<Filesystem>, CallError> {
    if kind == FsKind::Ext4
        && let Some(found) = fs::plain_ext4(path)?
    {
        return Ok(Some(found));
    }
    let names: &[&str] = match kind {
        FsKind::Ext4 => &["ext2", "ext3", "ext4"],
        FsKind::Xfs => &["xfs"],
        FsKind::Btrfs => &["btrfs"],
    };
    match ask(path, |probe| {
        probe.enable_superblocks(true)?;
        probe.filter_superblock_type(BlkidFltr::Onlyin, names)?;
        look(probe)
    })? {
        Content::Filesystem(found) => Ok(Some(found)),
        _ => Ok(None),
    }
}

/// Looks for filesystems, LUKS, LVM, RAID, swap and partition tables.
pub fn probe(path: &Path) -> Result<Content, CallError> {
    let found = ask(path, |probe| {
        probe.enable_superblocks(true)?;
        probe.enable_partitions(true)?;
        look(probe)
    })?;
    if found == Content::Nothing {
        // libblkid gives up on a part it cannot read, and some versions do not say so.
        blkdev::ends_are_zero(path)?;
    }
    Ok(found)
}

/// What a regular file holds, as [`probe`] says it of a device; `name` is what errors call it.
pub fn content_of(file: &File, name: &str) -> Result<Content, CallError> {
    let name = Path::new(name);
    let mut probe = BlkidProbe::new().map_err(|e| failed("blkid_new_probe", name, &e))?;
    probe.set_device(file.as_raw_fd(), 0, 0).map_err(|e| failed("blkid_probe_set_device", name, &e))?;
    let mut question = || {
        probe.enable_superblocks(true)?;
        probe.enable_partitions(true)?;
        look(&mut probe)
    };
    question().map_err(|e| failed("blkid_do_safeprobe", name, &e))
}

/// What an image holds of which only the ends are at hand: the rest is taken for zeros. `size` is that of all of it.
pub fn content_of_ends(beginning: &[u8], end: &[u8], size: u64, name: &str) -> Result<Content, CallError> {
    let made = memfd_create(c"image", MFdFlags::MFD_CLOEXEC).or_call("memfd_create", name)?;
    let file = File::from(made);
    let write = |bytes: &[u8], at: u64| file.write_all_at(bytes, at);
    file.set_len(size)
        .and_then(|()| write(beginning, 0))
        .and_then(|()| write(end, size.saturating_sub(end.len() as u64)))
        .or_call("write", name)?;
    content_of(&file, name)
}

fn ask(
    path: &Path,
    question: impl FnOnce(&mut BlkidProbe) -> Result<Content, BlkidErr>,
) -> Result<Content, CallError> {
    let device = blkdev::open(path)?;
    blkdev::size(&device, path)?;
    let mut probe = BlkidProbe::new().map_err(|e| failed("blkid_new_probe", path, &e))?;
    probe.set_device(device.as_raw_fd(), 0, 0).map_err(|e| failed("blkid_probe_set_device", path, &e))?;
    question(&mut probe).map_err(|e| failed("blkid_do_safeprobe", path, &e))
}

fn look(probe: &mut BlkidProbe) -> Result<Content, BlkidErr> {
    use BlkidSublks as F;
    probe.set_superblock_flags(BlkidSublksFlags::new(vec![F::Type, F::Uuid, F::Badcsum]))?;
    match probe.do_safeprobe()? {
        BlkidSafeprobeRet::None => Ok(Content::Nothing),
        BlkidSafeprobeRet::Ambiguous => Ok(Content::Foreign("ambivalent: several signatures".to_owned())),
        BlkidSafeprobeRet::Success => {
            let value = |name| probe.lookup_value(name).ok();
            Ok(judge(value("TYPE"), value("UUID"), value("PTTYPE")))
        }
    }
}

/// A filesystem goes before a partition table: boot code in front of a filesystem looks like one.
fn judge(fs_type: Option<String>, uuid: Option<String>, table: Option<String>) -> Content {
    let Some(type_name) = fs_type else {
        let table = table.map(|name| format!("partition table ({name})"));
        return Content::Foreign(table.unwrap_or_else(|| "unknown signature".to_owned()));
    };
    let kind = match type_name.as_str() {
        "ext2" | "ext3" | "ext4" => FsKind::Ext4,
        "xfs" => FsKind::Xfs,
        "btrfs" => FsKind::Btrfs,
        _ => return Content::Foreign(type_name),
    };
    Content::Filesystem(Filesystem { kind, type_name, uuid: uuid.map(|uuid| uuid.to_ascii_lowercase()) })
}

/// libblkid tells that it failed, not always why: without a usable errno it is an I/O error.
fn failed(call: &'static str, path: &Path, error: &BlkidErr) -> CallError {
    let errno = match error {
        BlkidErr::IO(e) => e.raw_os_error().map(Errno::from_raw),
        BlkidErr::LibErr(code) if *code < -1 => i32::try_from(-code).ok().map(Errno::from_raw),
        _ => None,
    };
    CallError::new(call, path.display(), errno.filter(|&e| e != Errno::UnknownErrno).unwrap_or(Errno::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_signatures_mean() {
        let some = |text: &str| Some(text.to_owned());
        let fs = |kind, name: &str| {
            Content::Filesystem(Filesystem { kind, type_name: name.to_owned(), uuid: some("ab-1") })
        };
        assert_eq!(judge(some("ext3"), some("AB-1"), None), fs(FsKind::Ext4, "ext3"));
        assert_eq!(judge(some("xfs"), some("ab-1"), some("dos")), fs(FsKind::Xfs, "xfs"));
        assert_eq!(judge(some("crypto_LUKS"), some("x"), None), Content::Foreign("crypto_LUKS".to_owned()));
        assert_eq!(judge(some("jbd"), None, None), Content::Foreign("jbd".to_owned()));
        assert_eq!(judge(None, None, some("gpt")), Content::Foreign("partition table (gpt)".to_owned()));
        assert_eq!(judge(None, None, None), Content::Foreign("unknown signature".to_owned()));
    }

    #[test]
    fn a_failure_without_errno_is_an_io_error() {
        assert_eq!(failed("c", Path::new("/d"), &BlkidErr::InvalidConv).errno, Errno::EIO);
        assert_eq!(failed("c", Path::new("/d"), &BlkidErr::LibErr(-1)).errno, Errno::EIO);
        assert_eq!(failed("c", Path::new("/d"), &BlkidErr::LibErr(-6)).errno, Errno::ENXIO);
    }
}

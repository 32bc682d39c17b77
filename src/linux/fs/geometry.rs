//! What a superblock says of the devices that its filesystem is on: how large this one has to be, and whether there are others.
//!
//! A filesystem whose device is cut short, or that lacks another device, is not damaged by that. Its checker would say so all the same, and
//! a repair would throw away what lies beyond the end or on the other device.

use std::path::Path;

use super::{State, bytes_at, ext4, judge, superblock, xfs};
use crate::linux::blkdev;
use crate::model::error::{DriverError, ErrorKind};
use crate::model::filesystem::FsKind;
use crate::model::size::Size;

/// Why a filesystem and its device do not go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Misfit {
    /// The device ends before the filesystem does.
    CutShort {
        /// What the filesystem needs.
        needs: u64,
        /// What the device has.
        has: u64,
    },
    /// A part of it is on another device.
    Elsewhere(String),
    /// It is there for others to be made on top of it, and is never written to.
    Seed,
}

/// Of a superblock that is known to be whole.
pub(super) fn misfit(kind: FsKind, sb: &[u8], has: u64) -> Option<Misfit> {
    let needs = match kind {
        FsKind::Ext4 => ext4_bytes(sb),
        FsKind::Xfs => xfs_bytes(sb),
        FsKind::Btrfs => u64::from_le_bytes(bytes_at(sb, 0xd1)),
    };
    if needs > has {
        return Some(Misfit::CutShort { needs, has });
    }
    let le32 = |at| u32::from_le_bytes(bytes_at(sb, at));
    let le64 = |at| u64::from_le_bytes(bytes_at(sb, at));
    match kind {
        FsKind::Ext4 => {
            let outside = le32(0x5c) & ext4::COMPAT_HAS_JOURNAL != 0 && le32(0xe0) == 0;
            outside.then(|| Misfit::Elsewhere("its journal".to_owned()))
        }
        FsKind::Xfs => {
            let log = (bytes_at::<8>(sb, 48) == [0; 8]).then_some("its log");
            let zoned = xfs::is_v5(sb) && u32::from_be_bytes(bytes_at(sb, xfs::INCOMPAT)) & 0x200 != 0;
            let data = (bytes_at::<8>(sb, 16) != [0; 8] && !zoned).then_some("its real-time files");
            let parts: Vec<&str> = log.into_iter().chain(data).collect();
            (!parts.is_empty()).then(|| Misfit::Elsewhere(parts.join(" and ")))
        }
        FsKind::Btrfs => match le64(0x88) {
            others @ 2.. => Some(Misfit::Elsewhere(format!("a part of it ({others} devices in all)"))),
            _ => (le64(0x38) & (1 << 32) != 0).then_some(Misfit::Seed),
        },
    }
}

fn ext4_bytes(sb: &[u8]) -> u64 {
    let le32 = |at| u32::from_le_bytes(bytes_at(sb, at));
    let high = if le32(ext4::INCOMPAT) & 0x80 != 0 { le32(0x150) } else { 0 };
    let blocks = u64::from(high) << 32 | u64::from(le32(0x4));
    blocks.saturating_mul(1024_u64.checked_shl(le32(0x18)).unwrap_or(0))
}

fn xfs_bytes(sb: &[u8]) -> u64 {
    u64::from_be_bytes(bytes_at(sb, 8)).saturating_mul(u32::from_be_bytes(bytes_at(sb, 4)).into())
}

/// The same of a device; nothing where its superblock is not whole.
fn look(path: &Path, kind: FsKind) -> Result<Option<Misfit>, DriverError> {
    let Some(sb) = superblock(path, kind)? else { return Ok(None) };
    if matches!(judge(kind, &sb), State::Broken(_)) {
        return Ok(None);
    }
    let has = blkdev::size(&blkdev::open(path)?, path)?;
    Ok(misfit(kind, &sb, has))
}

/// An error when the device ends before the filesystem does: no checker may see it so.
pub(super) fn refuse_cut_short(path: &Path, kind: FsKind) -> Result<(), DriverError> {
    match look(path, kind)? {
        Some(misfit @ Misfit::CutShort { .. }) => Err(misfit.error(path, kind)),
        _ => Ok(()),
    }
}

/// Why a filesystem could not be checked or mounted, if it and its device do not go together.
pub(super) fn explain(path: &Path, kind: FsKind) -> Option<DriverError> {
    look(path, kind).ok().flatten().map(|misfit| misfit.error(path, kind))
}

/// Why it could not be mounted writable, if it is a seed.
pub(super) fn explain_seed(path: &Path, kind: FsKind) -> Option<DriverError> {
    let found = look(path, kind).ok().flatten().filter(|misfit| *misfit == Misfit::Seed);
    found.map(|misfit| misfit.error(path, kind))
}

impl Misfit {
    fn error(&self, path: &Path, kind: FsKind) -> DriverError {
        let what = format!("the {kind} on {}", path.display());
        let failed = |message: String| DriverError::new(ErrorKind::Failed, message);
        match self {
            Self::CutShort { needs, has } => {
                let (needs, has) = (Size::bytes(*needs), Size::bytes(*has));
                failed(format!("the image is smaller than its filesystem: {what} has {needs}, the image {has}"))
                    .hint(format!(
                        "no other damage is known, and its checker was not run: it would throw away what lies beyond the end. \
                         Give the image its size back (rbd resize --size {needs} POOL/IMAGE; a file: truncate -s); if it was cut off, \
                         what is missing reads as zeros then: look at it before it is used"
                    ))
            }
            Self::Elsewhere(part) => {
                failed(format!("{what} has {part} on another device, which is not there for it")).hint(
                    "no damage is known: a volume is one image, so mount it where all its devices are, and copy the data",
                )
            }
            Self::Seed => {
                failed(format!("{what} is a seed, which the kernel mounts read-only"))
                    .hint("mount the volume read-only, or end that where it is not mounted: btrfstune -S 0")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(sb: &mut [u8], at: usize, bytes: &[u8]) {
        sb[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn elsewhere(part: &str) -> Option<Misfit> {
        Some(Misfit::Elsewhere(part.to_owned()))
    }

    #[test]
    fn an_ext4_has_its_size_and_its_journal() {
        let mut sb = vec![0; ext4::SIZE];
        put(&mut sb, 0x4, &65536_u32.to_le_bytes());
        assert_eq!(misfit(FsKind::Ext4, &sb, 64 << 20), None);
        let short = Misfit::CutShort { needs: 64 << 20, has: 48 << 20 };
        assert_eq!(misfit(FsKind::Ext4, &sb, 48 << 20), Some(short));
        put(&mut sb, 0x150, &1_u32.to_le_bytes());
        assert_eq!(misfit(FsKind::Ext4, &sb, 64 << 20), None, "without 64bit, the high half means nothing");
        put(&mut sb, ext4::INCOMPAT, &0x80_u32.to_le_bytes());
        assert!(matches!(misfit(FsKind::Ext4, &sb, 64 << 20), Some(Misfit::CutShort { .. })));
        put(&mut sb, 0x150, &[0; 4]);
        put(&mut sb, 0x5c, &4_u32.to_le_bytes());
        assert_eq!(misfit(FsKind::Ext4, &sb, 64 << 20), elsewhere("its journal"));
        put(&mut sb, 0xe0, &8_u32.to_le_bytes());
        assert_eq!(misfit(FsKind::Ext4, &sb, 64 << 20), None);
        put(&mut sb, 0x18, &u32::MAX.to_le_bytes());
        assert_eq!(misfit(FsKind::Ext4, &sb, 0), None, "a block size that there is none of");
    }

    #[test]
    fn an_xfs_has_its_size_its_log_and_its_real_time_files() {
        let mut sb = vec![0; xfs::SIZE];
        put(&mut sb, 4, &4096_u32.to_be_bytes());
        put(&mut sb, 8, &81920_u64.to_be_bytes());
        put(&mut sb, 48, &5_u64.to_be_bytes());
        assert_eq!(misfit(FsKind::Xfs, &sb, 320 << 20), None);
        let short = Misfit::CutShort { needs: 320 << 20, has: 310 << 20 };
        assert_eq!(misfit(FsKind::Xfs, &sb, 310 << 20), Some(short));
        put(&mut sb, 16, &1_u64.to_be_bytes());
        assert_eq!(misfit(FsKind::Xfs, &sb, 320 << 20), elsewhere("its real-time files"));
        put(&mut sb, 48, &[0; 8]);
        assert_eq!(misfit(FsKind::Xfs, &sb, 320 << 20), elsewhere("its log and its real-time files"));
    }

    #[test]
    fn a_btrfs_has_its_size_its_devices_and_may_be_a_seed() {
        let mut sb = vec![0; super::super::btrfs::SIZE];
        put(&mut sb, 0xd1, &(128_u64 << 20).to_le_bytes());
        put(&mut sb, 0x88, &1_u64.to_le_bytes());
        assert_eq!(misfit(FsKind::Btrfs, &sb, 128 << 20), None);
        assert!(matches!(misfit(FsKind::Btrfs, &sb, 120 << 20), Some(Misfit::CutShort { .. })));
        put(&mut sb, 0x38, &(1_u64 << 32).to_le_bytes());
        assert_eq!(misfit(FsKind::Btrfs, &sb, 128 << 20), Some(Misfit::Seed));
        put(&mut sb, 0x88, &2_u64.to_le_bytes());
        assert_eq!(misfit(FsKind::Btrfs, &sb, 128 << 20), elsewhere("a part of it (2 devices in all)"));
    }
}

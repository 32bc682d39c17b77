//! XFS. The superblock is the first sector, big-endian, its checksum little-endian.

use super::{State, bytes_at, crc32c};
use crate::linux::uapi;
use crate::model::mkfs_options::Given;

pub(super) const OFFSET: u64 = 0;
/// The largest sector there is; the checksum covers one sector.
pub(super) const SIZE: usize = 32 << 10;

const VERSION: usize = 100;
const SECTOR_SIZE: usize = 102;
const IN_PROGRESS: usize = 126;
pub(super) const RO_COMPAT: usize = 212;
pub(super) const INCOMPAT: usize = 216;
pub(super) const LOG_INCOMPAT: usize = 220;
const CHECKSUM: usize = 224;

const INCOMPAT_NEEDS_REPAIR: u32 = 1 << 4;

/// No discard of a blank image.
pub(super) fn mkfs(uuid: &str, options: Vec<Given>) -> Vec<String> {
    let ours = ["-q".to_owned(), "-K".to_owned(), "-m".to_owned(), format!("uuid={uuid}")];
    ours.into_iter().chain(options.into_iter().flat_map(Given::argv)).collect()
}

/// Whether it is of the version that has checksums and feature words.
pub(super) fn is_v5(sb: &[u8]) -> bool {
    u16::from_be_bytes(bytes_at(sb, VERSION)) & 0xf == 5
}

/// XFS does not note whether it was unmounted: the kernel looks into the log.
pub(super) fn state(sb: &[u8]) -> State {
    let u16_at = |at| u16::from_be_bytes(bytes_at(sb, at));
    if u32::from_be_bytes(bytes_at(sb, 0)) != uapi::XFS_SUPER_MAGIC {
        return State::Broken("the superblock is gone");
    }
    if bytes_at::<1>(sb, IN_PROGRESS) != [0] {
        return State::Broken("its mkfs did not end");
    }
    if is_v5(sb) {
        let Some(sector) = sb.get(..usize::from(u16_at(SECTOR_SIZE))).filter(|sector| sector.len() >= 512)
        else {
            return State::Broken("the superblock's sector size is wrong");
        };
        let sum = crc32c(crc32c(crc32c(!0, &sector[..CHECKSUM]), &[0; 4]), &sector[CHECKSUM + 4..]);
        if !sum != u32::from_le_bytes(bytes_at(sb, CHECKSUM)) {
            return State::Broken("the superblock's checksum is wrong");
        }
        if u32::from_be_bytes(bytes_at(sb, INCOMPAT)) & INCOMPAT_NEEDS_REPAIR != 0 {
            return State::Broken("an interrupted xfs_repair has to be run again");
        }
    }
    State::Fine { replay: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(change: impl FnOnce(&mut [u8; SIZE])) -> [u8; SIZE] {
        let mut sb = [0; SIZE];
        sb[..4].copy_from_slice(b"XFSB");
        sb[VERSION..][..2].copy_from_slice(&0xb4a5_u16.to_be_bytes());
        sb[SECTOR_SIZE..][..2].copy_from_slice(&512_u16.to_be_bytes());
        change(&mut sb);
        let sum = !crc32c(!0, &sb[..512]);
        sb[CHECKSUM..][..4].copy_from_slice(&sum.to_le_bytes());
        sb
    }

    #[test]
    fn what_a_superblock_says() {
        assert_eq!(state(&superblock(|_| ())), State::Fine { replay: false });
        let broken = |sb: &[u8; SIZE]| match state(sb) {
            State::Broken(what) => what,
            state => panic!("{state:?}"),
        };
        assert_eq!(broken(&[0; SIZE]), "the superblock is gone");
        assert_eq!(broken(&superblock(|sb| sb[IN_PROGRESS] = 1)), "its mkfs did not end");
        assert_eq!(broken(&superblock(|sb| sb[SECTOR_SIZE] = 0xff)), "the superblock's sector size is wrong");
        let needs_repair = superblock(|sb| sb[INCOMPAT + 3] = 0x10);
        assert_eq!(broken(&needs_repair), "an interrupted xfs_repair has to be run again");
        let mut flipped = superblock(|_| ());
        flipped[300] ^= 1;
        assert_eq!(broken(&flipped), "the superblock's checksum is wrong");
    }
}

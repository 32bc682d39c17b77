//! btrfs. The superblock is 4 KiB at 64 KiB, little-endian, its checksum first.

use super::{State, bytes_at, crc32c};
use crate::linux::uapi;
use crate::model::mkfs_options::Given;

pub(super) const OFFSET: u64 = 64 << 10;
pub(super) const SIZE: usize = 4 << 10;

const MAGIC: usize = 0x40;
const CHECKSUM_TYPE: usize = 0xc4;

/// No discard of a blank image.
pub(super) fn mkfs(uuid: &str, options: Vec<Given>) -> Vec<String> {
    let ours = ["-q", "-K", "-U", uuid].map(str::to_owned);
    ours.into_iter().chain(options.into_iter().flat_map(Given::argv)).collect()
}

/// btrfs is always consistent on disk: only a superblock that the kernel would refuse calls for the checker. Of the checksums
/// only crc32c, the default, is verified here; the kernel verifies the others.
pub(super) fn state(sb: &[u8]) -> State {
    if &bytes_at::<8>(sb, MAGIC) != b"_BHRfS_M" {
        return State::Suspect;
    }
    let body = sb.get(uapi::BTRFS_CSUM_SIZE as usize..).unwrap_or_default();
    let is_crc32c = u16::from_le_bytes(bytes_at(sb, CHECKSUM_TYPE)) == 0;
    if is_crc32c && !crc32c(!0, body) != u32::from_le_bytes(bytes_at(sb, 0)) {
        return State::Suspect;
    }
    State::Fine { replay: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_superblock_says() {
        let mut sb = [0; SIZE];
        assert_eq!(state(&sb), State::Suspect);
        sb[MAGIC..][..8].copy_from_slice(b"_BHRfS_M");
        assert_eq!(state(&sb), State::Suspect);
        let sum = !crc32c(!0, &sb[32..]);
        sb[..4].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(state(&sb), State::Fine { replay: false });
        sb[CHECKSUM_TYPE] = 1;
        assert_eq!(state(&sb), State::Fine { replay: false }, "xxhash is left to the kernel");
    }
}

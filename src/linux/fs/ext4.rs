//! ext2, ext3 and ext4. The superblock is 1 KiB at 1 KiB, little-endian.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::{State, bytes_at, crc32c, damaged, features, out_of_memory, refused, unknown_to, unreadable};
use crate::linux::exec::{ExecError, Program, Programs};
use crate::linux::uapi;
use crate::model::deadline::Deadline;
use crate::model::error::Result;
use crate::model::filesystem::{Checked, FsKind};
use crate::model::mkfs_options::Given;

pub(super) const OFFSET: u64 = 1024;
pub(super) const SIZE: usize = 1024;

/// How often it is told that a check, which is not ended while it writes, still runs.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

const MAGIC: usize = 0x38;
const STATE: usize = 0x3a;
const COMPAT: usize = 0x5c;
pub(super) const INCOMPAT: usize = 0x60;
pub(super) const RO_COMPAT: usize = 0x64;
const UUID: usize = 0x68;
const FLAGS: usize = 0x160;
const CHECKSUM: usize = 0x3fc;

const STATE_VALID: u16 = 1;
const STATE_ERROR: u16 = 2;
pub(super) const COMPAT_HAS_JOURNAL: u32 = 4;
const INCOMPAT_RECOVER: u32 = 4;
const INCOMPAT_JOURNAL_DEV: u32 = 8;
const INCOMPAT_EXTENTS: u32 = 0x40;
const FLAGS_TEST_FILESYSTEM: u32 = 4;
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;

/// No reserved blocks (nobody's root daemon lives there), no discard of a blank image, inode tables zeroed by the kernel later.
pub(super) fn mkfs(uuid: &str, options: Vec<Given>) -> Vec<String> {
    let mut extended = "nodiscard,lazy_itable_init=1,lazy_journal_init=1".to_owned();
    let mut rest = Vec::new();
    for given in options {
        match given.value {
            // mke2fs takes only the last -E: the user's go into ours.
            Some(value) if given.option == "-E" => extended.extend([",", &value]),
            _ => rest.extend(given.argv()),
        }
    }
    let ours = ["-q", "-m", "0", "-U", uuid, "-E", &extended].map(str::to_owned);
    ours.into_iter().chain(rest).collect()
}

pub(super) fn state(sb: &[u8]) -> State {
    let u16_at = |at| u16::from_le_bytes(bytes_at(sb, at));
    let u32_at = |at| u32::from_le_bytes(bytes_at(sb, at));
    if u32::from(u16_at(MAGIC)) != uapi::EXT4_SUPER_MAGIC {
        return State::Broken("the superblock is gone");
    }
    if u32_at(RO_COMPAT) & RO_COMPAT_METADATA_CSUM != 0
        && u32_at(CHECKSUM) != crc32c(!0, sb.get(..CHECKSUM).unwrap_or_default())
    {
        return State::Broken("the superblock's checksum is wrong");
    }
    let journal = u32_at(COMPAT) & COMPAT_HAS_JOURNAL != 0;
    let replay = u32_at(INCOMPAT) & INCOMPAT_RECOVER != 0;
    let marks = u16_at(STATE);
    if marks & STATE_ERROR != 0 || (marks & STATE_VALID == 0 && !(journal && replay)) {
        return State::Suspect;
    }
    State::Fine { replay }
}

/// The UUID of a filesystem that is ext4 beyond doubt: its superblock has a right checksum, and features that ext3 lacks. Whatever is
/// special about it (an external journal, a test filesystem, no UUID) is left to libblkid.
pub(super) fn uuid_of_plain(sb: &[u8]) -> Option<String> {
    let u32_at = |at| u32::from_le_bytes(bytes_at(sb, at));
    let plain = u32::from(u16::from_le_bytes(bytes_at(sb, MAGIC))) == uapi::EXT4_SUPER_MAGIC
        && u32_at(RO_COMPAT) & RO_COMPAT_METADATA_CSUM != 0
        && u32_at(CHECKSUM) == crc32c(!0, sb.get(..CHECKSUM)?)
        && u32_at(INCOMPAT) & (INCOMPAT_EXTENTS | INCOMPAT_JOURNAL_DEV) == INCOMPAT_EXTENTS
        && u32_at(FLAGS) & FLAGS_TEST_FILESYSTEM == 0;
    let uuid = u128::from_be_bytes(bytes_at(sb, UUID));
    if !plain || uuid == 0 {
        return None;
    }
    let digits = format!("{uuid:032x}");
    let part = |from, to| digits.get(from..to);
    Some(format!("{}-{}-{}-{}-{}", part(0, 8)?, part(8, 12)?, part(12, 16)?, part(16, 20)?, part(20, 32)?))
}

/// Repairs what e2fsck calls safe to repair without asking; on a read-only device it only looks.
pub(super) fn check(
    programs: &Programs,
    path: &Path,
    read_only: bool,
    deadline: Deadline,
) -> Result<Checked> {
    let argv = |mode: &str| -> [OsString; 2] { [mode.into(), path.into()] };
    let output = if read_only {
        programs.run(Program::E2fsck, &argv("-n"), deadline)?
    } else {
        programs.run_to_its_end(Program::E2fsck, &argv("-p"), PATIENCE)?
    };
    let said = || {
        let both = [output.stdout_tail.trim(), output.stderr_tail.trim()].join(" ");
        both.replace(char::is_control, " ")
    };
    match output.status.code() {
        // 1: repaired; 2: repaired, and would want a reboot if it were mounted.
        Some(0..=3) => Ok(Checked::Clean),
        Some(8..16) if said().contains(" in use") || said().contains("is mounted") => {
            Err(refused::kept(path).context(format_args!("e2fsck: {}", said())))
        }
        Some(4..16) if said().contains("Input/output error") => {
            Err(unreadable(path, Program::E2fsck, &said()))
        }
        Some(8..16) if let Some(features) = features::unchecked(FsKind::Ext4, &said()) => {
            Err(unknown_to(programs, Program::E2fsck, path, FsKind::Ext4, &features))
        }
        Some(4..16) if !out_of_memory(&said()) => Err(damaged(path, FsKind::Ext4, &said())),
        _ => {
            Err(ExecError::Failed { program: Program::E2fsck, status: output.status, stderr: said() }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mkfs_options::parse;

    fn superblock(marks: u16, compat: u32, incompat: u32) -> [u8; SIZE] {
        let mut sb = [0; SIZE];
        sb[MAGIC..][..2].copy_from_slice(&0xef53_u16.to_le_bytes());
        sb[STATE..][..2].copy_from_slice(&marks.to_le_bytes());
        sb[COMPAT..][..4].copy_from_slice(&compat.to_le_bytes());
        sb[INCOMPAT..][..4].copy_from_slice(&incompat.to_le_bytes());
        sb
    }

    #[test]
    fn what_a_superblock_says() {
        for (sb, want) in [
            (superblock(1, 4, 0), State::Fine { replay: false }),
            (superblock(1, 4, 4), State::Fine { replay: true }),
            (superblock(0, 4, 4), State::Fine { replay: true }),
            (superblock(1, 0, 0), State::Fine { replay: false }),
            (superblock(0, 0, 0), State::Suspect),
            (superblock(3, 4, 0), State::Suspect),
            (superblock(2, 4, 4), State::Suspect),
            ([0; SIZE], State::Broken("the superblock is gone")),
        ] {
            assert_eq!(state(&sb), want);
        }
    }

    #[test]
    fn a_checksum_is_verified_where_there_is_one() {
        let mut sb = superblock(1, 4, 0);
        sb[RO_COMPAT..][..4].copy_from_slice(&RO_COMPAT_METADATA_CSUM.to_le_bytes());
        assert!(matches!(state(&sb), State::Broken(_)));
        let sum = crc32c(!0, sb.get(..CHECKSUM).unwrap_or_default());
        sb[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(state(&sb), State::Fine { replay: false });
    }

    #[test]
    fn only_a_superblock_that_vouches_for_itself_is_ext4_at_a_glance() {
        let sealed = |incompat: u32, flags: u32, uuid: [u8; 16]| {
            let mut sb = superblock(1, 4, incompat);
            sb[RO_COMPAT..][..4].copy_from_slice(&RO_COMPAT_METADATA_CSUM.to_le_bytes());
            sb[FLAGS..][..4].copy_from_slice(&flags.to_le_bytes());
            sb[UUID..][..16].copy_from_slice(&uuid);
            let sum = crc32c(!0, &sb[..CHECKSUM]);
            sb[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
            sb
        };
        let some: [u8; 16] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let plain = sealed(INCOMPAT_EXTENTS, 1, some);
        assert_eq!(uuid_of_plain(&plain).as_deref(), Some("00010203-0405-0607-0809-0a0b0c0d0e0f"));
        let mut damaged = plain;
        damaged[4] ^= 1;
        let ext3 = sealed(0, 0, some);
        let journal = sealed(INCOMPAT_EXTENTS | INCOMPAT_JOURNAL_DEV, 0, some);
        let test = sealed(INCOMPAT_EXTENTS, FLAGS_TEST_FILESYSTEM, some);
        let nameless = sealed(INCOMPAT_EXTENTS, 0, [0; 16]);
        for other in [damaged, ext3, journal, test, nameless, superblock(1, 4, INCOMPAT_EXTENTS), [0; SIZE]] {
            assert_eq!(uuid_of_plain(&other), None);
        }
    }

    #[test]
    fn extended_options_are_merged() {
        let words = |list: &[&str]| list.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
        let given =
            parse(FsKind::Ext4, &words(&["-b", "4096", "-qE", "stride=8", "-Estripe_width=16"])).unwrap();
        let argv = mkfs("u", given);
        let extended = "nodiscard,lazy_itable_init=1,lazy_journal_init=1,stride=8,stripe_width=16";
        assert_eq!(argv, words(&["-q", "-m", "0", "-U", "u", "-E", extended, "-b", "4096", "-q"]));
    }
}

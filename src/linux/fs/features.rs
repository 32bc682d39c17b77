//! The feature words of the superblocks, by name: what a kernel, or a checker, must know to use a filesystem.
//!
//! A filesystem with a feature that is newer than the kernel is whole: nothing of it may be called damaged.

use std::fmt;

use nix::sys::utsname::uname;

use super::{bytes_at, ext4, xfs};
use crate::model::filesystem::FsKind;

/// Which word of the superblock a feature is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// Who does not know it may not even read.
    Incompat,
    /// Who does not know it may only read.
    RoCompat,
    /// Who does not know it may not replay the log.
    Log,
}

/// A feature that mkfs can make, or leave out.
struct Known {
    kind: FsKind,
    word: Word,
    bit: u64,
    name: &'static str,
    /// The first kernel that has it.
    since: (u32, u32),
    /// The words for mkfs that leave it out.
    without: &'static str,
}

/// Only what came after the oldest kernels that anybody runs (3.10).
const KNOWN: &[Known] = &{
    use FsKind::{Btrfs, Ext4, Xfs};
    use Word::{Incompat, Log, RoCompat};
    const fn known(
        kind: FsKind,
        word: Word,
        bit: u64,
        name: &'static str,
        since: (u32, u32),
        without: &'static str,
    ) -> Known {
        Known { kind, word, bit, name, since, without }
    }
    [
        known(Xfs, RoCompat, 0x1, "finobt", (3, 16), "-m finobt=0"),
        known(Xfs, RoCompat, 0x2, "rmapbt", (4, 8), "-m rmapbt=0"),
        known(Xfs, RoCompat, 0x4, "reflink", (4, 9), "-m reflink=0"),
        known(Xfs, RoCompat, 0x8, "inobtcount", (5, 10), "-m inobtcount=0"),
        known(Xfs, Incompat, 0x1, "ftype", (3, 10), ""),
        known(Xfs, Incompat, 0x2, "sparse", (4, 2), "-i sparse=0"),
        known(Xfs, Incompat, 0x4, "meta_uuid", (4, 3), ""),
        known(Xfs, Incompat, 0x8, "bigtime", (5, 10), "-m bigtime=0"),
        known(Xfs, Incompat, 0x10, "needsrepair", (5, 10), ""),
        known(Xfs, Incompat, 0x20, "nrext64", (5, 19), "-i nrext64=0"),
        known(Xfs, Incompat, 0x40, "exchange", (6, 10), "-i exchange=0"),
        known(Xfs, Incompat, 0x80, "parent", (6, 10), "-n parent=0"),
        known(Xfs, Incompat, 0x100, "metadir", (6, 13), "-m metadir=0"),
        known(Xfs, Incompat, 0x200, "zoned", (6, 15), "-r zoned=0"),
        known(Xfs, Log, 0x1, "xattrs", (5, 19), ""),
        known(Ext4, Incompat, 0x400, "ea_inode", (4, 13), "-O ^ea_inode"),
        known(Ext4, Incompat, 0x2000, "metadata_csum_seed", (4, 4), "-O ^metadata_csum_seed"),
        known(Ext4, Incompat, 0x4000, "large_dir", (4, 13), "-O ^large_dir"),
        known(Ext4, Incompat, 0x8000, "inline_data", (3, 8), "-O ^inline_data"),
        known(Ext4, Incompat, 0x1_0000, "encrypt", (4, 1), "-O ^encrypt"),
        known(Ext4, Incompat, 0x2_0000, "casefold", (5, 2), "-O ^casefold"),
        known(Ext4, RoCompat, 0x200, "bigalloc", (3, 2), "-O ^bigalloc"),
        known(Ext4, RoCompat, 0x400, "metadata_csum", (3, 5), "-O ^metadata_csum"),
        known(Ext4, RoCompat, 0x2000, "project", (4, 5), "-O ^project"),
        known(Ext4, RoCompat, 0x4000, "shared_blocks", (4, 20), ""),
        known(Ext4, RoCompat, 0x8000, "verity", (5, 4), "-O ^verity"),
        known(Ext4, RoCompat, 0x1_0000, "orphan_file", (5, 15), "-O ^orphan_file"),
        known(Btrfs, Incompat, 0x10, "compress_zstd", (4, 14), ""),
        known(Btrfs, Incompat, 0x80, "raid56", (3, 9), "-O ^raid56"),
        known(Btrfs, Incompat, 0x100, "skinny-metadata", (3, 10), "-O ^skinny-metadata"),
        known(Btrfs, Incompat, 0x200, "no-holes", (3, 14), "-O ^no-holes"),
        known(Btrfs, Incompat, 0x400, "metadata_uuid", (5, 0), ""),
        known(Btrfs, Incompat, 0x800, "raid1c34", (5, 5), ""),
        known(Btrfs, Incompat, 0x1000, "zoned", (5, 12), "-O ^zoned"),
        known(Btrfs, Incompat, 0x2000, "extent-tree-v2", (u32::MAX, 0), "-O ^extent-tree-v2"),
        known(Btrfs, Incompat, 0x4000, "raid-stripe-tree", (6, 7), "-O ^raid-stripe-tree"),
        known(Btrfs, Incompat, 0x1_0000, "squota", (6, 7), "-O ^squota"),
        known(Btrfs, RoCompat, 0x3, "free-space-tree", (4, 5), "-O ^free-space-tree"),
        known(Btrfs, RoCompat, 0x4, "verity", (5, 15), ""),
        known(Btrfs, RoCompat, 0x8, "block-group-tree", (6, 1), "-O ^block-group-tree"),
    ]
};

/// What every kernel has, by kind and word.
fn old(kind: FsKind, word: Word) -> u64 {
    match (kind, word) {
        (FsKind::Ext4, Word::Incompat) => 0x3df,
        (FsKind::Ext4, Word::RoCompat) => 0x17f,
        (FsKind::Btrfs, Word::Incompat) => 0x6f,
        _ => 0,
    }
}

/// Features of one word that somebody does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) kind: FsKind,
    pub(super) word: Word,
    pub(super) bits: u64,
}

impl Unknown {
    fn known(&self) -> impl Iterator<Item = &'static Known> + '_ {
        KNOWN
            .iter()
            .filter(|known| (known.kind, known.word) == (self.kind, self.word) && known.bit & self.bits != 0)
    }

    /// The words for mkfs that make a filesystem without them, where they are known.
    pub(super) fn without(&self) -> Option<String> {
        let words: Vec<&str> = self.known().map(|known| known.without).collect();
        let named = self.known().fold(0, |bits, known| bits | known.bit);
        (self.bits & !named == 0 && !words.contains(&"")).then(|| words.join(" "))
    }
}

/// `0x20 (nrext64, in Linux since 5.19)`.
impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.bits)?;
        let names: Vec<String> = self
            .known()
            .map(|known| match known.since {
                (u32::MAX, _) => known.name.to_owned(),
                (major, minor) => format!("{}, in Linux since {major}.{minor}", known.name),
            })
            .collect();
        if !names.is_empty() {
            write!(f, " ({})", names.join("; "))?;
        }
        match self.word {
            Word::Incompat => Ok(()),
            Word::RoCompat => f.write_str(" of those that only writing needs"),
            Word::Log => f.write_str(" of the log"),
        }
    }
}

/// The feature words of a superblock.
fn words(kind: FsKind, sb: &[u8]) -> [(Word, u64); 3] {
    let le32 = |at| u64::from(u32::from_le_bytes(bytes_at(sb, at)));
    let be32 = |at| u64::from(u32::from_be_bytes(bytes_at(sb, at)));
    let le64 = |at| u64::from_le_bytes(bytes_at(sb, at));
    let (incompat, ro_compat, log) = match kind {
        FsKind::Ext4 => (le32(ext4::INCOMPAT), le32(ext4::RO_COMPAT), 0),
        FsKind::Xfs if xfs::is_v5(sb) => (be32(xfs::INCOMPAT), be32(xfs::RO_COMPAT), be32(xfs::LOG_INCOMPAT)),
        FsKind::Xfs => (0, 0, 0),
        FsKind::Btrfs => (le64(0xbc), le64(0xb4), 0),
    };
    [(Word::Incompat, incompat), (Word::RoCompat, ro_compat), (Word::Log, log)]
}

/// The features in a superblock that a kernel of this version has not, or that nobody had when this was written. Only a guess: kernels
/// are patched, and built without parts of them.
pub(super) fn newer_than(kind: FsKind, sb: &[u8], kernel: (u32, u32)) -> Option<Unknown> {
    let lacks = |(word, bits): (Word, u64)| {
        let has = KNOWN
            .iter()
            .filter(|known| (known.kind, known.word) == (kind, word) && known.since <= kernel)
            .fold(old(kind, word), |has, known| has | known.bit);
        (bits & !has != 0).then_some(Unknown { kind, word, bits: bits & !has })
    };
    words(kind, sb).into_iter().find_map(lacks)
}

/// The features that the kernel says it does not know, in a line of its log.
pub(super) fn refused(kind: FsKind, line: &str) -> Option<Unknown> {
    let lower = line.to_ascii_lowercase();
    if !lower.contains("features (") || !(lower.contains("unsupported") || lower.contains("unknown")) {
        return None;
    }
    let (_, number) = lower.split_once("features (")?;
    let (number, _) = number.split_once(')')?;
    let bits = u64::from_str_radix(number.trim_start_matches("0x"), 16).ok()?;
    let word = if lower.contains("read-only compat") || lower.contains("rdwr") || lower.contains("read-write")
    {
        Word::RoCompat
    } else if lower.contains("log features") {
        Word::Log
    } else {
        Word::Incompat
    };
    Some(Unknown { kind, word, bits })
}

/// The features that a checker says it does not know: e2fsck calls those that it has no name for `FEATURE_I17`.
pub(super) fn unchecked(kind: FsKind, said: &str) -> Option<String> {
    let lower = said.to_ascii_lowercase();
    let features = lower.contains("feature") && (lower.contains("unsupported") || lower.contains("unknown"));
    if !features && !lower.contains("get a newer version of") && !lower.contains("using a more recent") {
        return None;
    }
    let named = |token: &str| {
        let (letter, bit) = token.strip_prefix("FEATURE_")?.split_at_checked(1)?;
        let bits = 1_u64.checked_shl(bit.parse().ok()?)?;
        match letter {
            "I" => Some(Unknown { kind, word: Word::Incompat, bits }.to_string()),
            "R" => Some(Unknown { kind, word: Word::RoCompat, bits }.to_string()),
            _ => Some(token.to_owned()),
        }
    };
    let names = said.split_once("feature(s):").map_or("", |(_, after)| after);
    let names = names.split(['\n', ';']).next().unwrap_or_default();
    let names: Vec<String> = names
        .split_ascii_whitespace()
        .take_while(|token| !token.starts_with("e2fsck"))
        .map(|token| named(token).unwrap_or_else(|| token.to_owned()))
        .collect();
    Some(names.join(", "))
}

/// The running kernel: as it calls itself, and its version.
pub(super) fn kernel() -> (String, (u32, u32)) {
    let release =
        uname().map_or_else(|_| "?".to_owned(), |name| name.release().to_string_lossy().into_owned());
    let version = version(&release);
    (release, version)
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xfs_superblock(incompat: u32, ro_compat: u32) -> Vec<u8> {
        let mut sb = vec![0; 512];
        sb[100..102].copy_from_slice(&0xb4a5_u16.to_be_bytes());
        sb[xfs::RO_COMPAT..][..4].copy_from_slice(&ro_compat.to_be_bytes());
        sb[xfs::INCOMPAT..][..4].copy_from_slice(&incompat.to_be_bytes());
        sb
    }

    #[test]
    fn a_feature_newer_than_the_kernel_is_named_with_its_kernel_and_the_way_around() {
        let sb = xfs_superblock(0x2b, 0xd);
        let unknown = newer_than(FsKind::Xfs, &sb, (5, 15)).unwrap();
        assert_eq!(unknown.to_string(), "0x20 (nrext64, in Linux since 5.19)");
        assert_eq!(unknown.without().as_deref(), Some("-i nrext64=0"));
        assert_eq!(newer_than(FsKind::Xfs, &sb, (5, 19)), None);
        let older = newer_than(FsKind::Xfs, &sb, (4, 18)).unwrap();
        assert_eq!(older.without().as_deref(), Some("-m bigtime=0 -i nrext64=0"));
        let writing = newer_than(FsKind::Xfs, &xfs_superblock(3, 0xd), (4, 18)).unwrap();
        assert_eq!(
            writing.to_string(),
            "0x8 (inobtcount, in Linux since 5.10) of those that only writing needs"
        );
        let nobodys = newer_than(FsKind::Xfs, &xfs_superblock(0x8000_0003, 0), (9, 0)).unwrap();
        assert_eq!((nobodys.to_string().as_str(), nobodys.without()), ("0x80000000", None));
    }

    #[test]
    fn what_this_machines_mkfs_makes_is_known_to_every_kernel_since() {
        let mut sb = vec![0; 4096];
        sb[ext4::INCOMPAT..][..4].copy_from_slice(&0x2c2_u32.to_le_bytes());
        sb[ext4::RO_COMPAT..][..4].copy_from_slice(&0x46b_u32.to_le_bytes());
        assert_eq!(newer_than(FsKind::Ext4, &sb, (3, 10)), None);
        let mut sb = vec![0; 4096];
        sb[0xbc..][..8].copy_from_slice(&0x341_u64.to_le_bytes());
        sb[0xb4..][..8].copy_from_slice(&0x3_u64.to_le_bytes());
        assert_eq!(newer_than(FsKind::Btrfs, &sb, (4, 18)), None);
        sb[0xb4..][..8].copy_from_slice(&0xb_u64.to_le_bytes());
        let unknown = newer_than(FsKind::Btrfs, &sb, (5, 15)).unwrap();
        assert_eq!(unknown.without().as_deref(), Some("-O ^block-group-tree"));
    }

    #[test]
    fn the_kernels_own_words() {
        let said = |kind, line| refused(kind, line).map(|unknown| (unknown.word, unknown.bits));
        for (line, word, bits) in [
            (
                "XFS (rbd0): Superblock has unknown incompatible features (0x20) enabled.",
                Word::Incompat,
                0x20,
            ),
            (
                "XFS (rbd0): Superblock has unknown read-only compatible features (0x8) enabled.",
                Word::RoCompat,
                8,
            ),
            ("XFS (rbd0): Superblock has unknown incompatible log features (0x1) enabled.", Word::Log, 1),
            (
                "EXT4-fs (rbd0): Couldn't mount because of unsupported optional features (80000000)",
                Word::Incompat,
                0x8000_0000,
            ),
            (
                "EXT4-fs (rbd0): couldn't mount RDWR because of unsupported optional features (10000)",
                Word::RoCompat,
                0x1_0000,
            ),
            (
                "BTRFS error (device rbd0): cannot mount because of unsupported optional features (0x4000)",
                Word::Incompat,
                0x4000,
            ),
            (
                "BTRFS error (device rbd0): cannot mount read-write because of unsupported optional features (0x8)",
                Word::RoCompat,
                8,
            ),
        ] {
            assert_eq!(said(FsKind::Xfs, line), Some((word, bits)), "{line}");
        }
        for other in ["XFS (rbd0): Mounting V5 Filesystem", "XFS (rbd0): Internal error", ""] {
            assert_eq!(said(FsKind::Xfs, other), None);
        }
    }

    #[test]
    fn a_checker_that_does_not_know_a_filesystem_finds_no_damage() {
        let said = "/dev/rbd0 has unsupported feature(s): FEATURE_I17 orphan_file FEATURE_R16\n\
                    e2fsck: Get a newer version of e2fsck!";
        assert_eq!(
            unchecked(FsKind::Ext4, said).as_deref(),
            Some(
                "0x20000 (casefold, in Linux since 5.2), orphan_file, \
                 0x10000 (orphan_file, in Linux since 5.15) of those that only writing needs"
            )
        );
        for said in [
            "Superblock has unknown incompat/rocompat/log features (0x20/0x0/0x0).\n\
             Using a more recent xfs_repair is recommended.",
            "Found unsupported filesystem features.  Exiting now.",
            "ERROR: unsupported option features (0x4000)",
        ] {
            assert!(unchecked(FsKind::Xfs, said).is_some(), "{said}");
        }
        assert_eq!(unchecked(FsKind::Ext4, "/dev/rbd0: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY."), None);
        assert_eq!(unchecked(FsKind::Ext4, "/dev/rbd0: bad magic number in super-block"), None);
    }

    #[test]
    fn versions_of_kernels() {
        for (release, want) in
            [("6.1.0-18-amd64", (6, 1)), ("5.14.0-427.el9.x86_64", (5, 14)), ("6.12", (6, 12)), ("?", (0, 0))]
        {
            assert_eq!(version(release), want);
        }
    }
}

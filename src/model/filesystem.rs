//! Filesystems: their kinds, how they are made, mounted and checked, and what is in use of one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::error::{DriverError, Result};

/// A filesystem that we can make, check and mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsKind {
    /// ext4 (and ext2, ext3 of images made by others).
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl FsKind {
    /// As mkfs and mount(2) spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

impl fmt::Display for FsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FsKind {
    type Err = DriverError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "ext4" => Ok(Self::Ext4),
            "xfs" => Ok(Self::Xfs),
            "btrfs" => Ok(Self::Btrfs),
            _ => {
                Err(DriverError::invalid(format!("unknown filesystem {text:?}"))
                    .hint("use ext4, xfs or btrfs"))
            }
        }
    }
}

/// What a device holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// No signature that libblkid knows.
    Nothing,
    /// A filesystem that we can mount.
    Filesystem(Filesystem),
    /// Anything else: another filesystem, LUKS, LVM, RAID, a partition table; its name.
    Foreign(String),
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Filesystem(found) => write!(f, "a filesystem of type {}", found.type_name),
            Self::Foreign(what) => write!(f, "data of type {what}"),
        }
    }
}

/// A filesystem found on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// Which tools fit it.
    pub kind: FsKind,
    /// The type for mount(2): `ext3` for a kind of `Ext4`.
    pub type_name: String,
    /// Its UUID, in lower case with dashes.
    pub uuid: Option<String>,
}

/// How to make a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// Which.
    pub kind: FsKind,
    /// The UUID it gets.
    pub uuid: String,
    /// Further words, after our own defaults.
    pub options: Vec<String>,
}

/// What a check before a mount did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Clean, or the kernel's own journal replay suffices.
    NotNeeded,
    /// Its checker ran and found or left it in order.
    Clean,
}

/// Mount options, split as mount(2) wants them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// As in fstab; parsed by [`crate::linux::mount`].
    pub options: String,
    /// Read-only, whatever the options say.
    pub read_only: bool,
}

/// Owner and mode for the root of a fresh filesystem; `None` leaves what mkfs made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settle {
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Mode bits.
    pub mode: Option<u32>,
}

/// Space and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes in all.
    pub size: u64,
    /// Bytes in use.
    pub used: u64,
    /// Bytes that an ordinary process can still write.
    pub available: u64,
    /// Inodes in all; 0 where the filesystem has no fixed number.
    pub inodes: u64,
    /// Inodes in use.
    pub inodes_used: u64,
    /// Whether the filesystem has made itself read-only after an error.
    pub failed: bool,
}

//! Mounts as the kernel tells of them: which filesystem, which part of it, and where.

use std::path::PathBuf;

/// The identity of a mount, whatever is mounted: two mounts with one place show the same files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Major and minor number of the filesystem, the third column of mountinfo. btrfs has one of its own, which is not its device's.
    pub number: (u32, u32),
    /// Which part of the filesystem it is, the fourth column: `/` for all of it.
    pub root: PathBuf,
}

impl Place {
    /// A filesystem as a whole.
    pub fn whole(number: (u32, u32)) -> Self {
        Self { number, root: PathBuf::from("/") }
    }
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub target: PathBuf,
    /// What.
    pub place: Place,
    /// The source column: `/dev/loop3`.
    pub source: String,
    /// Filesystem type.
    pub fstype: String,
    /// Whether this mount is read-only.
    pub read_only: bool,
    /// Whether its filesystem has made itself read-only after an error.
    pub failed: bool,
}

/// A volume that is attached to this host at a mountpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// What is mounted.
    pub place: Place,
    /// Where it comes from, as mountinfo has it: `/dev/loop3`.
    pub source: String,
    /// Filesystem type.
    pub fstype: String,
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

impl Attached {
    /// Whether that is a mount of it.
    pub fn is_at(&self, mount: &Mounted) -> bool {
        self.place == mount.place
    }
}

/// As it was found.
impl From<&Mounted> for Attached {
    fn from(mount: &Mounted) -> Self {
        Self {
            place: mount.place.clone(),
            source: mount.source.clone(),
            fstype: mount.fstype.clone(),
            read_only: mount.read_only,
        }
    }
}

//! The files that say how to connect, and whether they have changed: ceph.conf, and where the key may be.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::conf_and_key;
use crate::linux::wipe::Wiped;
use crate::model::settings;

/// How often they are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What tells one state of a file from another without reading it.
type Stat = (u64, u64, u64, i64, i64);

/// A file as it was last seen.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    stat: Option<Stat>,
    /// Of what is in it: it may be written again as it was.
    hash: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sources {
    looked: Option<Instant>,
    files: Vec<Seen>,
}

impl Sources {
    /// Whether something in them is different since the last time; the first look finds nothing.
    pub(super) fn changed(&mut self, options: &settings::Ceph) -> bool {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return false;
        }
        let first = self.looked.replace(Instant::now()).is_none();
        if !first && self.files.iter().all(|file| stat(&file.path) == file.stat) {
            return false;
        }
        // What the ceph.conf names may be other files by now.
        let now: Vec<Seen> = conf_and_key::files(options).into_iter().map(Seen::of).collect();
        let same = |(old, new): (&Seen, &Seen)| old.path == new.path && old.hash == new.hash;
        let changed = self.files.len() != now.len() || !self.files.iter().zip(&now).all(same);
        self.files = now;
        changed && !first
    }
}

impl Seen {
    fn of(path: PathBuf) -> Self {
        let stat = stat(&path);
        let hash = Wiped::read(&path).ok().map(|text| {
            let mut hasher = DefaultHasher::new();
            hasher.write(text.bytes());
            hasher.finish()
        });
        Self { path, stat, hash }
    }
}

fn stat(path: &Path) -> Option<Stat> {
    let found = fs::metadata(path).ok()?;
    let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    let changed = nanoseconds(found.ctime(), found.ctime_nsec());
    Some((found.dev(), found.ino(), found.size(), nanoseconds(found.mtime(), found.mtime_nsec()), changed))
}

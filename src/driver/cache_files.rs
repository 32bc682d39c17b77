//! The cache of names on disk: a snapshot, and beside it a log of what has changed since.
//!
//! A cluster may have a million images, so a Create must not write them all. What has changed is appended to the log, a line a
//! volume; when the log has grown, or nothing short says what has changed, the snapshot is written anew and the log begins again. The
//! log names the snapshot that it follows. One that follows another snapshot counts for nothing, so a kill between the two files does
//! no harm; neither does an earlier version of the plugin, which knows no log and writes a snapshot without a number.
//!
//! The end of a log may be cut off anywhere: the lines before the first one that is not whole count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::model::error::Result;
use crate::model::store::Source;
use crate::model::stored::understood;

/// What is remembered of a volume, beside its name: of most, nothing. There may be very many of them, and they are kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Details", into = "Details")]
pub(super) struct Known(pub(super) Option<Box<Details>>);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Details {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) size: Option<String>,
    /// Another spelling of a volume that is listed, as some Get used it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) spelling: bool,
}

impl From<Details> for Known {
    fn from(details: Details) -> Self {
        Self((details != Details::default()).then(|| Box::new(details)))
    }
}

impl From<Known> for Details {
    fn from(known: Known) -> Self {
        known.0.map(|details| *details).unwrap_or_default()
    }
}

impl Known {
    pub(super) fn is_spelling(&self) -> bool {
        self.0.as_ref().is_some_and(|details| details.spelling)
    }
}

/// By name.
pub(super) type Volumes = BTreeMap<Box<str>, Known>;

/// Who has seen the volumes of a cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Viewer {
    #[serde(flatten)]
    pub(super) source: Source,
    /// The default pool and namespace.
    pub(super) home: (String, Option<String>),
}

impl Viewer {
    fn sees_the_same(&self, other: &Self) -> bool {
        self.home == other.home && self.source.shows(&other.source)
    }
}

/// Which volumes have changed since they were written.
#[derive(Debug)]
pub(super) enum Changed {
    /// These, and no others.
    Names(BTreeSet<Box<str>>),
    /// So many that all are written.
    Many,
}

impl Default for Changed {
    fn default() -> Self {
        Self::Names(BTreeSet::new())
    }
}

impl Changed {
    pub(super) fn add(&mut self, name: &str) {
        if let Self::Names(names) = self {
            names.insert(name.into());
            if names.len() > MANY {
                *self = Self::Many;
            }
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Names(names) if names.is_empty())
    }
}

/// So many changes at once are no longer written one by one.
const MANY: usize = 4096;
/// So many lines a log may always have; beyond that, a line for every [`SHARE`] volumes.
const FEW: usize = 1024;
const SHARE: usize = 4;

/// The snapshot, as it is written.
#[derive(Debug, Serialize)]
struct Written<'a> {
    v: u64,
    requires: [String; 0],
    of: &'a Viewer,
    log: u64,
    volumes: &'a Volumes,
}

/// The snapshot, as it is read.
#[derive(Debug, Deserialize)]
struct Stored {
    /// Not there in files of earlier versions.
    #[serde(default)]
    v: u64,
    #[serde(default)]
    requires: Vec<String>,
    of: Viewer,
    /// The number of the log that follows; not there in files of earlier versions, which no log follows.
    #[serde(default)]
    log: u64,
    volumes: Volumes,
}

/// The first line of a log.
#[derive(Debug, Serialize, Deserialize)]
struct Heading {
    v: u64,
    requires: Vec<String>,
    log: u64,
}

/// Each line after the first: what is known of a volume now; nothing when it is gone.
#[derive(Debug, Serialize, Deserialize)]
struct Line<'a> {
    name: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    known: Option<std::borrow::Cow<'a, Known>>,
}

/// The version of both files. They may have as many volumes as the cluster: so they are written as they are, not as other documents.
const VERSION: u64 = 1;

/// Where the files stand.
#[derive(Debug)]
pub(super) struct Files {
    snapshot: PathBuf,
    log: PathBuf,
    /// The number of the log that follows the snapshot.
    number: u64,
    /// How many lines it has, the first one not counted.
    lines: usize,
    /// Who has seen what the snapshot says; nobody when it has to be written before anything is appended.
    of: Option<Viewer>,
}

/// What is to be written, made while the volumes cannot change.
#[derive(Debug)]
pub(super) enum Piece {
    Snapshot(Vec<u8>, Viewer),
    /// Lines, and how many.
    Lines(Vec<u8>, usize),
}

impl Files {
    /// Reads what `viewer` may see of the cache in a folder. What cannot be read is learnt anew.
    pub(super) fn open(folder: &Path, host: &dyn Host, viewer: &Viewer) -> (Self, Volumes) {
        let mut files = Self {
            snapshot: folder.join("volumes.json"),
            log: folder.join("volumes.log"),
            number: 0,
            lines: 0,
            of: None,
        };
        let Some(stored) = read::<Stored>(host, &files.snapshot) else {
            // Written by versions up to 0.1, without a word on whose it is.
            return (files, read(host, &folder.join("known.json")).unwrap_or_default());
        };
        if let Err(e) = understood((stored.v, stored.requires), (VERSION, &[])) {
            tracing::warn!("{} {e}: what is known of volumes is learnt anew", files.snapshot.display());
            return (files, Volumes::new());
        }
        files.number = stored.log;
        let log = load(host, &files.log).unwrap_or_default();
        let follows = Heading::of(&log);
        // The next log must not be taken for one that is left here.
        files.number = files.number.max(follows.as_ref().map_or(0, |heading| heading.log));
        if !stored.of.sees_the_same(viewer) {
            tracing::info!("what another user, cluster or namespace has shown is forgotten");
            return (files, Volumes::new());
        }
        let mut volumes = stored.volumes;
        let (mut lines, mut is_whole) = (0, stored.log != 0);
        if follows.is_some_and(|heading| heading.log == stored.log && stored.log != 0) {
            (lines, is_whole) = replay(&log, &mut volumes);
        }
        if is_whole {
            files.lines = lines;
            files.of = Some(stored.of);
        }
        (files, volumes)
    }

    /// What says that these volumes have changed.
    pub(super) fn piece(&self, viewer: &Viewer, changed: &Changed, volumes: &Volumes) -> Piece {
        let most = FEW.max(volumes.len() / SHARE);
        match changed {
            Changed::Names(names) if self.of.as_ref() == Some(viewer) && self.lines + names.len() <= most => {
                let mut lines = Vec::new();
                for name in names {
                    let known = volumes.get(name).map(std::borrow::Cow::Borrowed);
                    push_line(&mut lines, &Line { name: name.clone(), known });
                }
                Piece::Lines(lines, names.len())
            }
            _ => {
                let log = self.number + 1;
                let written = Written { v: VERSION, requires: [], of: viewer, log, volumes };
                Piece::Snapshot(serde_json::to_vec(&written).unwrap_or_default(), viewer.clone())
            }
        }
    }

    /// Writes it. After a failure the next piece is a snapshot.
    pub(super) fn write(&mut self, host: &dyn Host, piece: Piece) -> Result<()> {
        let of = self.of.take();
        match piece {
            Piece::Snapshot(content, viewer) => {
                host.save(&self.snapshot, &content)?;
                self.number += 1;
                self.lines = 0;
                self.of = Some(viewer);
            }
            Piece::Lines(lines, count) => {
                if self.lines == 0 {
                    let heading = Heading { v: VERSION, requires: Vec::new(), log: self.number };
                    let mut log = Vec::new();
                    push_line(&mut log, &heading);
                    log.extend(lines);
                    host.save(&self.log, &log)?;
                } else {
                    host.append(&self.log, &lines)?;
                }
                self.lines += count;
                self.of = of;
            }
        }
        Ok(())
    }

    pub(super) fn snapshot(&self) -> &Path {
        &self.snapshot
    }
}

impl Heading {
    /// That of a log which is understood.
    fn of(log: &[u8]) -> Option<Self> {
        let heading: Self = serde_json::from_slice(whole_lines(log).next()?).ok()?;
        understood((heading.v, heading.requires.clone()), (VERSION, &[])).ok()?;
        Some(heading)
    }
}

/// The lines that end with a newline.
fn whole_lines(log: &[u8]) -> impl Iterator<Item = &[u8]> {
    log.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}

/// Applies a log; how many lines count, and whether they are all there are.
fn replay(log: &[u8], volumes: &mut Volumes) -> (usize, bool) {
    let mut count = 0;
    for line in whole_lines(log).skip(1) {
        let Ok(Line { name, known }) = serde_json::from_slice(line) else { return (count, false) };
        match known {
            Some(known) => drop(volumes.insert(name, known.into_owned())),
            None => drop(volumes.remove(&name)),
        }
        count += 1;
    }
    (count, log.ends_with(b"\n"))
}

fn push_line(to: &mut Vec<u8>, line: &impl Serialize) {
    to.extend(serde_json::to_vec(line).unwrap_or_default());
    to.push(b'\n');
}

fn load(host: &dyn Host, file: &Path) -> Option<Vec<u8>> {
    host.load(file).unwrap_or_else(|e| {
        tracing::warn!(file = %file.display(), error = %e, "the cache cannot be read, starting afresh");
        None
    })
}

fn read<T: DeserializeOwned>(host: &dyn Host, file: &Path) -> Option<T> {
    serde_json::from_slice(&load(host, file)?)
        .inspect_err(
            |e| tracing::warn!(file = %file.display(), error = %e, "the cache is damaged, starting afresh"),
        )
        .ok()
}

#[cfg(test)]
mod tests;

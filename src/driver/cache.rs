//! The last good answers, for when the backend is away: Docker throws its own record of a volume away when Get answers an error.
//!
//! Names survive a restart of the plugin in `volumes.json`; it is written in the background, soon after they change. It is
//! a cache: losing it costs nothing while the backend answers. It counts for those alone who have filled it: another
//! user, another cluster, another default pool or namespace begins with nothing. A name with a size (`foo@1024`) is kept
//! without it: it means the same image.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Settings;
use super::api::Volume;
use super::kind::Kind;
use crate::host::Host;
use crate::lock;
use crate::model::error::DriverError;
use crate::model::store::Source;
use crate::model::stored::understood;

/// What is remembered of a volume, beside its name: of most, nothing. There may be very many of them, and they are kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Details", into = "Details")]
struct Known(Option<Box<Details>>);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Details {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<String>,
    /// Another spelling of a volume that is listed, as some Get used it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    spelling: bool,
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
    fn is_spelling(&self) -> bool {
        self.0.as_ref().is_some_and(|details| details.spelling)
    }
}

/// By name.
type Volumes = BTreeMap<Box<str>, Known>;

/// Who has seen the volumes of a cache.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Viewer {
    #[serde(flatten)]
    source: Source,
    /// The default pool and namespace.
    home: (String, Option<String>),
}

/// The file, as it is written.
#[derive(Debug, Serialize)]
struct Written<'a> {
    v: u64,
    requires: [String; 0],
    of: &'a Viewer,
    volumes: &'a Volumes,
}

/// The file, as it is read.
#[derive(Debug, Deserialize)]
struct Stored {
    /// Not there in files of earlier versions.
    #[serde(default)]
    v: u64,
    #[serde(default)]
    requires: Vec<String>,
    of: Viewer,
    volumes: Volumes,
}

/// The version of the file. It may have as many volumes as the cluster: so it is written as it is, not as other documents are.
const VERSION: u64 = 1;

/// See the module.
#[derive(Debug)]
pub(super) struct Cache {
    file: PathBuf,
    home: (String, Option<String>),
    kind: Arc<dyn Kind>,
    host: Arc<dyn Host>,
    known: Mutex<Volumes>,
    dirty: AtomicBool,
    saving: Mutex<()>,
}

impl Cache {
    pub(super) fn open(settings: &Settings, kind: Arc<dyn Kind>, host: Arc<dyn Host>) -> Self {
        let mut cache = Self {
            file: settings.state.join("volumes.json"),
            home: (settings.pool.clone(), settings.namespace.clone()),
            kind,
            host,
            known: Mutex::default(),
            dirty: AtomicBool::new(false),
            saving: Mutex::default(),
        };
        let known = cache.read::<Stored>(&cache.file).map(|stored| {
            if let Err(e) = understood((stored.v, stored.requires), (VERSION, &[])) {
                tracing::warn!("{} {e}: what is known of volumes is learnt anew", cache.file.display());
                return BTreeMap::new();
            }
            let now = cache.viewer();
            if stored.of.home == now.home && stored.of.source.shows(&now.source) {
                return stored.volumes;
            }
            tracing::info!("what another user, cluster or namespace has shown is forgotten");
            Volumes::new()
        });
        // Written by versions up to 0.1, without a word on whose it is.
        let known = known.or_else(|| cache.read(&settings.state.join("known.json")));
        // Earlier versions kept names with sizes.
        let known = known.unwrap_or_default().into_iter().filter(|(name, _)| key(name) == &**name).collect();
        cache.known = Mutex::new(known);
        cache
    }

    fn read<T: DeserializeOwned>(&self, file: &Path) -> Option<T> {
        let content = self.host.load(file).unwrap_or_else(|e| {
            tracing::warn!(file = %file.display(), error = %e, "the cache cannot be read, starting afresh");
            None
        });
        serde_json::from_slice(&content?)
            .inspect_err(|e| tracing::warn!(file = %file.display(), error = %e, "the cache is damaged, starting afresh"))
            .ok()
    }

    fn viewer(&self) -> Viewer {
        Viewer { source: self.kind.source(), home: self.home.clone() }
    }

    /// A volume under its shown name.
    pub(super) fn add(&self, name: &str) {
        self.note(|known| {
            let new = !known.contains_key(name);
            known.entry(name.into()).or_default();
            new
        });
    }

    /// What Get answered; `spelling` when List shows the volume under another name. Written by [`flush`](Self::flush), as all is: Docker
    /// asks for all volumes at once when it starts.
    pub(super) fn put(&self, volume: &Volume, spelling: bool) {
        self.note(|known| {
            let before = known.get(key(&volume.name)).cloned();
            let spelling = before.as_ref().map_or(spelling, Known::is_spelling);
            let size = volume.status.get("size").and_then(|size| size.as_str()).map(str::to_owned);
            let now = Known::from(Details { created_at: volume.created_at.clone(), size, spelling });
            let is_new = before.as_ref() != Some(&now);
            if is_new {
                known.insert(key(&volume.name).into(), now);
            }
            is_new
        });
    }

    /// The volume is gone.
    pub(super) fn remove(&self, name: &str) {
        self.note(|known| known.remove(name).is_some());
    }

    /// These are all there are; of the other spellings those stay that `means` one of them.
    pub(super) fn set_names<'a>(&self, names: impl Iterator<Item = &'a str>, means: impl Fn(&str) -> bool) {
        self.note(|known| {
            let names: HashSet<&str> = names.collect();
            let before = known.len();
            // What stays is not made anew: most Lists are like the one before.
            known.retain(|name, known| names.contains(&**name) || (known.is_spelling() && means(name)));
            let kept = known.len();
            for name in names {
                if !known.contains_key(name) {
                    known.insert(name.into(), Known::default());
                }
            }
            (before, known.len()) != (kept, kept)
        });
    }

    /// The size of a volume, as it was last seen.
    pub(super) fn size(&self, name: &str) -> Option<String> {
        lock(&self.known).get(key(name))?.0.as_ref()?.size.clone()
    }

    /// The volume as it was last seen, with the reason why it is not seen now.
    pub(super) fn get(&self, name: &str, why: &DriverError) -> Option<Volume> {
        lock(&self.known).get(key(name)).map(|known| degraded(name, known, &why.to_string()))
    }

    /// All of them.
    pub(super) fn all(&self, why: &DriverError) -> Vec<Volume> {
        self.those(why, |_| true)
    }

    /// Those whose names are such.
    pub(super) fn those(&self, why: &DriverError, such: impl Fn(&str) -> bool) -> Vec<Volume> {
        let why = why.to_string();
        let known = lock(&self.known);
        let such = known.iter().filter(|(name, known)| !known.is_spelling() && such(name));
        such.map(|(name, known)| degraded(name, known, &why)).collect()
    }

    /// Changes the map; it is written when `change` says that it matters.
    fn note(&self, change: impl FnOnce(&mut Volumes) -> bool) {
        if change(&mut lock(&self.known)) {
            self.dirty.store(true, Ordering::SeqCst);
        }
    }

    /// Writes what has changed.
    pub(super) fn flush(&self) {
        // One at a time, each with the newest content.
        let _saving = lock(&self.saving);
        if !self.dirty.swap(false, Ordering::SeqCst) {
            return;
        }
        let of = self.viewer();
        let written = Written { v: VERSION, requires: [], of: &of, volumes: &lock(&self.known) };
        let content = serde_json::to_vec(&written).unwrap_or_default();
        if let Err(e) = self.host.save(&self.file, &content) {
            tracing::warn!(file = %self.file.display(), error = %e, "the cache cannot be written");
        }
    }
}

/// The name under which a volume is kept.
fn key(name: &str) -> &str {
    match name.rsplit_once('@') {
        Some((front, size)) if size.bytes().all(|byte| byte.is_ascii_digit()) => front,
        _ => name,
    }
}

fn degraded(name: &str, known: &Known, why: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        mountpoint: None,
        created_at: known.0.as_ref().and_then(|details| details.created_at.clone()),
        status: [("health".to_owned(), json!("degraded")), ("reason".to_owned(), json!(why))]
            .into_iter()
            .collect(),
    }
}

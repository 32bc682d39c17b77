//! The last good answers, for when the backend is away: Docker throws its own record of a volume away when Get answers an error.
//!
//! Names survive a restart of the plugin on [disk](super::cache_files); what has changed is written in the background, soon after. It
//! is a cache: losing it costs nothing while the backend answers. It counts for those alone who have filled it: another
//! user, another cluster, another default pool or namespace begins with nothing. A name with a size (`foo@1024`) is kept
//! without it: it means the same image.

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::Settings;
use super::api::Volume;
use super::cache_files::{Changed, Details, Files, Known, Viewer, Volumes};
use super::kind::Kind;
use crate::host::Host;
use crate::lock;
use crate::model::error::DriverError;

/// See the module.
#[derive(Debug)]
pub(super) struct Cache {
    home: (String, Option<String>),
    kind: Arc<dyn Kind>,
    host: Arc<dyn Host>,
    known: Mutex<Noted>,
    files: Mutex<Files>,
}

/// What is known, and what of that is not written yet.
#[derive(Debug, Default)]
struct Noted {
    volumes: Volumes,
    changed: Changed,
}

impl Cache {
    pub(super) fn open(settings: &Settings, kind: Arc<dyn Kind>, host: Arc<dyn Host>) -> Self {
        let home = (settings.pool.clone(), settings.namespace.clone());
        let viewer = Viewer { source: kind.source(), home: home.clone() };
        let (files, mut volumes) = Files::open(&settings.state, &*host, &viewer);
        // Earlier versions kept names with sizes.
        volumes.retain(|name, _| key(name) == &**name);
        let known = Mutex::new(Noted { volumes, changed: Changed::default() });
        Self { home, kind, host, known, files: Mutex::new(files) }
    }

    /// A volume under its shown name.
    pub(super) fn add(&self, name: &str) {
        let mut known = lock(&self.known);
        if !known.volumes.contains_key(name) {
            known.insert(name, Known::default());
        }
    }

    /// What Get answered; `spelling` when List shows the volume under another name. Written by [`flush`](Self::flush), as all is: Docker
    /// asks for all volumes at once when it starts.
    pub(super) fn put(&self, volume: &Volume, spelling: bool) {
        let mut known = lock(&self.known);
        let before = known.volumes.get(key(&volume.name));
        let spelling = before.map_or(spelling, Known::is_spelling);
        let size = volume.status.get("size").and_then(|size| size.as_str()).map(str::to_owned);
        let now = Known::from(Details { created_at: volume.created_at.clone(), size, spelling });
        if before != Some(&now) {
            known.insert(key(&volume.name), now);
        }
    }

    /// The volume is gone.
    pub(super) fn remove(&self, name: &str) {
        let mut known = lock(&self.known);
        if known.volumes.remove(name).is_some() {
            known.changed.add(name);
        }
    }

    /// These are all there are; of the other spellings those stay that `means` one of them.
    pub(super) fn set_names<'a>(&self, names: impl Iterator<Item = &'a str>, means: impl Fn(&str) -> bool) {
        // In the order in which they are kept; a directory names them so already.
        let mut names: Vec<&str> = names.collect();
        names.sort();
        names.dedup();
        let mut known = lock(&self.known);
        if known.says(&names, &means) {
            return;
        }
        let Noted { volumes, changed } = &mut *known;
        volumes.retain(|name, known| {
            let stays = names.binary_search(&&**name).is_ok() || (known.is_spelling() && means(name));
            if !stays {
                changed.add(name);
            }
            stays
        });
        for name in names {
            if !known.volumes.contains_key(name) {
                known.insert(name, Known::default());
            }
        }
    }

    /// The size of a volume, as it was last seen.
    pub(super) fn size(&self, name: &str) -> Option<String> {
        lock(&self.known).volumes.get(key(name))?.0.as_ref()?.size.clone()
    }

    /// The volume as it was last seen, with the reason why it is not seen now.
    pub(super) fn get(&self, name: &str, why: &DriverError) -> Option<Volume> {
        lock(&self.known).volumes.get(key(name)).map(|known| degraded(name, known, &why.to_string()))
    }

    /// All of them.
    pub(super) fn all(&self, why: &DriverError) -> Vec<Volume> {
        self.those(why, |_| true)
    }

    /// Those whose names are such.
    pub(super) fn those(&self, why: &DriverError, such: impl Fn(&str) -> bool) -> Vec<Volume> {
        let why = why.to_string();
        let known = lock(&self.known);
        let such = known.volumes.iter().filter(|(name, known)| !known.is_spelling() && such(name));
        such.map(|(name, known)| degraded(name, known, &why)).collect()
    }

    /// Writes what has changed.
    pub(super) fn flush(&self) {
        // One at a time, each with the newest content.
        let mut files = lock(&self.files);
        if lock(&self.known).changed.is_nothing() {
            return;
        }
        let viewer = Viewer { source: self.kind.source(), home: self.home.clone() };
        let piece = {
            let mut known = lock(&self.known);
            let changed = std::mem::take(&mut known.changed);
            files.piece(&viewer, &changed, &known.volumes)
        };
        if let Err(e) = files.write(&*self.host, piece) {
            tracing::warn!(file = %files.snapshot().display(), error = %e, "the cache cannot be written");
        }
    }
}

impl Noted {
    /// Whether these names, in order, are those that are known, as with most Lists; and all other spellings mean something.
    fn says(&self, names: &[&str], means: impl Fn(&str) -> bool) -> bool {
        let (mut at, mut same) = (0, true);
        for (name, known) in &self.volumes {
            if names.get(at) == Some(&&**name) {
                at += 1;
            } else {
                same &= known.is_spelling() && means(name);
            }
        }
        same && at == names.len()
    }

    fn insert(&mut self, name: &str, known: Known) {
        self.volumes.insert(name.into(), known);
        self.changed.add(name);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_like_the_one_before_changes_nothing() {
        let mut noted = Noted::default();
        for (name, spelling) in [("a", false), ("b", false), ("rbd/b", true), ("c", false)] {
            noted.insert(name, Known::from(Details { spelling, ..Details::default() }));
        }
        let says = |names: &[&str], means: bool| noted.says(names, |_| means);
        assert!(says(&["a", "b", "c"], true));
        assert!(!says(&["a", "b", "c"], false), "the other spelling of b means nothing any more");
        assert!(says(&["a", "b", "c", "rbd/b"], false));
        for other in [&["a", "b"][..], &["a", "c"], &["a", "b", "c", "d"], &["a", "aa", "b", "c"], &[]] {
            assert!(!says(other, true), "{other:?}");
        }
    }
}

//! What the driver tells of itself, from memory and from what the kernel has in memory: nobody is asked, so nothing is waited for.
//!
//! What only the store knows is asked in the background ([`Pulse`]), one question at a time; a store that hangs shows by the age of its
//! last answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Driver;
use super::api::Volume;
use super::table::MountedVolume;
use crate::backend::Pulse;
use crate::lock;
use crate::model::bindings::{Bindings, Bound};
use crate::model::block_io::BlockIo;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::Usage;
use crate::model::image::NoVolume;
use crate::model::name::{ImageSpec, VolumeName};

/// How often the store is asked.
const EVERY: Duration = Duration::from_secs(2);
/// A store whose last answer is older counts as away.
const SILENT: Duration = Duration::from_secs(30);

/// All at one moment.
#[derive(Debug, Clone)]
pub struct Overview {
    /// `rbd`, `local` or `sim`.
    pub backend: &'static str,
    /// Why the store is away, if it is.
    pub away: Option<String>,
    /// Why operations cannot succeed yet, if so.
    pub not_ready: Vec<String>,
    /// Devices of this host with images behind them.
    pub devices: usize,
    /// Volumes with something left to undo.
    pub unsettled: usize,
    /// Volumes that were taken away from this host and have not been mounted again.
    pub fenced: usize,
    /// Pools whose volumes cannot be listed, and why.
    pub left_out: Vec<String>,
    /// What the background work cannot see, and why.
    pub not_known: Vec<String>,
    /// The pools that are served, and why one of them does not answer.
    pub pools: Vec<(String, Option<String>)>,
    /// How long ago the store last answered List or Get; since the start, if it never did.
    pub cache_age: Duration,
    /// How long ago this plugin last showed that it lives, in each pool where it owns images.
    pub heartbeats: Vec<(String, Duration)>,
    /// What is mounted, by name.
    pub mounts: Vec<MountView>,
}

/// A mounted volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountView {
    /// Its name for Docker.
    pub volume: String,
    /// Its image.
    pub image: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Its device.
    pub device: PathBuf,
    /// Size of the device in bytes.
    pub device_bytes: Option<u64>,
    /// Type of its filesystem.
    pub fstype: String,
    /// Whether it was mounted read-only.
    pub read_only: bool,
    /// Since when, seconds since the epoch.
    pub since: u64,
    /// How many times each mount ID uses it.
    pub mount_ids: BTreeMap<String, u64>,
    /// All uses.
    pub mounts: u64,
    /// How full it is, as it was told last.
    pub usage: Option<Usage>,
    /// How long ago that was; how long there has been no answer, if there was none.
    pub usage_age_seconds: f64,
    /// What its device has done.
    pub io: Option<BlockIo>,
}

/// What the store said last, and when.
#[derive(Debug)]
pub(super) struct Heard {
    begun: Instant,
    last: Option<(Result<()>, Instant)>,
    pulse: Pulse,
}

impl Default for Heard {
    fn default() -> Self {
        let pulse = Pulse { devices: 0, bindings: Arc::default() };
        Self { begun: Instant::now(), last: None, pulse }
    }
}

impl Heard {
    /// Why the store counts as away.
    fn away(&self) -> Option<String> {
        let (answer, at) = match &self.last {
            None => (None, self.begun),
            Some((answer, at)) => (Some(answer), *at),
        };
        match answer {
            _ if at.elapsed() > SILENT => {
                Some(format!("the storage has not answered for {} s", at.elapsed().as_secs()))
            }
            None => Some("the storage was not asked yet".to_owned()),
            Some(Err(e)) => Some(e.to_string()),
            Some(Ok(())) => None,
        }
    }
}

impl Driver {
    /// Whether it is time to ask the store again.
    pub(super) fn is_pulse_old(&self) -> bool {
        lock(&self.heard).last.as_ref().is_none_or(|(_, at)| at.elapsed() >= EVERY)
    }

    /// Asks the store how it is, unless it still has not answered an earlier question.
    pub(super) fn feel_pulse(&self) {
        let Ok(_alone) = self.feeling.try_lock() else { return };
        let pulse = self.backend.pulse();
        let mut heard = lock(&self.heard);
        let answer = pulse.map(|pulse| heard.pulse = pulse);
        heard.last = Some((answer, Instant::now()));
    }

    /// See the module.
    pub fn overview(&self) -> Overview {
        let (away, pulse) = {
            let heard = lock(&self.heard);
            (heard.away(), heard.pulse.clone())
        };
        let mut not_ready: Vec<String> = away.iter().cloned().collect();
        if lock(&self.unseen).is_none() {
            not_ready.push("it is not known yet which images this plugin owns".to_owned());
        }
        match self.restoring.load(Ordering::SeqCst) {
            0 => {}
            count => not_ready.push(format!("{count} volumes of an earlier life are not restored yet")),
        }
        let mut mounts: Vec<MountView> = self
            .table
            .all()
            .iter()
            .map(|mounted| self.view(mounted, self.shown_by(&pulse.bindings, &mounted.refs.spec)))
            .collect();
        mounts.sort_by(|a, b| a.volume.cmp(&b.volume));
        Overview {
            backend: self.backend.name(),
            away,
            not_ready,
            devices: pulse.devices,
            unsettled: lock(&self.unsettled).len(),
            fenced: lock(&self.fenced).len(),
            cache_age: lock(&self.answered).elapsed(),
            not_known: self.told.all(),
            heartbeats: self.backend.heartbeats(),
            left_out: self.backend.left_out().iter().map(ToString::to_string).collect(),
            pools: self
                .backend
                .pools()
                .into_iter()
                .map(|(pool, why)| (pool, why.map(|why| why.to_string())))
                .collect(),
            mounts,
        }
    }

    fn view(&self, mounted: &MountedVolume, volume: String) -> MountView {
        let MountedVolume { refs, attached } = mounted;
        let (device_bytes, io) = self.disks.counters(Path::new(&attached.source));
        let (usage, age) = self.usage_of(mounted).last();
        MountView {
            volume,
            image: refs.spec.to_string(),
            mountpoint: refs.mountpoint.clone(),
            device: PathBuf::from(&attached.source),
            device_bytes,
            fstype: attached.fstype.clone(),
            read_only: attached.read_only,
            since: refs.since,
            mount_ids: refs.counts().into_iter().map(|(id, count)| (id.to_owned(), count)).collect(),
            mounts: refs.total(),
            usage,
            usage_age_seconds: age.as_secs_f64(),
            io,
        }
    }

    /// The image that a name means, by the names that the store told last.
    pub fn image_of(&self, name: &str) -> Option<ImageSpec> {
        let bindings = Arc::clone(&lock(&self.heard).pulse.bindings);
        let name: VolumeName = name.parse().ok()?;
        self.resolve_by(&bindings, &name).ok()
    }

    /// The volumes that are known, for when the store does not answer.
    pub fn known_volumes(&self, why: &str) -> Vec<Volume> {
        self.cache.all(&DriverError::new(ErrorKind::Unreachable, why))
    }

    /// What is known of a volume, for when the store does not answer.
    pub fn known_volume(&self, name: &str, why: &str) -> Option<Volume> {
        self.cache.get(name, &DriverError::new(ErrorKind::Unreachable, why))
    }

    /// The images that the last List has left out, and why.
    pub fn no_volumes(&self) -> Vec<NoVolume> {
        self.backend.no_volumes()
    }

    /// The size of a volume, if a Get has ever told it.
    pub fn known_size(&self, name: &str) -> Option<String> {
        self.cache.size(name)
    }

    /// The store has answered Get, with what a bare name is bound to.
    pub(super) fn was_looked_up(&self, bare: &str, bound: Option<&ImageSpec>) {
        *lock(&self.answered) = Instant::now();
        let mut heard = lock(&self.heard);
        let bound = bound.cloned().map(Bound::To);
        if heard.pulse.bindings.get(bare) != bound.as_ref() {
            let bindings = Arc::make_mut(&mut heard.pulse.bindings);
            match bound {
                Some(bound) => bindings.insert(bare.to_owned(), bound),
                None => bindings.remove(bare),
            };
        }
    }

    /// The store has answered List, with these names.
    pub(super) fn was_answered(&self, bindings: &Arc<Bindings>) {
        *lock(&self.answered) = Instant::now();
        lock(&self.heard).pulse.bindings = Arc::clone(bindings);
    }

    /// A bare name was bound to an image just now.
    pub(super) fn was_bound(&self, bare: &str, spec: &ImageSpec) {
        Arc::make_mut(&mut lock(&self.heard).pulse.bindings).insert(bare.to_owned(), Bound::To(spec.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_away_until_it_answers_and_when_it_falls_silent() {
        let mut heard = Heard::default();
        assert_eq!(heard.away().unwrap(), "the storage was not asked yet");
        heard.last = Some((Ok(()), Instant::now()));
        assert_eq!(heard.away(), None);
        heard.last = Some((Err(DriverError::new(ErrorKind::Unreachable, "no monitor")), Instant::now()));
        assert_eq!(heard.away().unwrap(), "no monitor");
        let Some(long_ago) = Instant::now().checked_sub(SILENT * 2) else { return };
        heard.last = Some((Ok(()), long_ago));
        assert!(heard.away().unwrap().starts_with("the storage has not answered for 6"));
    }
}

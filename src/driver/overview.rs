//! What the driver tells of itself, from memory and from what the kernel has in memory: nobody is asked, so nothing is waited for.
//!
//! What only the store knows is asked in the background ([`Pulse`]), one question at a time; a store that hangs shows by the age of its
//! last answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Driver;
use super::api::{DriverStatus, Volume};
use super::table::MountedVolume;
use crate::lock;
use crate::model::bindings::{Bindings, Bound};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::image::NoVolume;
use crate::model::name::{ImageSpec, VolumeName};
use crate::model::overview::{MountView, Overview};
use crate::model::store::Pulse;

/// How often the store is asked.
const EVERY: Duration = Duration::from_secs(2);
/// A store whose last answer is older counts as away.
const SILENT: Duration = Duration::from_secs(30);

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
        let pulse = self.kind.pulse();
        let mut heard = lock(&self.heard);
        let answer = pulse.map(|pulse| heard.pulse = pulse);
        heard.last = Some((answer, Instant::now()));
    }

    fn view(&self, mounted: &MountedVolume, volume: String) -> MountView {
        let MountedVolume { refs, attached } = mounted;
        let (device_bytes, io) = self.kind.counters(attached);
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

impl DriverStatus for Driver {
    fn overview(&self) -> Overview {
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
            backend: self.kind.name(),
            away,
            not_ready,
            devices: pulse.devices,
            unsettled: self.entries.those(|entry| entry.unsettled).len(),
            fenced: self.entries.those(|entry| entry.lost.is_some()).len(),
            cache_age: lock(&self.answered).elapsed(),
            not_known: self.told.all(),
            heartbeats: self.kind.heartbeats(),
            left_out: self.kind.left_out().iter().map(ToString::to_string).collect(),
            pools: self
                .kind
                .pools()
                .into_iter()
                .map(|(pool, why)| (pool, why.map(|why| why.to_string())))
                .collect(),
            mounts,
        }
    }

    fn image_of(&self, name: &str) -> Option<ImageSpec> {
        let bindings = Arc::clone(&lock(&self.heard).pulse.bindings);
        let name: VolumeName = name.parse().ok()?;
        self.resolve_by(&bindings, &name).ok()
    }

    fn known_volumes(&self, why: &str) -> Vec<Volume> {
        self.cache.all(&DriverError::new(ErrorKind::Unreachable, why))
    }

    fn known_volume(&self, name: &str, why: &str) -> Option<Volume> {
        self.cache.get(name, &DriverError::new(ErrorKind::Unreachable, why))
    }

    fn no_volumes(&self) -> Vec<NoVolume> {
        self.kind.no_volumes()
    }

    fn known_size(&self, name: &str) -> Option<String> {
        self.cache.size(name)
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

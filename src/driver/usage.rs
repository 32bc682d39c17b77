//! How full the mounted volumes are, without ever waiting for their storage.
//!
//! statvfs(2) on a mount whose storage does not answer hangs in the kernel. So each mount is asked on a thread of its own, at most one
//! at a time; readers get the last answer and its age. A mount that hangs keeps that one thread, and its answer grows old.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Driver;
use super::table::MountedVolume;
use crate::host::{Host, Usage};
use crate::lock;
use crate::name::ImageSpec;

/// How often each mount is asked.
const EVERY: Duration = Duration::from_secs(10);
/// How long whoever wants a new answer waits for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The answers of all mounts.
#[derive(Debug, Default)]
pub(super) struct Usages(Mutex<HashMap<ImageSpec, Arc<Answers>>>);

/// The answers of one mount.
#[derive(Debug)]
pub(super) struct Answers {
    /// Tells this mount from an earlier one of the volume: device, and since when.
    mount: ((u32, u32), u64),
    begun: Instant,
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct State {
    last: Option<(Usage, Instant)>,
    asking: Option<Instant>,
}

impl Usages {
    fn of(&self, volume: &MountedVolume) -> Arc<Answers> {
        let mount = (volume.device.number, volume.refs.since);
        let mut all = lock(&self.0);
        match all.get(&volume.refs.spec) {
            Some(answers) if answers.mount == mount => Arc::clone(answers),
            _ => {
                let answers = Arc::new(Answers {
                    mount,
                    begun: Instant::now(),
                    state: Mutex::default(),
                    answered: Condvar::new(),
                });
                all.insert(volume.refs.spec.clone(), Arc::clone(&answers));
                answers
            }
        }
    }
}

impl Answers {
    /// The last answer, if there is one, and how old it is, or how long there has been none.
    pub(super) fn last(&self) -> (Option<Usage>, Duration) {
        let last = lock(&self.state).last;
        (last.map(|(usage, _)| usage), last.map_or(self.begun, |(_, at)| at).elapsed())
    }

    /// Asks, unless somebody does or the answer is younger than `age`.
    fn ask(self: &Arc<Self>, host: &Arc<dyn Host>, volume: &MountedVolume, age: Duration) {
        {
            let mut state = lock(&self.state);
            if state.asking.is_some() || state.last.is_some_and(|(_, at)| at.elapsed() < age) {
                return;
            }
            state.asking = Some(Instant::now());
        }
        let (answers, host, target) = (Arc::clone(self), Arc::clone(host), volume.refs.mountpoint.clone());
        let asked = std::thread::Builder::new().name("usage".to_owned()).spawn(move || {
            let usage = host.usage(&target);
            if let Err(e) = &usage {
                tracing::debug!(error = %e, "no usage");
            }
            answers.end(usage.ok());
        });
        if let Err(e) = asked {
            tracing::error!(error = %e, "no thread to ask for the usage");
            self.end(None);
        }
    }

    fn end(&self, usage: Option<Usage>) {
        let mut state = lock(&self.state);
        state.asking = None;
        state.last = usage.map(|usage| (usage, Instant::now())).or(state.last);
        self.answered.notify_all();
    }
}

impl Driver {
    /// The answers of a mounted volume.
    pub(super) fn usage_of(&self, volume: &MountedVolume) -> Arc<Answers> {
        self.usages.of(volume)
    }

    /// A new answer of a mounted volume, if it comes soon; else the last one.
    pub(super) fn new_usage_of(&self, volume: &MountedVolume) -> Option<Usage> {
        let answers = self.usages.of(volume);
        answers.ask(&self.host, volume, Duration::ZERO);
        let waits = |state: &mut State| state.asking.is_some_and(|since| since.elapsed() < PATIENCE);
        let state = answers.answered.wait_timeout_while(lock(&answers.state), PATIENCE, waits);
        state.unwrap_or_else(PoisonError::into_inner).0.last.map(|(usage, _)| usage)
    }

    /// Asks every mount whose answer is old.
    pub(super) fn collect_usage(&self) {
        let mounted = self.table.all();
        let is_mounted = |spec: &ImageSpec| mounted.iter().any(|volume| volume.refs.spec == *spec);
        lock(&self.usages.0).retain(|spec, _| is_mounted(spec));
        for volume in &mounted {
            self.usages.of(volume).ask(&self.host, volume, EVERY);
        }
    }
}

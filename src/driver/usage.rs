//! How full the mounted volumes are, without ever waiting for their storage.
//!
//! statvfs(2) on a mount whose storage does not answer hangs in the kernel. So the mounts are asked one after the other on a thread that
//! nobody waits for; while that one hangs, another takes over the rest. Readers get the last answer and its age. A mount that hangs
//! keeps its thread, and its answer grows old. What was unmounted behind our back has no answer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Driver;
use super::table::MountedVolume;
use crate::host::Host;
use crate::lock;
use crate::model::filesystem::Usage;
use crate::model::mount::{Mounted, Place};
use crate::model::name::ImageSpec;

/// How often each mount is asked.
const EVERY: Duration = Duration::from_secs(10);
/// How long whoever wants a new answer waits for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The answers of all mounts.
#[derive(Debug, Default)]
pub(super) struct Usages {
    all: Mutex<HashMap<ImageSpec, Arc<Answers>>>,
    round: Arc<Mutex<Round>>,
}

/// The mounts that are still to be asked.
#[derive(Debug, Default)]
struct Round {
    left: VecDeque<(Arc<Answers>, Mounted)>,
    workers: usize,
    /// When a worker began with a mount.
    progress: Option<Instant>,
}

/// The answers of one mount.
#[derive(Debug)]
pub(super) struct Answers {
    /// Tells this mount from an earlier one of the volume: what, and since when.
    mount: (Place, u64),
    begun: Instant,
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct State {
    last: Option<(Usage, Instant)>,
    asked: Option<Instant>,
    asking: Option<Instant>,
}

impl Usages {
    fn of(&self, volume: &MountedVolume) -> Arc<Answers> {
        let mount = (volume.attached.place.clone(), volume.refs.since);
        let mut all = lock(&self.all);
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

    /// Whether to ask now: nobody does, and the answer is not younger than `age`. Then whoever called has to.
    fn begin(&self, age: Duration) -> bool {
        let mut state = lock(&self.state);
        let is_due = state.asking.is_none() && state.asked.is_none_or(|at| at.elapsed() >= age);
        if is_due {
            (state.asking, state.asked) = (Some(Instant::now()), Some(Instant::now()));
        }
        is_due
    }

    /// Asks a mount.
    fn ask(&self, host: &dyn Host, mount: &Mounted) {
        match host.usage(mount) {
            Ok(usage) => self.end(Some(usage)),
            Err(e) => {
                tracing::debug!(error = %e, "no usage");
                self.end(None);
            }
        }
    }

    /// It could not be asked: the last answer stays, and grows old.
    fn unasked(&self) {
        lock(&self.state).asking = None;
        self.answered.notify_all();
    }

    /// `None` for what is mounted no more, and for what does not work.
    fn end(&self, usage: Option<Usage>) {
        let mut state = lock(&self.state);
        state.asking = None;
        state.last = usage.map(|usage| (usage, Instant::now()));
        self.answered.notify_all();
    }
}

/// What is mounted at a volume's mountpoint, if it is the volume.
fn mount_of<'a>(mounts: &'a [Mounted], volume: &MountedVolume) -> Option<&'a Mounted> {
    let there = mounts.iter().rfind(|mount| mount.target == volume.refs.mountpoint);
    there.filter(|mount| volume.attached.is_at(mount))
}

/// Asks until none is left.
fn work(host: &dyn Host, round: &Mutex<Round>) {
    loop {
        let next = {
            let mut round = lock(round);
            round.progress = Some(Instant::now());
            let next = round.left.pop_front();
            if next.is_none() {
                round.workers -= 1;
            }
            next
        };
        let Some((answers, mount)) = next else { return };
        answers.ask(host, &mount);
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
        if answers.begin(Duration::ZERO) {
            let (asked, host, volume) = (Arc::clone(&answers), Arc::clone(&self.host), volume.clone());
            let spawned = std::thread::Builder::new().name("usage".to_owned()).spawn(move || {
                match host.mounts().map(|mounts| mount_of(&mounts, &volume).cloned()) {
                    Ok(Some(mount)) => asked.ask(&*host, &mount),
                    Ok(None) => asked.end(None),
                    Err(e) => {
                        tracing::warn!(image = %volume.refs.spec, error = %e, "cannot ask for its usage");
                        asked.unasked();
                    }
                }
            });
            if let Err(e) = spawned {
                tracing::error!(error = %e, "no thread to ask for the usage");
                answers.unasked();
            }
        }
        let waits = |state: &mut State| state.asking.is_some_and(|since| since.elapsed() < PATIENCE);
        let state = answers.answered.wait_timeout_while(lock(&answers.state), PATIENCE, waits);
        state.unwrap_or_else(PoisonError::into_inner).0.last.map(|(usage, _)| usage)
    }

    /// Asks every mount whose answer is old.
    pub(super) fn collect_usage(&self) {
        let mounted = self.table.all();
        let specs: HashSet<&ImageSpec> = mounted.iter().map(|volume| &volume.refs.spec).collect();
        lock(&self.usages.all).retain(|spec, _| specs.contains(spec));
        let due: Vec<_> = mounted
            .iter()
            .map(|volume| (volume, self.usages.of(volume)))
            .filter(|(_, answers)| answers.begin(EVERY))
            .collect();
        if !due.is_empty() {
            let mounts = self.told.answer("how full the mounted volumes are", self.host.mounts());
            for (volume, answers) in due {
                let Some(mounts) = &mounts else {
                    answers.unasked();
                    continue;
                };
                match mount_of(mounts, volume) {
                    Some(mount) => lock(&self.usages.round).left.push_back((answers, mount.clone())),
                    None => answers.end(None),
                }
            }
        }
        let mut round = lock(&self.usages.round);
        let is_stuck = round.progress.is_none_or(|at| at.elapsed() >= PATIENCE);
        if round.left.is_empty() || (round.workers > 0 && !is_stuck) {
            return;
        }
        let (host, left) = (Arc::clone(&self.host), Arc::clone(&self.usages.round));
        let spawned = std::thread::Builder::new().name("usage".to_owned()).spawn(move || work(&*host, &left));
        match spawned {
            Ok(_) => round.workers += 1,
            Err(e) => tracing::error!(error = %e, "no thread to ask for the usage"),
        }
    }
}

//! A schedule of threads of which only one runs at a time, and which one is chosen: so a history of many hosts is the same each time it
//! is run. A worker gives its turn back before each of its calls to the cluster.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use rbd_docker_plugin::coordination::memory::{Gate, Memory, Passing};

type Job = Box<dyn FnOnce() + Send>;

/// What a worker is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// It has nothing to do.
    Idle,
    /// It wants to make a call.
    Ready,
    /// It waits for a time.
    Waiting(Duration),
}

/// What the next calls of a worker come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lives,
    /// Its next call does not reach the cluster, or is answered in vain.
    Next(Passing),
    /// It was killed: nothing that it still does has an effect.
    Dead,
}

struct Worker {
    at: At,
    fate: Fate,
    job: Option<Job>,
}

#[derive(Default)]
struct Inner {
    workers: Vec<Worker>,
    /// Whose turn it is; none is the scheduler's.
    turn: Option<usize>,
    /// How many calls it may make before it gives the turn back.
    calls: u32,
    /// What was done, in order.
    log: Vec<String>,
    logs: bool,
    over: bool,
}

/// See the module.
pub(crate) struct Schedule {
    inner: Mutex<Inner>,
    wake: Vec<Condvar>,
    scheduler: Condvar,
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schedule")
    }
}

impl Schedule {
    /// With so many workers, whose threads last as long as the schedule.
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        let worker = || Worker { at: At::Idle, fate: Fate::Lives, job: None };
        let inner = Inner { workers: (0..workers).map(|_| worker()).collect(), ..Inner::default() };
        let schedule = Arc::new(Self {
            inner: Mutex::new(inner),
            wake: (0..workers).map(|_| Condvar::new()).collect(),
            scheduler: Condvar::new(),
        });
        for n in 0..workers {
            let of = Arc::clone(&schedule);
            std::thread::spawn(move || of.work(n));
        }
        schedule
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn work(&self, n: usize) {
        loop {
            let mut inner = self.lock();
            while !(inner.over || inner.turn == Some(n) && inner.workers[n].job.is_some()) {
                inner = self.wake[n].wait(inner).unwrap();
            }
            if inner.over {
                return;
            }
            let job = inner.workers[n].job.take().unwrap();
            drop(inner);
            job();
            let mut inner = self.lock();
            inner.workers[n].at = At::Idle;
            inner.turn = None;
            self.scheduler.notify_one();
        }
    }

    /// Ends the threads. All workers are idle.
    pub(crate) fn end(&self) {
        self.lock().over = true;
        self.wake.iter().for_each(Condvar::notify_one);
    }

    /// Begins a new history.
    pub(crate) fn begin(&self, logs: bool) {
        let mut inner = self.lock();
        inner.log.clear();
        inner.logs = logs;
        for worker in &mut inner.workers {
            assert_eq!(worker.at, At::Idle, "the last history has ended");
            worker.fate = Fate::Lives;
        }
    }

    pub(crate) fn at(&self, n: usize) -> At {
        self.lock().workers[n].at
    }

    pub(crate) fn give(&self, n: usize, job: Job) {
        let mut inner = self.lock();
        assert_eq!(inner.workers[n].at, At::Idle);
        inner.workers[n].at = At::Ready;
        inner.workers[n].job = Some(job);
    }

    pub(crate) fn set_fate(&self, n: usize, fate: Fate) {
        self.lock().workers[n].fate = fate;
    }

    pub(crate) fn fate(&self, n: usize) -> Fate {
        self.lock().workers[n].fate
    }

    /// Lets a worker go on for so many calls.
    pub(crate) fn resume(&self, n: usize, calls: u32) {
        let mut inner = self.lock();
        (inner.turn, inner.calls) = (Some(n), calls);
        self.wake[n].notify_one();
        while inner.turn.is_some() {
            inner = self.scheduler.wait(inner).unwrap();
        }
    }

    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        let mut inner = self.lock();
        if inner.logs {
            inner.log.push(what());
        }
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    fn give_turn_back<'a>(&'a self, n: usize, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        inner.turn = None;
        self.scheduler.notify_one();
        while inner.turn != Some(n) {
            inner = self.wake[n].wait(inner).unwrap();
        }
        inner
    }
}

/// The gate of one worker.
#[derive(Debug, Clone)]
pub(crate) struct Turn(pub(crate) Arc<Schedule>, pub(crate) usize);

impl Gate for Turn {
    fn pass(&self, call: &'static str) -> Passing {
        let Self(schedule, n) = self;
        let mut inner = schedule.lock();
        if inner.calls == 0 {
            inner.workers[*n].at = At::Ready;
            inner = schedule.give_turn_back(*n, inner);
        } else {
            inner.calls -= 1;
        }
        let fate = inner.workers[*n].fate;
        let passing = match fate {
            Fate::Lives => Passing::Go,
            Fate::Next(passing) => {
                inner.workers[*n].fate = Fate::Lives;
                passing
            }
            Fate::Dead => Passing::Refused,
        };
        if inner.logs {
            inner.log.push(format!("worker {n}: {call} {passing:?}"));
        }
        passing
    }

    fn wait(&self, memory: &Memory, time: Duration) {
        let Self(schedule, n) = self;
        let until = memory.now() + time;
        let mut inner = schedule.lock();
        while memory.now() < until && inner.workers[*n].fate != Fate::Dead {
            inner.workers[*n].at = At::Waiting(until);
            inner = schedule.give_turn_back(*n, inner);
        }
        inner.workers[*n].at = At::Ready;
    }
}

/// The gate of whoever nothing goes before.
#[derive(Debug)]
pub(crate) struct Open;

impl Gate for Open {
    fn pass(&self, _call: &'static str) -> Passing {
        Passing::Go
    }

    fn wait(&self, memory: &Memory, time: Duration) {
        memory.advance(time);
    }
}

//! One operation per volume at a time.
//!
//! A [`Guard`] is held for the whole of an operation that changes a volume. There is no lock over several volumes. Waiting
//! is bounded in time by the operation's deadline. It is bounded in number, too, so that stuck volumes do not take the threads
//! that others need: all volumes together may have a [`CROWD`] of waiting requests, and each volume a few of its own beside it.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::lock;
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::time::rough;

/// So many requests may wait for one volume whatever waits for others.
pub const MAX_WAITING: usize = 64;

/// So many requests may wait in all, before a volume with [`MAX_WAITING`] of them is told at once that it is busy.
pub const CROWD: usize = 1024;

/// The guards of all volumes.
#[derive(Debug, Default, Clone)]
pub struct Guards {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    held: Mutex<Held>,
    /// Volumes whose guard nobody gets, and since when.
    reserved: Mutex<HashMap<ImageSpec, Instant>>,
}

#[derive(Debug, Default)]
struct Held {
    /// Held volumes only: an entry goes with its last waiter.
    volumes: HashMap<ImageSpec, Waiting>,
    /// How many wait for any of them.
    waiting: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    count: usize,
    released: bool,
    wake: Arc<Condvar>,
}

/// The right to change one volume; given back on drop.
#[derive(Debug)]
pub struct Guard {
    spec: ImageSpec,
    inner: Arc<Inner>,
}

/// Keeps everybody from a volume's guard; whoever holds that keeps it. Ended on drop.
#[derive(Debug)]
pub struct Reserved {
    spec: ImageSpec,
    inner: Arc<Inner>,
}

impl Reserved {
    /// What whoever asks for the volume is told.
    pub fn refusal(spec: &ImageSpec, since: Instant) -> DriverError {
        let runs = rough(since.elapsed());
        DriverError::new(
            ErrorKind::Busy,
            format!("the filesystem of {spec} is being checked, for {runs} now"),
        )
        .hint("the check goes on and is not begun anew: try again later")
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        lock(&self.inner.reserved).remove(&self.spec);
    }
}

impl Guards {
    /// From now on nobody gets the volume's guard. The caller holds it.
    pub fn reserve(&self, spec: &ImageSpec, since: Instant) -> Reserved {
        lock(&self.inner.reserved).insert(spec.clone(), since);
        Reserved { spec: spec.clone(), inner: Arc::clone(&self.inner) }
    }

    /// Whether nobody gets the volume's guard.
    pub fn is_reserved(&self, spec: &ImageSpec) -> bool {
        lock(&self.inner.reserved).contains_key(spec)
    }

    /// Waits for the volume until the deadline, unless too many do.
    pub fn lock(&self, spec: &ImageSpec, deadline: Deadline) -> Result<Guard> {
        self.wait(spec, deadline, true)
    }

    /// Waits for the volume until the deadline, however many do: for what nobody will ask again.
    pub fn lock_whatever_waits(&self, spec: &ImageSpec, deadline: Deadline) -> Result<Guard> {
        self.wait(spec, deadline, false)
    }

    /// Waits for as long as it takes: for locks that are held for a moment only.
    pub fn hold(&self, spec: &ImageSpec) -> Guard {
        loop {
            if let Ok(guard) = self.wait(spec, Deadline::after(Duration::from_secs(60)), false) {
                return guard;
            }
        }
    }

    fn wait(&self, spec: &ImageSpec, deadline: Deadline, limited: bool) -> Result<Guard> {
        let busy = |why: &str| {
            Err(DriverError::new(ErrorKind::Busy, format!("another operation on {spec} {why}"))
                .hint("try again later"))
        };
        let mut held = self.inner.lock();
        loop {
            let reserved = lock(&self.inner.reserved).get(spec).copied();
            if let Some(since) = reserved {
                Inner::pass_on(&mut held.volumes, spec);
                return Err(Reserved::refusal(spec, since));
            }
            let crowded = held.waiting >= CROWD;
            let Some(waiting) = held.volumes.get_mut(spec) else {
                held.volumes.insert(spec.clone(), Waiting::default());
                return Ok(self.guard(spec));
            };
            if waiting.released {
                waiting.released = false;
                return Ok(self.guard(spec));
            }
            if limited && crowded && waiting.count >= MAX_WAITING {
                return busy("is under way, and too many requests wait for it already");
            }
            let left = deadline.left();
            if left.is_zero() {
                return busy("did not end in time");
            }
            waiting.count += 1;
            let wake = Arc::clone(&waiting.wake);
            held.waiting += 1;
            held = wake.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0;
            held.waiting -= 1;
            if let Some(waiting) = held.volumes.get_mut(spec) {
                waiting.count -= 1;
            }
        }
    }

    /// The guard, if nobody has it.
    pub fn try_lock(&self, spec: &ImageSpec) -> Option<Guard> {
        let mut held = self.inner.lock();
        if held.volumes.contains_key(spec) || self.is_reserved(spec) {
            return None;
        }
        held.volumes.insert(spec.clone(), Waiting::default());
        Some(self.guard(spec))
    }

    fn guard(&self, spec: &ImageSpec) -> Guard {
        Guard { spec: spec.clone(), inner: Arc::clone(&self.inner) }
    }
}

impl Inner {
    /// The map is whole between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// A waiter that was woken, and may not have the guard, wakes the next one.
    fn pass_on(held: &mut HashMap<ImageSpec, Waiting>, spec: &ImageSpec) {
        match held.get(spec) {
            Some(waiting) if waiting.released && waiting.count > 0 => waiting.wake.notify_one(),
            Some(waiting) if waiting.released => drop(held.remove(spec)),
            _ => {}
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut held = self.inner.lock();
        match held.volumes.get_mut(&self.spec) {
            Some(waiting) if waiting.count > 0 => {
                waiting.released = true;
                waiting.wake.notify_one();
            }
            _ => {
                held.volumes.remove(&self.spec);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn spec(image: &str) -> ImageSpec {
        ImageSpec::new("rbd", None, image).unwrap()
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    #[test]
    fn one_at_a_time_per_volume_and_nothing_is_left() {
        let guards = Guards::default();
        let inside = [AtomicUsize::new(0), AtomicUsize::new(0)];
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for n in 0..16 {
                let (guards, inside, total) = (&guards, &inside, &total);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let _guard = guards.lock(&spec(["a", "b"][n % 2]), soon()).unwrap();
                        assert_eq!(inside[n % 2].fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside[n % 2].fetch_sub(1, Ordering::SeqCst);
                        total.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 800);
        assert!(guards.inner.lock().volumes.is_empty());
    }

    #[test]
    fn nobody_gets_the_guard_of_a_volume_that_is_being_checked_and_all_who_wait_are_told() {
        let guards = Guards::default();
        let held = guards.lock(&spec("a"), soon()).unwrap();
        let refused = std::thread::scope(|scope| {
            let waiters: Vec<_> =
                (0..4).map(|_| scope.spawn(|| guards.lock(&spec("a"), soon()).map(drop))).collect();
            while guards.inner.lock().volumes.get(&spec("a")).unwrap().count < 4 {
                std::thread::yield_now();
            }
            let reserved = guards.reserve(&spec("a"), Instant::now());
            drop(held);
            let refused: Vec<_> =
                waiters.into_iter().map(|waiter| waiter.join().unwrap().unwrap_err()).collect();
            assert!(guards.try_lock(&spec("a")).is_none());
            assert!(guards.try_lock(&spec("b")).is_some());
            drop(reserved);
            refused
        });
        for e in refused {
            assert_eq!(e.kind, ErrorKind::Busy);
            assert!(e.message.contains("rbd/a is being checked, for 0 s now"), "{e}");
        }
        assert!(guards.inner.lock().volumes.is_empty() && !guards.is_reserved(&spec("a")));
        assert!(guards.try_lock(&spec("a")).is_some());
    }

    #[test]
    fn a_held_volume_times_out_and_another_does_not() {
        let guards = Guards::default();
        let held = guards.lock(&spec("a"), soon()).unwrap();
        let e = guards.lock(&spec("a"), Deadline::after(Duration::from_millis(20))).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Busy);
        assert!(guards.try_lock(&spec("a")).is_none());
        assert!(guards.try_lock(&spec("b")).is_some());
        drop(held);
        assert!(guards.try_lock(&spec("a")).is_some(), "a waiter that gave up leaves nothing behind");
        assert!(guards.inner.lock().volumes.is_empty());
    }

    #[test]
    fn a_crowd_waits_for_one_volume_and_leaves_room_for_others() {
        let guards = Guards::default();
        let held = [guards.lock(&spec("a"), soon()).unwrap(), guards.lock(&spec("b"), soon()).unwrap()];
        std::thread::scope(|scope| {
            let wait = |image: &'static str| {
                let guards = &guards;
                move || drop(guards.lock(&spec(image), soon()).unwrap())
            };
            let waiting = |count: usize| {
                while guards.inner.lock().waiting < count {
                    std::thread::yield_now();
                }
            };
            (0..CROWD).for_each(|_| drop(scope.spawn(wait("a"))));
            waiting(CROWD);
            let e = guards.lock(&spec("a"), soon()).unwrap_err();
            assert!(e.message.contains("too many requests"), "{e}");
            (0..MAX_WAITING).for_each(|_| drop(scope.spawn(wait("b"))));
            waiting(CROWD + MAX_WAITING);
            assert!(guards.lock(&spec("b"), soon()).unwrap_err().message.contains("too many requests"));
            scope.spawn(|| drop(guards.lock_whatever_waits(&spec("b"), soon()).unwrap()));
            waiting(CROWD + MAX_WAITING + 1);
            drop(held);
        });
        assert!(guards.inner.lock().volumes.is_empty());
        assert_eq!(guards.inner.lock().waiting, 0);
    }
}

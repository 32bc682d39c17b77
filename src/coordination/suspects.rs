//! Owners that seem dead, and for how long.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::heartbeat::cookie;
use super::record::OwnerRecord;
use crate::lock;

/// A kernel that has answered is not asked again for so long while its plugin's heart beats.
const ASKED_AGAIN: Duration = Duration::from_secs(2);

/// What the owner of a record is called among the suspects.
pub(super) fn suspect(record: &OwnerRecord) -> String {
    format!("{} {}", record.image, cookie(&record.owner))
}

/// An owner that seems dead.
#[derive(Debug)]
struct Suspect {
    /// Since when it is silent.
    since: Instant,
    /// When the last look ended.
    last: Instant,
}

/// Owners that seem dead, and when those that do not have answered last; by image.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    silent: Mutex<HashMap<String, Suspect>>,
    answered: Mutex<HashMap<String, Instant>>,
}

impl Suspects {
    /// One more look at an owner whose kernel was silent; for how long it has been. Looks that are further apart than `gap` do not
    /// add up. Forgets whoever was not looked at for too long.
    pub(super) fn note_silence(&self, who: &str, (from, to): (Instant, Instant), gap: Duration) -> Duration {
        let mut suspects = lock(&self.silent);
        suspects.retain(|_, suspect| from.saturating_duration_since(suspect.last) < gap);
        let suspect = suspects.entry(who.to_owned()).or_insert(Suspect { since: from, last: to });
        suspect.last = to;
        to.saturating_duration_since(suspect.since)
    }

    pub(super) fn note_answer(&self, who: &str, now: Instant) {
        self.clear(who);
        let mut answered = lock(&self.answered);
        answered.retain(|_, at| now.saturating_duration_since(*at) < ASKED_AGAIN);
        answered.insert(who.to_owned(), now);
    }

    pub(super) fn has_answered(&self, who: &str, now: Instant) -> bool {
        lock(&self.answered).get(who).is_some_and(|at| now.saturating_duration_since(*at) < ASKED_AGAIN)
    }

    pub(super) fn clear(&self, who: &str) {
        lock(&self.silent).remove(who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_secs(15);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn silence_adds_up_only_by_looking_all_the_time() {
        let (suspects, now) = (Suspects::default(), Instant::now());
        let look =
            |from: u64, to: u64| suspects.note_silence("a", (now + seconds(from), now + seconds(to)), GAP);
        assert_eq!(look(0, 3), seconds(3), "one question that was not answered");
        assert_eq!(look(4, 7), seconds(7));
        assert_eq!(look(20, 23), seconds(23), "a slow round of requests does not begin it anew");
        assert_eq!(look(39, 42), seconds(3), "it may have lived in between");
        suspects.clear("a");
        assert_eq!(look(43, 46), seconds(3), "it has lived since");
    }

    #[test]
    fn a_moment_without_a_watch_is_no_silence_before_or_after_it() {
        let (suspects, now) = (Suspects::default(), Instant::now());
        let look = |asked: u64, answered: u64| {
            suspects.note_silence("a", (now + seconds(answered), now + seconds(asked)), GAP)
        };
        assert_eq!(look(0, 6), Duration::ZERO);
        assert_eq!(look(8, 14), seconds(2), "the looks took 6 s each: it is known of 6 to 8 only");
        assert_eq!(look(16, 22), seconds(10));
    }

    #[test]
    fn suspects_that_nobody_looks_at_are_forgotten() {
        let (suspects, now) = (Suspects::default(), Instant::now());
        suspects.note_silence("a", (now, now), GAP);
        suspects.note_silence("b", (now + GAP, now + GAP), GAP);
        assert_eq!(lock(&suspects.silent).keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn who_has_just_answered_is_not_asked_again_at_once() {
        let (suspects, now) = (Suspects::default(), Instant::now());
        suspects.note_answer("a", now);
        assert!(suspects.has_answered("a", now + seconds(1)));
        assert!(!suspects.has_answered("a", now + ASKED_AGAIN) && !suspects.has_answered("b", now));
    }
}

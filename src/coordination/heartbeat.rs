//! The heartbeat of this plugin in every place where it owns images.
//!
//! It is a lease, held by every plugin on one object and renewed: the OSD itself drops those that have run out, so no host's clock
//! matters, and nothing is left to clean up. Another plugin takes a heartbeat that is missing for one of two signs of death, see
//! [`takeover`](super::takeover).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::kv::{ClusterKv, Lease, Place};
use crate::lock;
use crate::model::error::Result;
use crate::model::owner::Owner;

/// The object, and the lease on it.
pub const OBJECT: &str = "rbd_docker_plugin.hosts";
const LEASE: &str = "alive";
/// It stops where this plugin has owned nothing for so long.
const IDLE: Duration = Duration::from_secs(300);

/// What tells one life of a plugin from another: a plugin in one boot of its host.
pub fn cookie(owner: &Owner) -> String {
    format!("{} {} {}", owner.boot_id, owner.plugin, owner.root.display())
}

/// The plugins whose heart beats in a place.
pub fn alive(kv: &dyn ClusterKv, at: &Place) -> Result<BTreeSet<String>> {
    kv.holders(at, OBJECT, LEASE)
}

/// A place where it beats.
#[derive(Debug, Clone, Copy)]
struct Beat {
    /// When it last did.
    last: Instant,
    /// When it was last needed.
    needed: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Heartbeat {
    cookie: String,
    host: String,
    /// It counts for so long.
    pub(super) lasts: Duration,
    /// Where it beats.
    places: Mutex<BTreeMap<Place, Beat>>,
    /// Where a beat is on its way.
    pub(super) under_way: Mutex<BTreeSet<Place>>,
    /// Where it ever did.
    ever: Mutex<BTreeSet<Place>>,
}

impl Heartbeat {
    pub(super) fn new(identity: &Owner, lasts: Duration) -> Self {
        Self {
            cookie: cookie(identity),
            host: identity.host.clone(),
            lasts,
            places: Mutex::default(),
            under_way: Mutex::default(),
            ever: Mutex::default(),
        }
    }

    /// Makes sure that it beats in a place.
    pub fn cover(&self, kv: &dyn ClusterKv, at: &Place) -> Result<()> {
        let now = kv.now();
        let fresh = lock(&self.places).get_mut(at).is_some_and(|beat| {
            beat.needed = now;
            now.saturating_duration_since(beat.last) < self.lasts / 2
        });
        if fresh { Ok(()) } else { self.beat(kv, at) }
    }

    /// The places where this plugin ever had something to own, in this life.
    pub fn ever(&self) -> Vec<Place> {
        lock(&self.ever).iter().cloned().collect()
    }

    /// The places where it has to be renewed.
    pub fn places(&self) -> Vec<Place> {
        lock(&self.places).keys().cloned().collect()
    }

    /// How long ago it last beat in each place.
    pub fn ages(&self) -> Vec<(Place, Duration)> {
        lock(&self.places).iter().map(|(at, beat)| (at.clone(), beat.last.elapsed())).collect()
    }

    /// Renews it in one place.
    pub fn beat(&self, kv: &dyn ClusterKv, at: &Place) -> Result<()> {
        // The lease counts from some moment after this one.
        lock(&self.ever).insert(at.clone());
        let now = kv.now();
        let lease = Lease { object: OBJECT, name: LEASE, holder: &self.cookie, about: &self.host };
        kv.renew(at, lease, self.lasts)?;
        lock(&self.places).entry(at.clone()).or_insert(Beat { last: now, needed: now }).last = now;
        Ok(())
    }

    /// Leaves the places where nothing was owned for a while, and the heartbeats there to run out; which they were.
    pub(super) fn leave_idle(&self, owns: impl Fn(&Place) -> bool) -> Vec<Place> {
        let mut places = lock(&self.places);
        for (_, beat) in places.iter_mut().filter(|(place, _)| owns(place)) {
            beat.needed = Instant::now();
        }
        let is_idle = |beat: &Beat| beat.needed.elapsed() >= IDLE;
        let idle = places.iter().filter(|(_, beat)| is_idle(beat)).map(|(place, _)| place.clone()).collect();
        places.retain(|_, beat| !is_idle(beat));
        idle
    }

    /// Ends it: this plugin stops. Its mounted volumes stay its own for as long as the kernel answers for them.
    pub fn stop(&self, kv: &dyn ClusterKv) {
        for at in self.places() {
            if let Err(e) = kv.give_up(&at, OBJECT, LEASE, &self.cookie) {
                tracing::debug!(error = %e, "the heartbeat runs out by itself");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::owner::tests::owner;

    #[test]
    fn it_stops_where_nothing_is_owned_for_a_while() {
        let beats = Heartbeat::new(&owner("h", "m", "u", "b"), Duration::from_secs(10));
        let long_ago = Instant::now().checked_sub(IDLE).unwrap();
        let place = |pool: &str| (pool.to_owned(), None);
        for (pool, needed) in [("owned", long_ago), ("idle", long_ago), ("used just now", Instant::now())] {
            lock(&beats.places).insert(place(pool), Beat { last: Instant::now(), needed });
        }
        assert_eq!(beats.leave_idle(|at| at.0 == "owned"), [place("idle")]);
        assert!(beats.leave_idle(|_| false).is_empty(), "what was owned a moment ago is not idle yet");
        assert_eq!(beats.ages().len(), 2);
    }
}

//! The heartbeat of this plugin in every place where it owns images.
//!
//! It is a shared RADOS lock with a duration, held by every plugin on one object and renewed: the OSD itself drops those that have run
//! out, so no host's clock matters, and nothing is left to clean up. Another plugin takes a heartbeat that is missing for one of two
//! signs of death, see [`fence`](super::fence).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::link::{Link, Place};
use crate::ceph::IoCtx;
use crate::lock;
use crate::model::error::{OrCall, Result};
use crate::model::owner::Owner;

/// The object, and the lock on it.
const OBJECT: &str = "rbd_docker_plugin.hosts";
const LOCK: &str = "alive";
const TAG: &str = "rbd-docker-plugin";
/// A heartbeat counts for so long.
pub(super) const LASTS: Duration = Duration::from_secs(20);
/// And is renewed so often.
const EVERY: Duration = Duration::from_secs(5);
/// It stops where this plugin has owned nothing for so long.
const IDLE: Duration = Duration::from_secs(300);

/// What tells one life of a plugin from another: a plugin in one boot of its host.
pub(super) fn cookie(owner: &Owner) -> String {
    format!("{} {} {}", owner.boot_id, owner.plugin, owner.root.display())
}

/// The plugins whose heart beats in a place.
pub(super) fn alive(io: &IoCtx) -> Result<BTreeSet<String>> {
    Ok(io.lockers(OBJECT, LOCK)?.into_iter().map(|locker| locker.cookie).collect())
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
pub(super) struct Beats {
    cookie: String,
    host: String,
    /// Where it beats.
    places: Mutex<BTreeMap<Place, Beat>>,
    /// Where a beat is on its way.
    under_way: Mutex<BTreeSet<Place>>,
    /// Where it ever did.
    ever: Mutex<BTreeSet<Place>>,
}

impl Beats {
    pub(super) fn new(identity: &Owner) -> Self {
        Self {
            cookie: cookie(identity),
            host: identity.host.clone(),
            places: Mutex::default(),
            under_way: Mutex::default(),
            ever: Mutex::default(),
        }
    }

    /// Makes sure that it beats in a place.
    pub(super) fn cover(&self, io: &IoCtx, place: &Place) -> Result<()> {
        let fresh = lock(&self.places).get_mut(place).is_some_and(|beat| {
            beat.needed = Instant::now();
            beat.last.elapsed() < LASTS / 2
        });
        if fresh { Ok(()) } else { self.beat(io, place) }
    }

    /// The places where this plugin ever had something to own, in this life.
    pub(super) fn ever(&self) -> Vec<Place> {
        lock(&self.ever).iter().cloned().collect()
    }

    /// How long ago it last beat in each place.
    pub(super) fn ages(&self) -> Vec<(Place, Duration)> {
        lock(&self.places).iter().map(|(place, beat)| (place.clone(), beat.last.elapsed())).collect()
    }

    fn beat(&self, io: &IoCtx, place: &Place) -> Result<()> {
        // The lock counts from some moment after this one.
        lock(&self.ever).insert(place.clone());
        let now = Instant::now();
        io.lock_shared(OBJECT, LOCK, &self.cookie, TAG, &self.host, LASTS)?;
        lock(&self.places).entry(place.clone()).or_insert(Beat { last: now, needed: now }).last = now;
        Ok(())
    }

    /// Renews it everywhere, for as long as the plugin lives; `owns` tells whether it owns something in a place.
    pub(super) fn keep(
        self: &Arc<Self>,
        link: &Arc<Link>,
        owns: impl Fn(&Place) -> bool + Send + 'static,
    ) -> Result<()> {
        let (beats, link) = (Arc::downgrade(self), Arc::downgrade(link));
        std::thread::Builder::new()
            .name("heartbeat".to_owned())
            .spawn(move || keep(&beats, &link, owns))
            .or_call("clone", "the heartbeat thread")?;
        Ok(())
    }

    /// Leaves the places where nothing was owned for a while, and the heartbeats there to run out; which they were.
    fn leave_idle(&self, owns: impl Fn(&Place) -> bool) -> Vec<Place> {
        let mut places = lock(&self.places);
        for (_, beat) in places.iter_mut().filter(|(place, _)| owns(place)) {
            beat.needed = Instant::now();
        }
        let is_idle = |beat: &Beat| beat.needed.elapsed() >= IDLE;
        let idle = places.iter().filter(|(_, beat)| is_idle(beat)).map(|(place, _)| place.clone()).collect();
        places.retain(|_, beat| !is_idle(beat));
        idle
    }

    /// Stops it: this plugin ends. Its mounted volumes stay its own for as long as the kernel watches them.
    fn stop(&self, link: &Link) {
        let Ok(session) = link.session() else { return };
        let places: Vec<Place> = lock(&self.places).keys().cloned().collect();
        for place in &places {
            if let Err(e) = session.open(place).and_then(|io| Ok(io.unlock(OBJECT, LOCK, &self.cookie)?)) {
                tracing::debug!(error = %e, "the heartbeat runs out by itself");
            }
        }
    }
}

fn keep(beats: &Weak<Beats>, link: &Weak<Link>, owns: impl Fn(&Place) -> bool) {
    loop {
        let (Some(beats), Some(link)) = (beats.upgrade(), link.upgrade()) else { return };
        for (pool, namespace) in beats.leave_idle(&owns) {
            tracing::debug!(pool, namespace, "the heartbeat ends: nothing is owned there");
        }
        let places: Vec<Place> = lock(&beats.places).keys().cloned().collect();
        for place in places {
            // Each on its own: a pool that hangs must not stop the heart in the others.
            if lock(&beats.under_way).insert(place.clone()) {
                let (of, over, at) = (Arc::clone(&beats), Arc::clone(&link), place.clone());
                let spawned = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
                    let beat = over.session().and_then(|session| of.beat(&session.open(&at)?, &at));
                    if let Err(e) = over.heed(beat) {
                        tracing::debug!(error = %e, pool = at.0, "no heartbeat");
                    }
                    lock(&of.under_way).remove(&at);
                });
                if let Err(e) = spawned {
                    tracing::error!(error = %e, "no thread for a heartbeat");
                    lock(&beats.under_way).remove(&place);
                }
            }
        }
        drop((beats, link));
        sleep(EVERY);
    }
}

/// Stops the heartbeat when the backend is dropped in an orderly way.
#[derive(Debug)]
pub(super) struct Stop(pub(super) Arc<Beats>, pub(super) Arc<Link>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_where_nothing_is_owned_for_a_while() {
        let beats = Beats {
            cookie: String::new(),
            host: String::new(),
            places: Mutex::default(),
            under_way: Mutex::default(),
            ever: Mutex::default(),
        };
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

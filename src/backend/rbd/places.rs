//! Which pools and namespaces are looked at, and which have to be left out.
//!
//! A user may be restricted to some pools, or to one namespace of a pool. The names of a pool's namespaces are in the
//! pool's default namespace, so such a user cannot list them; the configured namespace is looked at all the same. What
//! belongs to other tenants is passed over without a word; what is configured and cannot be looked at is told.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_json::json;

use super::link::{Place, Session, place};
use crate::ceph::{Cluster, ImageName, IoCtx, none_if_absent};
use crate::coordination::{Keys, record};
use crate::lock;
use crate::model::bindings::{Bindings, Bound};
use crate::model::error::{CallError, DriverError, ErrorKind, Result};
use crate::model::image::{LeftOut, Listing};
use crate::model::name::ImageSpec;
use crate::model::settings;

/// For how long a pool that did not answer is not asked again: each question takes all of the timeout.
const PAUSE: Duration = Duration::from_secs(30);

/// The pools that are known to hold images, by id: the type of a pool never changes.
#[derive(Debug, Default)]
pub(super) struct Replicated(Mutex<HashSet<i64>>);

impl Replicated {
    /// An error for an erasure-coded pool. It can hold the data of images and not their headers, which have keys.
    pub(super) fn require(&self, cluster: &Cluster, io: &IoCtx) -> Result<()> {
        if lock(&self.0).contains(&io.pool_id()) {
            return Ok(());
        }
        // Only an erasure-coded pool has such a profile.
        let ask = json!({"prefix": "osd pool get", "pool": io.pool(), "var": "erasure_code_profile"});
        match cluster.mon_command(&ask) {
            Ok(_) => Err(erasure_coded(io.pool())),
            Err(e) if e.errno == Errno::EACCES => {
                lock(&self.0).insert(io.pool_id());
                Ok(())
            }
            // Who cannot be asked does not keep the pool from being used.
            Err(_) => Ok(()),
        }
    }
}

fn erasure_coded(pool: &str) -> DriverError {
    DriverError::new(
        ErrorKind::Config,
        format!("the pool {pool} is erasure-coded and cannot hold image headers: use it as data-pool"),
    )
    .hint(format!("set pool to a replicated pool, and create volumes with -o data-pool={pool}"))
}

/// Whether a namespace is there; the default one always is.
pub(super) fn namespace_exists(io: &IoCtx) -> Result<bool, CallError> {
    /// `cls::rbd::DIRECTORY_STATE_READY`
    const READY: [u8; 1] = [0];
    if io.namespace().is_none() {
        return Ok(true);
    }
    match io.exec("rbd_directory", "rbd", "dir_state_assert", &READY) {
        Err(e) if e.errno == Errno::ENOENT => Ok(false),
        // It is being removed.
        Err(e) if e.errno == Errno::EBUSY => Ok(false),
        answer => answer.map(|_| true),
    }
}

/// An error for a namespace that is not there.
pub(super) fn require_namespace(io: &IoCtx) -> Result<()> {
    if namespace_exists(io)? {
        return Ok(());
    }
    let (pool, namespace) = (io.pool(), io.namespace().unwrap_or_default());
    Err(DriverError::new(ErrorKind::Config, format!("the pool {pool} has no namespace {namespace}"))
        .hint(format!("rbd namespace create {pool}/{namespace}")))
}

/// The places of a configured pool. Who may not list the pool's namespaces is asked for the configured one.
pub(super) fn of_pool(session: &Session, pool: &str, home: Option<&str>) -> Result<Vec<Place>> {
    let bare = (pool.to_owned(), None);
    let namespaced = |name: &str| (pool.to_owned(), Some(name.to_owned()));
    match session.open(&bare)?.namespaces() {
        Err(e) if is_denied(&e) => Ok(vec![home.map_or(bare, namespaced)]),
        namespaces => {
            let mut places = vec![bare];
            places.extend(namespaces?.iter().map(|name| namespaced(name)));
            if let Some(home) = home.map(namespaced).filter(|home| !places.contains(home)) {
                places.push(home);
            }
            Ok(places)
        }
    }
}

fn is_denied(e: &CallError) -> bool {
    matches!(e.errno, Errno::EPERM | Errno::EACCES)
}

/// The places that settings name: the pools, and the namespace of the first one.
#[derive(Debug)]
pub(super) struct Configured<'a> {
    pools: &'a [String],
    namespace: Option<&'a str>,
}

impl<'a> Configured<'a> {
    pub(super) fn new(options: &'a settings::Ceph) -> Self {
        Self { pools: &options.pools, namespace: options.namespace.as_deref() }
    }

    /// The namespace that is configured for a pool.
    pub(super) fn namespace_of(&self, pool: &str) -> Option<&'a str> {
        self.namespace.filter(|_| self.pools.first().is_some_and(|first| first == pool))
    }

    /// Whether this is where bare names are, or what stands for another configured pool.
    pub(super) fn is_home(&self, place: &Place) -> bool {
        self.pools.contains(&place.0) && self.namespace_of(&place.0) == place.1.as_deref()
    }
}

/// The volumes among the images of a place.
pub(super) type Volumes<'a> = dyn Fn(&IoCtx, &Place, &[ImageName]) -> Vec<ImageSpec> + 'a;

/// What was left out, since when.
#[derive(Debug, Default)]
pub(super) struct Omitted(Mutex<BTreeMap<Place, (LeftOut, Instant)>>);

impl Omitted {
    /// What was left out last.
    pub(super) fn all(&self) -> Vec<LeftOut> {
        lock(&self.0).values().map(|(left_out, _)| left_out.clone()).collect()
    }

    /// Why a place that did not answer a moment ago is not asked again.
    fn silent(&self, place: &Place) -> Option<DriverError> {
        let omitted = lock(&self.0);
        let (left_out, at) = omitted.get(place)?;
        // What was not asked for is no cost.
        let silent = left_out.why.source.is_some()
            && left_out.why.kind == ErrorKind::Unreachable
            && at.elapsed() < PAUSE;
        silent.then(|| left_out.why.clone())
    }

    /// Notes what a listing has left out. It is logged once, and once when it is back.
    fn note(&self, now: &[LeftOut]) {
        let mut known = lock(&self.0);
        let mut before = std::mem::take(&mut *known);
        for left_out in now {
            let place = (left_out.pool.clone(), left_out.namespace.clone());
            let old = before.remove(&place).filter(|(old, _)| old.why.kind == left_out.why.kind);
            if old.is_none() {
                tracing::warn!(place = %left_out.name(), error = %left_out.why, "its volumes are not listed");
            }
            let since = match old {
                // Answered from memory.
                Some((_, at)) if at.elapsed() < PAUSE => at,
                _ => Instant::now(),
            };
            known.insert(place, (left_out.clone(), since));
        }
        for (left_out, _) in before.into_values() {
            tracing::info!(place = %left_out.name(), "its volumes are listed again");
        }
    }

    /// All images of all places that are configured or bound to. What cannot be looked at is left out; an error when
    /// that is everything.
    pub(super) fn list(
        &self,
        session: &Session,
        configured: &Configured<'_>,
        bound: &Bindings,
        volumes: &Volumes<'_>,
        heed: &dyn Fn(DriverError) -> DriverError,
    ) -> Result<Listing> {
        let mut left_out: Vec<LeftOut> = Vec::new();
        let mut places = Vec::new();
        for pool in configured.pools {
            let whole = (pool.clone(), None);
            let found = self.silent(&whole).map_or_else(|| Ok(()), Err);
            match found.and_then(|()| of_pool(session, pool, configured.namespace_of(pool))) {
                Ok(found) => places.extend(found),
                Err(e) => left_out.push(LeftOut { pool: pool.clone(), namespace: None, why: heed(e) }),
            }
        }
        for place in bound.values().filter_map(Bound::image).map(place) {
            if !places.contains(&place) && !left_out.iter().any(|out| out.pool == place.0) {
                places.push(place);
            }
        }
        let mut specs = Vec::new();
        let mut answered = false;
        for place in places {
            let home = configured.is_home(&place);
            let found = self.silent(&place).map_or_else(|| Ok(()), Err);
            let listed = || {
                let io = session.open(&place)?;
                images(session, &place, &io, home).map(|found| volumes(&io, &place, &found))
            };
            match found.and_then(|()| listed()) {
                Ok(found) => {
                    answered = true;
                    specs.extend(found);
                }
                // Another tenant's, or a pool that a name was bound to and that is gone.
                Err(e) if !home && matches!(e.kind, ErrorKind::Denied | ErrorKind::NotFound) => {}
                Err(e) => left_out.push(LeftOut { pool: place.0, namespace: place.1, why: heed(e) }),
            }
        }
        match left_out.first() {
            Some(first) if !answered => Err(first.why.clone()),
            _ => {
                self.note(&left_out);
                Ok(Listing { specs, left_out })
            }
        }
    }
}

/// The images of a place. In a pool that was deleted, and in a namespace that was removed, there seem to be none.
fn images(session: &Session, place: &Place, io: &IoCtx, home: bool) -> Result<Vec<ImageName>> {
    let images = io.images()?;
    if images.is_empty() && home {
        session.still(place, io)?;
    }
    Ok(images)
}

/// The owner records of one place.
pub(super) type Records = (Place, IoCtx, Keys);

/// The owner records of many places.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) records: Vec<Records>,
    /// Where there may be more.
    pub(super) left_out: Vec<LeftOut>,
}

/// Whether there may be records behind an error. There are none in what does not exist, in what this user may not look at, and in
/// a pool that can hold no keys because it is erasure-coded.
fn hides_records(e: &DriverError) -> bool {
    let keyless = e.source.as_ref().is_some_and(|call| call.errno == Errno::EOPNOTSUPP);
    !keyless && !matches!(e.kind, ErrorKind::Denied | ErrorKind::NotFound | ErrorKind::Config)
}

impl Found {
    fn leave_out(&mut self, (pool, namespace): Place, why: DriverError) {
        tracing::debug!(pool, error = %why, "is left out");
        if hides_records(&why) {
            self.left_out.push(LeftOut { pool, namespace, why });
        }
    }
}

/// The owner records of all places that this user may look at. Pools that are not configured are looked at as well,
/// since a name may say any pool; those that cannot be looked at are left out and told, and all of them together take no longer
/// than `patience`. An error when no configured pool can be looked at.
pub(super) fn records(
    session: &Session,
    configured: &Configured<'_>,
    patience: Option<Duration>,
) -> Result<Found> {
    let mut found = Found::default();
    let mut denied = None;
    let (own, others): (Vec<_>, Vec<_>) =
        session.cluster.pools()?.into_iter().partition(|pool| configured.pools.contains(pool));
    let begin = Instant::now();
    for pool in own.iter().chain(&others) {
        let own = own.contains(pool);
        if !own && patience.is_some_and(|patience| begin.elapsed() > patience) {
            let why = DriverError::new(ErrorKind::Timeout, "the pools before it took too long");
            found.leave_out((pool.clone(), None), why);
            continue;
        }
        match of_pool(session, pool, configured.namespace_of(pool)) {
            Ok(places) => {
                for place in places {
                    match session
                        .open(&place)
                        .and_then(|io| Ok((none_if_absent(io.omap(record::OBJECT))?, io)))
                    {
                        Ok((keys, io)) => found.records.push((place, io, keys)),
                        Err(e) if configured.is_home(&place) && e.kind == ErrorKind::Denied => {
                            denied.get_or_insert(e);
                        }
                        Err(e) => found.leave_out(place, e),
                    }
                }
            }
            Err(e) => found.leave_out((pool.clone(), None), e),
        }
    }
    let is_own = |pool: &String| configured.pools.contains(pool);
    let answered = found.records.iter().any(|(place, ..)| is_own(&place.0));
    match (denied, found.left_out.iter().find(|out| is_own(&out.pool))) {
        // Once the capabilities are there, it is asked again.
        (Some(e), _) if found.records.is_empty() => Err(e),
        (_, Some(silent)) if !answered => Err(silent.why.clone()),
        _ => Ok(found),
    }
}

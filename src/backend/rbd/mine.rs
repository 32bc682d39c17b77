//! Which images are this plugin's, and which have ceased to be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::blocklist::{Blocklist, Reach};
use super::link::{Place, Session, place};
use super::map::is_named;
use super::owner::{self, OwnerRecord, image_key};
use super::{RbdBackend, header};
use crate::backend::Owner;
use crate::ceph::{IoCtx, Swap};
use crate::error::{DriverError, ErrorKind, Result};
use crate::linux::krbd;
use crate::lock;
use crate::name::ImageSpec;

/// How often the cluster's blocklist is read: a fence by a plugin shows in the owner records, one by hand only there.
const BLOCKLIST: Duration = Duration::from_secs(30);
/// How long a start looks for own images in pools that are not the plugin's. One request to a pool that is down takes all of its timeout.
const ELSEWHERE: Duration = Duration::from_secs(5);

impl RbdBackend {
    /// Every record of this plugin, in any pool.
    pub(super) fn find_own(&self) -> Result<Vec<ImageSpec>> {
        let session = self.link.session()?;
        let mut specs = BTreeSet::new();
        for place in everywhere(&session, &self.options.pools, Some(ELSEWHERE))? {
            for (key, raw) in owner::all(&session.open(&place)?)? {
                let record = match OwnerRecord::parse(&raw) {
                    Ok(record) => record,
                    Err(e) => {
                        tracing::error!(pool = place.0, key, error = %e, "left alone");
                        continue;
                    }
                };
                if !record.owner.same_plugin(&self.identity) {
                    continue;
                }
                // Only what is of this boot is held; another boot's has to be claimed, which shuts that one out.
                if self.is_own(&record) {
                    lock(&self.held).entry(record.image.clone()).or_default().insert(key, raw);
                }
                specs.insert(record.image);
            }
        }
        Ok(specs.into_iter().collect())
    }

    /// See [`ImageStore::lost`](crate::backend::ImageStore::lost).
    pub(super) fn find_lost(&self, mounted: &[ImageSpec]) -> Result<Vec<(ImageSpec, String)>> {
        let session = self.link.session()?;
        // Without it, a fence by a plugin still shows in the owner records.
        let fenced = self.blocklist.of(&session.cluster, BLOCKLIST).unwrap_or_else(|e| {
            tracing::warn!(error = %e, "cannot see the cluster's blocklist");
            Arc::default()
        });
        let mut lost = Vec::new();
        let mut failed = None;
        // What cannot be seen of one volume does not keep the others from being looked at.
        for spec in mounted {
            match self.link.heed(self.why_lost(&session, spec, &fenced)) {
                Ok(None) => {}
                Ok(Some(why)) => lost.push((spec.clone(), why)),
                Err(e) => {
                    tracing::warn!(image = %spec, error = %e, "cannot see whether it was taken over");
                    failed = Some(e);
                }
            }
        }
        match failed {
            Some(e) if lost.is_empty() => Err(e),
            _ => Ok(lost),
        }
    }

    /// Why a mounted image is not ours any more. What this plugin alone knows is written down again on the way: its heartbeat, a
    /// record that is gone, the address of its mapping.
    fn why_lost(&self, session: &Session, spec: &ImageSpec, fenced: &Blocklist) -> Result<Option<String>> {
        let io = session.of(spec)?;
        self.beats.cover(&io, &place(spec))?;
        let shut_out = |list: &Blocklist, address: &str| {
            let fence = list.covers(address)?;
            let by = if fence.reach == Reach::Client {
                String::new()
            } else {
                format!(", by the entry {}", fence.address)
            };
            Some(format!("its kernel client {address} is on the cluster's blocklist{by}"))
        };
        let mapping = krbd::list()?.into_iter().find(|mapping| mapping.marked && is_named(mapping, spec));
        if let Some(why) = mapping.as_ref().and_then(|mapping| shut_out(fenced, &mapping.client_addr)) {
            return Ok(Some(why));
        }
        let held = lock(&self.held).get(spec).cloned().unwrap_or_default();
        let held = held.into_keys().find(|key| key.starts_with("image."));
        let key = match (held, &mapping) {
            (Some(key), _) => key,
            // Adopted while the cluster was away.
            (None, Some(mapping)) => image_key(&mapping.image_id),
            (None, None) => return self.whose(&io, spec),
        };
        let found = owner::some(&io, &[&key])?;
        let before = found.get(&key).map(|raw| OwnerRecord::parse(raw)).transpose()?;
        let record = match before {
            Some(record) if self.is_own(&record) => record,
            Some(record) => return Ok(Some(format!("taken over by {}", record.owner))),
            None => {
                // Perhaps an administrator has fenced this host, which is newer than what is known of the blocklist.
                let fenced = self.blocklist.of(&session.cluster, Duration::ZERO)?;
                if let Some(why) =
                    mapping.as_ref().and_then(|mapping| shut_out(&fenced, &mapping.client_addr))
                {
                    return Ok(Some(why));
                }
                tracing::warn!(image = %spec, "its owner record is gone, writing it again");
                self.own(session, spec)?
            }
        };
        let client_addr =
            mapping.map_or_else(|| record.owner.client_addr.clone(), |mapping| Some(mapping.client_addr));
        let owner = Owner { client_addr, ..record.owner.clone() };
        let raw = OwnerRecord { owner, ..record }.store();
        let expected = found.get(&key).map(Vec::as_slice);
        if expected != Some(&raw)
            && !io.omap_swap(owner::OBJECT, &[Swap { key: &key, expected, new: Some(&raw) }])?
        {
            return Err(DriverError::new(
                ErrorKind::Busy,
                format!("the owner record of {spec} keeps changing"),
            ));
        }
        lock(&self.held).entry(spec.clone()).or_default().insert(key.clone(), raw);
        // A volume that was adopted without a claim: an earlier life may have its lock, or nobody.
        if !lock(&self.taken).contains(spec)
            && let Some(id) = key.strip_prefix("image.")
        {
            if let Some(header) = header::read(&io, id)? {
                self.lock_like_the_old(&io, spec, id, &header)?;
            }
            lock(&self.taken).insert(spec.clone());
        }
        Ok(None)
    }

    /// Who owns an image that is not mapped here, if it is not this plugin.
    fn whose(&self, io: &IoCtx, spec: &ImageSpec) -> Result<Option<String>> {
        let Some(id) = header::id(io, spec.image())? else { return Ok(None) };
        let key = image_key(&id);
        let found = owner::some(io, &[&key])?;
        let record = found.get(&key).map(|raw| OwnerRecord::parse(raw)).transpose()?;
        Ok(record
            .filter(|record| !self.is_own(record))
            .map(|record| format!("taken over by {}", record.owner)))
    }
}

/// All pools and namespaces that this user may look at. Of pools that are not among the plugin's own, those that cannot be looked at
/// are left out: any of a cluster's many pools may be down, and then take all of the `patience` for them.
pub(crate) fn everywhere(
    session: &Session,
    pools: &[String],
    patience: Option<Duration>,
) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    let (own, others): (Vec<_>, Vec<_>) =
        session.cluster.pools()?.into_iter().partition(|pool| pools.contains(pool));
    let begin = Instant::now();
    for pool in own.into_iter().chain(others) {
        if !pools.contains(&pool) && patience.is_some_and(|patience| begin.elapsed() > patience) {
            tracing::warn!(pool, "is left out: the pools before it took too long");
            continue;
        }
        match places_in(session, &pool) {
            Ok(found) => places.extend(found),
            Err(e) if pools.contains(&pool) && e.kind != ErrorKind::Denied => return Err(e),
            Err(e) => tracing::debug!(pool, error = %e, "is left out"),
        }
    }
    Ok(places)
}

/// A pool and its namespaces, as far as there may be owner records in them.
fn places_in(session: &Session, pool: &str) -> Result<Vec<Place>> {
    let bare = (pool.to_owned(), None);
    let io = session.open(&bare)?;
    let namespaces = match io.namespaces() {
        // Not a pool for images, or not one of ours.
        Err(e) if matches!(e.errno, Errno::EPERM | Errno::EACCES | Errno::ENOENT | Errno::EOPNOTSUPP) => {
            Vec::new()
        }
        namespaces => namespaces?,
    };
    let mut places = vec![bare];
    places.extend(namespaces.into_iter().map(|namespace| (pool.to_owned(), Some(namespace))));
    let readable = |place: &Place| match session.open(place).and_then(|io| owner::all(&io)) {
        Err(e) if e.kind == ErrorKind::Denied => Ok(false),
        answer => answer.map(|_| true),
    };
    let mut found = Vec::new();
    for place in places {
        if readable(&place)? {
            found.push(place);
        }
    }
    Ok(found)
}

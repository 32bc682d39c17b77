//! Which images are this plugin's, and which have ceased to be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::blocklist::{Blocklist, Reach};
use super::link::{Place, Session, place};
use super::owner::{self, Keys, OwnerRecord, image_key};
use super::places::Configured;
use super::{RbdBackend, header, places};
use crate::backend::Look;
use crate::ceph::{IoCtx, Swap};
use crate::linux::krbd::{Identity, Mapping};
use crate::lock;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::image::Listing;
use crate::model::name::ImageSpec;
use crate::model::owner::Owner;

/// How often the cluster's blocklist is read: a fence by a plugin shows in the owner records, one by hand only there.
const BLOCKLIST: Duration = Duration::from_secs(30);
/// How long a start looks for own images in pools that are not the plugin's. One request to a pool that is down takes all of its timeout.
const ELSEWHERE: Duration = Duration::from_secs(5);

impl RbdBackend {
    /// Every record of this plugin, in any pool, and the configured pools where there may be more.
    pub(super) fn find_own(&self) -> Result<Listing> {
        let session = self.link.session()?;
        let mut specs = BTreeSet::new();
        let found = places::records(&session, &Configured::new(&self.options), Some(ELSEWHERE))?;
        let mut left_out = found.left_out;
        left_out.retain_mut(|out| {
            out.why = self.link.heed_error(out.why.clone());
            let asked_again = self.options.pools.contains(&out.pool);
            if !asked_again {
                tracing::warn!("it is not known whether this plugin owns images in {out}");
            }
            asked_again
        });
        for (place, _, keys) in found.records {
            for (key, raw) in keys {
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
        Ok(Listing { specs: specs.into_iter().collect(), left_out })
    }

    /// See [`ImageStore::look`](crate::backend::ImageStore::look). One reading of the kernel's devices, of the blocklist, and of the owner
    /// records of each place, for all volumes; nothing is changed.
    pub(super) fn look_at(&self, mounted: &[ImageSpec]) -> Result<Look> {
        let session = self.link.session()?;
        // Without it, a fence by a plugin still shows in the owner records.
        let read = |within| {
            self.blocklist.of(&session.cluster, within).unwrap_or_else(|e| {
                tracing::warn!(error = %e, "cannot see the cluster's blocklist");
                Arc::default()
            })
        };
        let mut fenced = read(BLOCKLIST);
        let mappings = self.kernel.list()?;
        // The entry of a host or a network may have ended since, and the mapping be newer than its end.
        if mappings
            .iter()
            .any(|mapping| self.has_made(mapping) && fenced.covers(&mapping.client_addr).is_some())
        {
            fenced = read(Duration::ZERO);
        }
        #[cfg(feature = "fault-points")]
        crate::backend::fault::pass("look");
        let mut places: BTreeMap<Place, Vec<&ImageSpec>> = BTreeMap::new();
        for spec in mounted {
            places.entry(place(spec)).or_default().push(spec);
        }
        let mut look = Look::default();
        let mut failed = None;
        // What cannot be seen of one place does not keep the others from being looked at.
        for (place, specs) in places {
            let seen = self.look_in(&session, &place, &specs, (&mappings, &fenced), &mut look);
            if let Err(e) = self.link.heed(seen) {
                // That a pool is silent is said once.
                if e.kind != ErrorKind::Unreachable {
                    tracing::warn!(pool = place.0, error = %e, "cannot see whether its volumes were taken over");
                }
                failed = Some(e);
            }
        }
        match failed {
            Some(e) if look == Look::default() => Err(e),
            _ => Ok(look),
        }
    }

    fn look_in(
        &self,
        session: &Session,
        place: &Place,
        specs: &[&ImageSpec],
        (mappings, fenced): (&[Mapping], &Blocklist),
        look: &mut Look,
    ) -> Result<()> {
        let io = session.open(place)?;
        self.beats.cover(&io, place)?;
        let mut sights = Vec::new();
        for &spec in specs {
            match self.sight(&io, spec, mappings) {
                Some(sight) => sights.push((spec, sight)),
                None => look.lost.extend(self.whose(&io, spec)?.map(|why| (spec.clone(), why))),
            }
        }
        let plugin_addr = session.cluster.addresses()?;
        let keys: Vec<&str> = sights.iter().map(|(_, sight)| sight.key.as_str()).collect();
        let found = if keys.is_empty() { Keys::new() } else { owner::some(&io, &keys)? };
        for (spec, sight) in sights {
            match self.judge(spec, (&sight, &plugin_addr), found.get(&sight.key), fenced) {
                Ok(State::Well) => {}
                Ok(State::Lost(why)) => look.lost.push((spec.clone(), why)),
                Ok(State::Amiss) => look.amiss.push(spec.clone()),
                Err(e) => look.unread.push((spec.clone(), e.to_string())),
            }
        }
        Ok(())
    }

    /// The key of a mounted image's record, and its mapping. Nothing when neither is known here.
    fn sight<'a>(&self, io: &IoCtx, spec: &ImageSpec, mappings: &'a [Mapping]) -> Option<Sight<'a>> {
        let held = lock(&self.held).get(spec).cloned().unwrap_or_default();
        // With two mappings of one image, the one that is on record is meant.
        let here = |id: &str, recorded: Option<&str>| {
            let identity = Identity {
                fsid: io.cluster().fsid(),
                pool_id: io.pool_id(),
                namespace: io.namespace(),
                image_id: id,
            };
            let of_it = mappings.iter().filter(|mapping| mapping.is(identity) && self.has_made(mapping));
            of_it.min_by_key(|mapping| recorded != Some(mapping.client_addr.as_str()))
        };
        let sights = held.into_iter().filter_map(|(key, raw)| {
            let id = key.strip_prefix("image.")?;
            let recorded = OwnerRecord::parse(&raw).ok().and_then(|record| record.owner.client_addr);
            let mapping = here(id, recorded.as_deref());
            Some((recorded.is_some(), Sight { key: image_key(id), held: Some(raw), mapping }))
        });
        // Where an image was made anew under the name, the one that is mapped is the one in use.
        if let Some((_, sight)) =
            sights.max_by_key(|(was_mapped, sight)| (sight.mapping.is_some(), *was_mapped))
        {
            return Some(sight);
        }
        // Adopted while the cluster was away.
        let fsid = Some(io.cluster().fsid());
        let mapping = mappings
            .iter()
            .find(|mapping| mapping.pool_id == io.pool_id() && self.may_be_ours(mapping, spec, fsid))?;
        Some(Sight { key: image_key(&mapping.image_id), held: None, mapping: Some(mapping) })
    }

    /// What a reading means. Nothing is asked and nothing is changed.
    fn judge(
        &self,
        spec: &ImageSpec,
        (sight, plugin_addr): (&Sight<'_>, &str),
        found: Option<&Vec<u8>>,
        fenced: &Blocklist,
    ) -> Result<State> {
        if let Some(why) = sight.mapping.and_then(|mapping| shut_out(fenced, &mapping.client_addr)) {
            return Ok(State::Lost(why));
        }
        let Some(raw) = found else { return Ok(State::Amiss) };
        let record = OwnerRecord::parse(raw)?;
        if !self.is_own(&record) {
            return Ok(State::Lost(format!("taken over by {}", record.owner)));
        }
        let address = sight.mapping.map(|mapping| &mapping.client_addr);
        // Another client than the one that has written the record may write to the image by now.
        let signed = record.plugin_addr.as_deref() == Some(plugin_addr);
        let told = signed && (address.is_none() || record.owner.client_addr.as_ref() == address);
        let known = sight.held.as_ref() == Some(raw) && lock(&self.taken).contains(spec);
        Ok(if told && known { State::Well } else { State::Amiss })
    }

    /// See [`ImageStore::mend`](crate::backend::ImageStore::mend). What this plugin alone knows is written down again: a record that is
    /// gone, the address of its mapping, the old plugins' lock.
    pub(super) fn mend_record(&self, spec: &ImageSpec) -> Result<Option<String>> {
        let session = self.link.session()?;
        let io = session.of(spec)?;
        self.beats.cover(&io, &place(spec))?;
        let mappings = self.kernel.list()?;
        let Some(sight) = self.sight(&io, spec, &mappings) else { return self.whose(&io, spec) };
        let found = owner::some(&io, &[&sight.key])?;
        let before = found.get(&sight.key).map(|raw| OwnerRecord::parse(raw)).transpose()?;
        let record = match before {
            Some(record) if self.is_own(&record) => record,
            Some(record) => return Ok(Some(format!("taken over by {}", record.owner))),
            None => {
                // Perhaps an administrator has fenced this host, which is newer than what is known of the blocklist.
                let fenced = self.blocklist.of(&session.cluster, Duration::ZERO)?;
                if let Some(why) = sight.mapping.and_then(|mapping| shut_out(&fenced, &mapping.client_addr)) {
                    return Ok(Some(why));
                }
                tracing::warn!(image = %spec, "its owner record is gone, writing it again");
                self.own(&session, spec)?
            }
        };
        // An address on record that a client of this host still has stays there: it can write to the image.
        let lives = |address: &String| mappings.iter().any(|mapping| mapping.client_addr == *address);
        let recorded = record.owner.client_addr.clone();
        let client_addr = match sight.mapping {
            Some(mapping) if !recorded.as_ref().is_some_and(lives) => Some(mapping.client_addr.clone()),
            _ => recorded,
        };
        let owner = Owner { client_addr, ..record.owner.clone() };
        let raw = self.signed(&session.cluster, OwnerRecord { owner, ..record })?.store();
        let expected = found.get(&sight.key).map(Vec::as_slice);
        let swap = Swap { key: &sight.key, expected, new: Some(&raw) };
        if expected != Some(&raw) && !io.omap_swap(owner::OBJECT, &[swap])? {
            return Err(DriverError::new(
                ErrorKind::Busy,
                format!("the owner record of {spec} keeps changing"),
            ));
        }
        lock(&self.held).entry(spec.clone()).or_default().insert(sight.key.clone(), raw);
        // A volume that was adopted without a claim: an earlier life may have its lock, or nobody.
        if !lock(&self.taken).contains(spec)
            && let Some(id) = sight.key.strip_prefix("image.")
        {
            if let Some(header) = header::read(&io, id)? {
                self.lock_like_the_old(&io, spec, id, &header)?;
            }
            lock(&self.taken).insert(spec.clone());
        }
        Ok(None)
    }

    /// See [`ImageStore::leftovers`](crate::backend::ImageStore::leftovers).
    pub(super) fn find_leftovers(&self) -> Result<Vec<ImageSpec>> {
        let session = self.link.session()?;
        let mut specs = BTreeSet::new();
        for place in self.beats.ever() {
            // What one place does not tell now is asked again.
            let keys = session.open(&place).and_then(|io| owner::all(&io));
            for raw in self.link.heed(keys).unwrap_or_default().values() {
                // Damaged ones are told of at the start.
                let Ok(record) = OwnerRecord::parse(raw) else { continue };
                if record.owner.same_plugin(&self.identity) {
                    specs.insert(record.image);
                }
            }
        }
        Ok(specs.into_iter().collect())
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

/// What is known of a mounted image before its record is read.
#[derive(Debug)]
struct Sight<'a> {
    key: String,
    /// Its record as this plugin has written it last.
    held: Option<Vec<u8>>,
    mapping: Option<&'a Mapping>,
}

/// How a mounted image is.
#[derive(Debug)]
enum State {
    Well,
    Lost(String),
    /// Its record is gone or is not as it should be.
    Amiss,
}

/// Why a kernel client of ours cannot write any more.
fn shut_out(list: &Blocklist, address: &str) -> Option<String> {
    let fence = list.covers(address)?;
    let by = match fence.reach {
        Reach::Client => String::new(),
        Reach::Host | Reach::Range => format!(", by the entry {}", fence.address),
    };
    Some(format!("its kernel client {address} is on the cluster's blocklist{by} until {}", fence.until))
}

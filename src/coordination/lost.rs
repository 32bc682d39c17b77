//! Which images have ceased to be this plugin's, and which records are not as they should be.

use std::collections::BTreeMap;

use super::blocklist::{Blocklist, Reach};
use super::kv::{ClusterKv, HostMapping, Keys, Mappings, Place, Swap, place};
use super::owners::{Owners, signed};
use super::record::{OwnerRecord, image_key, image_of, read, some};
use crate::lock;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::owner::Owner;
use crate::model::store::Look;

/// One reading of this host's kernel and of the blocklist.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// The mappings of this cluster's images.
    pub mappings: &'a [HostMapping],
    /// Who is shut out.
    pub fenced: &'a Blocklist,
}

/// Mounted images by their place.
pub fn by_place(mounted: &[ImageSpec]) -> BTreeMap<Place, Vec<&ImageSpec>> {
    let mut places: BTreeMap<Place, Vec<&ImageSpec>> = BTreeMap::new();
    for spec in mounted {
        places.entry(place(spec)).or_default().push(spec);
    }
    places
}

impl Owners {
    /// Looks at the mounted images of one place: their records are read at once, and compared with what the kernel has. Nothing is
    /// changed, and no guard is needed: what is found may be of a moment ago.
    pub fn look_in(
        &self,
        kv: &dyn ClusterKv,
        at: &Place,
        specs: &[&ImageSpec],
        reading: Reading<'_>,
        look: &mut Look,
    ) -> Result<()> {
        self.heartbeat.cover(kv, at)?;
        let pool_id = kv.pool_id(at)?;
        let mut sights = Vec::new();
        for &spec in specs {
            match self.sight(pool_id, spec, reading.mappings) {
                Some(sight) => sights.push((spec, sight)),
                None => look.lost.extend(self.whose(kv, spec)?.map(|why| (spec.clone(), why))),
            }
        }
        let plugin_addr = kv.address()?;
        let keys: Vec<&str> = sights.iter().map(|(_, sight)| sight.key.as_str()).collect();
        let found = if keys.is_empty() { Keys::new() } else { some(kv, at, &keys)? };
        for (spec, sight) in sights {
            match self.judge(spec, (&sight, &plugin_addr), found.get(&sight.key), reading.fenced) {
                Ok(State::Well) => {}
                Ok(State::Lost(why)) => look.lost.push((spec.clone(), why)),
                Ok(State::Amiss) => look.amiss.push(spec.clone()),
                Err(e) => look.unread.push((spec.clone(), e.to_string())),
            }
        }
        Ok(())
    }

    /// The key of a mounted image's record, and its mapping. Nothing when neither is known here.
    fn sight<'a>(&self, pool_id: i64, spec: &ImageSpec, mappings: &'a [HostMapping]) -> Option<Sight<'a>> {
        let ours = || {
            mappings.iter().filter(|mapping| {
                mapping.ours
                    && !mapping.snapshot
                    && mapping.pool_id == pool_id
                    && mapping.namespace.as_deref() == spec.namespace()
            })
        };
        // With two mappings of one image, the one that is on record is meant.
        let here = |id: &str, recorded: Option<&str>| {
            let of_it = ours().filter(|mapping| mapping.image_id == id);
            of_it.min_by_key(|mapping| recorded != Some(mapping.address.as_str()))
        };
        let sights = self.held_keys(spec).into_iter().filter_map(|(key, raw)| {
            let id = image_of(&key)?;
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
        let mapping = ours().find(|mapping| mapping.spec.as_ref() == Some(spec))?;
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
        if let Some(why) = sight.mapping.and_then(|mapping| self.shut_out(fenced, &mapping.address)) {
            return Ok(State::Lost(why));
        }
        let Some(raw) = found else { return Ok(State::Amiss) };
        let record = OwnerRecord::parse(raw)?;
        if !self.is_own(&record) {
            return Ok(State::Lost(format!("taken over by {}", record.owner)));
        }
        let address = sight.mapping.map(|mapping| &mapping.address);
        // Another client than the one that has written the record may write to the image by now.
        let signed = record.plugin_addr.as_deref() == Some(plugin_addr);
        let told = signed && (address.is_none() || record.owner.client_addr.as_ref() == address);
        let known = sight.held.as_ref() == Some(raw) && self.has_claimed(spec);
        Ok(if told && known { State::Well } else { State::Amiss })
    }

    /// Writes down again what this plugin alone knows of a mounted image: a record that is gone, the address of its mapping, the old
    /// plugins' lock. Or says why the image is lost. The caller holds the volume's guard and has seen that it is mounted still: what
    /// was released must not come back. `blocklist` is read when a record is gone, `needs_advisory_lock` when it was never claimed.
    pub fn mend(
        &self,
        kv: &dyn ClusterKv,
        mappings: &dyn Mappings,
        spec: &ImageSpec,
        needs_advisory_lock: impl Fn(&str) -> Result<bool>,
    ) -> Result<Option<String>> {
        let at = place(spec);
        self.heartbeat.cover(kv, &at)?;
        let here = mappings.list()?;
        let Some(sight) = self.sight(kv.pool_id(&at)?, spec, &here) else { return self.whose(kv, spec) };
        let found = some(kv, &at, &[&sight.key])?;
        let before = found.get(&sight.key).map(|raw| OwnerRecord::parse(raw)).transpose()?;
        let record = match before {
            Some(record) if self.is_own(&record) => record,
            Some(record) => return Ok(Some(format!("taken over by {}", record.owner))),
            None => {
                // Perhaps an administrator has fenced this host, which is newer than what is known of the blocklist.
                let fenced = kv.blocklist()?;
                if let Some(why) = sight.mapping.and_then(|mapping| self.shut_out(&fenced, &mapping.address))
                {
                    return Ok(Some(why));
                }
                tracing::warn!(image = %spec, "its owner record is gone, writing it again");
                self.own(kv, spec)?
            }
        };
        // An address on record that a client of this host still has stays there: it can write to the image.
        let lives = |address: &String| here.iter().any(|mapping| mapping.address == *address);
        let recorded = record.owner.client_addr.clone();
        let client_addr = match sight.mapping {
            Some(mapping) if !recorded.as_ref().is_some_and(lives) => Some(mapping.address.clone()),
            _ => recorded,
        };
        let owner = Owner { client_addr, ..record.owner.clone() };
        let raw = signed(kv, OwnerRecord { owner, ..record })?.store();
        let expected = found.get(&sight.key).map(Vec::as_slice);
        let swap = Swap { key: &sight.key, expected, new: Some(&raw) };
        if expected != Some(&raw) && !self.write(kv, spec, &[swap])? {
            return Err(DriverError::new(
                ErrorKind::Busy,
                format!("the owner record of {spec} keeps changing"),
            ));
        }
        self.hold(spec, sight.key.clone(), raw);
        // A volume that was adopted without a claim: an earlier life may have its lock, or nobody.
        if !self.has_claimed(spec)
            && let Some(id) = image_of(&sight.key)
        {
            if needs_advisory_lock(id)? {
                self.advisory.lock(kv, spec, id, &self.identity.host)?;
            }
            self.note_claimed(spec);
        }
        Ok(None)
    }

    fn has_claimed(&self, spec: &ImageSpec) -> bool {
        lock(&self.held).get(spec).is_some_and(|held| held.claimed)
    }

    /// Who owns an image that is not mapped here, if it is not this plugin.
    fn whose(&self, kv: &dyn ClusterKv, spec: &ImageSpec) -> Result<Option<String>> {
        let Some(id) = kv.image_id(spec)? else { return Ok(None) };
        let record = read(kv, &place(spec), &image_key(&id))?;
        Ok(record
            .filter(|record| !self.is_own(record))
            .map(|record| format!("taken over by {}", record.owner)))
    }

    /// Why a kernel client of ours cannot write any more.
    fn shut_out(&self, list: &Blocklist, address: &str) -> Option<String> {
        let fence = list.covers(address)?;
        let by = match fence.reach {
            Reach::Client => String::new(),
            Reach::Host | Reach::Range if self.sees_single_clients_only() => return None,
            Reach::Host | Reach::Range => format!(", by the entry {}", fence.address),
        };
        Some(format!("its kernel client {address} is on the cluster's blocklist{by} until {}", fence.until))
    }

    fn sees_single_clients_only(&self) -> bool {
        #[cfg(any(test, feature = "fault-points"))]
        return self.settings.defects.sees_single_clients_only;
        #[cfg(not(any(test, feature = "fault-points")))]
        false
    }
}

/// What is known of a mounted image before its record is read.
#[derive(Debug)]
struct Sight<'a> {
    key: String,
    /// Its record as this plugin has written it last.
    held: Option<Vec<u8>>,
    mapping: Option<&'a HostMapping>,
}

/// How a mounted image is.
#[derive(Debug)]
enum State {
    Well,
    Lost(String),
    /// Its record is gone or is not as it should be.
    Amiss,
}

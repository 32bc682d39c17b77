//! Owner records: who may use an image.
//!
//! All records of a place are in the omap of one object: `image.<id>` for an image, by its id, because a name may be given to another
//! image while this one is mounted; `new.<name>` for a name under which an image is being made. A change is one compare-and-swap of all
//! keys that it concerns, so of two hosts one wins. What the states mean:
//!
//! ```text
//! (no key)  ──claim──▶  no client_addr  ──map──▶  client_addr  ──unmap, release──▶  (no key)
//! ```
//!
//! The address is what a fence shuts out. It is written after the mapping and before the first mount: a plugin that was frozen
//! in between and whose image was taken over finds its record changed, and takes the mapping away unused.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use super::advisory::{self, Advisory};
use super::heartbeat::Heartbeat;
use super::kv::{ClusterKv, Keys, Mappings, Place, Swap, place};
use super::record::{
    OBJECT, OwnerRecord, image_key, image_of, in_use, new_key, not_claimed, read, some, taken_away,
};
use super::suspects::Suspects;
use crate::lock;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::owner::Owner;
use crate::model::record::Record;
use crate::model::time;

/// How owners that are gone are followed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether they are at all.
    pub takeover: bool,
    /// How long a host must have been silent.
    pub dead_after: Duration,
    /// How long it is shut out then.
    pub fence: Duration,
    /// Mistakes of the past, for the tests that prove that the model finds them.
    #[cfg(any(test, feature = "fault-points"))]
    pub defects: Defects,
}

/// Mistakes that earlier versions made, put back.
#[cfg(any(test, feature = "fault-points"))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Defects {
    /// The recorded address is replaced whatever has it (B1).
    pub replaces_live_addresses: bool,
    /// Only an entry of the very client counts on the blocklist (B7).
    pub sees_single_clients_only: bool,
}

/// What is kept of the image that is owned under a name.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    /// Our records, as they are stored.
    pub(super) keys: Keys,
    /// Keys under which a record of ours was to be written; whether it was is not known: the answer was lost.
    pub(super) unanswered: BTreeSet<String>,
    /// Whether this life has claimed it, and knows whether it needs the advisory lock.
    pub(super) claimed: bool,
}

/// This plugin as one that owns images. See the module.
#[derive(Debug)]
pub struct Owners {
    pub(super) identity: Owner,
    pub(super) settings: Settings,
    /// This plugin's heartbeat.
    pub heartbeat: Heartbeat,
    pub(super) held: Mutex<HashMap<ImageSpec, Held>>,
    pub(super) suspects: Suspects,
    pub(super) advisory: Advisory,
}

impl Owners {
    /// Nothing is owned yet: what an earlier life has left is found by [`found`](Self::found).
    pub fn new(identity: Owner, settings: Settings) -> Self {
        Self {
            heartbeat: Heartbeat::new(&identity, settings.dead_after),
            identity,
            settings,
            held: Mutex::default(),
            suspects: Suspects::default(),
            advisory: Advisory::default(),
        }
    }

    /// What goes with a claim on an image, before anything is done with it. A mapping that an earlier life has left: its address has to
    /// be on record.
    pub fn complete_claim(
        &self,
        kv: &dyn ClusterKv,
        mappings: &dyn Mappings,
        spec: &ImageSpec,
        id: &str,
        needs_advisory_lock: bool,
    ) -> Result<()> {
        if let Some(mapping) = mappings.of(&place(spec), id)?.filter(|mapping| mapping.ours) {
            self.put_address(kv, mappings, spec, id, &mapping.address)?;
        }
        if needs_advisory_lock {
            self.advisory.lock(kv, spec, id, &self.identity.host)?;
        }
        self.note_claimed(spec);
        Ok(())
    }

    pub(super) fn note_claimed(&self, spec: &ImageSpec) {
        lock(&self.held).entry(spec.clone()).or_default().claimed = true;
    }

    /// Whether anything of ours is known under a name.
    pub fn knows(&self, spec: &ImageSpec) -> bool {
        lock(&self.held).contains_key(spec)
    }

    /// Whether a record of ours is known of an image.
    pub fn holds(&self, spec: &ImageSpec, id: &str) -> bool {
        self.holds_key(spec, &image_key(id))
    }

    /// Whether a record of ours is known of a name under which an image is being made.
    pub fn holds_name(&self, spec: &ImageSpec) -> bool {
        self.holds_key(spec, &new_key(spec))
    }

    pub(super) fn holds_key(&self, spec: &ImageSpec, key: &str) -> bool {
        lock(&self.held).get(spec).is_some_and(|held| held.keys.contains_key(key))
    }

    /// Whether anything is owned in a place, as far as this life knows.
    pub fn owns_in(&self, at: &Place) -> bool {
        lock(&self.held).keys().any(|spec| place(spec) == *at)
    }

    pub(super) fn held_keys(&self, spec: &ImageSpec) -> Keys {
        lock(&self.held).get(spec).map(|held| held.keys.clone()).unwrap_or_default()
    }

    pub(super) fn hold(&self, spec: &ImageSpec, key: String, raw: Vec<u8>) {
        let mut all = lock(&self.held);
        let held = all.entry(spec.clone()).or_default();
        held.unanswered.remove(&key);
        held.keys.insert(key, raw);
    }

    /// Writes records of ours, if all is as expected: from then on they are held. When the answer is lost, they are given back with
    /// the image all the same, whatever that is called by then.
    pub(super) fn write(&self, kv: &dyn ClusterKv, spec: &ImageSpec, changes: &[Swap<'_>]) -> Result<bool> {
        let ours = || changes.iter().filter_map(|swap| Some((swap.key.to_owned(), swap.new?.to_vec())));
        let before = {
            let mut all = lock(&self.held);
            let before = all.get(spec).map(|held| held.unanswered.clone());
            all.entry(spec.clone()).or_default().unanswered.extend(ours().map(|(key, _)| key));
            before
        };
        let written = kv.swap(&place(spec), OBJECT, changes)?;
        if written {
            ours().for_each(|(key, raw)| self.hold(spec, key, raw));
        } else {
            let mut all = lock(&self.held);
            if let Some(held) = all.get_mut(spec) {
                held.unanswered = before.unwrap_or_default();
                if held.keys.is_empty() && held.unanswered.is_empty() && !held.claimed {
                    all.remove(spec);
                }
            }
        }
        Ok(written)
    }

    /// A new record of ours.
    pub(super) fn own(&self, kv: &dyn ClusterKv, spec: &ImageSpec) -> Result<OwnerRecord> {
        let owner = Owner { since: time::now(), ..self.identity.clone() };
        let image = spec.clone();
        let record =
            OwnerRecord { owner, image, making: None, plugin_addr: None, earlier_plugin_addrs: Vec::new() };
        signed(kv, record)
    }

    /// Writes down which kernel client has an image of ours mapped.
    pub fn note_address(
        &self,
        kv: &dyn ClusterKv,
        mappings: &dyn Mappings,
        spec: &ImageSpec,
        id: &str,
        address: &str,
    ) -> Result<()> {
        match self.put_address(kv, mappings, spec, id, address)? {
            None => Ok(()),
            Some(recorded) => Err(DriverError::new(
                ErrorKind::InUse,
                format!("{spec} is mapped on this host already, by the kernel client {recorded}"),
            )
            .hint("cat /sys/bus/rbd/devices/*/client_addr shows its device; unmap that")),
        }
    }

    /// The same, unless the record names another kernel client that may still have the image, which is answered: what can write to the
    /// image stays on record, or a fence would shut out the wrong client.
    fn put_address(
        &self,
        kv: &dyn ClusterKv,
        mappings: &dyn Mappings,
        spec: &ImageSpec,
        id: &str,
        address: &str,
    ) -> Result<Option<String>> {
        let lives = |recorded: &String| {
            recorded != address
                && !self.replaces_live_addresses()
                && mappings
                    .list()
                    .map_or(true, |living| living.iter().any(|mapping| mapping.address == *recorded))
        };
        let raw = self.change_held(kv, spec, image_key(id), |mut record| {
            // Of the record as it is stored: what is held may be older.
            if !record.owner.client_addr.as_ref().is_some_and(lives) {
                record.owner.client_addr = Some(address.to_owned());
            }
            record
        })?;
        Ok(OwnerRecord::parse(&raw)?.owner.client_addr.filter(|recorded| recorded != address))
    }

    /// Writes down which mount IDs use an image of ours.
    pub fn note_ids(&self, kv: &dyn ClusterKv, spec: &ImageSpec, ids: &[String]) -> Result<()> {
        let is_mapped =
            |raw: &[u8]| OwnerRecord::parse(raw).is_ok_and(|record| record.owner.client_addr.is_some());
        // Where an image was made anew under the name, that is the one in use.
        let images = self.held_keys(spec).into_iter().filter(|(key, _)| image_of(key).is_some());
        let key = images.max_by_key(|(_, raw)| is_mapped(raw));
        let Some((key, _)) = key else { return Err(not_claimed(spec)) };
        self.change_held(kv, spec, key, |mut record| {
            record.owner.mount_ids = ids.to_vec();
            record
        })
        .map(drop)
    }

    /// The id of the image that this plugin owns under a name; none when there is no image. An error when it does not own it (any more),
    /// or when the name is another image's by now: whatever changes an image asks this first.
    pub fn own_id(&self, kv: &dyn ClusterKv, spec: &ImageSpec) -> Result<Option<String>> {
        let held = self.held_keys(spec);
        let id = kv.image_id(spec)?;
        let key = match &id {
            Some(id) if held.contains_key(&image_key(id)) => image_key(id),
            Some(_) if held.keys().any(|key| image_of(key).is_some()) => {
                return Err(DriverError::new(
                    ErrorKind::Busy,
                    format!("{spec} was renamed or made anew meanwhile"),
                )
                .hint("try again"));
            }
            // Made by us, and not yet on record as an image.
            _ => new_key(spec),
        };
        match read(kv, &place(spec), &key)? {
            Some(record) if self.is_own(&record) => {
                // Before this client changes anything.
                if record.plugin_addr != Some(kv.address()?) {
                    let Some(raw) = self.change(kv, &place(spec), &key, Some)?.ours() else {
                        return Err(taken_away(spec));
                    };
                    if held.contains_key(&key) {
                        self.hold(spec, key, raw);
                    }
                }
                Ok(id)
            }
            Some(record) => Err(in_use(spec, &record.owner)),
            // Removed already, and nothing is left to own.
            None if id.is_none() => Ok(None),
            None => Err(taken_away(spec)),
        }
    }

    /// Whether a record is of this plugin, in this boot.
    pub(super) fn is_own(&self, record: &OwnerRecord) -> bool {
        record.owner.same_plugin(&self.identity) && record.owner.boot_id == self.identity.boot_id
    }

    /// Who owns an image.
    pub fn owner(&self, kv: &dyn ClusterKv, at: &Place, id: &str) -> Result<Option<Owner>> {
        Ok(read(kv, at, &image_key(id))?.map(|record| record.owner))
    }

    /// The record of the image that somebody is making, or was making when they died, under a name.
    pub fn making(&self, kv: &dyn ClusterKv, spec: &ImageSpec) -> Result<Option<Record>> {
        Ok(read(kv, &place(spec), &new_key(spec))?.and_then(|record| record.making))
    }

    /// Writes down what is being made under a name that is ours, or that nothing is any more. Whether the name was ours.
    pub fn note_making(&self, kv: &dyn ClusterKv, spec: &ImageSpec, making: Option<&Record>) -> Result<bool> {
        let noted = self.change(kv, &place(spec), &new_key(spec), |before| {
            Some(OwnerRecord { making: making.cloned(), ..before })
        })?;
        let Some(raw) = noted.ours() else { return Ok(false) };
        if self.holds_name(spec) {
            self.hold(spec, new_key(spec), raw);
        }
        Ok(true)
    }

    /// From the name to the image that was made under it, in one step: at no time is it free.
    pub fn claim_made(&self, kv: &dyn ClusterKv, spec: &ImageSpec, id: &str) -> Result<()> {
        let key = new_key(spec);
        let Some(claim) = self.held_keys(spec).remove(&key) else { return Err(taken_away(spec)) };
        let image = image_key(id);
        let owned = OwnerRecord { making: None, ..OwnerRecord::parse(&claim)? }.store();
        let swap = [
            Swap { key: &key, expected: Some(&claim), new: Some(&claim) },
            Swap { key: &image, expected: None, new: Some(&owned) },
        ];
        if !self.write(kv, spec, &swap)? {
            return Err(DriverError::new(ErrorKind::InUse, format!("{spec} was claimed while it was made")));
        }
        Ok(())
    }

    /// Gives an image back. What is not ours stays as it is. `needs_advisory_lock` tells of an image that this life has never claimed.
    pub fn release(
        &self,
        kv: &dyn ClusterKv,
        mappings: &dyn Mappings,
        spec: &ImageSpec,
        needs_advisory_lock: impl Fn(&str) -> Result<bool>,
    ) -> Result<()> {
        let held = lock(&self.held).get(spec).cloned();
        let (keys, claimed) = match held {
            Some(Held { mut keys, unanswered, claimed }) => {
                let unanswered: Vec<&str> = unanswered.iter().map(String::as_str).collect();
                if !unanswered.is_empty() {
                    keys.extend(some(kv, &place(spec), &unanswered)?);
                }
                (keys, claimed)
            }
            // Not claimed in this life; an earlier one may have left its record.
            None => {
                let id = kv.image_id(spec)?;
                let keys = [Some(new_key(spec)), id.as_deref().map(image_key)];
                let keys: Vec<&str> = keys.iter().flatten().map(String::as_str).collect();
                (some(kv, &place(spec), &keys)?, false)
            }
        };
        let mapped = mappings.list()?;
        // A record that names a mapping is not given back before the mapping.
        let kept = |record: OwnerRecord| {
            let address = record.owner.client_addr.as_ref();
            mapped.iter().any(|mapping| Some(&mapping.address) == address).then_some(record)
        };
        let mut left = Keys::new();
        for (key, raw) in &keys {
            let record = OwnerRecord::parse(raw)?;
            if self.is_own(&record) && kept(record).is_some() {
                left.insert(key.clone(), raw.clone());
            }
        }
        if left.is_empty() {
            self.advisory.unlock(kv, spec, spec.image(), &self.identity.host)?;
        }
        for (key, raw) in keys.iter().filter(|(key, _)| !left.contains_key(*key)).collect::<Vec<_>>() {
            if let Some(id) = image_of(key).filter(|_| !claimed)
                && self.is_own(&OwnerRecord::parse(raw)?)
                && needs_advisory_lock(id)?
            {
                advisory::break_own(kv, spec, spec.image(), id, &self.identity.host)?;
            }
            let stays = match self.change_known(kv, spec, key, kept)? {
                Some(stays) => stays,
                None => self.change(kv, &place(spec), key, kept)?.ours(),
            };
            left.extend(stays.map(|raw| (key.clone(), raw)));
        }
        let mut held = lock(&self.held);
        if left.is_empty() {
            held.remove(spec);
            return Ok(());
        }
        held.insert(spec.clone(), Held { keys: left, unanswered: BTreeSet::new(), claimed });
        Err(DriverError::new(ErrorKind::InUse, format!("{spec} is mapped here still"))
            .hint("it is given back when it is unmapped"))
    }

    /// An image that was given another name: its advisory lock bears this host's name still.
    pub fn renamed(&self, kv: &dyn ClusterKv, from: &ImageSpec, to: &ImageSpec) -> Result<()> {
        self.advisory.unlock(kv, from, to.image(), &self.identity.host)
    }

    /// What an earlier life of this plugin, or this one, has on record in a place: the images. What is of this boot is held from now on;
    /// another boot's has to be claimed, which shuts that one out.
    pub fn found(&self, at: &Place, keys: Keys) -> Vec<ImageSpec> {
        let mut specs = Vec::new();
        for (key, raw) in keys {
            let record = match OwnerRecord::parse(&raw) {
                Ok(record) => record,
                Err(e) => {
                    tracing::error!(pool = at.0, key, error = %e, "left alone");
                    continue;
                }
            };
            if !record.owner.same_plugin(&self.identity) {
                continue;
            }
            if self.is_own(&record) {
                self.hold(&record.image, key, raw);
            }
            specs.push(record.image);
        }
        specs
    }

    /// The images that this plugin has on record in a place. Nothing is held.
    pub fn recorded(&self, kv: &dyn ClusterKv, at: &Place) -> Result<Vec<ImageSpec>> {
        // Damaged ones are told of at the start.
        let records = super::record::all(kv, at)?.into_values();
        let records = records.filter_map(|raw| OwnerRecord::parse(&raw).ok());
        let own = records.filter(|record| record.owner.same_plugin(&self.identity));
        Ok(own.map(|record| record.image).collect())
    }

    fn replaces_live_addresses(&self) -> bool {
        #[cfg(any(test, feature = "fault-points"))]
        return self.settings.defects.replaces_live_addresses;
        #[cfg(not(any(test, feature = "fault-points")))]
        false
    }
}

/// A record of ours as this client writes it.
pub(super) fn signed(kv: &dyn ClusterKv, record: OwnerRecord) -> Result<OwnerRecord> {
    let plugin_addr = Some(kv.address()?);
    Ok(OwnerRecord { plugin_addr, earlier_plugin_addrs: kv.earlier_addresses()?, ..record })
}

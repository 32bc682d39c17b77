//! Owner records: who may use an image.
//!
//! All records of a pool (or of a namespace of it) are in the omap of one object: `image.<id>` for an image, by its id, because a name
//! may be given to another image while this one is mounted; `new.<name>` for a name under which an image is being made. A change
//! is one compare-and-swap of all keys that it concerns, so of two hosts one wins. What the states mean:
//!
//! ```text
//! (no key)  ──claim──▶  no client_addr  ──map──▶  client_addr  ──unmap, release──▶  (no key)
//! ```
//!
//! The address is what a fence shuts out. It is written after the mapping and before the first mount: a plugin that was frozen
//! in between and is followed by another one finds its record changed, and takes the mapping away unused.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::advisory::end_lock_of;
use super::change::{Changed, not_claimed, taken_away};
use super::fence::{Follow, suspect};
use super::link::{Session, place};
use super::{RbdBackend, header};
use crate::ceph::{Cluster, IoCtx, Swap};
use crate::lock;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::owner::Owner;
use crate::model::record::Record;
use crate::model::stored::{self, Document, NotUnderstood, Unknown};
use crate::model::time;
use crate::telemetry::count::{Count, count};

/// The object of the records.
pub(super) const OBJECT: &str = "rbd_docker_plugin.owners";

/// How often a claim may meet a change by somebody else before it says so.
const ATTEMPTS: u32 = 20;

/// Records that we hold, by key, as they are stored.
pub(super) type Keys = BTreeMap<String, Vec<u8>>;
/// Those of every image.
pub(super) type Held = HashMap<ImageSpec, Keys>;

/// One record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OwnerRecord {
    #[serde(flatten)]
    pub(super) owner: Owner,
    /// The image's name when it was claimed.
    pub(super) image: ImageSpec,
    /// The record of the image that is being made under this name.
    #[serde(default, with = "stored::within", skip_serializing_if = "Option::is_none")]
    pub(super) making: Option<Record>,
    /// The address of the plugin's own client, which makes, clears and removes images: it is shut out with the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) plugin_addr: Option<String>,
    /// The addresses of other clients of the plugin that may still send something, see [`clients`](super::clients).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) earlier_plugin_addrs: Vec<String>,
}

impl Document for OwnerRecord {
    fn check_within(fields: &Value) -> Result<(), NotUnderstood> {
        fields.get("making").filter(|making| !making.is_null()).map_or(Ok(()), stored::check::<Record>)
    }

    fn unknown(&self) -> Option<&Unknown> {
        self.owner.unknown()
    }

    fn keep(&mut self, unknown: Unknown) {
        self.owner.keep(unknown);
    }
}

impl OwnerRecord {
    pub(super) fn parse(raw: &[u8]) -> Result<Self> {
        stored::read(raw).map_err(|e| {
            e.of(&format!("an owner record in {OBJECT}"), || {
                format!("rados -p POOL listomapvals {OBJECT} shows it; rmomapkey removes it")
            })
        })
    }

    pub(super) fn store(&self) -> Vec<u8> {
        stored::write(self)
    }

    /// All that can write to the image: what a fence shuts out.
    pub(super) fn addresses(&self) -> BTreeSet<String> {
        let one = [&self.owner.client_addr, &self.plugin_addr];
        one.into_iter().flatten().chain(&self.earlier_plugin_addrs).cloned().collect()
    }
}

pub(super) fn image_key(id: &str) -> String {
    format!("image.{id}")
}

pub(super) fn new_key(spec: &ImageSpec) -> String {
    format!("{NEW}{}", spec.image())
}

/// What the key of a name begins with under which an image is being made.
pub(super) const NEW: &str = "new.";

/// The records of a place; none where nothing was ever claimed.
pub(super) fn all(io: &IoCtx) -> Result<Keys> {
    match io.omap(OBJECT) {
        Err(e) if e.errno == Errno::ENOENT => Ok(Keys::new()),
        found => Ok(found?),
    }
}

/// Some of them.
pub(super) fn some(io: &IoCtx, keys: &[&str]) -> Result<Keys> {
    match io.omap_get(OBJECT, keys) {
        Err(e) if e.errno == Errno::ENOENT => Ok(Keys::new()),
        found => Ok(found?),
    }
}

impl RbdBackend {
    /// See [`ImageStore::claim`](crate::backend::ImageStore::claim).
    pub(super) fn take(&self, spec: &ImageSpec) -> Result<()> {
        let mut looked_up = self.seen.take_id(spec);
        let session = self.link.session()?;
        let io = session.of(spec)?;
        // Before the claim: whoever finds it must find us alive.
        self.beats.cover(&io, &place(spec))?;
        for attempt in 0..ATTEMPTS {
            let id = match looked_up.take() {
                None => header::id(&io, spec.image())?,
                id => id,
            };
            let known = id.as_ref().is_some_and(|id| self.holds(spec, id));
            let taken = match &id {
                // Most images that are claimed are free.
                Some(id) if attempt == 0 && !known && self.take_free(&session, &io, spec, id)? => true,
                _ => self.take_by_records(&session, &io, spec, id.as_deref())?,
            };
            match id {
                _ if !taken => {}
                Some(id) => return self.have_taken(&io, spec, &id),
                None => return Ok(()),
            }
        }
        Err(DriverError::new(ErrorKind::Busy, format!("the owner record of {spec} keeps changing"))
            .hint("several hosts claim it at the same time; try again"))
    }

    /// Whether a record of ours is known of an image.
    pub(super) fn holds(&self, spec: &ImageSpec, id: &str) -> bool {
        lock(&self.held).get(spec).is_some_and(|keys| keys.contains_key(&image_key(id)))
    }

    /// Claims an image that nobody uses and of which nothing is on record, without reading the records first. When it is not so,
    /// nothing is changed: what is on record says why.
    fn take_free(&self, session: &Session, io: &IoCtx, spec: &ImageSpec, id: &str) -> Result<bool> {
        match self.refuse_if_used(session, io, spec, id) {
            Err(e) if e.kind == ErrorKind::InUse => return Ok(false),
            free => free?,
        }
        let (new, image, record) = (new_key(spec), image_key(id), self.own(session, spec)?.store());
        let changes = [
            Swap { key: &new, expected: None, new: None },
            Swap { key: &image, expected: None, new: Some(&record) },
        ];
        let taken = io.omap_swap(OBJECT, &changes)?;
        if taken {
            lock(&self.held).entry(spec.clone()).or_default().insert(image, record);
        }
        Ok(taken)
    }

    /// Claims an image, or a name without one, by what is on record of it. False: that has changed meanwhile.
    fn take_by_records(
        &self,
        session: &Session,
        io: &IoCtx,
        spec: &ImageSpec,
        id: Option<&str>,
    ) -> Result<bool> {
        let (new, image) = (new_key(spec), id.map(image_key));
        let keys: Vec<&str> = [Some(new.as_str()), image.as_deref()].into_iter().flatten().collect();
        let found = some(io, &keys)?;
        let mut wanted = Keys::new();
        let mut followed = Vec::new();
        for key in &keys {
            let before = found.get(*key).map(|raw| OwnerRecord::parse(raw)).transpose()?;
            let record = match before {
                // Beside an image, nobody needs to hold its name.
                None if *key == new && image.is_some() => continue,
                None => self.own(session, spec)?,
                Some(before) => match self.may_follow(session, io, spec, &before)? {
                    // Perhaps of an earlier life: then the client was another one.
                    Follow::Ours => self.signed(&session.cluster, before)?,
                    Follow::After => {
                        tracing::warn!(image = %spec, owner = %before.owner, "taking over from an owner that is gone");
                        followed.push(suspect(&before));
                        // Before the record: whoever dies in between, the next one finds the same and ends it.
                        end_lock_of(io, spec.image(), &before.owner.host)?;
                        OwnerRecord { making: before.making, ..self.own(session, spec)? }
                    }
                },
            };
            wanted.insert((*key).to_owned(), record.store());
        }
        match id {
            // In a pool that was deleted, everything is "not found".
            None => session.still(&place(spec), io)?,
            Some(id) if image.as_ref().is_some_and(|key| !found.contains_key(key)) => {
                self.refuse_if_used(session, io, spec, id)?;
            }
            Some(_) => {}
        }
        if wanted.iter().any(|(key, raw)| found.get(key) != Some(raw)) {
            let changes: Vec<Swap<'_>> = keys
                .iter()
                .map(|key| Swap {
                    key,
                    expected: found.get(*key).map(Vec::as_slice),
                    new: wanted.get(*key).map(Vec::as_slice),
                })
                .collect();
            if !io.omap_swap(OBJECT, &changes)? {
                return Ok(false);
            }
        }
        if !followed.is_empty() {
            count(Count::Takeover);
        }
        followed.iter().for_each(|who| self.suspects.clear(who));
        lock(&self.held).entry(spec.clone()).or_default().extend(wanted);
        Ok(true)
    }

    /// What goes with the claim on an image that is ours now.
    fn have_taken(&self, io: &IoCtx, spec: &ImageSpec, id: &str) -> Result<()> {
        // What was read before the claim may have been changed by somebody else.
        let header = header::read(io, id)?;
        // Left by an earlier life: before anything is mounted from it, its address has to be on record.
        if let Some(mapping) = self.own_mapping(io, id)? {
            self.put_address(io, spec, id, &mapping.client_addr)?;
        }
        if let Some(header) = header {
            self.lock_like_the_old(io, spec, id, &header)?;
            self.seen.note(spec, id, Some(header));
        }
        lock(&self.taken).insert(spec.clone());
        Ok(())
    }

    pub(super) fn own(&self, session: &Session, spec: &ImageSpec) -> Result<OwnerRecord> {
        let owner = Owner { since: time::now(), ..self.identity.clone() };
        let image = spec.clone();
        let record =
            OwnerRecord { owner, image, making: None, plugin_addr: None, earlier_plugin_addrs: Vec::new() };
        self.signed(&session.cluster, record)
    }

    /// The kernel's clients of our cluster that have images mapped on this host, by anyone: what fences are put on.
    pub(super) fn addresses(&self, session: &Session) -> Result<Vec<String>> {
        self.addresses_of(&session.cluster)
    }

    fn addresses_of(&self, cluster: &Cluster) -> Result<Vec<String>> {
        let ours = self.kernel.list()?.into_iter().filter(|mapping| mapping.fsid == cluster.fsid());
        Ok(ours.map(|mapping| mapping.client_addr).collect())
    }

    /// Writes down which kernel client has an image of ours mapped.
    pub(super) fn note_address(&self, io: &IoCtx, spec: &ImageSpec, id: &str, address: &str) -> Result<()> {
        match self.put_address(io, spec, id, address)? {
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
    fn put_address(&self, io: &IoCtx, spec: &ImageSpec, id: &str, address: &str) -> Result<Option<String>> {
        let lives = |recorded: &String| {
            recorded != address
                && self.addresses_of(io.cluster()).map_or(true, |living| living.contains(recorded))
        };
        let key = image_key(id);
        let raw = self.change_held(io, spec, key, |mut record| {
            // Of the record as it is stored: what is held may be older.
            if !record.owner.client_addr.as_ref().is_some_and(lives) {
                record.owner.client_addr = Some(address.to_owned());
            }
            record
        })?;
        Ok(OwnerRecord::parse(&raw)?.owner.client_addr.filter(|recorded| recorded != address))
    }

    /// Writes down which mount IDs use an image of ours.
    pub(super) fn note_ids(&self, io: &IoCtx, spec: &ImageSpec, ids: &[String]) -> Result<()> {
        let keys = lock(&self.held).get(spec).cloned().unwrap_or_default();
        let is_mapped =
            |raw: &[u8]| OwnerRecord::parse(raw).is_ok_and(|record| record.owner.client_addr.is_some());
        // Where an image was made anew under the name, that is the one in use.
        let images = keys.into_iter().filter(|(key, _)| key.starts_with("image."));
        let key = images.max_by_key(|(_, raw)| is_mapped(raw));
        let Some((key, _)) = key else { return Err(not_claimed(spec)) };
        self.change_held(io, spec, key, |mut record| {
            record.owner.mount_ids = ids.to_vec();
            record
        })
        .map(drop)
    }

    /// The id of the image that this plugin owns under a name; none when there is no image. An error when it does not own it (any more),
    /// or when the name is another image's by now: whatever changes an image asks this first.
    pub(super) fn own_id(&self, io: &IoCtx, spec: &ImageSpec) -> Result<Option<String>> {
        let held = lock(&self.held).get(spec).cloned().unwrap_or_default();
        let id = header::id(io, spec.image())?;
        let key = match &id {
            Some(id) if held.contains_key(&image_key(id)) => image_key(id),
            Some(_) if held.keys().any(|key| key.starts_with("image.")) => {
                return Err(DriverError::new(
                    ErrorKind::Busy,
                    format!("{spec} was renamed or made anew meanwhile"),
                )
                .hint("try again"));
            }
            // Made by us, and not yet on record as an image.
            _ => new_key(spec),
        };
        let found = some(io, &[&key])?;
        match found.get(&key).map(|raw| OwnerRecord::parse(raw)).transpose()? {
            Some(record) if self.is_own(&record) => {
                // Before this client changes anything.
                if record.plugin_addr != Some(io.cluster().addresses()?) {
                    let Changed::To(Some(raw)) = self.change(io, &key, Some)? else {
                        return Err(taken_away(spec));
                    };
                    if let Some(keys) = lock(&self.held).get_mut(spec)
                        && let Some(held) = keys.get_mut(&key)
                    {
                        *held = raw;
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

    /// See [`ImageStore::release`](crate::backend::ImageStore::release).
    pub(super) fn give_back(&self, spec: &ImageSpec) -> Result<()> {
        self.seen.forget(spec);
        let held = lock(&self.held).get(spec).cloned();
        let session = self.link.session()?;
        let io = match session.of(spec) {
            // In a pool that is not there, nothing is left to give back.
            Err(e) if e.kind == ErrorKind::NotFound && held.is_none() => return Ok(()),
            io => io?,
        };
        let keys = match held {
            Some(keys) => keys,
            // Not claimed in this life; an earlier one may have left its record.
            None => {
                let id = header::id(&io, spec.image())?;
                let keys = [Some(new_key(spec)), id.as_deref().map(image_key)];
                let keys: Vec<&str> = keys.iter().flatten().map(String::as_str).collect();
                some(&io, &keys)?
            }
        };
        // A record that names a mapping is not given back before the mapping.
        let mapped = self.addresses(&session)?;
        for raw in keys.values() {
            let record = OwnerRecord::parse(raw)?;
            if self.is_own(&record)
                && record.owner.client_addr.is_some_and(|address| mapped.contains(&address))
            {
                return Err(DriverError::new(ErrorKind::InUse, format!("{spec} is mapped here still"))
                    .hint("it is given back when it is unmapped"));
            }
        }
        self.unlock_like_the_old(&io, spec, spec.image())?;
        let known = lock(&self.taken).contains(spec);
        for (key, raw) in keys.iter().filter(|_| !known) {
            if let Some(id) = key.strip_prefix("image.")
                && self.is_own(&OwnerRecord::parse(raw)?)
            {
                self.end_earlier_lock(&io, spec, id)?;
            }
        }
        for key in keys.keys() {
            if self.change_known(&io, spec, key, |_| None)?.is_none() {
                self.change(&io, key, |_| None)?;
            }
        }
        lock(&self.held).remove(spec);
        lock(&self.taken).remove(spec);
        Ok(())
    }
}

pub(super) fn in_use(spec: &ImageSpec, owner: &Owner) -> DriverError {
    DriverError::new(ErrorKind::InUse, format!("{spec} is in use by {owner}"))
}

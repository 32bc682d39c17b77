//! Claiming: how a free image, a name, or the image of an owner that is gone becomes this plugin's.

use super::advisory;
use super::kv::{ClusterKv, Keys, Mappings, Swap, place};
use super::owners::{Owners, signed};
use super::record::{OwnerRecord, image_key, image_of, keeps_changing, new_key, some};
use super::suspects::suspect;
use super::takeover::Takeover;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::telemetry::count::{Count, count};

/// How often a claim may meet a change by somebody else before it says so.
const ATTEMPTS: u32 = 20;

impl Owners {
    /// Makes this plugin the owner of an image, or of a name without one. The id may be known from a moment ago. Answers the id.
    pub fn claim(
        &self,
        kv: &dyn ClusterKv,
        mappings: &dyn Mappings,
        spec: &ImageSpec,
        mut looked_up: Option<String>,
    ) -> Result<Option<String>> {
        // Before the claim: whoever finds it must find us alive.
        self.heartbeat.cover(kv, &place(spec))?;
        for attempt in 0..ATTEMPTS {
            let id = match looked_up.take() {
                None => kv.image_id(spec)?,
                id => id,
            };
            if let Some(id) = &id {
                self.refuse_second(mappings, spec, id)?;
            }
            let known = id.as_ref().is_some_and(|id| self.holds(spec, id));
            let claimed = match &id {
                // Most images that are claimed are free.
                Some(id) if attempt == 0 && !known && self.claim_free(kv, mappings, spec, id)? => true,
                _ => self.claim_by_records(kv, mappings, spec, id.as_deref())?,
            };
            if claimed {
                return Ok(id);
            }
        }
        Err(keeps_changing(spec))
    }

    /// `Busy` when another image is still mapped under this name, which was given to this one meanwhile: a volume holds one image.
    fn refuse_second(&self, mappings: &dyn Mappings, spec: &ImageSpec, id: &str) -> Result<()> {
        let mut held = self.held_keys(spec);
        held.retain(|key, _| image_of(key).is_some_and(|other| other != id));
        let mapped = if held.is_empty() { Vec::new() } else { mappings.list()? };
        for raw in held.values() {
            let address = OwnerRecord::parse(raw)?.owner.client_addr;
            if let Some(mapping) = mapped.iter().find(|mapping| Some(&mapping.address) == address.as_ref()) {
                let message = format!(
                    "{spec} is another image by now than the one that is mapped here under this name, to {}",
                    mapping.device
                );
                return Err(DriverError::new(ErrorKind::Busy, message)
                    .hint("unmount the volume; its name then means the image that has it now"));
            }
        }
        Ok(())
    }

    /// Claims an image that nobody uses and of which nothing is on record, without reading the records first. When it is not so,
    /// nothing is changed: what is on record says why.
    fn claim_free(
        &self,
        kv: &dyn ClusterKv,
        mappings: &dyn Mappings,
        spec: &ImageSpec,
        id: &str,
    ) -> Result<bool> {
        match self.refuse_if_used(kv, mappings, spec, id) {
            Err(e) if e.kind == ErrorKind::InUse => return Ok(false),
            free => free?,
        }
        let (new, image, record) = (new_key(spec), image_key(id), self.own(kv, spec)?.store());
        let changes = [
            Swap { key: &new, expected: None, new: None },
            Swap { key: &image, expected: None, new: Some(&record) },
        ];
        self.write(kv, spec, &changes)
    }

    /// Claims an image, or a name without one, by what is on record of it. False: that has changed meanwhile.
    fn claim_by_records(
        &self,
        kv: &dyn ClusterKv,
        mappings: &dyn Mappings,
        spec: &ImageSpec,
        id: Option<&str>,
    ) -> Result<bool> {
        let (new, image) = (new_key(spec), id.map(image_key));
        let keys: Vec<&str> = [Some(new.as_str()), image.as_deref()].into_iter().flatten().collect();
        let found = some(kv, &place(spec), &keys)?;
        let mut wanted = Keys::new();
        let mut followed = Vec::new();
        for key in &keys {
            let before = found.get(*key).map(|raw| OwnerRecord::parse(raw)).transpose()?;
            let record = match before {
                // Beside an image, nobody needs to hold its name.
                None if *key == new && image.is_some() => continue,
                None => self.own(kv, spec)?,
                Some(before) => match self.take_over(kv, mappings, spec, id, &before)? {
                    // Perhaps of an earlier life: then the client was another one.
                    Takeover::NotNeeded => signed(kv, before)?,
                    Takeover::OwnerFenced => {
                        tracing::warn!(image = %spec, owner = %before.owner, "taking over from an owner that is gone");
                        followed.push(suspect(&before));
                        // Before the record: whoever dies in between, the next one finds the same and ends it.
                        if let Some(id) = id {
                            advisory::end_lock_of(kv, spec, id, &before.owner.host)?;
                        }
                        OwnerRecord { making: before.making, ..self.own(kv, spec)? }
                    }
                },
            };
            wanted.insert((*key).to_owned(), record.store());
        }
        match id {
            // In a pool that was deleted, everything is "not found".
            None => kv.require_place(&place(spec))?,
            Some(id) if image.as_ref().is_some_and(|key| !found.contains_key(key)) => {
                self.refuse_if_used(kv, mappings, spec, id)?;
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
            if !self.write(kv, spec, &changes)? {
                return Ok(false);
            }
        }
        if !followed.is_empty() {
            count(Count::Takeover);
        }
        followed.iter().for_each(|who| self.suspects.clear(who));
        wanted.into_iter().for_each(|(key, raw)| self.hold(spec, key, raw));
        Ok(true)
    }

    /// `InUse` when somebody outside of all plugins has a free image mapped or open for writing.
    fn refuse_if_used(
        &self,
        kv: &dyn ClusterKv,
        mappings: &dyn Mappings,
        spec: &ImageSpec,
        id: &str,
    ) -> Result<()> {
        if let Some(mapping) = mappings.of(&place(spec), id)?.filter(|mapping| !mapping.ours) {
            let message = format!("{spec} is mapped to {}, {}", mapping.device, mapping.made_by);
            return Err(DriverError::new(ErrorKind::InUse, message).hint("unmap it"));
        }
        self.refuse_if_watched(kv, mappings, spec, id)?;
        advisory::refuse_if_locked(kv, spec, id)
    }

    /// Mappings of this host are not meant here.
    fn refuse_if_watched(
        &self,
        kv: &dyn ClusterKv,
        mappings: &dyn Mappings,
        spec: &ImageSpec,
        id: &str,
    ) -> Result<()> {
        let watchers = kv.watchers(spec, id)?;
        if watchers.is_empty() {
            return Ok(());
        }
        let here: Vec<String> = mappings.list()?.into_iter().map(|mapping| mapping.address).collect();
        let own = kv.address()?;
        match watchers.iter().find(|address| !here.contains(address) && **address != own) {
            Some(address) => Err(DriverError::new(
                ErrorKind::InUse,
                format!("{spec} is mapped or open at {address}, not by a plugin of this kind"),
            )
            .hint(format!(
                "unmap it there; rbd status {spec} shows who has it open. If no host has, it may be (a guess) an rbd-mirror daemon, which opens what it mirrors and comes back by itself: rbd mirror image status {spec}; such an image can be mounted when the daemon is stopped or the image's mirroring is disabled"
            ))),
            None => Ok(()),
        }
    }
}

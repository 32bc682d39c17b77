//! Owner records, as they are stored: `image.<id>` for an image, `new.<name>` for a name under which one is being made.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::kv::{ClusterKv, Keys, Place};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::owner::Owner;
use crate::model::record::Record;
use crate::model::stored::{self, Document, NotUnderstood, Unknown};

/// The object of the records.
pub const OBJECT: &str = "rbd_docker_plugin.owners";
/// What the key of an image begins with.
const IMAGE: &str = "image.";
/// What the key of a name begins with under which an image is being made.
pub const NEW: &str = "new.";

/// One record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnerRecord {
    /// Who owns the image.
    #[serde(flatten)]
    pub owner: Owner,
    /// The image's name when it was claimed.
    pub image: ImageSpec,
    /// The record of the image that is being made under this name.
    #[serde(default, with = "stored::within", skip_serializing_if = "Option::is_none")]
    pub making: Option<Record>,
    /// The address of the plugin's own client, which makes, clears and removes images: it is shut out with the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_addr: Option<String>,
    /// The addresses of other clients of the plugin that may still send something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_plugin_addrs: Vec<String>,
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
    /// A record as it is stored; an error for one that is damaged or of a newer version.
    pub fn parse(raw: &[u8]) -> Result<Self> {
        stored::read(raw).map_err(|e| {
            e.of(&format!("an owner record in {OBJECT}"), || {
                format!("rados -p POOL listomapvals {OBJECT} shows it; rmomapkey removes it")
            })
        })
    }

    /// As it is stored.
    pub fn store(&self) -> Vec<u8> {
        stored::write(self)
    }

    /// All that can write to the image: what a fence shuts out.
    pub fn addresses(&self) -> BTreeSet<String> {
        let one = [&self.owner.client_addr, &self.plugin_addr];
        one.into_iter().flatten().chain(&self.earlier_plugin_addrs).cloned().collect()
    }
}

/// The key of an image.
pub fn image_key(id: &str) -> String {
    format!("{IMAGE}{id}")
}

/// The id of the image that a key is of.
pub fn image_of(key: &str) -> Option<&str> {
    key.strip_prefix(IMAGE)
}

/// The key of a name under which an image is being made.
pub fn new_key(spec: &ImageSpec) -> String {
    format!("{NEW}{}", spec.image())
}

/// One record; nothing when there is none.
pub fn read(kv: &dyn ClusterKv, place: &Place, key: &str) -> Result<Option<OwnerRecord>> {
    let found = some(kv, place, &[key])?;
    found.get(key).map(|raw| OwnerRecord::parse(raw)).transpose()
}

/// All records of a place.
pub fn all(kv: &dyn ClusterKv, place: &Place) -> Result<Keys> {
    kv.keys(place, OBJECT)
}

/// Some of them.
pub(super) fn some(kv: &dyn ClusterKv, place: &Place, keys: &[&str]) -> Result<Keys> {
    kv.some_keys(place, OBJECT, keys)
}

pub(super) fn in_use(spec: &ImageSpec, owner: &Owner) -> DriverError {
    DriverError::new(ErrorKind::InUse, format!("{spec} is in use by {owner}"))
}

/// An error for a claim that somebody else has ended.
pub fn taken_away(spec: &ImageSpec) -> DriverError {
    DriverError::new(ErrorKind::InUse, format!("the claim on {spec} was taken away")).hint("try again")
}

pub(super) fn not_claimed(spec: &ImageSpec) -> DriverError {
    DriverError::new(ErrorKind::Failed, format!("{spec} is not claimed"))
}

pub(super) fn keeps_changing(spec: &ImageSpec) -> DriverError {
    DriverError::new(ErrorKind::Busy, format!("the owner record of {spec} keeps changing"))
        .hint("several hosts claim it at the same time; try again")
}

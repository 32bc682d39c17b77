//! What an administrator asks about owners, and may do about them, without a running plugin.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::blocklist::Fence;
use super::kv::Place;
use super::record::OwnerRecord;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::image::LeftOut;
use crate::model::locker::Locker;
use crate::model::name::{ImageSpec, VolumeName};
use crate::model::owner::Owner;
use crate::model::time::rfc3339;

/// A cluster, for the commands about owners and fences.
pub trait OwnerAdmin: fmt::Debug {
    /// The image that a volume's name means: a bare one may be bound to an image elsewhere.
    fn resolve(&self, name: &VolumeName) -> Result<ImageSpec>;

    /// All owner records, in all pools that the user may look at.
    fn locks(&self, watched: Watched) -> Result<Locks>;

    /// Frees an image whose owner is gone: shuts the owner out first. One that is alive is only parted from it by `force`. The
    /// records that are gone now are answered.
    fn break_lock(&self, spec: &ImageSpec, force: bool) -> Result<Vec<Lock>>;

    /// Ends the advisory locks that other plugins, or people, have left on an image; nothing when there are none.
    fn break_advisory(&self, spec: &ImageSpec, force: bool) -> Result<Option<Unlocked>>;

    /// Shuts a host out: every kernel client and plugin that its owner records name, alive or not. Its images are free afterwards.
    fn fence_host(&self, host: &str) -> Result<Locks>;

    /// The addresses that are shut out of the cluster now.
    fn fences(&self) -> Result<Vec<Fence>>;

    /// How long a fence lasts that is put up here.
    fn fence_lasts(&self) -> Duration;
}

/// The owner records, and what of them is not known.
#[derive(Debug, Default)]
pub struct Locks {
    /// By image.
    pub found: Vec<Lock>,
    /// Those that cannot be understood: somebody owns their images all the same.
    pub damaged: Vec<Damaged>,
    /// What could not be seen, and why.
    pub unseen: Vec<DriverError>,
    /// Pools among that: there may be more records.
    pub left_out: Vec<LeftOut>,
    /// Whether images may be called by names of the past.
    pub(crate) misnamed: bool,
}

/// An owner record that is not understood.
#[derive(Debug)]
pub struct Damaged {
    pub(crate) place: Place,
    pub(crate) key: String,
    /// Why not.
    pub why: DriverError,
}

impl Damaged {
    /// Whether it is the record of this image.
    pub fn is_of(&self, pool: &str, namespace: Option<&str>, image_id: &str) -> bool {
        (self.place.0.as_str(), self.place.1.as_deref()) == (pool, namespace)
            && self.key.strip_prefix("image.") == Some(image_id)
    }
}

impl Locks {
    /// An error when a pool was left out: a part of the records is not to pass for all of them.
    pub fn are_all(&self) -> Result<()> {
        if self.left_out.is_empty() {
            return Ok(());
        }
        let pools = self.left_out.iter().map(LeftOut::name).collect::<Vec<_>>().join(", ");
        let message = format!("this is not all: there may be owner records in {pools}");
        Err(DriverError::new(ErrorKind::Unreachable, message))
    }
}

/// Whether it is asked who watches the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Yes.
    Asked,
    /// No; then none counts as watched.
    Left,
}

/// An owner record, and what is seen of its owner.
#[derive(Debug, Clone, Serialize)]
pub struct Lock {
    /// The image by its name of today; by the one under which it was claimed when it is gone.
    pub image: ImageSpec,
    /// The owner's host.
    pub host: String,
    /// The owner's plugin.
    pub plugin: String,
    /// Since when, as RFC 3339.
    pub since: String,
    /// The address that a fence shuts out; none while nothing is mapped.
    pub client_addr: Option<String>,
    /// The address of the owner's plugin.
    pub plugin_addr: Option<String>,
    /// The addresses of clients that the plugin had before and that may still send something.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier_plugin_addrs: Vec<String>,
    /// The mount IDs that used it last.
    pub mount_ids: Vec<String>,
    /// Whether the plugin's heart beats.
    pub alive: bool,
    /// Whether the recorded client watches the image: its kernel has it mapped.
    pub watching: bool,
    /// Whether the image is only being made.
    pub making: bool,
    /// The entry of the blocklist that shuts the recorded client out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fenced_by: Option<String>,
    /// All that is known of the owner.
    #[serde(skip)]
    pub owner: Owner,
    /// The image's id, once there is an image.
    #[serde(skip)]
    pub image_id: Option<String>,
    /// The key of the record.
    #[serde(skip)]
    pub(crate) key: String,
    /// The record as it is stored: a change compares with it.
    #[serde(skip)]
    pub(crate) raw: Vec<u8>,
}

impl Lock {
    /// What is told of a record, by the name that its image has now.
    pub(crate) fn of(
        (key, raw): (String, Vec<u8>),
        image: ImageSpec,
        record: OwnerRecord,
        alive: bool,
    ) -> Self {
        let OwnerRecord { owner, making, plugin_addr, earlier_plugin_addrs, .. } = record;
        Self {
            alive,
            watching: false,
            making: making.is_some(),
            fenced_by: None,
            image,
            host: owner.host.clone(),
            plugin: owner.plugin.clone(),
            since: rfc3339(owner.since),
            client_addr: owner.client_addr.clone(),
            plugin_addr,
            earlier_plugin_addrs,
            mount_ids: owner.mount_ids.clone(),
            owner,
            image_id: key.strip_prefix("image.").map(str::to_owned),
            key,
            raw,
        }
    }

    /// Whether freeing it shuts its plugin out too: one that shows no sign of life may be frozen, about to clear or remove what it thinks it
    /// owns. One that lives looks at its records before it does; with its whole host it is shut out all the same, and connects anew.
    pub fn takes_plugin(&self, host: bool) -> bool {
        host || !self.alive
    }

    /// The addresses of all clients of its plugin.
    pub fn plugin_addrs(&self) -> impl Iterator<Item = &String> {
        self.plugin_addr.iter().chain(&self.earlier_plugin_addrs)
    }
}

/// What was ended.
#[derive(Debug)]
pub struct Unlocked {
    /// The locks.
    pub lockers: Vec<Locker>,
    /// The addresses that were shut out because they had the image mapped or open.
    pub fenced: Vec<String>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What is said of a record whose owner shows no sign of life.
    pub(crate) fn parsed(raw: &serde_json::Value) -> Lock {
        let record = OwnerRecord::parse(raw.to_string().as_bytes()).unwrap();
        Lock::of(("image.1".to_owned(), Vec::new()), record.image.clone(), record, false)
    }

    /// A record that is not understood.
    pub(crate) fn damaged(pool: &str, key: &str) -> Damaged {
        let why = OwnerRecord::parse(b"{").unwrap_err();
        Damaged { place: (pool.to_owned(), None), key: key.to_owned(), why }
    }
}

//! What the protocol asks of the cluster, and of this host's kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use super::blocklist::Blocklist;
use crate::model::error::Result;
use crate::model::locker::{Locker, Lockers};
use crate::model::name::ImageSpec;

/// A pool, and perhaps a namespace of it.
pub type Place = (String, Option<String>);

/// The place of an image.
pub fn place(spec: &ImageSpec) -> Place {
    (spec.pool().to_owned(), spec.namespace().map(str::to_owned))
}

/// Keys of an object and their values.
pub type Keys = BTreeMap<String, Vec<u8>>;

/// One change of one key.
#[derive(Debug, Clone, Copy)]
pub struct Swap<'a> {
    /// Which key.
    pub key: &'a str,
    /// What it must be now; nothing means that there is no such key.
    pub expected: Option<&'a [u8]>,
    /// What it becomes; nothing removes it. Never empty.
    pub new: Option<&'a [u8]>,
}

/// A lease: the cluster drops it by its own clock when it is not renewed.
#[derive(Debug, Clone, Copy)]
pub struct Lease<'a> {
    /// The object that it is kept on.
    pub object: &'a str,
    /// Its name there. Many clients may hold it at a time.
    pub name: &'a str,
    /// What tells one holder from another.
    pub holder: &'a str,
    /// For people.
    pub about: &'a str,
}

/// One client of the cluster, for one operation. Every call may fail because the cluster does not answer; what it was to do may be done all
/// the same. "Not there" is an empty answer, never an error.
pub trait ClusterKv: fmt::Debug {
    /// All keys of an object.
    fn keys(&self, place: &Place, object: &str) -> Result<Keys>;

    /// Those of these keys that the object has.
    fn some_keys(&self, place: &Place, object: &str, keys: &[&str]) -> Result<Keys>;

    /// Makes all changes if every key is as expected, in one step. False: one was not, and nothing is changed.
    fn swap(&self, place: &Place, object: &str, changes: &[Swap<'_>]) -> Result<bool>;

    /// Takes or renews a lease: it counts for `lasts` from some moment of this call on.
    fn renew(&self, place: &Place, lease: Lease<'_>, lasts: Duration) -> Result<()>;

    /// Who holds a lease now.
    fn holders(&self, place: &Place, object: &str, name: &str) -> Result<BTreeSet<String>>;

    /// Gives a lease of this client up.
    fn give_up(&self, place: &Place, object: &str, name: &str, holder: &str) -> Result<()>;

    /// This client's address.
    fn address(&self) -> Result<String>;

    /// The addresses of other clients of this plugin that may still send something.
    fn earlier_addresses(&self) -> Result<Vec<String>>;

    /// Shuts clients out, and returns once this client and whoever connects from now on knows it.
    fn shut_out(&self, addresses: &BTreeSet<String>, lasts: Duration) -> Result<()>;

    /// Who is shut out.
    fn blocklist(&self) -> Result<Blocklist>;

    /// The id of an image by its name.
    fn image_id(&self, spec: &ImageSpec) -> Result<Option<String>>;

    /// The id of the pool of a place.
    fn pool_id(&self, place: &Place) -> Result<i64>;

    /// An error when a place in which nothing was found is not there any more.
    fn require_place(&self, place: &Place) -> Result<()>;

    /// The addresses that watch an image: of everybody who has it mapped, or open for writing.
    fn watchers(&self, spec: &ImageSpec, id: &str) -> Result<Vec<String>>;

    /// Asks all who watch an image for a sign of life, and waits for that at most so long; the addresses of those that gave one. A kernel
    /// answers as long as its host runs, whatever its plugin does.
    fn answering_watchers(&self, spec: &ImageSpec, id: &str, patience: Duration) -> Result<Vec<String>>;

    /// Whether an image has the exclusive-lock feature; not, when it is gone.
    fn has_exclusive_lock(&self, spec: &ImageSpec, id: &str) -> Result<bool>;

    /// Takes the advisory lock of an image; ours already is success. False: somebody else has it.
    fn lock_image(&self, spec: &ImageSpec, id: &str, cookie: &str) -> Result<bool>;

    /// Gives it back; whether this client had it.
    fn unlock_image(&self, spec: &ImageSpec, id: &str, cookie: &str) -> Result<bool>;

    /// Who has the advisory lock of an image.
    fn image_lockers(&self, spec: &ImageSpec, id: &str) -> Result<Lockers>;

    /// Ends a hold of somebody else on the advisory lock, and shuts that client out. `name` is the image's by now.
    fn break_image_lock(&self, spec: &ImageSpec, name: &str, locker: &Locker) -> Result<()>;

    /// This client's name as a locker.
    fn locker_name(&self) -> String;

    /// The time on this host's clock, which nothing sets back.
    fn now(&self) -> Instant;
}

/// A mapping of an image of this cluster on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMapping {
    /// The id of the image's pool.
    pub pool_id: i64,
    /// The namespace in it.
    pub namespace: Option<String>,
    /// The image as it was called when it was mapped; none where no volume can be called so.
    pub spec: Option<ImageSpec>,
    /// The image's id.
    pub image_id: String,
    /// The address of the kernel's client.
    pub address: String,
    /// Whether a snapshot of it is mapped, and not the image itself.
    pub snapshot: bool,
    /// The device, for people.
    pub device: String,
    /// Whether this plugin has made it.
    pub ours: bool,
    /// By whom it was made, for people.
    pub made_by: String,
}

/// What this host's kernel has mapped.
pub trait Mappings: fmt::Debug {
    /// All mappings of this cluster's images.
    fn list(&self) -> Result<Vec<HostMapping>>;

    /// That of one image.
    fn of(&self, place: &Place, id: &str) -> Result<Option<HostMapping>>;
}

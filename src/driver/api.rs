//! What front ends and the daemon ask of a driver: the operations ([`VolumeDriver`]), and what it tells of itself ([`DriverStatus`]).
//!
//! Every call is synchronous. An operation is idempotent and undoes itself when it fails; a front end runs it on a blocking thread, in ONE
//! closure that outlives a client that hangs up. Reads (`path`, `get`, `list`) take no volume's guard and never wait for a slow operation.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::model::error::Result;
use crate::model::image::NoVolume;
use crate::model::name::ImageSpec;
use crate::model::overview::Overview;
/// The process for which a volume was mounted, and which will ask for its unmount: a Docker engine. A mount ID whose process is gone may
/// never be unmounted by anybody.
pub use crate::model::process::Process as Client;
use crate::model::settings::Scope;

/// The operations on volumes.
pub trait VolumeDriver: fmt::Debug + Send + Sync + 'static {
    /// Makes the volume, or finds that it is there already.
    fn create(&self, name: &str, options: &BTreeMap<String, String>) -> Result<()>;

    /// Does to the volume what the plugin was told to do on removal; what is not there is success.
    fn remove(&self, name: &str) -> Result<()>;

    /// Mounts the volume on behalf of a mount ID, or adds one more use to the mount that is there. `waits` says whether the
    /// client still waits for the answer: one that has left will not unmount, so in the end its use is taken back.
    fn mount(
        &self,
        name: &str,
        id: &str,
        client: Option<Client>,
        waits: &dyn Fn() -> bool,
    ) -> Result<PathBuf>;

    /// Takes one use of the mount ID away, and unmounts after the last. An unknown ID or volume is success.
    fn unmount(&self, name: &str, id: &str) -> Result<()>;

    /// Where the volume is mounted, if it is.
    fn path(&self, name: &str) -> Result<Option<PathBuf>>;

    /// What is known of the volume. Of the errors only `NotFound` means that there is no such volume.
    fn get(&self, name: &str) -> Result<Volume>;

    /// All volumes.
    fn list(&self) -> Result<Vec<Volume>>;

    /// Whether a volume of one name is the same on all hosts.
    fn scope(&self) -> Scope;

    /// What it is at, as it knows without asking anybody.
    fn glance(&self) -> Glance;

    /// No operation will be asked for any more: what would have been written in the background is written now.
    fn stopped(&self) {}
}

/// What a driver tells of itself and of its volumes. Nothing here asks the store, so nothing waits for it.
pub trait DriverStatus: VolumeDriver {
    /// All at one moment.
    fn overview(&self) -> Overview;

    /// The image that a volume's name means, by the names that the store told last.
    fn image_of(&self, name: &str) -> Option<ImageSpec>;

    /// The volumes as they were seen last; `why` the store is not asked is part of the answer.
    fn known_volumes(&self, why: &str) -> Vec<Volume>;

    /// One volume as it was seen last.
    fn known_volume(&self, name: &str, why: &str) -> Option<Volume>;

    /// The size of a volume, if a Get has ever told it.
    fn known_size(&self, name: &str) -> Option<String>;

    /// The images that the last List has left out, and why.
    fn no_volumes(&self) -> Vec<NoVolume>;
}

/// A driver at a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Glance {
    /// How many volumes are mounted.
    pub mounted: usize,
    /// Why the backend is away, when it is known to be.
    pub away: Option<String>,
}

/// A volume, as front ends show it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Where it is mounted, if it is.
    pub mountpoint: Option<PathBuf>,
    /// When it was made, RFC 3339.
    pub created_at: Option<String>,
    /// What else is known of it: its `Status` for Docker.
    pub status: Map<String, Value>,
}

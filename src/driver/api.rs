//! The operations of a volume driver, as the plugin calls them: synchronous, idempotent, each undoing itself when it fails.
//!
//! The plugin runs every call on a blocking thread, in ONE closure that outlives a client that hangs up. Reads (`path`, `get`,
//! `list`) take no volume's guard and never wait for a slow operation.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::model::error::Result;
/// A Docker engine that mounted a volume: the process behind the socket. A mount ID whose engine is gone may never be
/// unmounted by anybody.
pub use crate::model::process::Process as Client;
use crate::model::settings::Scope;

/// What a Docker engine asks of its volume driver.
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
}

/// A driver at a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Glance {
    /// How many volumes are mounted.
    pub mounted: usize,
    /// Why the backend is away, when it is known to be.
    pub away: Option<String>,
}

/// A volume, as Docker wants to see it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Where it is mounted, if it is.
    pub mountpoint: Option<PathBuf>,
    /// When it was made, RFC 3339.
    pub created_at: Option<String>,
    /// What `docker volume inspect` shows as its status.
    pub status: Map<String, Value>,
}

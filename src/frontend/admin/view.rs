//! What the JSON pages answer, for the server that writes it and the commands that read it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::model::image::NoVolume;
pub use crate::model::overview::MountView;

/// `/v1/status`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The plugin's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Since when it serves.
    pub started: String,
    /// `rbd`, `local` or `sim`.
    pub backend: String,
    /// Why the storage counts as away, if it does.
    pub away: Option<String>,
    /// Whether operations can succeed.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// Pools whose volumes cannot be listed, and why.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// What the background work cannot see, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_known: Vec<String>,
    /// Mounted volumes.
    pub mounted: usize,
    /// Running operations.
    pub operations: usize,
    /// Devices of this host with images behind them.
    pub devices: usize,
    /// Volumes with something left to undo.
    pub unsettled: usize,
    /// Volumes taken away from this host and not mounted again.
    pub fenced: usize,
}

/// `/v1/volumes`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volumes {
    /// All of them.
    pub volumes: Vec<VolumeView>,
    /// Why this is what was known before, if it is.
    pub degraded: Option<String>,
    /// Pools whose volumes cannot be listed, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Images of the pools that are no volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_volumes: Vec<NoVolume>,
}

/// One of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeView {
    /// Its name for Docker.
    pub name: String,
    /// Its image.
    pub image: Option<String>,
    /// Its size, if it is known: `10G`.
    pub size: Option<String>,
    /// Where it is mounted here.
    pub mountpoint: Option<PathBuf>,
    /// How many uses it has here.
    pub mounts: u64,
}

/// `/v1/mounts`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mounts {
    /// What is mounted, by name.
    pub mounts: Vec<MountView>,
}

/// `/v1/operations`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    /// Oldest first.
    pub operations: Vec<OperationView>,
}

/// One that is running.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperationView {
    /// The number of its request, as in the log.
    pub number: u64,
    /// What Docker calls it.
    pub operation: String,
    /// The volume.
    pub volume: Option<String>,
    /// For how long.
    pub seconds: f64,
}

/// The answer instead of a page.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    /// Why the page is not available.
    pub error: String,
}

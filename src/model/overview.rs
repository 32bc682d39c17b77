//! What a driver tells of itself at one moment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::block_io::BlockIo;
use super::filesystem::Usage;

/// All at one moment.
#[derive(Debug, Clone)]
pub struct Overview {
    /// `rbd`, `local` or `sim`.
    pub backend: &'static str,
    /// Why the store is away, if it is.
    pub away: Option<String>,
    /// Why operations cannot succeed yet, if so.
    pub not_ready: Vec<String>,
    /// Devices of this host with images behind them.
    pub devices: usize,
    /// Volumes with something left to undo.
    pub unsettled: usize,
    /// Volumes that were taken away from this host and have not been mounted again.
    pub fenced: usize,
    /// Pools whose volumes cannot be listed, and why.
    pub left_out: Vec<String>,
    /// What the background work cannot see, and why.
    pub not_known: Vec<String>,
    /// The pools that are served, and why one of them does not answer.
    pub pools: Vec<(String, Option<String>)>,
    /// How long ago the store last answered List or Get; since the start, if it never did.
    pub cache_age: Duration,
    /// How long ago this plugin last showed that it lives, in each pool where it owns images.
    pub heartbeats: Vec<(String, Duration)>,
    /// What is mounted, by name.
    pub mounts: Vec<MountView>,
}

/// A mounted volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountView {
    /// Its name for Docker.
    pub volume: String,
    /// Its image.
    pub image: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Its device.
    pub device: PathBuf,
    /// Size of the device in bytes.
    pub device_bytes: Option<u64>,
    /// Type of its filesystem.
    pub fstype: String,
    /// Whether it was mounted read-only.
    pub read_only: bool,
    /// Since when, seconds since the epoch.
    pub since: u64,
    /// How many times each mount ID uses it.
    pub mount_ids: BTreeMap<String, u64>,
    /// All uses.
    pub mounts: u64,
    /// How full it is, as it was told last.
    pub usage: Option<Usage>,
    /// How long ago that was; how long there has been no answer, if there was none.
    pub usage_age_seconds: f64,
    /// What its device has done.
    pub io: Option<BlockIo>,
}

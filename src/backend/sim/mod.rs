//! A backend and a host in memory, with the rules of the real ones: a mounted device cannot be unmapped, an owned image cannot be
//! claimed, mkfs on data destroys it (and the tests see that it did).
//!
//! A [`World`] is what outlives the plugin: the store, and the kernel of one host. Whoever opens a driver over it again after a
//! "crash" finds what a restarted plugin would find. `--backend sim` serves it, for developing clients of the protocol without
//! root; the failure and crash tests wrap it in [`fault`](crate::backend::fault).

mod disks;
mod host;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::Device;
use crate::model::error::{DriverError, Result};
use crate::model::filesystem::{Content, Filesystem};
use crate::model::mount::Mounted;
use crate::model::name::ImageSpec;
use crate::model::owner::Owner;
use crate::model::process::Process;
use crate::model::record::Record;
use crate::model::size::Size;

/// The store and the kernel, shared by all that look at it.
#[derive(Debug, Clone, Default)]
pub struct World {
    state: Arc<Mutex<State>>,
}

/// A plugin instance's view of a [`World`]: implements `Backend`, `Disks` and `Host`.
#[derive(Debug, Clone)]
pub struct Sim {
    world: World,
    identity: Owner,
}

/// All there is. Public to the tests through [`World::look`].
#[derive(Debug, Default)]
pub struct State {
    /// Records, also of images that are not there yet.
    pub records: BTreeMap<ImageSpec, Record>,
    /// Images.
    pub images: BTreeMap<ImageSpec, Image>,
    /// Owner records.
    pub owners: BTreeMap<ImageSpec, Owner>,
    /// Bare names.
    pub bindings: BTreeMap<String, ImageSpec>,
    /// Mapped images, by device number.
    pub devices: BTreeMap<u32, ImageSpec>,
    /// Mounts of the host.
    pub mounts: Vec<Mounted>,
    /// Folders below the mount root and the state folder.
    pub folders: BTreeSet<PathBuf>,
    /// Files below the state folder.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// Devices that a container holds.
    pub held: BTreeSet<u32>,
    /// Mountpoints that somebody keeps busy.
    pub busy: BTreeSet<PathBuf>,
    /// Engines that are gone.
    pub dead: BTreeSet<Process>,
    /// Every mkfs on an image that held data: must stay empty.
    pub destroyed: Vec<ImageSpec>,
    /// Whether the store is away.
    pub away: bool,
    /// What calls of these names answer; that to a mount only once.
    pub failing: BTreeMap<&'static str, DriverError>,
    /// Images whose owner record is not understood, and why.
    pub unread: BTreeMap<ImageSpec, String>,
    next_device: u32,
}

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its size.
    pub size: Size,
    /// What is on it.
    pub data: Data,
}

/// What is on an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Never written.
    Untouched,
    /// mkfs began.
    HalfFormatted,
    /// A filesystem, and the data that the tests put into it.
    Filesystem(Filesystem, String),
    /// Something else, by name; an empty name has no signature.
    Foreign(String),
}

impl Data {
    /// What a probe finds.
    pub(super) fn content(&self) -> Content {
        match self {
            Self::Filesystem(found, _) => Content::Filesystem(found.clone()),
            Self::Foreign(what) if !what.is_empty() => Content::Foreign(what.clone()),
            Self::Untouched | Self::HalfFormatted | Self::Foreign(_) => Content::Nothing,
        }
    }
}

impl World {
    /// An empty world.
    pub fn new() -> Self {
        Self::default()
    }

    /// A plugin instance in it.
    pub fn plugin(&self, identity: Owner) -> Arc<Sim> {
        Arc::new(Sim { world: self.clone(), identity })
    }

    /// The state, to look at or to meddle with.
    pub fn look(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The answer of a call that is to fail.
    fn fails(&self, call: &str) -> Result<()> {
        self.failing.get(call).cloned().map_or(Ok(()), Err)
    }

    fn device(&self, number: u32) -> Device {
        Device { path: PathBuf::from(format!("/dev/sim{number}")), number: (200, number), hold: None }
    }

    fn mapping(&self, spec: &ImageSpec) -> Option<Device> {
        self.devices.iter().find(|(_, mapped)| *mapped == spec).map(|(number, _)| self.device(*number))
    }
}

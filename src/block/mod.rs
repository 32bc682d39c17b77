//! The block kind of volume: an image that is mapped to a device of this host, with a filesystem on it.
//!
//! ```text
//! Kind ── attach: map ─▶ make a filesystem, if there never was one ─▶ check ─▶ mount
//!      ── provision: create ─▶ map ─▶ mkfs ─▶ set up ─▶ unmap
//! ```
//!
//! Images are in an [`ImageStore`](crate::backend::ImageStore), become devices by a [`Mapper`](crate::backend::Mapper), and what is on a
//! device is looked at, made, checked and mounted by [`Disks`].

pub mod kernel;

mod accept;
mod attach;
mod checking;
mod clear;
mod kind;
mod provision;
mod verdicts;

use std::path::PathBuf;
use std::sync::Arc;

use crate::backend::{Backend, Device, Disks};
use crate::host::Host;
use crate::model::error::Result;
use crate::model::filesystem::FsKind;
use crate::model::mount::Attached;
use crate::model::name::ImageSpec;
use crate::model::size::Size;
use verdicts::Verdicts;

/// The settings of the kind.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether blank images may be formatted.
    pub create: bool,
    /// Size of a new image.
    pub size: Size,
    /// Filesystem of a new image.
    pub fs: FsKind,
    /// Further options for its mkfs.
    pub mkfs_options: Vec<String>,
    /// Mount options of a new volume, and of an image that others made.
    pub mount_options: Option<String>,
    /// What should survive a restart of the host is kept here, and fresh filesystems are mounted below it for their setting up.
    pub state: PathBuf,
}

/// See the module.
#[derive(Debug)]
pub struct Block {
    settings: Settings,
    store: Arc<dyn Backend>,
    disks: Arc<dyn Disks>,
    host: Arc<dyn Host>,
    verdicts: Arc<Verdicts>,
}

impl Block {
    /// Over a store, the disks of this host and the host itself.
    pub fn open(
        settings: Settings,
        store: Arc<dyn Backend>,
        disks: Arc<dyn Disks>,
        host: Arc<dyn Host>,
    ) -> Result<Arc<Self>> {
        let verdicts = Arc::new(Verdicts::open(settings.state.join("checks"), Arc::clone(&host))?);
        Ok(Arc::new(Self { settings, store, disks, host, verdicts }))
    }

    /// Where fresh filesystems are mounted for their setting up.
    fn stagings(&self) -> PathBuf {
        self.settings.state.join("staging")
    }

    fn staging(&self, spec: &ImageSpec) -> PathBuf {
        self.stagings().join(spec.file_name())
    }

    /// The device of an attached volume. Only btrfs shows another number than its own.
    fn device_of(&self, attached: &Attached) -> Result<Device> {
        let path = PathBuf::from(&attached.source);
        let number = match attached.fstype.as_str() {
            "btrfs" => self.disks.number(&path)?.unwrap_or_default(),
            _ => attached.place.number,
        };
        Ok(Device { path, number, hold: None })
    }
}

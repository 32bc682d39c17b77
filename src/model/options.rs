//! The options of `docker volume create -o` that stay with an image.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::error::{DriverError, Result};
use crate::model::filesystem::FsKind;
use crate::model::size::Size;

/// The options of `docker volume create -o` that stay with the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct ImageOptions {
    /// The size asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// The filesystem asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fstype: Option<FsKind>,
    /// Further words for mkfs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mkfs_options: Vec<String>,
    /// As in fstab: `noatime,discard`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_options: Option<String>,
    /// Owner of the root directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group of the root directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Mode of the root directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Whether it is mounted read-only, always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// Image features, as a sorted list of names with commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
    /// Size of the RADOS objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_size: Option<Size>,
    /// Size of a stripe in an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripe_unit: Option<Size>,
    /// Number of objects that a stripe goes over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripe_count: Option<u64>,
    /// The pool of the data, where it is not the pool of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_pool: Option<String>,
    /// Options of the kernel's mapping, with commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map_options: Option<String>,
    /// How the kernel holds the image's exclusive lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockMode>,
    /// Whether the size was a small number without a unit: elsewhere that means GiB.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bare_size: bool,
}

impl ImageOptions {
    /// An error for options that have a meaning in a Ceph cluster only.
    pub(crate) fn refuse_rbd_only(&self) -> Result<()> {
        let given = [
            ("features", self.features.is_some()),
            ("object-size", self.object_size.is_some()),
            ("stripe-unit", self.stripe_unit.is_some()),
            ("stripe-count", self.stripe_count.is_some()),
            ("data-pool", self.data_pool.is_some()),
            ("map-options", self.map_options.is_some()),
            ("lock", self.lock.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((key, _)) => {
                Err(DriverError::invalid(format!("option {key} has a meaning for images in Ceph only"))
                    .hint("leave it out, or use --backend rbd"))
            }
            None => Ok(()),
        }
    }
}

/// How the kernel holds the exclusive lock of an image that it has mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockMode {
    /// It lends the lock to whoever asks: snapshots and resizing work while the image is mounted. Other hosts are kept away by the
    /// owner record.
    Cooperative,
    /// It never lends it: nobody else can write or map, and librbd's maintenance fails with EROFS.
    Exclusive,
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cooperative => "cooperative",
            Self::Exclusive => "exclusive",
        })
    }
}

impl FromStr for LockMode {
    type Err = DriverError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "cooperative" => Ok(Self::Cooperative),
            "exclusive" => Ok(Self::Exclusive),
            _ => Err(DriverError::invalid("neither cooperative nor exclusive")),
        }
    }
}

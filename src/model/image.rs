//! Images: what a store says of one, and of those that are no volumes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::model::error::DriverError;
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::record::{Record, Stage};
use crate::model::size::Size;

/// An image that is no volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NoVolume {
    /// Where it is, as `rbd` writes it.
    pub image: String,
    /// Why it is no volume.
    pub why: String,
}

/// The images that were found.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The images.
    pub specs: Vec<ImageSpec>,
    /// Where there may be more.
    pub left_out: Vec<LeftOut>,
}

impl From<Vec<ImageSpec>> for Listing {
    fn from(specs: Vec<ImageSpec>) -> Self {
        Self { specs, left_out: Vec::new() }
    }
}

/// A pool, or a namespace of it, whose images cannot be listed now. Nothing is known of them: they are not gone.
#[derive(Debug, Clone)]
pub struct LeftOut {
    /// The pool.
    pub pool: String,
    /// The namespace; without one, all of the pool.
    pub namespace: Option<String>,
    /// Why.
    pub why: DriverError,
}

impl LeftOut {
    /// Whether an image is there, if it exists.
    pub fn covers(&self, spec: &ImageSpec) -> bool {
        self.pool == spec.pool()
            && (self.namespace.is_none() || self.namespace.as_deref() == spec.namespace())
    }

    /// `pool` or `pool/namespace`.
    pub fn name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}/{namespace}", self.pool),
            None => self.pool.clone(),
        }
    }
}

/// `pool: why`, on one line.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name(), self.why)
    }
}

/// What the store says of an image.
#[derive(Debug, Clone)]
pub struct ImageInfo {
    /// Its size; `None` when only its record was made so far.
    pub size: Option<Size>,
    /// Our record; `None` for an image that somebody else made.
    pub record: Option<Record>,
    /// When it was made, or last changed where nobody knows.
    pub created: SystemTime,
    /// What it takes up in the store.
    pub allocated: Option<Size>,
    /// What its name does not change, where the store has that.
    pub id: Option<String>,
    /// What it is, in the words of the options that would make such a one: its size and, in a Ceph cluster, features and layout.
    pub is: ImageOptions,
    /// What keeps it from being mounted, although it is there.
    pub trouble: Option<Trouble>,
    /// What else the backend has to show of it, for people.
    pub details: BTreeMap<&'static str, String>,
}

impl ImageInfo {
    /// Whether this is what a Create left that died: then there is no volume yet. An image that was there before us always is
    /// a volume.
    pub fn is_half_made(&self) -> bool {
        match &self.record {
            Some(record) => self.size.is_none() || (record.stage != Stage::Ready && !record.adopted),
            None => false,
        }
    }

    /// Whether a Create has begun it, and has not ended yet.
    pub fn is_being_made(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.stage != Stage::Ready && !record.adopted)
    }
}

/// Why an image that is there cannot be mounted.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// What a Mount answers.
    pub why: DriverError,
    /// Whether it may be removed all the same.
    pub removable: bool,
}

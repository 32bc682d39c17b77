//! What became of the volumes of a plugin that gives them all back.

use std::collections::BTreeMap;

use super::error::{DriverError, Result};
use super::name::ImageSpec;

/// What became of the volumes.
#[derive(Debug)]
pub struct Released {
    /// Each that bore a trace of this plugin; in the way of one that is left is what the error says, `InUse` when somebody holds it.
    pub volumes: BTreeMap<ImageSpec, Result<()>>,
    /// Why the owner records could not be read: there may be further images that this plugin owns, not mounted.
    pub unknown: Option<DriverError>,
}

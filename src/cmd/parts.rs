//! What commands need of the parts of the plugin.

use std::time::Duration;

use crate::config::Config;
#[cfg(feature = "ceph")]
use crate::coordination::admin::OwnerAdmin;
use crate::model::error::Result;
use crate::model::released::Released;

/// Tells what became of the volumes; the exit status.
pub type Tell<'a> = &'a dyn Fn(Released) -> Result<u8>;

/// See the module. Which parts those are is known to the daemon alone, so `main` hands it over.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// What can be said of the backend before anything is touched.
    pub check: fn(&Config) -> Result<()>,
    /// Gives the volumes of a stopped plugin back, and has it told what became of them; the exit status.
    pub release_all: fn(&Config, Duration, Tell<'_>) -> Result<u8>,
    /// Connects to the cluster in which the images are.
    #[cfg(feature = "ceph")]
    pub owner_admin: fn(&Config) -> Result<Box<dyn OwnerAdmin>>,
}

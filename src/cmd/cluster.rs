//! The cluster that a command is about.

use super::parts::Parts;
use crate::config::{Backend, Config};
use crate::coordination::admin::OwnerAdmin;
use crate::model::error::{DriverError, ErrorKind, Result};

/// Connects to it; an error when images are in no cluster.
pub(super) fn connect(parts: &Parts, config: &Config) -> Result<Box<dyn OwnerAdmin>> {
    expect(config)?;
    (parts.owner_admin)(config)
}

/// An error when images are in no cluster.
pub(super) fn expect(config: &Config) -> Result<()> {
    let other = |name: &str, hint: &str| {
        let message = format!(
            "check, lock and fence are for images in a Ceph cluster, and these settings say --backend {name}"
        );
        Err(DriverError::new(ErrorKind::Config, message).hint(hint))
    };
    match &config.backend {
        Backend::Rbd => Ok(()),
        Backend::Local(dir) => other(
            "local",
            &format!(
                "who owns an image there is in {}/POOL/IMAGE.owner; --backend rbd asks the cluster",
                dir.display()
            ),
        ),
        Backend::Sim => other("sim", "--backend rbd asks the cluster"),
    }
}

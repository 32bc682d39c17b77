//! The cluster that a command is about.

use std::collections::BTreeSet;

use super::lock::Freed;
use crate::backend::rbd::admin::Admin;
use crate::config::{Backend, Config};
use crate::model::error::{DriverError, ErrorKind, Result};

/// Connects to it; an error when images are in no cluster.
pub(super) fn connect(config: &Config) -> Result<Admin> {
    expect(config)?;
    Admin::connect(&config.ceph)
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

/// What became of an owner, for its containers.
pub(super) fn consequences(answer: &Freed<'_>) -> String {
    let hosts: BTreeSet<&str> = answer.freed.iter().map(|lock| lock.host.as_str()).collect();
    let hosts = Vec::from_iter(hosts).join(", ");
    let days = answer.fence_days;
    let mut text = String::new();
    if answer.fenced.is_empty() {
        text += &format!(
            "Nothing was mapped. What the plugin on {hosts} is doing to these images, if it runs, fails.\n"
        );
    } else {
        text += &format!(
            "The kernel clients above are shut out of the cluster for {days} days.\n\
             Containers on {hosts} that still use these images get I/O errors from now on, and what they had not yet written is lost:\n\
             stop them there. The plugin there, if it runs, takes the dead mounts down by itself.\n\
             The host itself is not banned: what it maps from now on works.\n"
        );
    }
    if !answer.plugins_fenced.is_empty() {
        let addresses = answer.plugins_fenced.join(", ");
        text += &format!("Shut out too is the plugin there ({addresses}); if it runs, it connects anew.\n");
    }
    text + "Any host can mount these images now.\n"
}

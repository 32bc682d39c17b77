//! The cluster that a command is about.

use crate::backend::rbd::admin::{Admin, Lock};
use crate::config::{Backend, Config};
use crate::error::{DriverError, ErrorKind, Result};

/// Connects to it; an error when images are in no cluster.
pub(super) fn connect(config: &Config) -> Result<Admin> {
    let other = |name: &str, hint: &str| {
        let message = format!(
            "lock and fence are for images in a Ceph cluster, and these settings say --backend {name}"
        );
        Err(DriverError::new(ErrorKind::Config, message).hint(hint))
    };
    match &config.backend {
        Backend::Rbd => Admin::connect(&config.ceph),
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
pub(super) fn consequences(locks: &[Lock], days: u64) -> String {
    let mut text = String::new();
    let mut hosts: Vec<&str> = locks.iter().map(|lock| lock.host.as_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let hosts = hosts.join(", ");
    if locks.iter().any(|lock| lock.client_addr.is_some()) {
        text += &format!(
            "The kernel clients above are shut out of the cluster for {days} days.\n\
             Containers on {hosts} that still use these images get I/O errors from now on, and what they had not yet written is lost:\n\
             stop them there. The plugin there, if it runs, takes the dead mounts down by itself.\n\
             The host itself is not banned: what it maps from now on works.\n"
        );
    } else {
        text += &format!(
            "Nothing was mapped. What the plugin on {hosts} is doing to these images, if it runs, fails.\n"
        );
    }
    text + "Any host can mount these images now.\n"
}

//! A plugin on the cluster of a lab.

use crate::host::Host;
use crate::plugin::Plugin;
use crate::rig::Lab;

/// By the user that has no more than `profile rbd`.
pub(crate) fn start<'a>(lab: &Lab, host: &'a Host, flags: &[&str]) -> Plugin<'a> {
    let conf = lab.cluster.conf().display().to_string();
    let ours = [
        "--create", "--remove", "delete", "--fs", "ext4", "--size", "64M", "--user", "docker", "--config",
        &conf,
    ];
    host.plugin("rbd", &[&ours, flags].concat())
}

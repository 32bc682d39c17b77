//! A plugin on the cluster of a lab.

use crate::cluster::Cluster;
use crate::host::Host;
use crate::plugin::Plugin;
use crate::rig::Lab;

/// By the user that has no more than `profile rbd`.
pub(crate) fn start<'a>(lab: &Lab, host: &'a Host, flags: &[&str]) -> Plugin<'a> {
    start_on(&lab.cluster, host, "rbd", flags)
}

/// The same on a cluster of the test's own, under a name.
pub(crate) fn start_on<'a>(cluster: &Cluster, host: &'a Host, name: &str, flags: &[&str]) -> Plugin<'a> {
    let conf = cluster.conf().display().to_string();
    let ours = [
        "--create", "--remove", "delete", "--fs", "ext4", "--size", "64M", "--user", "docker", "--config",
        &conf,
    ];
    host.plugin(name, &[&ours, flags].concat())
}

//! Volumes in Ceph, through the plugin and a real engine, on one host and on two.

use libtest_mimic::Trial;
use serde_json::json;

use crate::host::Host;
use crate::plugin::Plugin;
use crate::rig::{Lab, one_host, two_hosts};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        one_host("volumes_a_life", life),
        two_hosts("volumes_written_on_one_host_read_on_the_other", seed_example),
    ]
}

/// A plugin on the cluster of the lab, by the user that has no more than `profile rbd`.
pub(crate) fn start<'a>(lab: &Lab, host: &'a Host, flags: &[&str]) -> Plugin<'a> {
    let conf = lab.cluster.conf().display().to_string();
    let ours = [
        "--create", "--remove", "delete", "--fs", "ext4", "--size", "64M", "--user", "docker", "--config",
        &conf,
    ];
    host.plugin("rbd", &[&ours, flags].concat())
}

fn life(lab: &Lab) {
    let host = lab.alpha();
    let mut plugin = start(lab, host, &[]);
    host.docker_ok(&["volume", "create", "-d", "rbd", "foo"]);
    assert_eq!(host.container(&["-v", "foo:/data"], "echo one >/data/log; cat /data/log"), "one");
    assert_eq!(host.container(&["-v", "foo:/data"], "echo two >>/data/log; cat /data/log"), "one\ntwo");
    let mountpoint = plugin.mount("foo", "x");
    assert_eq!(host.ok(&format!("cat {}/log", mountpoint.display())), "one\ntwo");
    let status = &plugin.ok("Get", &json!({"Name": "foo"}))["Volume"]["Status"];
    assert_eq!(status["device"], json!("/dev/rbd0"), "{status}");
    assert_eq!(status["health"], json!("ok"), "{status}");
    assert!(status["owner"].as_str().unwrap().contains("alpha"), "{status}");
    plugin.unmount("foo", "x");
    host.docker_ok(&["volume", "rm", "foo"]);
    plugin.stop();
}

/// The example of the first plugins' READMEs.
fn seed_example(lab: &Lab) {
    let (alpha, beta) = (lab.alpha(), lab.beta());
    let (mut one, mut two) = (start(lab, alpha, &[]), start(lab, beta, &[]));
    let volume = ["--volume-driver", "rbd", "-v", "foo:/mnt/foo"];
    assert_eq!(alpha.container(&volume, "echo hello >/mnt/foo/hello; cat /mnt/foo/hello"), "hello");
    assert_eq!(alpha.container(&volume, "echo again >>/mnt/foo/hello; cat /mnt/foo/hello"), "hello\nagain");
    assert_eq!(beta.container(&volume, "cat /mnt/foo/hello"), "hello\nagain");
    beta.docker_ok(&["volume", "rm", "foo"]);
    // The other engine remembers the name; there is nothing behind it any more.
    alpha.docker(&["volume", "rm", "foo"]);
    one.stop();
    two.stop();
}

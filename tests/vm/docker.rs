//! A Docker engine on a host, and the plugin beside it.

use libtest_mimic::Trial;
use serde_json::json;

use crate::rig::{Lab, one_host};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        one_host("a_container_runs", runs),
        one_host("the_engine_uses_the_plugin", volume),
        one_host("a_killed_plugin_finds_its_mounts", killed),
        one_host("doctor_finds_nothing_that_fails", doctor),
    ]
}

fn runs(lab: &Lab) {
    assert_eq!(lab.alpha().container(&[], "echo from a container"), "from a container");
}

/// Images are files of the host: these tests are about the host.
const LOCAL: [&str; 9] =
    ["--create", "--backend", "local", "--local-dir", "/disk/images", "--remove", "delete", "--fs", "ext4"];

fn volume(lab: &Lab) {
    let host = lab.alpha();
    let mut plugin = host.plugin("onhost", &LOCAL);
    host.docker_ok(&["volume", "create", "-d", "onhost", "-o", "size=64M", "one"]);
    host.container(&["-v", "one:/vol"], "echo kept >/vol/file");
    assert_eq!(host.container(&["-v", "one:/vol"], "cat /vol/file"), "kept");
    assert_eq!(plugin.ok("List", &json!({}))["Volumes"][0]["Name"], "one");
    plugin.stop();
    plugin.start();
    host.docker_ok(&["volume", "rm", "one"]);
    plugin.stop();
}

fn killed(lab: &Lab) {
    let mut plugin = lab.alpha().plugin("killed", &LOCAL);
    plugin.ok("Create", &json!({"Name": "one", "Opts": {"size": "64M"}}));
    assert_eq!(plugin.mount("one", "a"), plugin.mountpoint("one"));
    plugin.kill();
    plugin.start();
    let refused = plugin.error("Remove", &json!({"Name": "one"}));
    assert!(refused.contains("mounted"), "{refused}");
    plugin.unmount("one", "a");
    plugin.ok("Remove", &json!({"Name": "one"}));
    plugin.stop();
}

/// A host with all that volumes need: its kernel has rbd, and an engine runs.
fn doctor(lab: &Lab) {
    let (program, conf) = (env!("CARGO_BIN_EXE_rbd-docker-plugin"), lab.cluster.conf().display().to_string());
    let said = lab.alpha().ok(&format!(
        "modprobe rbd && {program} --conf-file none --config {conf} --user docker --mount /disk/volumes doctor"
    ));
    for well in ["kernel module", "capabilities", "add_key", "docker", "propagation"] {
        assert!(said.lines().any(|line| line.starts_with("ok ") && line.contains(well)), "{well}: {said}");
    }
}

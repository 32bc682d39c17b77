//! The plugin of before records had versions, beside this one: neither takes what the other owns, each goes on with what the other
//! has left on its host.

use std::path::Path;
use std::process::Command;

use libtest_mimic::{Completion, Trial};
use serde_json::{Value, json};

use crate::daemon::wait;
use crate::plugin::Plugin;
use crate::rig::{Lab, test};
use crate::volumes::start;

pub(crate) fn trials() -> Vec<Trial> {
    let name = "versions_of_the_plugin_share_a_pool";
    match previous() {
        Ok(_) => vec![test(name, share)],
        Err(why) => vec![Trial::ignorable_test(name, move || {
            println!("skipped: {why}");
            Ok(Completion::ignored_with(why))
        })],
    }
}

/// The earlier plugin, or why there is none.
fn previous() -> Result<String, String> {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/previous");
    let output = Command::new(tool).arg("--built").output().map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn text(plugin: &Plugin<'_>, volume: &str) -> String {
    plugin.host.ok(&format!("cat {}/file", plugin.mountpoint(volume).display()))
}

fn write(plugin: &Plugin<'_>, volume: &str, text: &str) {
    plugin.host.ok(&format!("echo {text} >{}/file && sync", plugin.mountpoint(volume).display()));
}

#[track_caller]
fn refused(plugin: &Plugin<'_>, volume: &str, owner: &str) {
    for said in [
        plugin.error("Mount", &json!({"Name": volume, "ID": "x"})),
        plugin.error("Remove", &json!({"Name": volume})),
    ] {
        assert!(said.contains("in use") && said.contains(&format!("host {owner}")), "{said}");
    }
}

/// The other version in its place, after a stop or a crash: it goes on with what is mounted.
fn exchange(plugin: &mut Plugin<'_>, program: &str, crashed: bool) {
    if crashed {
        plugin.kill();
    } else {
        plugin.stop();
    }
    plugin.runs(program);
    plugin.start();
}

fn record(lab: &Lab, volume: &str) -> Value {
    let raw = lab.cluster.rbd(&["image-meta", "get", volume, "rbd-docker-plugin.record"]);
    serde_json::from_str(&raw).unwrap()
}

fn share(lab: &Lab) {
    let (old, new) = (previous().unwrap(), env!("CARGO_BIN_EXE_rbd-docker-plugin"));
    let mut one = start(lab, lab.alpha(), &[]);
    exchange(&mut one, &old, false);
    let mut two = start(lab, lab.beta(), &[]);

    // Made and mounted by the old one.
    one.ok("Create", &json!({"Name": "of-old", "Opts": {"mount-options": "noatime", "uid": "7"}}));
    one.mount("of-old", "a");
    write(&one, "of-old", "old");
    assert_eq!(record(lab, "of-old").get("v"), None, "this is the earlier version");
    let status = two.ok("Get", &json!({"Name": "of-old"}))["Volume"]["Status"].clone();
    assert_eq!(
        (&status["options"]["uid"], &status["options"]["mount-options"]),
        (&json!("7"), &json!("noatime"))
    );
    assert!(status["owner"].as_str().unwrap().contains("alpha"), "{status}");
    refused(&two, "of-old", "alpha");

    // The upgrade of its host, with a crash in between: the mount goes on.
    exchange(&mut one, new, true);
    assert_eq!(text(&one, "of-old"), "old");
    refused(&two, "of-old", "alpha");
    // And the way back.
    one.mount("of-old", "b");
    exchange(&mut one, &old, true);
    one.unmount("of-old", "a");
    assert!(one.mounts("of-old"), "the use that the other version has counted");
    one.unmount("of-old", "b");
    wait("the volume to be given up", || !one.mounts("of-old"));

    // Mounted by this one: the old one respects that.
    two.mount("of-old", "c");
    assert_eq!(text(&two, "of-old"), "old");
    refused(&one, "of-old", "beta");
    two.ok("Create", &json!({"Name": "of-new", "Opts": {"fstype": "xfs", "size": "320M", "pool": "rbd"}}));
    two.mount("of-new", "d");
    write(&two, "of-new", "new");
    two.unmount("of-new", "d");
    assert_eq!(record(lab, "of-new")["v"], 1);
    one.mount("of-new", "e");
    assert_eq!(text(&one, "of-new"), "new");
    refused(&two, "of-new", "alpha");

    // Each takes over from the other when its host has lost its power.
    lab.alpha().power_off();
    two.mount("of-new", "f");
    assert_eq!(text(&two, "of-new"), "new");
    lab.alpha().boot();
    one.remove_socket();
    one.start();
    refused(&one, "of-new", "beta");
    lab.beta().power_off();
    for volume in ["of-new", "of-old"] {
        one.mount(volume, "g");
        one.unmount(volume, "g");
        one.ok("Remove", &json!({"Name": volume}));
    }
    lab.beta().boot();
    two.remove_socket();
    two.start();
    one.stop();
    two.stop();
}

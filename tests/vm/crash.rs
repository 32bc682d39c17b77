//! kill -9 at the steps of Create, Mount, Unmount and Remove, and a restart that accounts for every mapping, mount, owner record
//! and image.
//!
//! A step is a call to the backend that changes something, mkfs, a mount, an unmount, or a file of ours, and the plugin dies right
//! after it. What it leaves then is the same as right before the next call, and reads leave nothing. `RBD_EVERY_POINT=1` kills at
//! every point instead.

use std::fs;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::outage::owners;
use crate::plugin::Plugin;
use crate::rig::{Lab, one_host};
use crate::volumes::start;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        one_host("crash_at_every_step_of_create", |lab| at_every_step(lab, Operation::Create)),
        one_host("crash_at_every_step_of_mount", |lab| at_every_step(lab, Operation::Mount)),
        one_host("crash_at_every_step_of_unmount", |lab| at_every_step(lab, Operation::Unmount)),
        one_host("crash_at_every_step_of_remove", |lab| at_every_step(lab, Operation::Remove)),
    ]
}

/// The calls that change something: to the backend, and those to the host that a restart has to undo.
const CHANGES: [&str; 15] = [
    "create",
    "write_record",
    "discard",
    "remove",
    "claim",
    "release",
    "bind",
    "unbind",
    "map",
    "unmap",
    "format",
    "mount",
    "unmount",
    "save",
    "forget",
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operation {
    Create,
    Mount,
    Unmount,
    Remove,
}

impl Operation {
    fn body(self) -> Value {
        match self {
            Self::Create => json!({"Name": "v", "Opts": {"size": "32M", "mode": "0711"}}),
            Self::Mount | Self::Unmount => json!({"Name": "v", "ID": "a"}),
            Self::Remove => json!({"Name": "v"}),
        }
    }
}

fn at_every_step(lab: &Lab, operation: Operation) {
    let mut plugin = start(lab, lab.alpha(), &["--log-level", "debug"]);
    prepare(&plugin, operation);
    let points = learn(&mut plugin, operation);
    finish(lab, &plugin, operation, "a rehearsal");
    let calls: Vec<&str> = points.iter().map(|(_, call)| call.as_str()).collect();
    println!("{operation:?} is killed after {}", calls.join(", "));
    for (point, call) in &points {
        let at = format!("a kill after {call}, point {point}");
        prepare(&plugin, operation);
        plugin.kill();
        plugin.start_with(&format!("RBD_FAULT_POINT={point}"));
        let answer = plugin.ask(&format!("{operation:?}"), &operation.body());
        assert!(answer.is_none(), "{at}: it was not killed: {answer:?}");
        plugin.wait_gone();
        plugin.remove_socket();
        plugin.start();
        accounted_for(lab, &plugin, &at);
        finish(lab, &plugin, operation, &at);
    }
    if operation != Operation::Remove {
        plugin.ok("Remove", &json!({"Name": "v"}));
    }
    plugin.stop();
}

/// A volume for the operation, or none. What an earlier one has left is used again.
fn prepare(plugin: &Plugin<'_>, operation: Operation) {
    if operation == Operation::Create {
        plugin.ok("Remove", &json!({"Name": "v"}));
        return;
    }
    let there = plugin.ask("Get", &json!({"Name": "v"})).is_some_and(|(status, _)| status == 200);
    if !there {
        plugin.ok("Create", &Operation::Create.body());
        if operation != Operation::Remove {
            let mountpoint = plugin.mount("v", "a");
            plugin.host.ok(&format!("echo data >{}/kept && sync", mountpoint.display()));
            plugin.unmount("v", "a");
        }
    }
    if operation == Operation::Unmount {
        plugin.mount("v", "a");
    }
}

/// The operation undisturbed, and where to kill it.
fn learn(plugin: &mut Plugin<'_>, operation: Operation) -> Vec<(u32, String)> {
    plugin.kill();
    plugin.start_with("RBD_FAULT_POINT=100000");
    let before = fs::read_to_string(plugin.log()).unwrap().len();
    plugin.ok(&format!("{operation:?}"), &operation.body());
    let log = fs::read_to_string(plugin.log()).unwrap();
    let all: Vec<&str> =
        log[before..].lines().filter_map(|line| line.split_once("fault point ")).map(|(_, at)| at).collect();
    let every = std::env::var_os("RBD_EVERY_POINT").is_some();
    // Two for a call: before it and after it. Other threads have theirs between them.
    let mut begun: Vec<&str> = Vec::new();
    let mut points = Vec::new();
    for at in &all {
        let (number, call) = at.split_once(' ').unwrap();
        let after = match begun.iter().rposition(|other| *other == call) {
            Some(index) => {
                begun.remove(index);
                true
            }
            None => {
                begun.push(call);
                false
            }
        };
        if every || (after && CHANGES.contains(&call)) {
            points.push((number.parse().unwrap(), call.to_owned()));
        }
    }
    println!("{operation:?} has {} points, {} of them are tried", all.len(), points.len());
    assert!(points.len() >= 3, "are the fault points in place? {all:?}");
    plugin.kill();
    plugin.start();
    points
}

/// After the restart, everything that is there belongs to a mounted volume, or to an image at rest.
fn accounted_for(lab: &Lab, plugin: &Plugin<'_>, at: &str) {
    let mountpoint = plugin.mountpoint("v").display().to_string();
    let seen = plugin.host.ok(&format!(
        "grep -c ' {mountpoint} ' /proc/self/mounts
         ls /sys/bus/rbd/devices | wc -l
         ls -d {mountpoint} 2>/dev/null | wc -l
         ls /run/docker/plugins/rbd.mounts 2>/dev/null | wc -l
         find /disk/volumes/.state/rbd/staging -mindepth 1 2>/dev/null | wc -l"
    ));
    let seen: Vec<u32> = seen.lines().map(|count| count.trim().parse().unwrap()).collect();
    let mounted = seen[0];
    for (what, count) in ["devices", "mountpoints", "mount IDs"].iter().zip(&seen[1..]) {
        assert_eq!(*count, mounted, "{what} after {at}\n{}", plugin.logs());
    }
    assert_eq!(seen[4], 0, "staging folders after {at}\n{}", plugin.logs());
    let owned = owners(lab);
    assert_eq!(!owned.is_empty(), mounted == 1, "owner records after {at}: {owned}\n{}", plugin.logs());
    let images = lab.cluster.rbd(&["ls"]);
    let known = plugin.ask("Get", &json!({"Name": "v"})).unwrap().0 == 200;
    assert_eq!(images, if known { "v" } else { "" }, "images after {at}\n{}", plugin.logs());
    if known {
        let record = lab.cluster.rbd(&["image-meta", "get", "v", "rbd-docker-plugin.record"]);
        assert!(record.contains("\"ready\"") && !record.contains("removing"), "after {at}: {record}");
    }
}

/// What Docker would do next works, and no data is lost.
fn finish(lab: &Lab, plugin: &Plugin<'_>, operation: Operation, at: &str) {
    plugin.ok(&format!("{operation:?}"), &operation.body());
    match operation {
        Operation::Remove => assert_eq!(lab.cluster.rbd(&["ls"]), "", "after {at}"),
        Operation::Create | Operation::Mount | Operation::Unmount => {
            let mountpoint = plugin.mount("v", "a");
            let said = plugin
                .host
                .ok(&format!("cd {} && stat -c %a . && cat kept 2>/dev/null; true", mountpoint.display()));
            let wanted = if operation == Operation::Create { "711" } else { "711\ndata" };
            assert_eq!(said, wanted, "after {at}");
            // Of a Mount whose answer was lost there is one use or two, and this one.
            for _ in 0..if operation == Operation::Mount { 3 } else { 1 } {
                plugin.unmount("v", "a");
            }
            assert_eq!(owners(lab), "", "after {at}");
        }
    }
}

//! kill -9 at the steps of Create, Mount, Unmount and Remove, and a restart that accounts for every mapping, mount, owner record
//! and image.
//!
//! A step is a call to the backend that changes something, mkfs, a mount or an unmount, and the plugin dies right after it. What it
//! leaves then is the same as right before the next call, and reads leave nothing. Kills at the plugin's own files, and
//! in a Create, are the ceph tier's. `RBD_EVERY_POINT=1` kills at every point instead.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::outage::owners;
use crate::plugin::Plugin;
use crate::rig::{Lab, test};
use crate::volumes::start;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test("crash_at_every_step_of_mount", |lab| at_every_step(lab, Operation::Mount)),
        test("crash_at_every_step_of_unmount", |lab| at_every_step(lab, Operation::Unmount)),
        test("crash_at_every_step_of_remove", |lab| at_every_step(lab, Operation::Remove)),
    ]
}

/// How long a restart may take to put everything right.
const SETTLES: Duration = Duration::from_secs(60);

/// The calls that change something in the cluster or in the kernel.
const CHANGES: [&str; 13] = [
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
    println!("{operation:?} is killed at {}", points.join(", "));
    for point in &points {
        let at = format!("a kill at {point}");
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
fn learn(plugin: &mut Plugin<'_>, operation: Operation) -> Vec<String> {
    plugin.kill();
    plugin.start_with("RBD_FAULT_POINT=100000");
    let before = fs::read_to_string(plugin.log()).unwrap().len();
    plugin.ok(&format!("{operation:?}"), &operation.body());
    let log = fs::read_to_string(plugin.log()).unwrap();
    let all: Vec<&str> =
        log[before..].lines().filter_map(|line| line.split_once("fault point ")).map(|(_, at)| at).collect();
    let every = std::env::var_os("RBD_EVERY_POINT").is_some();
    // Two for a call: before it and after it. Other threads have theirs between them, so each is counted by its call.
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let mut points = Vec::new();
    for at in &all {
        let call = at.split_once(' ').unwrap().1;
        let number = seen.entry(call).or_default();
        if every || (*number % 2 == 1 && CHANGES.contains(&call)) {
            points.push(format!("{call}:{number}"));
        }
        *number += 1;
    }
    println!("{operation:?} has {} points, {} of them are tried", all.len(), points.len());
    assert!(points.len() >= 3, "are the fault points in place? {all:?}");
    plugin.kill();
    plugin.start();
    points
}

/// After the restart, everything that is there belongs to a mounted volume, or to an image at rest: at once, or soon when the
/// cluster was slow to answer.
fn accounted_for(lab: &Lab, plugin: &Plugin<'_>, at: &str) {
    let begin = Instant::now();
    loop {
        match left(lab, plugin) {
            Ok(()) => return,
            Err(what) => {
                assert!(begin.elapsed() < SETTLES, "after {at}: {what}\n{}", plugin.logs());
            }
        }
    }
}

fn left(lab: &Lab, plugin: &Plugin<'_>) -> Result<(), String> {
    let mountpoint = plugin.mountpoint("v").display().to_string();
    let seen = plugin.host.ok(&format!(
        "grep -c ' {mountpoint} ' /proc/self/mounts
         ls /sys/bus/rbd/devices | wc -l
         ls -d {mountpoint} 2>/dev/null | wc -l
         ls /run/docker/plugins/rbd.mounts 2>/dev/null | wc -l
         find /disk/volumes/.state/rbd/staging -mindepth 1 2>/dev/null | wc -l"
    ));
    let seen: Vec<u32> = seen.lines().map(|count| count.trim().parse().unwrap()).collect();
    let [mounted, devices, mountpoints, ids, staged] = seen[..] else { panic!("{seen:?}") };
    let owned = owners(lab);
    let known = plugin.ask("Get", &json!({"Name": "v"})).unwrap().0 == 200;
    let images = lab.cluster.rbd(&["ls"]);
    let whole = !known || {
        let record = lab.cluster.rbd(&["image-meta", "get", "v", "rbd-docker-plugin.record"]);
        record.contains("\"ready\"") && !record.contains("removing")
    };
    let right = [
        ("devices", devices == mounted),
        ("mountpoints", mountpoints == mounted),
        ("mount IDs", ids == mounted),
        ("staging folders", staged == 0),
        ("owner records", owned.is_empty() == (mounted == 0)),
        ("images", images == if known { "v" } else { "" }),
        ("the image's record", whole),
    ];
    match right.iter().find(|(_, right)| !right) {
        Some((what, _)) => Err(format!("{what}: {seen:?} {owned} {images}")),
        None => Ok(()),
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

//! What a plugin costs that has nothing to do: counted beside another one on the same host, because the host has other work.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use libtest_mimic::Trial;
use nix::mount::umount2;
use serde_json::json;

use crate::child::Part;
use crate::daemon::{Daemon, wait};
use crate::rig::{Ready, Rig, trial};
use crate::seeing::page;
use crate::volumes::{at_rest, create, get, plugin};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("orphans::{name}"), ready, test);
    vec![
        t("containers_that_outlive_their_engine_cost_next_to_nothing", outlived),
        t("what_was_unmounted_behind_our_back_is_not_as_full_as_the_host", unmounted_behind_our_back),
    ]
}

/// What a plugin has read so far, in bytes and calls, and how many threads it has.
fn cost(daemon: &Daemon) -> BTreeMap<String, u64> {
    let proc = Path::new("/proc").join(daemon.pid().to_string());
    let text = fs::read_to_string(proc.join("io")).unwrap();
    let mut cost: BTreeMap<String, u64> = text
        .lines()
        .map(|line| line.split_once(": ").unwrap())
        .map(|(key, value)| (key.to_owned(), value.parse().unwrap()))
        .collect();
    cost.insert("threads".to_owned(), fs::read_dir(proc.join("task")).unwrap().count() as u64);
    cost
}

fn outlived(rig: &Rig) {
    let flags = ["--size", "4", "--orphan-grace", "1"];
    let daemons = ["orphaned", "quiet"].map(|name| plugin(rig, name, &flags));
    for n in 0..6 {
        daemons.iter().for_each(|daemon| create(daemon, &format!("v{n}"), &json!({})));
        daemons[1].mount(&format!("v{n}"), "a");
    }
    let engine = Part::engine(&daemons[0].socket(), 6);
    // Containers: copies of all mounts, each in a namespace of its own.
    let containers: Vec<Part> = (0..30).map(|_| Part::play("namespace", Path::new(""))).collect();
    drop(engine);
    // The first looks come soon after the grace, the later ones ever less often.
    sleep(Duration::from_secs(8));
    let before = daemons.each_ref().map(cost);
    sleep(Duration::from_secs(20));
    let after = daemons.each_ref().map(cost);
    let read = |key: &str| [0, 1].map(|n| after[n][key] - before[n][key]);
    // A look reads the mounts of one of the 30 namespaces for all volumes; of all of them for each volume it would be thousands.
    let [orphaned, quiet] = read("syscr");
    assert!(orphaned < quiet + 100, "{orphaned} reads, and {quiet} by a plugin whose engine lives");
    assert!(after[0]["threads"] <= after[1]["threads"] + 2, "{after:?}");
    assert_eq!(get(&daemons[0], "v0")["Status"]["mounts"], json!(1), "a container has it");
    drop(containers);
    // Its uses come and go again: soon is time to look.
    for n in 0..6 {
        let volume = format!("v{n}");
        daemons[0].mount(&volume, "b");
        daemons[0].unmount(&volume, "b");
        wait("the uses of the engine to be dropped", || !daemons[0].is_owned(&volume));
        daemons[1].unmount(&volume, "a");
        daemons.iter().for_each(|daemon| at_rest(daemon, &volume));
    }
}

fn unmounted_behind_our_back(rig: &Rig) {
    let daemon = plugin(rig, "behind", &["--size", "16"]);
    create(&daemon, "v", &json!({}));
    let at = daemon.mount("v", "a");
    let size = |daemon: &Daemon| get(daemon, "v")["Status"]["available"].as_u64();
    assert!(size(&daemon).unwrap() < 16 << 20);
    umount2(&at, nix::mount::MntFlags::empty()).unwrap();
    assert_eq!(size(&daemon), None, "the host's filesystem is another one");
    let metrics = page(rig, &daemon, "/metrics");
    assert!(metrics.contains("rbd_docker_plugin_"), "{metrics}");
    for name in ["size_bytes", "used_bytes", "available_bytes", "inodes"] {
        let sample = format!("rbd_docker_plugin_volume_{name}{{volume=\"v\"");
        assert!(!metrics.contains(&sample), "{metrics}");
    }
    daemon.unmount("v", "a");
    at_rest(&daemon, "v");
}

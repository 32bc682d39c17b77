//! kill -9 at every step of Create, Mount, Unmount and Remove, and a restart that accounts for every device, mount, owner record
//! and image.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;

use libtest_mimic::Trial;
use rbd_docker_plugin::linux::loopdev;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::rig::{Ready, Rig, mounts, trial};

/// More fault points than any operation has.
const POINTS: u32 = 200;

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |operation: Operation| {
        let name = format!("crash::at_every_step_of_{operation:?}").to_lowercase();
        trial(&name, ready, move |rig| at_every_step(rig, operation))
    };
    Vec::from([Operation::Create, Operation::Mount, Operation::Unmount, Operation::Remove].map(t))
}

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
            Self::Create => json!({"Name": "v", "Opts": {"mode": "0711"}}),
            Self::Mount | Self::Unmount => json!({"Name": "v", "ID": "a"}),
            Self::Remove => json!({"Name": "v"}),
        }
    }
}

/// The point after a call and the point before the next one leave the same behind: every second point will do.
fn at_every_step(rig: &Rig, operation: Operation) {
    let mut killed = 0;
    for point in (0..POINTS).step_by(2) {
        let mut daemon = Daemon::new("crash", &rig.folder(&format!("{operation:?}{point}")), &[]);
        daemon.start();
        if operation != Operation::Create {
            daemon.ok("Create", &Operation::Create.body());
            fs::write(daemon.mount("v", "a").join("kept"), "data").unwrap();
            if operation != Operation::Unmount {
                daemon.unmount("v", "a");
            }
        }
        daemon.stop();
        daemon.start_with(&[("RBD_FAULT_POINT", point.to_string())]);
        let answer = daemon.ask(&format!("{operation:?}"), &operation.body());
        let survived = answer.is_some();
        if survived {
            // The background thread may still meet the point: this one is not to be killed any more.
            daemon.kill();
        } else {
            assert_eq!(daemon.end().signal(), Some(9), "at point {point}: {}", daemon.logs());
            killed += 1;
        }
        daemon.start();
        accounted_for(&daemon, point);
        finish(&daemon, operation, point);
        daemon.stop();
        if survived {
            assert!(killed >= 5, "only {killed} steps: are the fault points in place?");
            return;
        }
    }
    panic!("{operation:?} has more than {POINTS} fault points");
}

/// After the restart, everything that is there belongs to a mounted volume, or to an image at rest.
fn accounted_for(daemon: &Daemon, point: u32) {
    let at = |what: &str| format!("after a kill at point {point}: {what}\n{}", daemon.logs());
    let mounted = mounts().contains(&daemon.mountpoint("v"));
    let image = daemon.file("v", "img");
    let mapped = loopdev::all().unwrap().iter().filter(|l| l.backing_path == image).count();
    assert_eq!(mapped, usize::from(mounted), "{}", at("its loop devices"));
    assert_eq!(daemon.is_owned("v"), mounted, "{}", at("its owner record"));
    assert_eq!(daemon.mountpoint("v").exists(), mounted, "{}", at("its mountpoint"));
    assert_eq!(daemon.refs().join("rbd@v.json").exists(), mounted, "{}", at("its mount IDs"));
    assert_eq!(image.exists(), daemon.file("v", "json").exists(), "{}", at("its image and its record"));
    let staging = daemon.state().join("staging");
    let staged = fs::read_dir(staging).map_or(0, Iterator::count);
    assert_eq!(staged, 0, "{}", at("staging folders"));
    let known = daemon.ask("Get", &json!({"Name": "v"})).unwrap().0 == 200;
    assert_eq!(known, image.exists(), "{}", at("what Get says"));
    let listed = daemon.ok("List", &json!({}))["Volumes"].as_array().unwrap().len();
    assert_eq!(listed, usize::from(known), "{}", at("what List says"));
}

/// What Docker would do next works, and no data is lost.
fn finish(daemon: &Daemon, operation: Operation, point: u32) {
    daemon.ok(&format!("{operation:?}"), &operation.body());
    if operation != Operation::Remove {
        let mountpoint = daemon.mount("v", "b");
        if operation != Operation::Create {
            let kept = fs::read_to_string(mountpoint.join("kept"));
            assert_eq!(kept.unwrap(), "data", "after a kill at point {point}");
        }
        assert_eq!(fs::metadata(&mountpoint).unwrap().mode() & 0o7777, 0o711, "its options are kept");
        daemon.unmount("v", "b");
        // Of a Mount whose answer was lost there is one use or two; Docker asks once for each answer it had.
        for _ in 0..2 {
            daemon.unmount("v", "a");
        }
        daemon.ok("Remove", &Operation::Remove.body());
    }
    for kind in ["img", "json", "owner"] {
        assert!(!daemon.file("v", kind).exists(), "{kind} is left after a kill at point {point}");
    }
}

//! kill -9 at the steps of Create, Mount, Unmount and Remove of a whole plugin, on a real cluster and what stands for the kernel,
//! and a restart that accounts for every mapping, mount, owner record and image.
//!
//! A step is a call to the backend that changes something, mkfs, a mount, an unmount, or a file of ours, and the plugin dies right
//! after it. What it leaves then is the same as right before the next call, and reads leave nothing. `RBD_EVERY_POINT=1` kills at
//! every point instead.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::fake_kernel::FakeKernel;
use crate::rig::{Lab, Ready, mounts_are_apart, trial_if};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |operation: Operation| {
        let name = format!("crash::at_every_step_of_{operation:?}").to_lowercase();
        trial_if(&name, ready, |_| mounts_are_apart(), move |lab| at_every_step(lab, operation))
    };
    Vec::from([Operation::Create, Operation::Mount, Operation::Unmount, Operation::Remove].map(t))
}

/// How long a restart may take to put everything right.
const SETTLES: Duration = Duration::from_secs(60);
const OWNERS: &str = "rbd_docker_plugin.owners";

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

/// A plugin, its kernel, and what other tests have left in the pool.
struct World<'a> {
    lab: &'a Lab,
    kernel: FakeKernel,
    daemon: Daemon,
    mountpoint: PathBuf,
    others: (BTreeSet<String>, BTreeSet<String>),
    _dir: TempDir,
}

fn lines(lab: &Lab, words: &[&str]) -> BTreeSet<String> {
    // There is no such object before the first claim.
    let output = lab.command(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

impl<'a> World<'a> {
    fn new(lab: &'a Lab) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = FakeKernel::with_disks(&dir.path().join("sys"));
        kernel.knows(&lab.conf);
        let conf = lab.conf.display().to_string();
        let flags = ["--backend", "rbd", "--config", &conf, "--pool", &lab.pool, "--log-level", "debug"];
        let mut daemon = Daemon::new("crash", dir.path(), &flags);
        daemon.start_with(&[kernel.environment()]);
        let mountpoint = dir.path().join("mnt/crash").join(&lab.pool).join("v");
        let mut world = Self { lab, kernel, daemon, mountpoint, others: Default::default(), _dir: dir };
        world.others = (world.images(), world.owners());
        world
    }

    fn start(&mut self) {
        self.daemon.start_with(&[self.kernel.environment()]);
    }

    /// Killed, and started again to be killed at a point.
    fn start_to_die_at(&mut self, point: &str) {
        self.daemon.kill();
        self.daemon.start_with(&[self.kernel.environment(), ("RBD_FAULT_POINT", point.to_owned())]);
    }

    fn images(&self) -> BTreeSet<String> {
        &lines(self.lab, &["rbd", "ls", &self.lab.pool]) - &self.others.0
    }

    fn owners(&self) -> BTreeSet<String> {
        &lines(self.lab, &["rados", "-p", &self.lab.pool, "listomapkeys", OWNERS]) - &self.others.1
    }

    /// A volume for the operation, or none. What an earlier one has left is used again.
    fn prepare(&self, operation: Operation) {
        let daemon = &self.daemon;
        if operation == Operation::Create {
            daemon.ok("Remove", &json!({"Name": "v"}));
            return;
        }
        if daemon.ask("Get", &json!({"Name": "v"})).is_none_or(|(status, _)| status != 200) {
            daemon.ok("Create", &Operation::Create.body());
            if operation != Operation::Remove {
                fs::write(daemon.mount("v", "a").join("kept"), "data").unwrap();
                daemon.unmount("v", "a");
            }
        }
        if operation == Operation::Unmount {
            daemon.mount("v", "a");
        }
    }

    /// The operation undisturbed, and where to kill it.
    fn learn(&mut self, operation: Operation) -> Vec<String> {
        self.start_to_die_at("100000");
        let before = fs::read_to_string(self.daemon.log()).unwrap().len();
        self.daemon.ok(&format!("{operation:?}"), &operation.body());
        let log = fs::read_to_string(self.daemon.log()).unwrap();
        let all: Vec<&str> = log[before..]
            .lines()
            .filter_map(|line| line.split_once("fault point "))
            .map(|(_, at)| at)
            .collect();
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
        self.daemon.kill();
        self.start();
        points
    }

    /// After the restart, everything that is there belongs to a mounted volume, or to an image at rest: at once, or soon when the
    /// cluster was slow to answer.
    fn accounted_for(&self, at: &str) {
        let begin = Instant::now();
        while let Err(what) = self.left() {
            assert!(begin.elapsed() < SETTLES, "after {at}: {what}\n{}", self.daemon.logs());
        }
    }

    fn left(&self) -> Result<(), String> {
        let entries = |dir: &Path| fs::read_dir(dir).map_or(0, Iterator::count);
        let mounted = fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .lines()
            .filter(|line| line.split(' ').nth(1) == self.mountpoint.to_str())
            .count();
        let devices = self.kernel.mappings().len();
        let mountpoints = usize::from(self.mountpoint.exists());
        let ids = entries(&self.daemon.refs());
        let staged = entries(&self.daemon.state().join("staging"));
        let (owned, images) = (self.owners(), self.images());
        let known = self.daemon.ask("Get", &json!({"Name": "v"})).unwrap().0 == 200;
        let whole = !known || {
            let image = self.lab.spec("v");
            let record = self.lab.run(&["rbd", "image-meta", "get", &image, "rbd-docker-plugin.record"]);
            record.contains("\"ready\"") && !record.contains("removing")
        };
        let right = [
            ("devices", devices == mounted),
            ("mountpoints", mountpoints == mounted),
            ("mount IDs", ids == mounted),
            ("staging folders", staged == 0),
            ("owner records", owned.is_empty() == (mounted == 0)),
            ("images", images.contains("v") == known && images.len() == usize::from(known)),
            ("the image's record", whole),
        ];
        match right.iter().find(|(_, right)| !right) {
            Some((what, _)) => Err(format!(
                "{what}: {mounted} mounted, {devices} mapped, {mountpoints} mountpoints, {ids} mount IDs, {staged} staged, {owned:?} {images:?}"
            )),
            None => Ok(()),
        }
    }

    /// What Docker would do next works, and no data is lost.
    fn finish(&self, operation: Operation, at: &str) {
        let daemon = &self.daemon;
        daemon.ok(&format!("{operation:?}"), &operation.body());
        if operation == Operation::Remove {
            assert!(self.images().is_empty(), "after {at}");
            return;
        }
        let mountpoint = daemon.mount("v", "a");
        let kept = fs::read_to_string(mountpoint.join("kept")).unwrap_or_default();
        assert_eq!(kept, if operation == Operation::Create { "" } else { "data" }, "after {at}");
        // Of a Mount whose answer was lost there is one use or two, and this one.
        for _ in 0..if operation == Operation::Mount { 3 } else { 1 } {
            daemon.unmount("v", "a");
        }
        assert!(self.owners().is_empty(), "after {at}");
    }
}

fn at_every_step(lab: &Lab, operation: Operation) {
    let mut world = World::new(lab);
    world.prepare(operation);
    let points = world.learn(operation);
    world.finish(operation, "a rehearsal");
    println!("{operation:?} is killed at {}", points.join(", "));
    for point in &points {
        let at = format!("a kill at {point}");
        world.prepare(operation);
        world.start_to_die_at(point);
        let answer = world.daemon.ask(&format!("{operation:?}"), &operation.body());
        assert!(answer.is_none(), "{at}: it was not killed: {answer:?}");
        world.daemon.end();
        world.start();
        world.accounted_for(&at);
        world.finish(operation, &at);
    }
    if operation != Operation::Remove {
        world.daemon.ok("Remove", &json!({"Name": "v"}));
    }
    world.daemon.stop();
}

//! Two clusters that one host uses at the same time, with the same names in both.

use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::daemon::wait;
use crate::host::{Host, Job};
use crate::plugin::Plugin;
use crate::rig::{Lab, test};
use crate::volumes::start_on;

pub(crate) fn trials() -> Vec<Trial> {
    vec![test("clusters_are_two_with_the_same_names_on_one_host", two)]
}

/// Two looks of a plugin at its records, and some.
const LOOKS: Duration = Duration::from_secs(12);

/// A cluster, and its plugins on the two hosts.
struct Side<'a> {
    cluster: &'a Cluster,
    fsid: String,
    alpha: Plugin<'a>,
    beta: Plugin<'a>,
}

impl<'a> Side<'a> {
    fn new(lab: &'a Lab, cluster: &'a Cluster, name: &str) -> Self {
        let plugin = |host: &'a Host| start_on(cluster, host, name, &[]);
        let (alpha, beta) = (plugin(lab.alpha()), plugin(lab.beta()));
        alpha.ok("Create", &json!({"Name": "twin", "Opts": {"size": "32M"}}));
        Self { cluster, fsid: cluster.ceph(&["fsid"]), alpha, beta }
    }

    /// The address of the kernel's client of this cluster on the first host, as the kernel has it.
    fn mapped(&self) -> String {
        let of_it = format!(
            "for d in /sys/bus/rbd/devices/*; do
                 [ \"$(cat $d/cluster_fsid)\" != {} ] || cat $d/client_addr
             done",
            self.fsid
        );
        let address = self.alpha.host.ok(&of_it);
        assert_eq!(address.lines().count(), 1, "{address}");
        address
    }

    /// The one that the owner record has.
    fn recorded(&self) -> Value {
        let conf = self.cluster.conf().display().to_string();
        let flags = ["--conf-file", "none", "--config", &conf, "--user", "docker"];
        let listed = self.cluster.try_run(
            env!("CARGO_BIN_EXE_rbd-docker-plugin"),
            &[&flags[..], &["lock", "ls", "--format", "json"]].concat(),
        );
        let said = String::from_utf8_lossy(&listed.stderr).into_owned();
        let locks: Value = serde_json::from_slice(&listed.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
        let locks = &locks["locks"];
        assert_eq!(locks.as_array().map(Vec::len), Some(1), "{locks}");
        locks[0]["client_addr"].clone()
    }

    /// Holds a file of the volume open, and writes to it when it is told to.
    fn writes_late(&self) -> Job<'a> {
        let script = format!(
            "exec 9>{}/late; until [ -e /run/go ]; do sleep .1; done
             dd if=/dev/zero of=/dev/fd/9 bs=4k count=1 conv=fsync && echo written",
            self.alpha.mountpoint("twin").display()
        );
        self.alpha.host.spawn(&script, Duration::from_secs(600))
    }
}

/// What a fence shuts out is on record, look after look.
#[track_caller]
fn addresses_stay(sides: [&Side<'_>; 2], when: &str) {
    let mapped = sides.map(Side::mapped);
    assert_ne!(mapped[0], mapped[1]);
    let begin = Instant::now();
    while begin.elapsed() < LOOKS {
        for (side, address) in sides.iter().zip(&mapped) {
            assert_eq!(side.recorded(), json!(address), "{when}, {}", side.alpha.name);
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn two(lab: &Lab) {
    let begin = Instant::now();
    let second = Cluster::new(&lab.folder().join("ceph2"), lab.cluster.netns());
    second.start().unwrap_or_else(|why| panic!("{why:?}"));
    println!("the second cluster took {:.1} s", begin.elapsed().as_secs_f32());
    let mut near = Side::new(lab, &lab.cluster, "near");
    let mut far = Side::new(lab, &second, "far");
    // The other cluster's device has the lower number.
    for side in [&far, &near] {
        let mountpoint = side.alpha.mount("twin", "a");
        lab.alpha().ok(&format!("echo {} >{}/file && sync", side.alpha.name, mountpoint.display()));
    }
    addresses_stay([&near, &far], "from the beginning");
    near.alpha.kill();
    near.alpha.start();
    far.alpha.stop();
    far.alpha.start();
    addresses_stay([&near, &far], "after a restart of both plugins");

    let sides = [&near, &far];
    let mapped = sides.map(Side::mapped);
    let late = sides.map(Side::writes_late);
    wait("the files to be open", || {
        lab.alpha().run("[ $(ls -l /proc/[0-9]*/fd/9 2>/dev/null | grep -c /twin/late) -ge 2 ]").status == 0
    });
    lab.alpha().freeze();
    let read = |side: &Side<'_>| {
        let mountpoint = side.beta.mount("twin", "b");
        assert_eq!(lab.beta().ok(&format!("cat {}/file", mountpoint.display())), side.alpha.name);
    };
    thread::scope(|scope| sides.map(|side| scope.spawn(move || read(side))).map(|side| side.join().unwrap()));
    for (at, side) in sides.iter().enumerate() {
        let fenced = side.cluster.ceph(&["osd", "blocklist", "ls"]);
        let is_fenced = |address: &str| fenced.lines().any(|line| line.starts_with(&format!("{address} ")));
        assert!(is_fenced(&mapped[at]), "{} is not fenced: {fenced}", mapped[at]);
        assert!(!is_fenced(&mapped[1 - at]), "{} of the other cluster is: {fenced}", mapped[1 - at]);
    }
    lab.alpha().thaw();
    lab.alpha().ok("touch /run/go");
    for (side, late) in sides.iter().zip(late) {
        let said = late.wait();
        assert_ne!(said.status, 0, "{} wrote after it was followed: {}", side.alpha.name, said.stdout);
        wait("the woken host to give the volume up", || !side.alpha.mounts("twin"));
        side.alpha.unmount("twin", "a");
        side.beta.unmount("twin", "b");
        side.beta.ok("Remove", &json!({"Name": "twin"}));
    }
    lab.alpha().ok("rm /run/go");
    for side in [&mut near, &mut far] {
        side.alpha.stop();
        side.beta.stop();
    }
}

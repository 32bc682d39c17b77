//! A whole plugin, and the commands, when the host or its key is of no use to the cluster: what they say, and what they leave.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::json;

use crate::commands::{run_user, run_with};
use crate::daemon::{Daemon, wait};
use crate::fake_kernel::FakeKernel;
use crate::hosts::with_user;
use crate::plugin::Plugin;
use crate::rig::{Lab, Own, Ready, mounts_are_apart, trial, trial_if};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let apart = |lab: &Lab| lab.is_ours().and_then(|()| mounts_are_apart());
    vec![
        trial_if("trouble::an_unmount_while_the_host_is_on_the_blocklist", ready, apart, blocked_unmount),
        trial("trouble::a_key_of_another_type_is_told_before_anything_is_made", ready, other_key),
        trial("trouble::thirty_commands_end_in_order", ready, thirty_commands),
        trial_if("trouble::a_command_that_waits_for_nobody_ends_in_order", ready, Lab::is_ours, left_behind),
    ]
}

const CAPS: [&str; 6] = ["mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd"];

/// A plugin of a cluster of its own, with what stands for the kernel.
struct World {
    daemon: Daemon,
    kernel: FakeKernel,
    own: Own,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let (own, dir) = (Own::start(), tempfile::tempdir().unwrap());
        let kernel = FakeKernel::with_disks(&dir.path().join("sys"));
        kernel.knows(&own.conf());
        let conf = own.conf().display().to_string();
        let flags = ["--backend", "rbd", "--config", &conf, "--ceph-timeout", "3"];
        let mut daemon = Daemon::new("trouble", dir.path(), &flags);
        daemon.start_with(&[kernel.environment()]);
        Self { daemon, kernel, own, dir }
    }

    fn mountpoint(&self) -> PathBuf {
        self.dir.path().join("mnt/trouble/rbd/v")
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == self.mountpoint().to_str())
    }

    fn uses(&self) -> usize {
        fs::read_dir(self.daemon.refs()).map_or(0, Iterator::count)
    }

    fn owned(&self) -> bool {
        let line = ["rados", "-p", "rbd", "listomapkeys", "rbd_docker_plugin.owners"];
        !self.own.run(&line).trim().is_empty()
    }
}

fn blocked_unmount(_: &Lab) {
    let world = World::new();
    let daemon = &world.daemon;
    daemon.ok("Create", &json!({"Name": "v"}));
    fs::write(daemon.mount("v", "a").join("kept"), "data").unwrap();
    daemon.mount("v", "b");
    // It is on the same host, and would make clients without end.
    let still = world.own.freeze("mgr");
    world.own.run(&["ceph", "osd", "blocklist", "add", "127.0.0.1:0/0", "3600"]);
    // One of two uses needs nobody's word.
    daemon.unmount("v", "b");
    let begin = Instant::now();
    let answer = daemon.ask("Unmount", &json!({"Name": "v", "ID": "a"})).unwrap();
    println!("after {:?}: {answer:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(50), "Docker waits a minute");
    if answer.0 != 200 {
        let told = answer.1["Err"].as_str().unwrap();
        assert!(
            told.starts_with("rbd/v is unmounted and unmapped on this host, but not given back yet"),
            "{told}"
        );
        assert!(told.contains("blocklist"), "{told}");
    }
    // Whatever it has answered: what the host itself can do is done.
    wait("it to be taken down here", || {
        !world.is_mounted() && world.kernel.mappings().is_empty() && world.uses() == 0
    });
    assert!(!world.mountpoint().exists());
    // A second Unmount, as Docker asks after an error, is no trouble.
    let again = daemon.ask("Unmount", &json!({"Name": "v", "ID": "a"})).unwrap();
    println!("again: {again:?}");
    world.own.run(&["ceph", "osd", "blocklist", "rm", "127.0.0.1:0/0"]);
    drop(still);
    wait("the image to be given back", || !world.owned());
    let kept = fs::read_to_string(daemon.mount("v", "c").join("kept"));
    assert_eq!(kept.unwrap(), "data", "\n{}", daemon.logs());
    daemon.unmount("v", "c");
    assert!(!world.owned() && world.uses() == 0);
    assert!(world.kernel.mappings().is_empty(), "{:?}", world.kernel.mappings());
}

/// A key of type 2 (aes256k) is one that this cluster's librados does not know.
fn other_key(lab: &Lab) {
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let conf = with_user(lab, dir.path(), "aes256k", &CAPS);
    let keyring = dir.path().join("keyring");
    let good = fs::read(&keyring).unwrap();
    let key = "AgBmzkBnAAAAACAAAAECAwQFBgcICQoLDA0ODwABAgMEBQYHCAkKCwwNDg8=";
    fs::write(&keyring, format!("[client.aes256k]\nkey = {key}\n")).unwrap();
    let names = || (lab.run(&["rbd", "ls", &lab.pool]), owners(lab));
    let before = names();
    let plugin = Plugin::start_as("aes256k", &conf, home.path(), &["--pool", &lab.pool]);
    let create = json!({"Name": "typed", "Opts": {"size": "32M"}});
    let check = run_user(lab, &conf, "aes256k", &["check"]);
    let list = run_user(lab, &conf, "aes256k", &["lock", "ls"]);
    for told in [plugin.error("Create", &create), plugin.log(), check.out, list.err] {
        let what = format!("the key of client.aes256k in {} is of type 2 (aes256k)", keyring.display());
        assert!(told.contains(&what) && told.contains("--key-type aes"), "{told}");
        assert!(!told.contains(key), "the key itself is shown");
    }
    assert_eq!(names(), before, "nothing was made");
    fs::write(&keyring, good).unwrap();
    wait("it to take the good key", || plugin.ask("List", &json!({})).is_ok());
    wait("the new key to be used", || {
        !plugin.ask("Create", &create).err().unwrap_or_default().contains("of type 2")
    });
    plugin.stop();
    lab.run(&["ceph", "auth", "rm", "client.aes256k"]);
    let _ = lab.command(&["rbd", "rm", "--no-progress", &lab.spec("typed")]).output().unwrap();
}

fn owners(lab: &Lab) -> String {
    let line = ["rados", "-p", &lab.pool, "listomapkeys", "rbd_docker_plugin.owners"];
    String::from_utf8(lab.command(&line).output().unwrap().stdout).unwrap()
}

fn thirty_commands(lab: &Lab) {
    for round in 0..30 {
        let begin = Instant::now();
        let answer = run_with(lab, &lab.conf, &["lock", "ls"]);
        assert!(answer.code == Some(0) && !answer.out.is_empty(), "{round}: {answer:?}");
        assert!(begin.elapsed() < Duration::from_secs(10), "{round}: {:?}", begin.elapsed());
    }
}

/// Commands that end while threads of theirs still wait for the cluster.
fn left_behind(lab: &Lab) {
    let command = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbd-docker-plugin"));
        command.env_clear().env("RBD_DOCKER_PLUGIN_CONF_FILE", "none").stdin(Stdio::null());
        command.arg("--config").arg(&lab.conf).args(["--pool", &lab.pool, "--ceph-timeout", "1"]);
        command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let frozen = lab.freeze("osd.");
    for round in 0..5 {
        let all: Vec<_> = [&["check"][..], &["doctor"], &["lock", "ls"], &["fence", "ls"]]
            .into_iter()
            .map(|words| (words, command(words)))
            .collect();
        for (words, child) in all {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code().is_some_and(|code| code < 100), "{round} {words:?}: {output:?}");
            assert!(!told.contains("terminate") && !(said + &told).is_empty(), "{round} {words:?}: {told}");
        }
    }
    drop(frozen);
}

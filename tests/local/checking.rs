//! A check that takes longer than Docker waits: it goes on behind the refused Mount, is not begun anew, and not killed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use libtest_mimic::Trial;
use serde_json::json;

use crate::child;
use crate::daemon::{Daemon, wait};
use crate::rig::{Ready, Rig, trial};
use crate::volumes::{at_rest, create, mount_error, remove, remove_error};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("checking::{name}"), ready, test);
    vec![
        t("goes_on_behind_the_refused_mount", goes_on_behind_the_refused_mount),
        t("what_it_found_is_kept_until_it_is_mended", what_it_found_is_kept_until_it_is_mended),
        t("it_leaves_the_root_as_its_containers_did", it_leaves_the_root_as_its_containers_did),
        t("a_killed_plugin_neither_ends_nor_doubles_it", a_killed_plugin_neither_ends_nor_doubles_it),
    ]
}

/// A plugin whose e2fsck begins with waiting for a file.
struct Slow {
    daemon: Daemon,
    folder: PathBuf,
    environment: [(&'static str, String); 2],
}

impl Slow {
    fn new(rig: &Rig, name: &str) -> Self {
        let (folder, real) = (rig.folder("programs"), rig.folder("programs/real"));
        symlink(std::env::current_exe().unwrap(), real.join("e2fsck")).unwrap();
        let ignored = rig.path("ignored");
        let script = format!(
            "#!/bin/sh\ngrep SigIgn /proc/$$/status > {}\n{}=checker {}={} exec {}/e2fsck \"$@\"\n",
            ignored.display(),
            child::PART,
            child::OBJECT,
            folder.display(),
            real.display()
        );
        fs::write(folder.join("e2fsck"), script).unwrap();
        fs::set_permissions(folder.join("e2fsck"), PermissionsExt::from_mode(0o755)).unwrap();
        let environment =
            [("RBD_FAULT_PROGRAMS", folder.display().to_string()), ("RBD_FAULT_PATIENCE", "300".to_owned())];
        let mut daemon = Daemon::new(name, &rig.folder(name), &["--size", "16"]);
        daemon.start_with(&environment);
        Self { daemon, folder, environment }
    }

    /// A volume whose superblock calls for the checker.
    fn volume(&self, requests: &[&str]) {
        create(&self.daemon, "v", &json!({}));
        self.mark(requests);
    }

    /// Has its filesystem call for the checker.
    fn mark(&self, requests: &[&str]) {
        let image = self.daemon.file("v", "img");
        for request in requests.iter().chain(&["set_super_value state 2"]) {
            let mut debugfs = Command::new("/usr/sbin/debugfs");
            assert!(debugfs.args(["-w", "-R", request]).arg(&image).output().unwrap().status.success());
        }
    }

    /// The process ids of the checkers that were begun.
    fn begun(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.folder.join("begun")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn go(&self) {
        fs::write(self.folder.join("go"), "").unwrap();
    }

    fn mount(&self) -> bool {
        self.daemon.ask("Mount", &json!({"Name": "v", "ID": "a"})).is_some_and(|(status, _)| status == 200)
    }
}

fn goes_on_behind_the_refused_mount(rig: &Rig) {
    let slow = Slow::new(rig, "slow");
    let daemon = &slow.daemon;
    slow.volume(&[]);
    let told = "the filesystem of rbd/v is being checked, for ";
    for _ in 0..3 {
        let e = mount_error(daemon, "v");
        assert!(e.contains(told) && e.contains("is not begun anew") && !e.contains("repair"), "{e}");
    }
    for e in [remove_error(daemon, "v"), daemon.error("Unmount", &json!({"Name": "v", "ID": "x"}))] {
        assert!(e.contains(told), "{e}");
    }
    assert_eq!(slow.begun().len(), 1, "{}", daemon.logs());
    assert!(daemon.is_owned("v"), "the image stays ours while it is being checked");
    slow.go();
    wait("the check to end", || slow.mount());
    daemon.unmount("v", "a");
    at_rest(daemon, "v");
    assert_eq!(slow.begun().len(), 1, "{}", daemon.logs());
    remove(daemon, "v");
}

fn what_it_found_is_kept_until_it_is_mended(rig: &Rig) {
    let mut slow = Slow::new(rig, "found");
    slow.volume(&["clri <2>"]);
    assert!(mount_error(&slow.daemon, "v").contains("is being checked"));
    slow.go();
    wait("the volume to be at rest", || !slow.daemon.is_owned("v"));
    let mut told = Vec::new();
    for _ in 0..2 {
        for _ in 0..2 {
            let e = mount_error(&slow.daemon, "v");
            assert!(e.contains("checked until ") && e.contains("requires manual repairs"), "{e}");
            told.push(e);
        }
        slow.daemon.kill();
        slow.daemon.start_with(&slow.environment);
    }
    assert!(told.iter().all(|e| *e == told[0]), "{told:?}");
    let daemon = &slow.daemon;
    assert_eq!(slow.begun().len(), 1, "{}", daemon.logs());
    at_rest(daemon, "v");
    let image = daemon.file("v", "img");
    let mended = Command::new("/usr/sbin/e2fsck").args(["-f", "-y"]).arg(image).output().unwrap();
    assert!(mended.status.code().unwrap() < 4, "{mended:?}");
    let kept = daemon.state().join("checks/rbd@v.json");
    assert!(fs::read_to_string(&kept).unwrap().contains("requires manual repairs"));
    daemon.mount("v", "a");
    daemon.unmount("v", "a");
    assert!(!kept.exists());
}

/// e2fsck makes a lost+found when it checks all of a filesystem that has none.
fn it_leaves_the_root_as_its_containers_did(rig: &Rig) {
    let mut slow = Slow::new(rig, "root");
    slow.volume(&[]);
    let root =
        |at: PathBuf| fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert!(mount_error(&slow.daemon, "v").contains("is being checked"));
    slow.go();
    wait("the volume to be at rest", || !slow.daemon.is_owned("v"));
    slow.daemon.kill();
    slow.daemon.start_with(&slow.environment);
    wait("the check to end", || slow.mount());
    let daemon = &slow.daemon;
    assert_eq!(root(daemon.mountpoint("v")), Vec::<std::ffi::OsString>::new(), "behind the Mount");
    daemon.unmount("v", "a");
    let at = daemon.mountpoint("v");
    let mounted = |requests: &[&str]| {
        slow.mark(requests);
        wait("the volume to be mounted", || slow.mount());
        root(at.clone())
    };
    assert_eq!(mounted(&[]), Vec::<std::ffi::OsString>::new(), "within the Mount");
    fs::create_dir_all(at.join("lost+found/saved")).unwrap();
    daemon.unmount("v", "a");
    assert_eq!(mounted(&[]), ["lost+found"], "what holds something stays");
    daemon.unmount("v", "a");
    at_rest(daemon, "v");
    assert_eq!(slow.begun().len(), 3, "{}", daemon.logs());
}

fn a_killed_plugin_neither_ends_nor_doubles_it(rig: &Rig) {
    let mut slow = Slow::new(rig, "killed");
    slow.volume(&[]);
    assert!(mount_error(&slow.daemon, "v").contains("is being checked"));
    let checker = slow.begun()[0];
    let ignored = fs::read_to_string(rig.path("ignored")).unwrap();
    let ignored = u64::from_str_radix(ignored.split_whitespace().last().unwrap(), 16).unwrap();
    assert_eq!(ignored >> (libc::SIGPIPE - 1) & 1, 1, "it would die of its output's end");
    slow.daemon.kill();
    assert!(PathBuf::from(format!("/proc/{checker}")).exists(), "the checker died with the plugin");
    slow.daemon.start_with(&slow.environment);
    for _ in 0..2 {
        let e = mount_error(&slow.daemon, "v");
        let told = format!("is being checked by e2fsck (pid {checker}), for ");
        assert!(e.contains(&told), "{e}\n{}", slow.daemon.logs());
    }
    assert_eq!(slow.begun(), [checker]);
    slow.go();
    wait("the checker to end", || !PathBuf::from(format!("/proc/{checker}")).exists());
    wait("the volume to be mounted", || slow.mount());
    slow.daemon.unmount("v", "a");
    at_rest(&slow.daemon, "v");
    assert_eq!(slow.begun(), [checker]);
}

//! What another plugin does between the moment when this one looks at an image and the moment when it owns it.
//!
//! strace stops the plugin when it opens the owner record, before it has locked it.

use std::fs::{self, File};
use std::path::Path;
use std::thread;

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::daemon::{Daemon, wait};
use crate::rig::{Ready, Rig, trial};
use crate::sharing::two;
use crate::strace::{self, Strace};
use crate::volumes::{create, get, mount_line, remove};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let ready = strace::ready(ready);
    let t = |name: &str, test: fn(&Rig)| trial(&format!("races::{name}"), &ready, test);
    vec![
        t("a_create_after_a_create", a_create_after_a_create),
        t("a_create_after_an_adoption", a_create_after_an_adoption),
        t("a_mount_after_an_adoption", a_mount_after_an_adoption),
        t("a_mount_after_a_removal", a_mount_after_a_removal),
    ]
}

/// Asks `late` for something about the volume `v`, stops it before it owns the image, runs `meanwhile`, and lets it go on.
fn overtaken(
    rig: &Rig,
    late: &Daemon,
    owner: &Path,
    request: (&str, Value),
    meanwhile: impl FnOnce(),
) -> (u16, Value) {
    let inject = ["-e", "inject=openat:signal=SIGSTOP:when=1", "-P", owner.to_str().unwrap()];
    let strace = Strace::attach(late, &inject, rig.path("trace"));
    thread::scope(|scope| {
        let answer = scope.spawn(|| late.ask(request.0, &request.1).unwrap());
        wait("the plugin to be stopped", || strace.trace().contains("stopped by SIGSTOP"));
        meanwhile();
        kill(late.pid(), Signal::SIGCONT).unwrap();
        let answer = answer.join().unwrap();
        strace.end();
        answer
    })
}

fn write(daemon: &Daemon, text: &str) {
    fs::write(daemon.mount("v", "w").join("file"), text).unwrap();
    daemon.unmount("v", "w");
}

fn read(daemon: &Daemon) -> String {
    let text = fs::read_to_string(daemon.mount("v", "r").join("file")).unwrap();
    daemon.unmount("v", "r");
    text
}

/// A blank image of somebody else.
fn blank(daemon: &Daemon) {
    let image = daemon.file("v", "img");
    fs::create_dir_all(image.parent().unwrap()).unwrap();
    File::create(image).unwrap().set_len(16 << 20).unwrap();
}

fn a_create_after_a_create(rig: &Rig) {
    let [first, late] = two(rig);
    let request = ("Create", json!({"Name": "v", "Opts": {"size": "8M"}}));
    let (status, answer) = overtaken(rig, &late, &first.file("v", "owner"), request, || {
        create(&first, "v", &json!({"size": "16M", "mode": "0700"}));
        write(&first, "data");
    });
    assert!(first.file("v", "img").exists(), "the volume of the first one is lost: {answer}");
    assert_eq!(status, 500, "{answer}");
    let e = answer["Err"].as_str().unwrap();
    assert!(e.contains("exists with other options: size is 16M, not 8M"), "{e}");
    assert_eq!(read(&late), "data");
    assert_eq!(get(&late, "v")["Status"]["options"]["mode"], "0700");
    let request = ("Create", json!({"Name": "w"}));
    let (status, answer) =
        overtaken(rig, &late, &first.file("w", "owner"), request, || create(&first, "w", &json!({})));
    assert_eq!(status, 200, "{answer}");
}

fn a_create_after_an_adoption(rig: &Rig) {
    let [first, late] = two(rig);
    blank(&first);
    let request = ("Create", json!({"Name": "v", "Opts": {"uid": "5"}}));
    let (status, answer) = overtaken(rig, &late, &first.file("v", "owner"), request, || {
        create(&first, "v", &json!({"uid": "6"}));
        write(&first, "data");
    });
    assert_eq!(status, 500, "{answer}");
    let e = answer["Err"].as_str().unwrap();
    assert!(e.contains("exists with other options: uid is 6, not 5"), "{e}");
    assert_eq!(read(&late), "data");
    assert_eq!(get(&late, "v")["Status"]["options"]["uid"], "6");
}

fn a_mount_after_an_adoption(rig: &Rig) {
    let [first, late] = two(rig);
    blank(&first);
    let request = ("Mount", json!({"Name": "v", "ID": "a"}));
    let (status, answer) = overtaken(rig, &late, &first.file("v", "owner"), request, || {
        create(&first, "v", &json!({"mount-options": "noatime,nodev"}));
        write(&first, "data");
    });
    assert_eq!(status, 200, "{answer}");
    let (options, _) = mount_line(&late.mountpoint("v"));
    assert!(options.contains("noatime") && options.contains("nodev"), "{options}");
    late.unmount("v", "a");
    assert_eq!(read(&late), "data");
}

fn a_mount_after_a_removal(rig: &Rig) {
    let [first, late] = two(rig);
    create(&first, "v", &json!({}));
    let request = ("Mount", json!({"Name": "v", "ID": "a"}));
    let (status, answer) = overtaken(rig, &late, &first.file("v", "owner"), request, || remove(&first, "v"));
    assert_eq!(status, 500, "{answer}");
    let e = answer["Err"].as_str().unwrap();
    assert!(e.contains("Image v does not exist") && !e.contains("also:"), "{e}");
    for kind in ["img", "json", "owner"] {
        assert!(!first.file("v", kind).exists(), "{kind}");
    }
}

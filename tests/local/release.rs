//! `unmount --all`: a plugin has stopped, and its host goes down.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use libtest_mimic::Trial;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::child::Part;
use crate::daemon::Daemon;
use crate::rig::{Ready, Rig, mounts, trial};
use crate::trouble::Squatter;
use crate::volumes::{at_rest, create, devices, get, plugin, remove};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("release::{name}"), ready, test);
    vec![
        t("all_is_given_back", all_is_given_back),
        t("what_is_held_is_named_and_left", what_is_held_is_named_and_left),
        t("storage_that_hangs_holds_up_neither_the_others_nor_the_command", storage_that_hangs),
    ]
}

/// Exit status, and what was said on stdout and stderr.
pub(crate) fn unmount_all(daemon: &Daemon, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = daemon.command();
    command.args(["unmount", "--all"]).args(words).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn released(image: &str) -> Value {
    json!({"image": image, "released": true, "held": false, "error": null})
}

fn all_is_given_back(rig: &Rig) {
    let mut daemon = plugin(rig, "down", &["--size", "16"]);
    for volume in ["a", "b"] {
        create(&daemon, volume, &json!({}));
        let at = daemon.mount(volume, "x");
        daemon.mount(volume, "y");
        fs::write(at.join("file"), volume).unwrap();
    }
    let (code, stdout, stderr) = unmount_all(&daemon, &[]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    for part in [&format!("process {}", daemon.pid()), "systemctl stop"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert_eq!(get(&daemon, "a")["Status"]["mount-ids"], json!({"x": 1, "y": 1}));

    for stop in [Daemon::stop, Daemon::kill] {
        stop(&mut daemon);
        let (code, stdout, stderr) = unmount_all(&daemon, &["--format", "json"]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
        let answer: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(answer, json!({"volumes": [released("rbd/a"), released("rbd/b")], "unknown": null}));
        at_rest(&daemon, "a");
        at_rest(&daemon, "b");
        assert_eq!(fs::read_dir(daemon.refs()).unwrap().count(), 0);
        let (code, stdout, _) = unmount_all(&daemon, &[]);
        assert_eq!((code, stdout.as_str()), (Some(0), "Nothing was mounted.\n"));
        daemon.start();
        daemon.unmount("a", "x");
        for volume in ["a", "b"] {
            let at = daemon.mount(volume, "z");
            assert_eq!(fs::read_to_string(at.join("file")).unwrap(), volume);
        }
    }
    for volume in ["a", "b"] {
        daemon.unmount(volume, "z");
        remove(&daemon, volume);
    }
}

fn what_is_held_is_named_and_left(rig: &Rig) {
    let mut daemon = plugin(rig, "held", &["--size", "16"]);
    for volume in ["free", "here", "there"] {
        create(&daemon, volume, &json!({}));
        daemon.mount(volume, "x");
    }
    let here = Squatter::new(&daemon.mountpoint("here"));
    // As a container does: a copy of the mount, which does not follow ours. That of the other volumes goes first.
    let others = [daemon.mountpoint("free"), daemon.mountpoint("here")];
    let there = Part::play("namespace", Path::new("/"));
    for other in &others {
        let entered = Command::new("nsenter")
            .args(["-t", &there.process.id().to_string(), "-m", "umount"])
            .arg(other)
            .status()
            .unwrap();
        assert!(entered.success());
    }
    daemon.stop();
    let (code, stdout, stderr) = unmount_all(&daemon, &[]);
    assert_eq!((code, stderr.as_str()), (Some(1), ""), "{stdout}");
    assert!(stdout.starts_with("1 volume given back, 2 left.\n"), "{stdout}");
    let namespace = format!("(pid {}, mounted at ", there.process.id());
    for part in
        [here.shown().as_str(), &namespace, "in its namespace)", "rbd/free   any host can mount it now"]
    {
        assert!(stdout.contains(part), "{part} is not in {stdout}");
    }
    at_rest(&daemon, "free");
    for volume in ["here", "there"] {
        assert!(mounts().contains(&daemon.mountpoint(volume)), "{stdout}");
        assert!(daemon.is_owned(volume));
    }
    // A plugin that comes back knows who uses them.
    daemon.start();
    for volume in ["here", "there"] {
        assert_eq!(get(&daemon, volume)["Status"]["mount-ids"], json!({"x": 1}), "{}", daemon.logs());
    }
    daemon.stop();
    drop((here, there));
    let (code, stdout, _) = unmount_all(&daemon, &[]);
    assert_eq!(code, Some(0), "{stdout}");
    for volume in ["here", "there"] {
        at_rest(&daemon, volume);
    }
}

/// A filesystem below an image that takes no write any more, as a cluster that is away: whoever unmounts the volume waits in the kernel, and
/// sync(1) anywhere on the machine. Whatever becomes of this test, it thaws: when the test ends or is killed, and after a minute.
pub(crate) struct Frozen(Child);

impl Frozen {
    pub(crate) fn new(store: &Path) -> Self {
        let script = "fsfreeze -f \"$0\" && echo frozen && timeout 60 cat; fsfreeze -u \"$0\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(store).process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "frozen\n");
        Self(child)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Ends cat.
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// A folder of the rig with a filesystem of its own.
pub(crate) fn freezable(rig: &Rig, folder: &str) -> PathBuf {
    let disk = rig.image("disk", 128);
    assert!(Command::new("mkfs.ext4").arg("-q").arg(&disk).status().unwrap().success());
    let (device, store) = (rig.attach(&disk, false), rig.folder(folder));
    mount(Some(&device.path), &store, Some("ext4"), MsFlags::empty(), None::<&str>).unwrap();
    store
}

fn storage_that_hangs(rig: &Rig) {
    // The default pool is on a filesystem that will freeze, the other one is not.
    let store = freezable(rig, "hang/images");
    let none = None::<&str>;
    let other = rig.folder("hang/images/p2");
    mount(none, &other, Some("tmpfs"), MsFlags::empty(), none).unwrap();

    let mut daemon = plugin(rig, "hang", &["--size", "16"]);
    for volume in ["v", "p2/v"] {
        create(&daemon, volume, &json!({}));
        fs::write(daemon.mount(volume, "x").join("file"), vec![7; 1 << 20]).unwrap();
    }
    daemon.stop();
    let frozen = Frozen::new(&store);
    let (code, stdout, stderr) = unmount_all(&daemon, &["--timeout", "3"]);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("rbd/v  did not end in time"), "{stdout}{stderr}");
    assert!(stdout.contains("p2/v   any host can mount it now"), "{stdout}{stderr}");
    assert!(stderr.contains("hangs in the kernel"), "{stderr}");
    drop(frozen);
    crate::daemon::wait("what hung to end", || {
        // Its name is taken until then.
        unmount_all(&daemon, &[]).0 == Some(0)
    });
    at_rest(&daemon, "v");
    assert!(devices(&other.join("v.img")).is_empty());
    daemon.start();
    for volume in ["v", "p2/v"] {
        assert_eq!(fs::read(daemon.mount(volume, "x").join("file")).unwrap(), vec![7; 1 << 20]);
        daemon.unmount(volume, "x");
    }
    daemon.stop();
    umount2(&other, MntFlags::empty()).unwrap();
    umount2(&store, MntFlags::empty()).unwrap();
}

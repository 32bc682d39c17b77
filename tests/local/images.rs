//! Images that somebody else made, or damaged: used when they hold a filesystem, and never written to when they hold anything else.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use rbd_docker_plugin::linux::loopdev::{self, Backing};
use serde_json::{Value, json};

use crate::daemon::{Daemon, wait};
use crate::rig::{Ready, Rig, trial};
use crate::volumes::{
    at_rest, create, create_error, devices, get, list, mount_error, mount_line, plugin, remove, remove_error,
};

const MIB: usize = 1 << 20;

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("images::{name}"), ready, test);
    vec![
        t("blank", blank),
        t("blank_needs_create", blank_needs_create),
        t("formatted_by_hand", formatted_by_hand),
        t("mounted_as_the_settings_say", mounted_as_the_settings_say),
        t("with_data_and_no_filesystem", with_data_and_no_filesystem),
        t("damaged", damaged),
        t("half_formatted", half_formatted),
        t("mapped_by_hand", mapped_by_hand),
        t("one_image_under_two_names_is_mounted_once", one_image_under_two_names_is_mounted_once),
        t("what_is_no_image_is_named", what_is_no_image_is_named),
    ]
}

/// A sparse image that appears behind the plugin's back.
fn raw(daemon: &Daemon, image: &str, mib: u64) {
    let path = daemon.file(image, "img");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().set_len(mib << 20).unwrap();
}

fn run(program: &str, words: &[&str], path: &Path) -> String {
    let output = Command::new(program).args(words).arg(path).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn overwrite(path: &Path, bytes: &[u8], offset: u64) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// Bytes that no signature is in, always the same.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

fn blank(rig: &Rig) {
    let mut daemon = plugin(rig, "blank", &[]);
    raw(&daemon, "foo", 16);
    raw(&daemon, "bar", 16);
    assert_eq!(list(&daemon), ["bar", "foo"]);
    assert_eq!(get(&daemon, "foo")["Status"]["made-by"], "somebody else");
    assert!(!daemon.file("foo", "json").exists(), "looking leaves no record");
    let at = daemon.mount("foo", "a");
    assert_eq!(mount_line(&at).1, "ext4", "--fs");
    fs::write(at.join("file"), "data").unwrap();
    daemon.unmount("foo", "a");
    at_rest(&daemon, "foo");
    // Options for an image of somebody else are kept until its first Mount formats it.
    create(&daemon, "bar", &json!({"fstype": "btrfs", "mkfs-options": "-M", "mount-options": "noatime"}));
    daemon.stop();
    daemon.start();
    let at = daemon.mount("bar", "a");
    let (options, fstype) = mount_line(&at);
    assert!(fstype == "btrfs" && options.contains("noatime"), "{fstype} {options}");
    daemon.unmount("bar", "a");
    let at = daemon.mount("foo", "a");
    assert_eq!(fs::read_to_string(at.join("file")).unwrap(), "data");
    daemon.unmount("foo", "a");
    for volume in ["foo", "bar"] {
        at_rest(&daemon, volume);
        remove(&daemon, volume);
    }
    assert_eq!(fs::read_dir(rig.path("blank/images/rbd")).unwrap().count(), 0);
}

fn blank_needs_create(rig: &Rig) {
    let daemon = plugin(rig, "nocreate", &["--create=false"]);
    raw(&daemon, "foo", 16);
    create(&daemon, "foo", &json!({}));
    let e = mount_error(&daemon, "foo");
    assert!(e.contains("rbd/foo has no filesystem") && e.contains("--create"), "{e}");
    at_rest(&daemon, "foo");
    assert_eq!(fs::read(daemon.file("foo", "img")).unwrap(), vec![0; 16 * MIB]);
    run("mkfs.ext4", &["-q"], &daemon.file("foo", "img"));
    daemon.mount("foo", "a");
    daemon.unmount("foo", "a");
}

fn mounted_as_the_settings_say(rig: &Rig) {
    let daemon = plugin(rig, "said", &["--mount-options", "noatime,commit=7", "--mkfs-options=-L said"]);
    raw(&daemon, "theirs", 16);
    run("mkfs.ext4", &["-q"], &daemon.file("theirs", "img"));
    create(&daemon, "ours", &json!({"size": "16M"}));
    for volume in ["theirs", "ours"] {
        let (line, _) = mount_line(&daemon.mount(volume, "a"));
        assert!(line.contains("noatime") && line.contains("commit=7"), "{volume}: {line}");
        daemon.unmount(volume, "a");
    }
    let label = |volume: &str| {
        let mut label = [0; 4];
        File::open(daemon.file(volume, "img")).unwrap().read_exact_at(&mut label, 1024 + 0x78).unwrap();
        label
    };
    assert_eq!((&label("ours"), &label("theirs")), (b"said", &[0; 4]));
}

fn formatted_by_hand(rig: &Rig) {
    let daemon = plugin(rig, "hand", &[]);
    raw(&daemon, "foo", 16);
    let content = rig.folder("content");
    fs::write(content.join("precious"), "data").unwrap();
    let image = daemon.file("foo", "img");
    run("mkfs.ext4", &["-q", "-L", "mine", "-d", content.to_str().unwrap()], &image);
    let uuid = || {
        let mut uuid = [0; 16];
        File::open(&image).unwrap().read_exact_at(&mut uuid, 1024 + 0x68).unwrap();
        uuid
    };
    let before = uuid();
    create(&daemon, "foo", &json!({}));
    let at = daemon.mount("foo", "a");
    assert_eq!(fs::read_to_string(at.join("precious")).unwrap(), "data");
    assert!(at.join("lost+found").exists(), "what others made is left as it is");
    daemon.unmount("foo", "a");
    at_rest(&daemon, "foo");
    let e = create_error(&daemon, "foo", &json!({"read-only": "true", "mode": "0700"}));
    assert!(e.contains("mode=0700 cannot be honoured"), "{e}");
    create(&daemon, "foo", &json!({"read-only": "true"}));
    let at = daemon.mount("foo", "a");
    assert!(mount_line(&at).0.starts_with("ro,"));
    assert_eq!(fs::read_to_string(at.join("precious")).unwrap(), "data");
    daemon.unmount("foo", "a");
    assert_eq!(uuid(), before);
    let e = create_error(&daemon, "foo", &json!({"size": "17M"}));
    assert!(e.contains("exists with other options"), "{e}");
}

fn with_data_and_no_filesystem(rig: &Rig) {
    let mut daemon = plugin(rig, "data", &[]);
    let cases = [
        ("swap", "rbd/swap holds swap, which is no filesystem that this plugin mounts"),
        ("noise", "rbd/noise has no filesystem, but was written to"),
        ("middle", "rbd/middle has no filesystem, but was written to"),
    ];
    for (name, _) in cases {
        raw(&daemon, name, 16);
        let image = daemon.file(name, "img");
        match name {
            "swap" => drop(run("mkswap", &["-q"], &image)),
            "noise" => overwrite(&image, &noise(16 * MIB), 0),
            _ => overwrite(&image, b"precious", 8 << 20),
        }
    }
    let content = |name: &str| fs::read(rig.path(&format!("data/images/rbd/{name}.img"))).unwrap();
    let before = cases.map(|(name, _)| content(name));
    for round in ["as it is", "with options", "after a restart"] {
        if round == "after a restart" {
            daemon.kill();
            daemon.start();
        }
        for ((name, part), before) in cases.iter().zip(&before) {
            if round == "with options" {
                let e = create_error(&daemon, name, &json!({"uid": "5", "fstype": "ext4"}));
                assert!(e.contains("uid=5 cannot be honoured: the image holds"), "{e}");
            }
            create(&daemon, name, &json!({}));
            let e = mount_error(&daemon, name);
            assert!(e.contains(part), "{round}: {e}");
            assert!(!e.contains("also:"), "the rollback failed: {e}");
            at_rest(&daemon, name);
            assert!(content(name) == *before, "{name} {round}: it was written to");
        }
    }
}

fn damaged(rig: &Rig) {
    let mut daemon = plugin(rig, "damaged", &["--size", "16"]);
    create(&daemon, "foo", &json!({}));
    fs::write(daemon.mount("foo", "a").join("precious"), "data").unwrap();
    daemon.unmount("foo", "a");
    let image = daemon.file("foo", "img");
    let whole = fs::read(&image).unwrap();
    overwrite(&image, &[0; 4096], 0);
    let destroyed = fs::read(&image).unwrap();
    for _ in 0..2 {
        create(&daemon, "foo", &json!({}));
        let e = mount_error(&daemon, "foo");
        assert!(e.contains("rbd/foo was formatted, but no filesystem is found on it"), "{e}");
        assert!(e.contains("it is not formatted again"), "{e}");
        at_rest(&daemon, "foo");
        assert!(fs::read(&image).unwrap() == destroyed, "it was written to");
        daemon.stop();
        daemon.start();
    }
    // Its filesystem's own tools bring it back, and then it is a volume again.
    overwrite(&image, &whole[..4096], 0);
    assert_eq!(fs::read_to_string(daemon.mount("foo", "a").join("precious")).unwrap(), "data");
    daemon.unmount("foo", "a");
    // The inode of the root directory, beyond what e2fsck repairs unasked.
    run("debugfs", &["-w", "-R", "clri <2>"], &image);
    run("debugfs", &["-w", "-R", "set_super_value state 2"], &image);
    let e = mount_error(&daemon, "foo");
    assert!(e.starts_with("Image filesystem has errors, requires manual repairs"), "{e}");
    assert!(e.contains("e2fsck -f"), "{e}");
    at_rest(&daemon, "foo");
    remove(&daemon, "foo");
}

/// What a killed mkfs may leave: our UUID, and a filesystem that the kernel does not mount, which holds nothing.
fn half_formatted(rig: &Rig) {
    let mut daemon = plugin(rig, "half", &[]);
    // Group descriptors that were not written; a superblock that says so.
    for (kind, size, offset) in [("ext4", "16", 2048), ("xfs", "300", 126)] {
        create(&daemon, kind, &json!({"fstype": kind, "size": size}));
        daemon.stop();
        let (image, record) = (daemon.file(kind, "img"), daemon.file(kind, "json"));
        let uuid = run("blkid", &["-p", "-o", "value", "-s", "UUID"], &image);
        let mut stored: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        (stored["state"], stored["uuid"]) = (json!("formatting"), json!(uuid));
        fs::write(&record, stored.to_string()).unwrap();
        overwrite(&image, &[1; 64], offset);
        daemon.start();
        assert!(!list(&daemon).contains(&kind.to_owned()), "it is no volume");
        create(&daemon, kind, &json!({"fstype": kind, "size": size}));
        daemon.mount(kind, "a");
        daemon.unmount(kind, "a");
        assert_ne!(run("blkid", &["-p", "-o", "value", "-s", "UUID"], &image), uuid, "{kind} is made anew");
        remove(&daemon, kind);
    }
}

fn mapped_by_hand(rig: &Rig) {
    let mut daemon = plugin(rig, "mapped", &["--size", "16"]);
    create(&daemon, "foo", &json!({}));
    let image = daemon.file("foo", "img");
    let device = run("losetup", &["--find", "--show"], &image);
    for _ in 0..2 {
        let e = mount_error(&daemon, "foo");
        assert!(e.contains(&format!("rbd/foo is mapped to {device}, not by this plugin")), "{e}");
        let e = remove_error(&daemon, "foo");
        assert!(e.contains(&format!("\"foo\" is in use: mapped to {device}, not by this plugin")), "{e}");
        assert!(!daemon.is_owned("foo"));
        daemon.stop();
        daemon.start();
        assert_eq!(devices(&image).len(), 1, "not ours to unmap");
    }
    run("losetup", &["-d"], Path::new(&device));
    wait("losetup -d", || devices(&image).is_empty());
    daemon.mount("foo", "a");
    daemon.unmount("foo", "a");
    remove(&daemon, "foo");
    assert!(!image.exists());
}

fn one_image_under_two_names_is_mounted_once(rig: &Rig) {
    let mut daemon = plugin(rig, "names", &["--size", "16"]);
    create(&daemon, "own", &json!({}));
    let own = daemon.file("own", "img");
    fs::hard_link(&own, daemon.file("hard", "img")).unwrap();
    std::os::unix::fs::symlink("own.img", daemon.file("soft", "img")).unwrap();
    let names = ["own", "hard", "soft"];
    let backing = Backing::from(&fs::metadata(&own).unwrap());
    let attached = || loopdev::all().unwrap().iter().filter(|device| device.backing == backing).count();
    for mounted in names {
        daemon.mount(mounted, "a");
        for other in names.into_iter().filter(|name| *name != mounted) {
            let e = mount_error(&daemon, other);
            for part in [&format!("rbd/{other} and rbd/{mounted} are one image"), "mounted twice"] {
                assert!(e.contains(part), "{e}");
            }
            let e = remove_error(&daemon, other);
            assert!(e.contains("are one image under two names"), "{e}");
        }
        assert_eq!(attached(), 1);
        // It is found again by any of its names.
        daemon.kill();
        daemon.start();
        assert_eq!(attached(), 1);
        daemon.mount(mounted, "b");
        daemon.unmount(mounted, "b");
        daemon.unmount(mounted, "a");
        wait("the device to be given back", || attached() == 0);
    }
    // All at the same moment: whoever comes second sees the first.
    for round in 0..5 {
        let asked = &|name| daemon.ask("Mount", &json!({"Name": name, "ID": "a"}));
        let done = std::thread::scope(|scope| {
            let mounts = names.map(|name| scope.spawn(move || (name, asked(name))));
            mounts.map(|mount| mount.join().unwrap())
        });
        let had: Vec<&str> = done
            .iter()
            .filter(|(_, answer)| answer.as_ref().unwrap().0 == 200)
            .map(|(name, _)| *name)
            .collect();
        assert!(had.len() <= 1, "round {round}: {done:?}");
        had.iter().for_each(|name| daemon.unmount(name, "a"));
        wait("the devices to be given back", || attached() == 0);
    }
    // Its first name goes while it is mounted by that.
    daemon.mount("own", "a");
    fs::remove_file(&own).unwrap();
    fs::remove_file(daemon.file("soft", "img")).unwrap();
    let e = mount_error(&daemon, "hard");
    assert!(e.contains("one image under two names"), "{e}");
    daemon.unmount("own", "a");
    wait("the device to be given back", || attached() == 0);
}

/// What lies under the name of an image and can hold no filesystem is told for what it is.
fn what_is_no_image_is_named(rig: &Rig) {
    let daemon = plugin(rig, "odd", &["--size", "16"]);
    create(&daemon, "whole", &json!({}));
    let file = |name: &str| daemon.file(name, "img");
    File::create(file("empty")).unwrap();
    fs::create_dir(file("folder")).unwrap();
    nix::unistd::mkfifo(&file("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    std::os::unix::fs::symlink("/dev/null", file("device")).unwrap();
    for (name, why) in [
        ("empty", "rbd/empty has no size"),
        ("folder", "folder.img is a directory, not a regular file"),
        ("pipe", "pipe.img is a FIFO, not a regular file"),
        ("device", "device.img is a character device, not a regular file"),
    ] {
        let e = mount_error(&daemon, name);
        assert!(e.contains(why), "{name}: {e}");
        let status = get(&daemon, name)["Status"].to_string();
        assert!(status.contains("unusable") && status.contains(why), "{name}: {status}");
        if name != "empty" {
            assert!(remove_error(&daemon, name).contains(why), "{name}");
            assert!(fs::symlink_metadata(file(name)).is_ok(), "{name}: it is not ours");
        }
    }
    remove(&daemon, "empty");
    assert!(!file("empty").exists());
    fs::remove_dir(file("folder")).unwrap();
    for name in ["pipe", "device"] {
        fs::remove_file(file(name)).unwrap();
    }
    remove(&daemon, "whole");
}

//! `docker volume create -o …`.

use std::fs;

use crate::Case;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("owner-and-mode", owner_and_mode),
    ("read-only", read_only),
    ("bad-options", bad_options),
    ("pool-option", pool_option),
    ("mkfs-and-mount-options", mkfs_and_mount_options),
];

/// An unprivileged user can write where the options made it the owner, and what it changes later stays.
fn owner_and_mode(case: &str) {
    let w = World::new(case);
    w.create("data", &["uid=1234", "gid=4321", "mode=0750"]);
    assert_eq!(w.run(&["-v", "data:/vol", "bb"], "stat -c '%u:%g %a' /vol"), "1234:4321 750\n");
    w.run(&["-v", "data:/vol", "--user", "1234:4321", "bb"], "echo mine > /vol/file");
    assert_eq!(w.run(&["-v", "data:/vol", "bb"], "stat -c %u:%g /vol/file"), "1234:4321\n");
    w.run_fails(&["-v", "data:/vol", "--user", "77:77", "bb"], "cat /vol/file");

    // Set once, on the fresh filesystem: later mounts leave the owner alone.
    w.run(&["-v", "data:/vol", "bb"], "busybox chown 5:6 /vol && busybox chmod 700 /vol");
    assert_eq!(w.run(&["-v", "data:/vol", "bb"], "stat -c '%u:%g %a' /vol"), "5:6 700\n");
    w.finish();
}

/// As an option of the volume, and as `:ro` of one mount.
fn read_only(case: &str) {
    let w = World::new(case);
    w.create("always", &["read-only=true"]);
    let refused = w.run_fails(&["-v", "always:/vol", "bb"], "echo no > /vol/file");
    assert!(refused.contains("Read-only file system"), "{refused}");
    assert_eq!(w.run(&["-v", "always:/vol", "bb"], "ls -A /vol"), "");

    w.run(&["-v", "once:/vol", "bb"], "echo kept > /vol/file");
    let refused = w.run_fails(&["-v", "once:/vol:ro", "bb"], "echo no > /vol/file");
    assert!(refused.contains("Read-only file system"), "{refused}");
    assert_eq!(w.run(&["-v", "once:/vol:ro", "bb"], "cat /vol/file"), "kept\n");
    w.run(&["-v", "once:/vol", "bb"], "echo more >> /vol/file");
    w.finish();
}

/// A mistake makes no volume and is answered with what would be right.
fn bad_options(case: &str) {
    let w = World::new(case);
    let driver = w.plugin.name.as_str();
    let create = |option: &str| w.engine.fails(&["volume", "create", "-d", driver, "-o", option, "data"]);

    let unknown = create("siez=1G");
    let valid =
        ["size", "pool", "fstype", "mkfs-options", "mount-options", "uid", "gid", "mode", "read-only"];
    for option in ["siez"].iter().chain(&valid) {
        assert!(unknown.contains(option), "{option} is not in: {unknown}");
    }
    for (option, value) in [
        ("size", "banana"),
        ("size", "0"),
        ("fstype", "ntfs"),
        ("uid", "root?"),
        ("mode", "rwx"),
        ("read-only", "perhaps"),
        ("pool", "../etc"),
    ] {
        let error = create(&format!("{option}={value}"));
        assert!(error.contains(option) || error.contains(value), "-o {option}={value} is answered: {error}");
    }
    assert_eq!(w.engine.ok(&["volume", "ls", "-q"]), "");
    assert!(!w.plugin.image("data").exists());
    w.finish();
}

/// A volume made in another pool is found again under its bare name.
fn pool_option(case: &str) {
    let w = World::new(case);
    let other = w.plugin.images().join("other");
    fs::create_dir_all(&other).expect("another pool");
    w.create("data", &["pool=other"]);
    assert!(other.join("data.img").exists(), "the image is in the other pool");
    w.run(&["-v", "data:/vol", "bb"], "echo there > /vol/file");
    assert_eq!(w.run(&["-v", "data:/vol", "bb"], "cat /vol/file"), "there\n");
    assert!(!w.plugin.image("data").exists(), "and not in the default pool");
    w.engine.ok(&["volume", "rm", "data"]);
    assert!(!other.join("data.img").exists());
    w.finish();
}

/// Words for mkfs and for every mount, also after a restart of the plugin.
fn mkfs_and_mount_options(case: &str) {
    let mut w = World::new(case);
    w.create("data", &["mkfs-options=-N 64", "mount-options=noatime,nodev"]);
    for _ in 0..2 {
        let mounts = w.run(&["-v", "data:/vol", "bb"], "cat /proc/mounts");
        let line = mounts.lines().find(|line| line.contains(" /vol ")).expect("the volume is mounted");
        let options = line.split(' ').nth(3).expect("a column of options");
        assert!(options.contains("noatime") && options.contains("nodev"), "{line}");
        let inodes = w.run(&["-v", "data:/vol", "bb"], "busybox df -i /vol");
        let total = inodes.lines().last().and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        assert!(total.is_some_and(|total: u64| total < 1000), "few inodes, as asked: {inodes}");
        w.plugin.stop();
        w.plugin.up();
    }
    w.finish();
}

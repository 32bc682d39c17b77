//! The life of a volume as `docker volume` and `docker run` show it.

use std::fs;

use crate::Case;
use crate::leaks;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("named-volume", named_volume),
    ("first-example", first_example),
    ("anonymous-volume", anonymous_volume),
    ("pool-and-size-in-the-name", pool_and_size_in_the_name),
    ("rm-in-use", rm_in_use),
    ("prune", prune),
    ("every-filesystem", every_filesystem),
];

/// Create with a size, inspect, list, write in one container, read in the next, remove.
fn named_volume(case: &str) {
    let w = World::new(case);
    w.create("data", &["size=48M"]);
    assert_eq!(fs::metadata(w.plugin.image("data")).expect("the image is there").len(), 48 << 20);

    let v = w.inspect("data");
    assert_eq!(v["Driver"], w.plugin.name.as_str());
    assert_eq!(v["Scope"], "global");
    assert_eq!(v["Options"]["size"], "48M");
    assert_eq!(v["Mountpoint"], "", "not mounted, so no mountpoint");
    let created = v["CreatedAt"].as_str().expect("a time of creation");
    assert!(created.len() >= 20 && created.as_bytes()[10] == b'T', "RFC 3339: {created}");
    assert!(v["Status"].as_object().is_some_and(|status| !status.is_empty()), "a status: {v}");
    let filter = format!("driver={}", w.plugin.name);
    assert_eq!(w.engine.ok(&["volume", "ls", "-q", "--filter", &filter]), "data\n");

    w.run(&["-v", "data:/vol", "bb"], "echo kept > /vol/file");
    w.assert_mounted(&[]);
    assert_eq!(w.run(&["-v", "data:/vol", "bb"], "cat /vol/file"), "kept\n");

    w.start("main", &["-v", "data:/vol", "bb"], "sleep 1000");
    w.assert_mounted(&["data"]);
    assert_eq!(w.inspect("data")["Mountpoint"], w.plugin.mountpoint("data").to_str().expect("a UTF-8 path"));
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted(&[]);
    assert_eq!(w.inspect("data")["Mountpoint"], "");

    w.engine.ok(&["rm", "main"]);
    w.engine.ok(&["volume", "rm", "data"]);
    assert_eq!(w.engine.ok(&["volume", "ls", "-q"]), "");
    assert!(!w.plugin.image("data").exists(), "--remove delete deletes the image");
    w.finish();
}

/// The old README's first example: the volume comes into being with the first container that names it.
fn first_example(case: &str) {
    let w = World::new(case);
    w.run(&["-v", "foo:/data", "bb"], "echo hello > /data/hello");
    w.run(&["-v", "foo:/data", "bb"], "echo world > /data/world");
    assert_eq!(w.run(&["-v", "foo:/data", "bb"], "cat /data/hello /data/world"), "hello\nworld\n");
    assert_eq!(w.run(&["-v", "foo:/data", "bb"], "ls -A /data"), "hello\nworld\n", "and no lost+found");
    assert_eq!(fs::metadata(w.plugin.image("foo")).expect("the image is there").len(), 64 << 20, "--size 64");
    w.finish();
}

/// A volume without a name lives as long as its `--rm` container; with `docker rm -v` as well.
fn anonymous_volume(case: &str) {
    let w = World::new(case);
    w.run(&["-v", "/vol", "bb"], "echo gone > /vol/file && cat /vol/file");
    assert_eq!(w.engine.ok(&["volume", "ls", "-q"]), "");
    assert_eq!(leaks::files_under(&w.plugin.images(), ".img"), [""; 0].map(std::path::PathBuf::from));

    w.start("main", &["-v", "/vol", "bb"], "sleep 1000");
    let name = w.engine.ok(&["volume", "ls", "-q"]);
    assert_eq!(name.trim().len(), 64, "Docker makes up a name: {name}");
    w.assert_mounted(&[name.trim()]);
    w.engine.ok(&["rm", "-f", "-v", "main"]);
    assert_eq!(w.engine.ok(&["volume", "ls", "-q"]), "");
    w.finish();
}

/// `foo@32`, `rbd/foo` and `foo` are one image.
fn pool_and_size_in_the_name(case: &str) {
    let w = World::new(case);
    w.run(&["-v", "foo@32:/vol", "bb"], "echo one > /vol/file");
    assert_eq!(fs::metadata(w.plugin.image("foo")).expect("the image is there").len(), 32 << 20);
    assert_eq!(w.run(&["-v", "rbd/foo:/vol", "bb"], "cat /vol/file"), "one\n");
    assert_eq!(w.run(&["-v", "foo:/vol", "bb"], "cat /vol/file"), "one\n");
    assert_eq!(leaks::files_under(&w.plugin.images(), ".img").len(), 1);
    // Docker itself knows three volumes; the first rm takes the image, the others find that it is gone.
    for name in ["foo@32", "rbd/foo", "foo"] {
        w.engine.docker(&["volume", "rm", name]);
    }
    w.finish();
}

/// Neither Docker nor the plugin removes a volume under a running container.
fn rm_in_use(case: &str) {
    let w = World::new(case);
    w.start_writer("main", "data");
    let refused = w.engine.fails(&["volume", "rm", "data"]);
    assert!(refused.contains("in use"), "{refused}");

    let (status, answer) = w.plugin.call("/VolumeDriver.Remove", &serde_json::json!({"Name": "data"}));
    assert_eq!(status, 500);
    let why = answer["Err"].as_str().expect("an error text");
    assert!(why.contains("in use"), "it says why: {why}");
    w.still_writes("main");
    w.assert_mounted(&["data"]);
    w.finish();
}

/// Docker prunes unused volumes of its own driver only; what of ours is in use or not, stays.
fn prune(case: &str) {
    let w = World::new(case);
    w.run(&["-v", "idle:/vol", "bb"], "echo idle > /vol/file");
    w.start("main", &["-v", "busy:/vol", "bb"], "echo busy > /vol/file; sleep 1000");
    w.engine.ok(&["volume", "prune", "-f"]);
    w.engine.ok(&["system", "prune", "-f", "--volumes"]);
    assert!(w.plugin.image("busy").exists());
    assert_eq!(w.run(&["-v", "idle:/vol", "bb"], "cat /vol/file"), "idle\n");
    assert_eq!(w.exec("main", "cat /vol/file"), "busy\n");
    w.assert_mounted(&["busy"]);
    w.finish();
}

/// ext4, xfs and btrfs, each with its smallest comfortable size.
fn every_filesystem(case: &str) {
    let w = World::new(case);
    for (fs, size) in [("ext4", "size=32M"), ("xfs", "size=320M"), ("btrfs", "size=160M")] {
        w.create(fs, &[&format!("fstype={fs}"), size]);
        let mount = format!("{fs}:/vol");
        w.run(&["-v", &mount, "bb"], "echo kept > /vol/file");
        let mounts = w.run(&["-v", &mount, "bb"], "cat /vol/file /proc/mounts");
        assert!(mounts.starts_with("kept\n"), "{mounts}");
        let line = mounts.lines().find(|line| line.contains(" /vol ")).expect("the volume is mounted");
        assert_eq!(line.split(' ').nth(2), Some(fs), "{line}");
    }
    w.finish();
}

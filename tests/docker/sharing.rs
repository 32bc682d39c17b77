//! More than one use of a volume at a time, and what Docker itself does inside a volume.

use std::fs;

use crate::Case;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("two-containers", two_containers),
    ("two-places-in-one-container", two_places_in_one_container),
    ("copy-up", copy_up),
    ("cp", cp),
    ("cp-of-a-stopped-container", cp_of_a_stopped_container),
    ("volumes-from", volumes_from),
];

/// They share one mount; the first to go takes nothing from the other.
fn two_containers(case: &str) {
    let w = World::new(case);
    w.start_writer("left", "data");
    w.start_writer("right", "data");
    w.exec("left", "echo from left > /vol/left");
    assert_eq!(w.exec("right", "cat /vol/left"), "from left\n");
    w.assert_mounted(&["data"]);

    w.engine.ok(&["stop", "left"]);
    w.still_writes("right");
    w.assert_mounted(&["data"]);
    w.engine.ok(&["start", "left"]);
    w.engine.ok(&["stop", "right"]);
    w.still_writes("left");
    w.engine.ok(&["stop", "left"]);
    w.wait_mounted(&[]);
    w.finish();
}

/// One volume at two paths of one container.
fn two_places_in_one_container(case: &str) {
    let w = World::new(case);
    w.start("main", &["-v", "data:/one", "-v", "data:/two", "bb"], "sleep 1000");
    w.exec("main", "echo same > /one/file");
    assert_eq!(w.exec("main", "cat /two/file"), "same\n");
    w.assert_mounted(&["data"]);
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted(&[]);
    w.finish();
}

/// Docker fills an empty volume from the image (a lost+found would stop it), unless told not to.
fn copy_up(case: &str) {
    let w = World::new(case);
    assert_eq!(
        w.run(&["-v", "data:/data", "bb-seeded"], "ls -A /data; cat /data/*"),
        "one\ntwo\nfirst\nsecond\n"
    );
    w.run(&["-v", "data:/data", "bb-seeded"], "echo changed > /data/one; rm /data/two");
    assert_eq!(w.run(&["-v", "data:/data", "bb-seeded"], "ls -A /data; cat /data/*"), "one\nchanged\n");

    assert_eq!(w.run(&["-v", "bare:/data:nocopy", "bb-seeded"], "ls -A /data"), "");
    assert_eq!(w.run(&["-v", "empty:/data", "bb-empty"], "ls -A /data"), "");
    assert_eq!(w.run(&["-v", "/data", "bb-seeded"], "ls -A /data"), "one\ntwo\n", "an anonymous one as well");

    // Made, never started: filled and not mounted.
    let driver = w.plugin.name.as_str();
    w.engine.ok(&[
        "create",
        "--name",
        "main",
        "--volume-driver",
        driver,
        "-v",
        "made:/data",
        "bb-seeded",
        "sh",
    ]);
    w.assert_mounted(&[]);
    assert_eq!(w.run(&["-v", "made:/data", "bb"], "ls -A /data"), "one\ntwo\n");
    w.finish();
}

/// `docker cp` mounts with the ID of the running container once more, and unmounts it: the container's mount must stay.
fn cp(case: &str) {
    let w = World::new(case);
    w.start_writer("main", "data");
    let file = w.dir.join("in");
    fs::write(&file, "from outside\n").expect("a file to copy");
    let file = file.to_str().expect("a UTF-8 path");
    let out = w.dir.join("out");
    for _ in 0..3 {
        w.engine.ok(&["cp", file, "main:/vol/in"]);
        assert_eq!(w.exec("main", "cat /vol/in"), "from outside\n");
        w.engine.ok(&["cp", "main:/vol/in", out.to_str().expect("a UTF-8 path")]);
        assert_eq!(fs::read_to_string(&out).expect("the copy is there"), "from outside\n");
        w.assert_mounted(&["data"]);
        w.still_writes("main");
    }
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted(&[]);
    assert_eq!(w.run(&["-v", "data:/vol", "bb"], "cat /vol/in"), "from outside\n");
    w.finish();
}

/// Mounted for the copy only.
fn cp_of_a_stopped_container(case: &str) {
    let w = World::new(case);
    w.start("main", &["-v", "data:/vol", "bb"], "echo kept > /vol/file; sync; sleep 1000");
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted(&[]);
    let out = w.dir.join("out");
    w.engine.ok(&["cp", "main:/vol/file", out.to_str().expect("a UTF-8 path")]);
    assert_eq!(fs::read_to_string(&out).expect("the copy is there"), "kept\n");
    w.wait_mounted(&[]);
    w.finish();
}

/// All volumes of another container, running or not.
fn volumes_from(case: &str) {
    let w = World::new(case);
    w.start("left", &["-v", "data:/vol", "-v", "/more", "bb"], "echo more > /more/file; sleep 1000");
    w.start("right", &["--volumes-from", "left", "bb"], "echo from right > /vol/right; sleep 1000");
    w.engine.ok(&["rm", "-f", "left"]);
    assert_eq!(w.exec("right", "cat /vol/right /more/file"), "from right\nmore\n");
    w.engine.ok(&["stop", "right"]);
    w.wait_mounted(&[]);
    assert_eq!(w.run(&["--volumes-from", "right:ro", "bb"], "cat /vol/right"), "from right\n");
    w.finish();
}

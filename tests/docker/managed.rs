//! The plugin as the engine runs it itself: `docker plugin`.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::Case;
use crate::daemon::wait;
use crate::leaks;
use crate::managed_world::Managed;

pub(crate) const CASES: &[Case] = &[
    ("managed-life", life),
    ("managed-aliases", aliases),
    ("managed-killed", killed),
    ("managed-disabled-by-force", disabled_by_force),
    ("managed-stopped-while-disabled", stopped_while_disabled),
    ("managed-one-of-two-stopped-while-disabled", one_of_two_stopped_while_disabled),
    ("managed-new-build", new_build),
    ("managed-engine-killed", |case| engine_restarts(case, Signal::SIGKILL)),
    ("managed-engine-stopped", |case| engine_restarts(case, Signal::SIGTERM)),
    ("managed-container-with-more-rights", container_with_more_rights),
    ("managed-ceph-away", ceph_away),
];

/// The owner record of an image of the local backend.
fn owner(w: &Managed, image: &str) -> Value {
    let file = w.dir.join("images/rbd-images/rbd").join(format!("{image}.owner"));
    serde_json::from_slice(&fs::read(file).expect("the image has an owner")).expect("a record")
}

/// From `set` to `rm`: a volume's life, what the engine refuses meanwhile, and what the plugin knows of its host.
fn life(case: &str) {
    let w = Managed::with_plugin(case);
    let refused = w.engine.fails(&["plugin", "set", "rbd", "RBD_DOCKER_PLUGIN_SIZE=32"]);
    assert!(refused.contains("cannot set on an active plugin"), "{refused}");
    let refused = w.engine.fails(&["plugin", "set", "rbd", "RBD_DOCKER_PLUGIN_MOUNT=/elsewhere"]);
    assert!(refused.contains("active") || refused.contains("not settable"), "{refused}");

    for fs in ["ext4", "xfs", "btrfs"] {
        let size = if fs == "xfs" { "size=320M" } else { "size=160M" };
        w.engine.ok(&["volume", "create", "-d", "rbd", "-o", &format!("fstype={fs}"), "-o", size, fs]);
        w.run("rbd", fs, "echo kept > /vol/file");
        assert!(w.run("rbd", fs, "cat /vol/file /proc/mounts").contains(&format!(" /vol {fs} ")), "{fs}");
    }

    w.start_writer("rbd", "main", "data", &[]);
    w.wait_mounted("rbd", &["data"]);
    for refused in [&["plugin", "disable", "rbd"][..], &["plugin", "rm", "rbd"]] {
        let error = w.engine.fails(refused);
        assert!(error.contains("in use") || error.contains("is enabled"), "{error}");
    }
    let engine = u64::from(w.engine.pid());
    let uses = fs::read(w.volumes("rbd").join(".state/rbd.mounts/rbd@data.json")).expect("its mount IDs");
    let uses: Value = serde_json::from_slice(&uses).expect("mount IDs are JSON");
    assert_eq!(uses["uses"][0]["client"]["pid"], engine, "it tells engines apart: {uses}");
    let owner = owner(&w, "data");
    let host = nix::unistd::gethostname().expect("a host name");
    assert_eq!(owner["host"].as_str(), host.to_str(), "the host's name, not the container's");
    if let Ok(id) = fs::read_to_string("/etc/machine-id") {
        assert!(owner["machine_id"].as_str().is_some_and(|m| m.starts_with(id.trim())), "{owner}");
    }
    assert!(owner["root"].as_str().is_some_and(|root| root.contains(&w.id("rbd"))), "{owner}");
    let listed = Command::new(env!("CARGO_BIN_EXE_rbd-docker-plugin"))
        .args(["--conf-file", "none", "ls", "--admin"])
        .arg(w.volumes("rbd").join(".state/admin"))
        .output()
        .expect("the program runs");
    let listed =
        String::from_utf8_lossy(&listed.stdout).into_owned() + &String::from_utf8_lossy(&listed.stderr);
    assert!(listed.lines().any(|line| line.starts_with("data ")), "asked from the host: {listed}");

    w.engine.ok(&["stop", "main"]);
    w.wait_mounted("rbd", &[]);
    w.engine.ok(&["rm", "main"]);
    // The engine counts every volume that it knows as a use.
    w.engine.ok(&["plugin", "disable", "-f", "rbd"]);
    w.engine.ok(&["plugin", "enable", "rbd"]);
    assert_ne!(w.run("rbd", "data", "wc -l < /vol/log"), "0\n");
    assert_eq!(w.run("rbd", "ext4", "cat /vol/file"), "kept\n");
    w.finish();
}

/// Two plugins of one host, with settings of their own. They are two owners, also of images in one folder.
fn aliases(case: &str) {
    let w = Managed::with_plugin(case);
    w.add("other", &["SIZE=32", "LOG_LEVEL=debug"]);
    w.start_writer("rbd", "left", "one", &[]);
    w.start_writer("other", "right", "two", &[]);
    w.wait_mounted("rbd", &["one"]);
    w.wait_mounted("other", &["two"]);
    assert_eq!(w.status("one")["size"], "64M");
    assert_eq!(w.status("two")["size"], "32M");
    let owned = |image| owner(&w, image)["root"].clone();
    assert_ne!(owned("one"), owned("two"));

    let theirs = [
        "run",
        "--rm",
        "--network",
        "none",
        "--volume-driver",
        "other",
        "-v",
        "rbd/one:/vol",
        "bb",
        "sh",
        "-c",
        "ls /vol",
    ];
    for _ in 0..2 {
        let refused = w.engine.fails(&theirs);
        assert!(refused.contains("in use by plugin"), "{refused}");
        w.kill("other");
        w.still_writes("right");
        w.kill("rbd");
        w.still_writes("left");
    }
    w.wait_mounted("rbd", &["one"]);
    w.wait_mounted("other", &["two"]);
    w.engine.ok(&["stop", "left"]);
    w.wait_mounted("rbd", &[]);
    w.engine.ok(&theirs);
    w.engine.ok(&["volume", "rm", "rbd/one"]);
    w.engine.ok(&["rm", "left"]);
    // The image went with its other name.
    w.engine.docker(&["volume", "rm", "one"]);
    w.still_writes("right");
    w.finish();
}

/// kill -9, again and again: the engine starts it again, and what is mounted is its own.
fn killed(case: &str) {
    let w = Managed::with_plugin(case);
    w.start_writer("rbd", "main", "data", &[]);
    for _ in 0..3 {
        w.kill("rbd");
        w.still_writes("main");
        w.wait_mounted("rbd", &["data"]);
        assert_eq!(w.status("data")["mounts"], 1, "adopted, with its use");
        assert_ne!(w.run("rbd", "data", "wc -l < /vol/log"), "0\n");
        w.wait_mounted("rbd", &["data"]);
    }
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted("rbd", &[]);
    assert_eq!(w.loops(), 0);
    w.engine.ok(&["start", "main"]);
    w.still_writes("main");
    w.finish();
}

/// The engine unmounts what a plugin has mounted when it disables it by force. The container goes on, and its volume is the plugin's
/// again afterwards, with its use.
fn disabled_by_force(case: &str) {
    let w = Managed::with_plugin(case);
    w.start_writer("rbd", "main", "data", &[]);
    w.engine.ok(&["plugin", "disable", "-f", "rbd"]);
    w.wait_mounted("rbd", &[]);
    w.still_writes("main");
    w.engine.ok(&["plugin", "enable", "rbd"]);
    w.wait_mounted("rbd", &["data"]);
    w.still_writes("main");
    assert_eq!(w.status("data")["mounts"], 1);
    assert_ne!(
        w.run("rbd", "data", "wc -l < /vol/log"),
        "0\n",
        "the filesystem that the other container has"
    );
    w.wait_mounted("rbd", &["data"]);
    assert_eq!(w.loops(), 1);
    w.still_writes("main");
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted("rbd", &[]);
    assert_eq!(w.loops(), 0);
    w.engine.ok(&["start", "main"]);
    w.still_writes("main");
    w.finish();
}

/// Docker's Unmount of the one fails and is not repeated: its use must not keep the volume when the other one has ended.
fn one_of_two_stopped_while_disabled(case: &str) {
    let w = Managed::with_plugin(case);
    for container in ["main", "other"] {
        w.start_writer("rbd", container, "data", &[]);
    }
    w.engine.ok(&["plugin", "disable", "-f", "rbd"]);
    w.engine.ok(&["stop", "other"]);
    w.engine.ok(&["plugin", "set", "rbd", "RBD_DOCKER_PLUGIN_ORPHAN_GRACE=1"]);
    w.engine.ok(&["plugin", "enable", "rbd"]);
    w.wait_mounted("rbd", &["data"]);
    w.still_writes("main");
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted("rbd", &[]);
    wait("the loop device to go", || w.loops() == 0);
    w.finish();
}

/// The container ends while the plugin is disabled, so nobody unmounts: nothing stays, and the volume can be used again.
fn stopped_while_disabled(case: &str) {
    let w = Managed::with_plugin(case);
    w.start_writer("rbd", "main", "data", &[]);
    w.engine.ok(&["plugin", "disable", "-f", "rbd"]);
    w.engine.ok(&["stop", "main"]);
    wait("the loop device to go with its last user", || w.loops() == 0);
    w.engine.ok(&["plugin", "enable", "rbd"]);
    w.wait_mounted("rbd", &[]);
    w.engine.ok(&["start", "main"]);
    w.still_writes("main");
    assert_eq!(w.status("data")["mounts"], 1, "the use from before is forgotten");
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted("rbd", &[]);
    w.finish();
}

/// Another build in the place of the plugin, without a registry to upgrade from: another plugin of that name, which finds the
/// volumes.
fn new_build(case: &str) {
    let w = Managed::with_plugin(case);
    w.start_writer("rbd", "main", "data", &[]);
    let before = w.id("rbd");
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted("rbd", &[]);
    w.engine.ok(&["plugin", "disable", "-f", "rbd"]);
    w.engine.ok(&["plugin", "rm", "-f", "rbd"]);
    w.add("rbd", &[]);
    assert_ne!(w.id("rbd"), before);
    w.engine.ok(&["start", "main"]);
    w.still_writes("main");
    w.wait_mounted("rbd", &["data"]);
    w.finish();
}

/// Engine and containers end, and the plugin with them. It is enabled again with the engine; nothing stays mounted.
fn engine_restarts(case: &str, signal: Signal) {
    let mut w = Managed::with_plugin(case);
    w.start_writer("rbd", "main", "data", &[]);
    w.engine.end_with(signal);
    w.engine.up();
    wait("the container to be ended", || {
        w.engine.ok(&["inspect", "-f", "{{.State.Running}}", "main"]) == "false\n"
    });
    assert_eq!(w.engine.ok(&["plugin", "inspect", "-f", "{{.Enabled}}", "rbd"]), "true\n");
    w.wait_mounted("rbd", &[]);
    wait("the loop device to go", || w.loops() == 0);
    w.engine.ok(&["start", "main"]);
    w.still_writes("main");
    w.wait_mounted("rbd", &["data"]);
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted("rbd", &[]);
    w.finish();
}

/// The plugin sees that a container holds a volume which may do what the plugin may not: `docker cp` mounts its ID once more, which
/// without a container would mean that Docker has forgotten the first time.
fn container_with_more_rights(case: &str) {
    let w = Managed::with_plugin(case);
    w.start_writer("rbd", "main", "data", &["--cap-add", "NET_ADMIN"]);
    let out = w.dir.join("out");
    w.engine.ok(&["cp", "main:/vol/log", out.to_str().expect("a UTF-8 path")]);
    assert_eq!(w.mounted("rbd").len(), 1, "still mounted");
    assert_eq!(w.status("data")["mounts"], 1);
    w.still_writes("main");
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted("rbd", &[]);
    w.finish();
}

/// A cluster that does not answer keeps no plugin from being enabled, and nothing of the host is lost with it.
fn ceph_away(case: &str) {
    let w = Managed::new(case);
    let etc = w.dir.join("etc");
    fs::create_dir_all(etc.join("ceph")).expect("a folder for ceph.conf");
    fs::write(etc.join("ceph/ceph.conf"), "[global]\nmon_host = 127.0.0.1:1\nauth_client_required = none\n")
        .expect("ceph.conf");
    w.create("rbd");
    w.engine.ok(&["plugin", "set", "rbd", &format!("etc.source={}", etc.display())]);
    w.engine.ok(&["plugin", "enable", "rbd"]);
    w.engine.ok(&["volume", "ls", "-q"]);
    let error = w.engine.fails(&["volume", "create", "-d", "rbd", "data"]);
    assert!(error.contains("not connected to the Ceph cluster") || error.contains("rados"), "{error}");
    w.engine.ok(&["plugin", "disable", "rbd"]);
    w.engine.ok(&["plugin", "enable", "rbd"]);
    let roots = leaks::rooted_in(&format!("/plugins/{}/rootfs", w.id("rbd")));
    assert_eq!(roots.len(), 1, "one process, and nothing run by it: {roots:?}");
    w.finish();
}

//! A cluster that does not answer, or not as it should: what the plugin answers meanwhile, and that it needs nobody afterwards.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::daemon::wait;
use crate::images::{delete_pool, used};
use crate::plugin::Plugin;
use crate::rig::{Lab, test};
use crate::volumes::start;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test("outage_of_the_storage", storage),
        test("outage_of_the_monitor", monitor),
        test("outage_behind_its_back", behind_its_back),
        test("outage_of_a_full_pool", full),
        test("outage_of_the_kernel", kernel),
        test("outage_of_the_key", key),
    ]
}

/// Docker gives up then.
const DOCKER: Duration = Duration::from_secs(120);

fn timed<T>(call: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    let answer = call();
    (answer, begin.elapsed())
}

fn status(plugin: &Plugin<'_>, volume: &str) -> Value {
    plugin.ok("Get", &json!({"Name": volume}))["Volume"]["Status"].clone()
}

/// What every read answers while nothing can be asked: what was known, at once, and that it is old.
fn answers_from_the_cache(plugin: &Plugin<'_>, mounted: &str, other: &str) {
    // The first to ask may have to find out: one timeout.
    let (_, found_out) = timed(|| status(plugin, other));
    let ((), took) = timed(|| {
        for volume in [mounted, other] {
            let status = status(plugin, volume);
            assert_eq!(status["health"], json!("degraded"), "{volume}: {status}");
            assert!(!status["reason"].as_str().unwrap().is_empty());
        }
        let path = plugin.ok("Path", &json!({"Name": mounted}));
        assert_eq!(path["Mountpoint"], json!(plugin.mountpoint(mounted)));
        let listed = plugin.ok("List", &json!({}))["Volumes"].to_string();
        assert!(listed.contains(mounted) && listed.contains(other), "{listed}");
        assert!(plugin.ok("Capabilities", &json!({})).to_string().contains("global"));
    });
    println!(
        "the first answer took {:.1} s, the next five {:.1} s",
        found_out.as_secs_f32(),
        took.as_secs_f32()
    );
    assert!(found_out + took < DOCKER, "{found_out:?} {took:?}");
}

fn recovers(plugin: &Plugin<'_>, volume: &str) {
    wait("the plugin to find its cluster again", || status(plugin, volume)["health"] == json!("ok"));
}

/// No image but these, and nobody owns one.
#[track_caller]
pub(crate) fn at_rest(lab: &Lab, images: &[&str]) {
    assert_eq!(lab.cluster.rbd(&["ls"]).lines().collect::<Vec<_>>(), images);
    assert_eq!(owners(lab), "");
    assert_eq!(lab.alpha().ok("ls /sys/bus/rbd/devices"), "");
}

/// The owner records of the default pool.
pub(crate) fn owners(lab: &Lab) -> String {
    let listed = lab.cluster.try_run("rados", &["-p", "rbd", "listomapvals", "rbd_docker_plugin.owners"]);
    // There is no such object before the first claim.
    String::from_utf8_lossy(&listed.stdout).trim().to_owned()
}

fn storage(lab: &Lab) {
    let host = lab.alpha();
    let mut plugin = start(lab, host, &["--ceph-timeout", "5"]);
    for volume in ["mounted", "other"] {
        plugin.ok("Create", &json!({"Name": volume, "Opts": {"size": "32M"}}));
    }
    let mountpoint = plugin.mount("mounted", "a").display().to_string();
    host.ok(&format!("echo data >{mountpoint}/file && sync"));

    lab.cluster.pause_osd();
    answers_from_the_cache(&plugin, "mounted", "other");
    for (endpoint, body) in [
        ("Mount", json!({"Name": "other", "ID": "b"})),
        ("Create", json!({"Name": "new"})),
        ("Remove", json!({"Name": "other"})),
    ] {
        let (why, took) = timed(|| plugin.error(endpoint, &body));
        println!("{endpoint} failed after {:.1} s: {why}", took.as_secs_f32());
        assert!(took < DOCKER, "{endpoint}: {took:?}");
        assert!(why.contains("does not answer") || why.contains("is away"), "{endpoint}: {why}");
    }
    let write = host.spawn(&format!("echo more >>{mountpoint}/file && sync"), Duration::from_secs(600));
    // One more use of what is mounted needs nobody, and it can be given back.
    plugin.mount("mounted", "second");
    plugin.unmount("mounted", "second");
    assert!(!write.is_done(), "written during an outage");
    lab.cluster.resume_osd();
    assert_eq!(write.wait().status, 0);

    recovers(&plugin, "other");
    assert!(plugin.mounts("mounted"));
    assert_eq!(host.ok(&format!("cat {mountpoint}/file")), "data\nmore");
    plugin.unmount("mounted", "a");
    used(host, &plugin, "other", "echo >$m/file");
    wait("what was begun to be undone", || owners(lab).is_empty());
    at_rest(lab, &["mounted", "other"]);
    for volume in ["mounted", "other"] {
        plugin.ok("Remove", &json!({"Name": volume}));
    }
    plugin.stop();
}

fn monitor(lab: &Lab) {
    let host = lab.alpha();
    let mut plugin = start(lab, host, &["--ceph-timeout", "5"]);
    for volume in ["mounted", "other"] {
        // Without the feature exclusive-lock there is a lock more to give back.
        plugin.ok("Create", &json!({"Name": volume, "Opts": {"size": "32M", "features": "layering"}}));
    }
    let mountpoint = plugin.mount("mounted", "a").display().to_string();
    host.ok(&format!("echo data >{mountpoint}/file && sync"));
    lab.cluster.stop_mon();
    assert_eq!(plugin.ok("Path", &json!({"Name": "mounted"}))["Mountpoint"], json!(mountpoint));
    plugin.kill();

    // A start without the cluster.
    let ((), took) = timed(|| plugin.start());
    println!("listens {:.1} s after a start without a cluster", took.as_secs_f32());
    assert!(took < DOCKER, "{took:?}");
    answers_from_the_cache(&plugin, "mounted", "other");
    assert!(plugin.mounts("mounted"), "it was unmounted");
    let (why, took) = timed(|| plugin.error("Mount", &json!({"Name": "other", "ID": "b"})));
    println!("Mount failed after {:.1} s: {why}", took.as_secs_f32());
    assert!(took < DOCKER && why.contains("monitor"), "{took:?} {why}");
    lab.cluster.start_mon();

    recovers(&plugin, "other");
    recovers(&plugin, "mounted");
    assert_eq!(host.ok(&format!("cat {mountpoint}/file; echo more >>{mountpoint}/file && sync")), "data");
    assert!(owners(lab).contains("alpha"), "adopted, and ours by record");
    plugin.unmount("mounted", "a");
    at_rest(lab, &["mounted", "other"]);
    assert_eq!(lab.cluster.rbd(&["lock", "ls", "mounted"]), "", "other hosts are kept away");

    // Away and back between a mount and the next request.
    plugin.mount("mounted", "a");
    lab.cluster.stop_mon();
    host.ok(&format!("echo again >>{mountpoint}/file && sync"));
    lab.cluster.start_mon();
    recovers(&plugin, "other");
    plugin.unmount("mounted", "a");
    assert_eq!(used(host, &plugin, "mounted", "cat $m/file"), "data\nmore\nagain");
    for volume in ["mounted", "other"] {
        plugin.ok("Remove", &json!({"Name": volume}));
    }
    at_rest(lab, &[]);
    plugin.stop();
}

fn behind_its_back(lab: &Lab) {
    let host = lab.alpha();
    lab.cluster.ceph(&["osd", "pool", "create", "lost", "8"]);
    lab.cluster.rbd(&["pool", "init", "lost"]);
    let mut plugin = start(lab, host, &["--owner-wait", "0"]);
    plugin.ok("Create", &json!({"Name": "removed", "Opts": {"size": "32M"}}));
    plugin.ok("Create", &json!({"Name": "lost/volume", "Opts": {"size": "32M"}}));
    plugin.ok("Get", &json!({"Name": "lost/volume"}));
    lab.cluster.rbd(&["rm", "--no-progress", "removed"]);
    delete_pool(lab, "lost");
    for volume in ["removed", "lost/volume"] {
        // Docker then forgets it too.
        let why = plugin.error("Get", &json!({"Name": volume}));
        assert!(why.contains("does not exist"), "{volume}: {why}");
        let why = plugin.error("Mount", &json!({"Name": volume, "ID": "a"}));
        assert!(why.contains("does not exist"), "{volume}: {why}");
        plugin.ok("Remove", &json!({"Name": volume}));
    }
    assert_eq!(plugin.ok("List", &json!({}))["Volumes"], json!([]));

    // Mapped by somebody who did not ask us.
    plugin.ok("Create", &json!({"Name": "hand", "Opts": {"size": "32M"}}));
    let device = host.ok("rbd map -o noshare hand");
    for (endpoint, body) in
        [("Mount", json!({"Name": "hand", "ID": "a"})), ("Remove", json!({"Name": "hand"}))]
    {
        let why = plugin.error(endpoint, &body);
        assert!(why.contains(&device), "{endpoint} does not name {device}: {why}");
    }
    assert_eq!(host.ok("ls /sys/bus/rbd/devices"), "0", "it is theirs, and still there");
    host.ok(&format!("rbd unmap {device}"));

    // Something holds the device beyond its unmount.
    plugin.mount("hand", "a");
    let holder = host.ok(&format!("setsid sleep 600 <{device} >/dev/null 2>&1 & echo $!"));
    let why = plugin.error("Unmount", &json!({"Name": "hand", "ID": "a"}));
    assert!(why.contains(&device) && why.contains(&holder), "{holder}: {why}");
    assert_eq!(status(&plugin, "hand")["health"], json!("unsettled"));
    host.ok(&format!("kill {holder}"));
    wait("the rest of the unmount", || status(&plugin, "hand")["health"] == json!("ok"));
    at_rest(lab, &["hand"]);
    plugin.ok("Remove", &json!({"Name": "hand"}));

    // A feature of its header that no kernel has.
    lab.cluster.rbd(&[
        "create",
        "--size",
        "32",
        "--image-feature",
        "layering,exclusive-lock,journaling",
        "journal",
    ]);
    let why = plugin.error("Mount", &json!({"Name": "journal", "ID": "a"}));
    assert!(why.contains("rbd feature disable rbd/journal journaling"), "{why}");
    lab.cluster.rbd(&["feature", "disable", "journal", "journaling"]);
    used(host, &plugin, "journal", "true");
    plugin.ok("Remove", &json!({"Name": "journal"}));
    at_rest(lab, &[]);
    plugin.stop();
}

fn full(lab: &Lab) {
    let host = lab.alpha();
    let mut plugin = start(lab, host, &["--ceph-timeout", "5"]);
    plugin.ok("Create", &json!({"Name": "before", "Opts": {"size": "32M"}}));
    used(host, &plugin, "before", "echo data >$m/file");
    lab.cluster.ceph(&["osd", "pool", "set-quota", "rbd", "max_bytes", "1"]);
    wait("the pool to be full", || lab.cluster.ceph(&["health"]).contains("full"));
    let (why, took) = timed(|| plugin.error("Create", &json!({"Name": "new"})));
    println!("Create failed after {:.1} s: {why}", took.as_secs_f32());
    assert!(why.contains("no space left") && took < DOCKER, "{took:?} {why}");
    assert_eq!(status(&plugin, "before")["health"], json!("ok"), "a full pool is no outage");
    // Room is made by removing: that must not need room.
    at_rest(lab, &["before"]);
    plugin.ok("Remove", &json!({"Name": "before"}));
    at_rest(lab, &[]);
    lab.cluster.ceph(&["osd", "pool", "set-quota", "rbd", "max_bytes", "0"]);
    wait("the pool to have room", || !lab.cluster.ceph(&["health"]).contains("full"));
    plugin.ok("Create", &json!({"Name": "new", "Opts": {"size": "32M"}}));
    used(host, &plugin, "new", "echo data >$m/file");
    plugin.ok("Remove", &json!({"Name": "new"}));
    plugin.stop();
}

fn kernel(lab: &Lab) {
    let host = lab.alpha();
    let mut plugin = start(lab, host, &[]);
    plugin.ok("Create", &json!({"Name": "v", "Opts": {"size": "32M"}}));
    host.ok("modprobe -r rbd");
    for (endpoint, body) in [("Mount", json!({"Name": "v", "ID": "a"})), ("Create", json!({"Name": "new"}))] {
        let why = plugin.error(endpoint, &body);
        assert!(why.contains("module rbd") && why.contains("modprobe rbd"), "{endpoint}: {why}");
    }
    plugin.ok("Get", &json!({"Name": "v"}));
    host.ok("modprobe rbd");
    at_rest(lab, &["v"]);
    used(host, &plugin, "v", "true");
    plugin.ok("Remove", &json!({"Name": "v"}));
    plugin.stop();
}

/// A keyring with the key of somebody else.
fn key(lab: &Lab) {
    let host = lab.alpha();
    let conf = lab.cluster.conf().display().to_string();
    let ours = host.share().display().to_string();
    host.ok(&format!(
        "cd {ours} && sed 's|^keyring = .*docker.keyring|keyring = {ours}/docker.keyring|' {conf} >ceph.conf \
         && ceph-authtool --create-keyring docker.keyring --gen-key -n client.docker >/dev/null"
    ));
    let mut plugin = start(lab, host, &["--config", &format!("{ours}/ceph.conf")]);
    for (endpoint, body) in [("Mount", json!({"Name": "v", "ID": "a"})), ("Create", json!({"Name": "v"}))] {
        let why = plugin.error(endpoint, &body);
        assert!(why.contains("rejects the user or its key"), "{endpoint}: {why}");
        assert!(why.contains("ceph auth get client."), "{endpoint} gives no hint: {why}");
    }
    // Put right, it needs no restart.
    host.ok(&format!("cp $(dirname {conf})/docker.keyring {ours}/"));
    wait("the plugin to connect", || {
        plugin
            .ask("Create", &json!({"Name": "v", "Opts": {"size": "32M"}}))
            .is_some_and(|(status, _)| status == 200)
    });
    used(host, &plugin, "v", "true");
    plugin.ok("Remove", &json!({"Name": "v"}));
    plugin.stop();
    host.ok(&format!("rm {ours}/docker.keyring {ours}/ceph.conf"));
}

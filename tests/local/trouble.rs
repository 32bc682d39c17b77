//! What goes wrong around a volume: its mountpoint is busy, its store is away or full, a program is missing.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use libtest_mimic::Trial;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::daemon::{Daemon, wait};
use crate::rig::{Ready, Rig, mounts, trial};
use crate::volumes::{at_rest, create, create_error, devices, get, gone, list, mount_error, plugin, remove};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("trouble::{name}"), ready, test);
    vec![
        t("a_busy_mountpoint_is_taken_down_later", a_busy_mountpoint_is_taken_down_later),
        t("a_busy_mountpoint_can_be_used_again", a_busy_mountpoint_can_be_used_again),
        t("a_busy_mountpoint_and_a_restart", a_busy_mountpoint_and_a_restart),
        t("the_store_is_away", the_store_is_away),
        t("an_unmount_while_the_store_is_away", an_unmount_while_the_store_is_away),
        t("a_start_while_the_store_is_away", a_start_while_the_store_is_away),
        t("a_link_in_the_mount_root", a_link_in_the_mount_root),
        t("something_was_written_below_the_mount", something_was_written_below_the_mount),
        t("a_link_to_an_image_that_is_away", a_link_to_an_image_that_is_away),
        t("two_plugins_with_one_state", two_plugins_with_one_state),
        t("no_space_in_the_store", no_space_in_the_store),
        t("no_mkfs_program", no_mkfs_program),
    ]
}

/// A process with its working directory in a folder; ends when dropped.
#[derive(Debug)]
pub(crate) struct Squatter(Child);

impl Squatter {
    pub(crate) fn new(folder: &Path) -> Self {
        Self(Command::new("sleep").arg("600").current_dir(folder).spawn().unwrap())
    }

    /// How an error names it.
    pub(crate) fn shown(&self) -> String {
        format!("still in use by sleep (pid {}, working directory)", self.0.id())
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn unmount_error(daemon: &Daemon, volume: &str, id: &str) -> String {
    daemon.error("Unmount", &json!({"Name": volume, "ID": id}))
}

fn health(daemon: &Daemon, volume: &str) -> String {
    get(daemon, volume)["Status"]["health"].as_str().unwrap().to_owned()
}

fn settled(daemon: &Daemon, volume: &str) {
    wait("the volume to settle", || !daemon.is_owned(volume));
    at_rest(daemon, volume);
    assert_eq!(health(daemon, volume), "ok");
}

fn a_busy_mountpoint_is_taken_down_later(rig: &Rig) {
    let daemon = plugin(rig, "busy", &["--size", "16"]);
    create(&daemon, "v", &json!({}));
    let at = daemon.mount("v", "a");
    let squatter = Squatter::new(&at);
    let e = unmount_error(&daemon, "v", "a");
    assert!(e.contains(&squatter.shown()) && e.contains(&at.display().to_string()), "{e}");
    assert_eq!(health(&daemon, "v"), "unsettled");
    assert!(mounts().contains(&at));
    drop(squatter);
    settled(&daemon, "v");
    remove(&daemon, "v");
}

fn a_busy_mountpoint_can_be_used_again(rig: &Rig) {
    let daemon = plugin(rig, "again", &["--size", "16"]);
    create(&daemon, "v", &json!({}));
    let at = daemon.mount("v", "a");
    fs::write(at.join("file"), "data").unwrap();
    let squatter = Squatter::new(&at);
    unmount_error(&daemon, "v", "a");
    assert_eq!(daemon.mount("v", "b"), at);
    assert_eq!(get(&daemon, "v")["Status"]["mount-ids"], json!({"b": 1}));
    assert_eq!(devices(&daemon.file("v", "img")).len(), 1);
    drop(squatter);
    wait("the volume to settle", || health(&daemon, "v") == "ok");
    assert_eq!(fs::read_to_string(at.join("file")).unwrap(), "data", "the second use stays");
    daemon.unmount("v", "b");
    at_rest(&daemon, "v");
}

fn a_busy_mountpoint_and_a_restart(rig: &Rig) {
    let mut daemon = plugin(rig, "later", &["--size", "16"]);
    create(&daemon, "v", &json!({}));
    let at = daemon.mount("v", "a");
    let squatter = Squatter::new(&at);
    unmount_error(&daemon, "v", "a");
    daemon.kill();
    daemon.start();
    assert!(mounts().contains(&at));
    drop(squatter);
    settled(&daemon, "v");
}

/// A plugin with a volume at rest and one that is mounted at the path.
fn with_two_volumes(rig: &Rig) -> (Daemon, std::path::PathBuf) {
    let daemon = plugin(rig, "away", &["--size", "16"]);
    create(&daemon, "resting", &json!({}));
    create(&daemon, "mounted", &json!({}));
    let at = daemon.mount("mounted", "a");
    fs::write(at.join("file"), "data").unwrap();
    (daemon, at)
}

fn take_away(rig: &Rig) {
    fs::rename(rig.path("away/images"), rig.path("away/gone")).unwrap();
}

fn bring_back(rig: &Rig) {
    fs::rename(rig.path("away/gone"), rig.path("away/images")).unwrap();
}

fn the_store_is_away(rig: &Rig) {
    let (daemon, at) = with_two_volumes(rig);
    let before = get(&daemon, "resting");
    let mounted_before = get(&daemon, "mounted");
    take_away(rig);
    let folder = rig.path("away/images").display().to_string();
    for (volume, before) in [("resting", &before), ("mounted", &mounted_before)] {
        let volume = get(&daemon, volume);
        assert_eq!(volume["Status"]["health"], "degraded", "{volume}");
        assert!(volume["Status"]["reason"].as_str().unwrap().contains(&folder), "{volume}");
        assert_eq!(volume["CreatedAt"], before["CreatedAt"]);
        assert_eq!(volume["Mountpoint"], before["Mountpoint"]);
    }
    assert_eq!(list(&daemon), ["mounted", "resting"]);
    for e in [
        mount_error(&daemon, "resting"),
        mount_error(&daemon, "rbd/resting"),
        create_error(&daemon, "new", &json!({})),
        create_error(&daemon, "rbd/new", &json!({})),
        create_error(&daemon, "new", &json!({"pool": "p2"})),
    ] {
        assert!(e.contains(&format!("{folder} is not there")), "{e}");
        assert!(e.contains("is its filesystem mounted?"), "{e}");
    }
    assert_eq!(
        daemon.ask("Get", &json!({"Name": "unknown"})),
        None,
        "Docker must not hear that there is no such volume"
    );
    assert!(!rig.path("away/images").exists(), "nothing makes the folder again");
    assert_eq!(fs::read_to_string(at.join("file")).unwrap(), "data", "what is mounted goes on");
    bring_back(rig);
    assert_eq!(get(&daemon, "resting"), before);
    assert_eq!(health(&daemon, "mounted"), "ok");
    gone(&daemon, "unknown");
    gone(&daemon, "new");
    daemon.mount("resting", "a");
    daemon.unmount("resting", "a");
    daemon.unmount("mounted", "a");
    at_rest(&daemon, "resting");
    at_rest(&daemon, "mounted");
}

/// Docker sends one Unmount, whatever its answer: the use must not stay.
fn an_unmount_while_the_store_is_away(rig: &Rig) {
    let (daemon, at) = with_two_volumes(rig);
    daemon.mount("mounted", "b");
    take_away(rig);
    daemon.unmount("mounted", "a");
    assert!(mounts().contains(&at));
    let e = unmount_error(&daemon, "mounted", "b");
    assert!(e.contains("is not there"), "{e}");
    assert!(!mounts().contains(&at), "the container is gone, and its data is safe on the disk");
    bring_back(rig);
    settled(&daemon, "mounted");
    assert_eq!(fs::read_to_string(daemon.mount("mounted", "c").join("file")).unwrap(), "data");
    daemon.unmount("mounted", "c");
    remove(&daemon, "mounted");
    gone(&daemon, "mounted");
}

/// A folder that was ours and bears no mark now is not taken for a new one, and nothing is written to it.
fn a_start_while_the_store_is_away(rig: &Rig) {
    let (mut daemon, at) = with_two_volumes(rig);
    let names = list(&daemon);
    daemon.stop();
    take_away(rig);
    daemon.start();
    assert!(mounts().contains(&at), "{}", daemon.logs());
    assert_eq!(list(&daemon), names);
    assert_eq!(get(&daemon, "mounted")["Status"]["health"], "degraded");
    assert!(create_error(&daemon, "new", &json!({})).contains("is not there"));
    let images = rig.path("away/images");
    assert_eq!(fs::read_dir(&images).unwrap().count(), 0, "the place where the store belongs stays empty");
    fs::remove_dir(&images).unwrap();
    bring_back(rig);
    daemon.stop();
    daemon.start();
    assert_eq!(get(&daemon, "mounted")["Mountpoint"], json!(at), "{}", daemon.logs());
    daemon.unmount("mounted", "a");
    at_rest(&daemon, "mounted");
}

/// mountinfo shows paths without links, and ours have to be the same.
fn a_link_in_the_mount_root(rig: &Rig) {
    let real = rig.folder("real");
    let link = rig.path("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let mut daemon = plugin(rig, "linked", &["--mount", link.to_str().unwrap()]);
    create(&daemon, "v", &json!({}));
    let at = daemon.mount("v", "a");
    assert_eq!(at, real.join("linked/rbd/v"));
    assert_eq!(daemon.mount("v", "b"), at, "a second container");
    daemon.stop();
    daemon.start();
    for id in ["a", "b"] {
        assert!(mounts().contains(&at), "{}", daemon.logs());
        daemon.unmount("v", id);
    }
    assert!(!mounts().contains(&at));
    remove(&daemon, "v");
    gone(&daemon, "v");
}

fn something_was_written_below_the_mount(rig: &Rig) {
    let daemon = plugin(rig, "stray", &[]);
    create(&daemon, "v", &json!({}));
    let stray = daemon.mountpoint("v").join("stray");
    fs::create_dir_all(daemon.mountpoint("v")).unwrap();
    fs::write(&stray, "kept").unwrap();
    for _ in 0..2 {
        daemon.mount("v", "a");
        assert!(!stray.exists(), "hidden by the mount");
        daemon.unmount("v", "a");
        assert_eq!(fs::read_to_string(&stray).unwrap(), "kept");
    }
    fs::remove_dir_all(daemon.mountpoint("v")).unwrap();
    remove(&daemon, "v");
    gone(&daemon, "v");
}

/// An image may be a link to another disk; while that is away, the volume is not gone.
fn a_link_to_an_image_that_is_away(rig: &Rig) {
    let daemon = plugin(rig, "dangling", &[]);
    create(&daemon, "v", &json!({}));
    let (image, elsewhere) = (daemon.file("v", "img"), rig.folder("disk").join("v.img"));
    fs::rename(&image, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &image).unwrap();
    daemon.mount("v", "a");
    daemon.unmount("v", "a");
    let away = elsewhere.with_extension("away");
    fs::rename(&elsewhere, &away).unwrap();
    assert_eq!(get(&daemon, "v")["Status"]["health"], "degraded");
    assert!(create_error(&daemon, "v", &json!({})).contains("a link to something that is not there"));
    fs::rename(&away, &elsewhere).unwrap();
    daemon.mount("v", "a");
    daemon.unmount("v", "a");
}

fn two_plugins_with_one_state(rig: &Rig) {
    let one = plugin(rig, "one", &[]);
    let sockets = rig.folder("other-sockets");
    let output = Command::new(env!("CARGO_BIN_EXE_rbd-docker-plugin"))
        .args(["--conf-file", "none", "--backend", "local", "--logdir", "-", "--name", "one", "--plugins"])
        .arg(&sockets)
        .arg("--local-dir")
        .arg(rig.path("one/images"))
        .args(["--admin", "none", "--mount"])
        .arg(rig.path("one/mnt"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("is used by another plugin"), "{said}");
    create(&one, "v", &json!({}));
    remove(&one, "v");
}

fn no_space_in_the_store(rig: &Rig) {
    let store = rig.folder("store");
    let none = None::<&str>;
    mount(none, &store, Some("tmpfs"), MsFlags::empty(), Some("size=8m")).unwrap();
    let ballast = store.join("ballast");
    fs::write(&ballast, vec![1; (8 << 20) - (128 << 10)]).unwrap();
    let mut daemon = plugin(rig, "full", &["--local-dir", store.to_str().unwrap()]);
    for (fstype, size) in [("ext4", "1G"), ("xfs", "300M"), ("btrfs", "128M")] {
        let e = create_error(&daemon, "v", &json!({"fstype": fstype, "size": size}));
        assert!(e.starts_with(&format!("no space left in {}", store.display())), "{fstype}: {e}");
        assert!(e.contains("free some space"), "{fstype}: {e}");
        assert!(!e.contains("also:"), "{fstype}: the rollback failed: {e}");
        let left: Vec<_> = fs::read_dir(store.join("rbd")).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{fstype}: {left:?}");
        gone(&daemon, "v");
        assert_eq!(devices(&store.join("rbd/v.img")), []);
    }
    fs::remove_file(&ballast).unwrap();
    create(&daemon, "v", &json!({"size": "16M"}));
    daemon.mount("v", "a");
    daemon.unmount("v", "a");
    remove(&daemon, "v");
    daemon.stop();
    umount2(&store, MntFlags::empty()).unwrap();
}

fn no_mkfs_program(rig: &Rig) {
    let none = None::<&str>;
    let program = Path::new("/usr/sbin/mkfs.xfs");
    mount(Some("/dev/null"), program, none, MsFlags::MS_BIND, none).unwrap();
    let mut daemon = plugin(rig, "missing", &[]);
    let options = json!({"fstype": "xfs", "size": "300M"});
    let e = create_error(&daemon, "v", &options);
    assert!(e.contains("mkfs.xfs") && e.contains("xfsprogs"), "{e}");
    assert!(!e.contains("also:"), "the rollback failed: {e}");
    gone(&daemon, "v");
    create(&daemon, "other", &json!({"size": "16M"}));
    umount2(program, MntFlags::empty()).unwrap();
    daemon.stop();
    daemon.start();
    create(&daemon, "v", &options);
    remove(&daemon, "v");
}

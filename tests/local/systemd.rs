//! What the units of packaging/systemd promise: the watchdog hears of a daemon that serves while the storage hangs, the capabilities
//! are enough and none too many, no program hears of systemd, and systemd takes the units as they are.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Completion, Trial};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::child::Part;
use crate::daemon::{Daemon, ask};
use crate::release::{Frozen, freezable, unmount_all};
use crate::rig::{Ready, Rig, trial};
use crate::volumes::{at_rest, create, remove};

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd");

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("systemd::{name}"), ready, test);
    vec![
        t("mkfs_hears_nothing_of_systemd", mkfs_hears_nothing_of_systemd),
        t("the_watchdog_is_content_while_the_storage_hangs", the_watchdog_is_content),
        t("the_capabilities_are_enough_and_none_too_many", the_capabilities_are_enough),
        Trial::ignorable_test("systemd::the_units_are_sound", the_units_are_sound),
        Trial::test("systemd::the_templates_are_the_units_by_other_names", || {
            the_templates_are_the_units();
            Ok(())
        }),
    ]
}

/// A socket to be told at, as systemd's.
fn manager(rig: &Rig) -> (UnixDatagram, String) {
    let path = rig.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    (manager, path.display().to_string())
}

/// mkfs is another program here, that says what it was given, and then is mkfs.
fn mkfs_hears_nothing_of_systemd(rig: &Rig) {
    let mkfs = Path::new("/usr/sbin/mkfs.ext4");
    let (real, told, spy) = (rig.path("mkfs.ext4"), rig.path("told"), rig.path("spy"));
    fs::copy(mkfs, &real).unwrap();
    let script = format!(
        "#!/bin/sh\n{{ env; ls /proc/self/fd; }} > {}\nexec {} \"$@\"\n",
        told.display(),
        real.display()
    );
    fs::write(&spy, script).unwrap();
    fs::set_permissions(&spy, fs::Permissions::from_mode(0o755)).unwrap();
    let none = None::<&str>;
    mount(Some(&spy), mkfs, none, MsFlags::MS_BIND, none).unwrap();
    let (_manager, path) = manager(rig);
    let mut daemon = Daemon::new("quiet", &rig.folder("quiet"), &[]);
    daemon.start_with(&[
        ("NOTIFY_SOCKET", path),
        ("WATCHDOG_USEC", "60000000".to_owned()),
        ("LISTEN_FDS", "1".to_owned()),
        ("LISTEN_PID", "1".to_owned()),
    ]);
    create(&daemon, "v", &json!({"size": "16M"}));
    remove(&daemon, "v");
    umount2(mkfs, MntFlags::empty()).unwrap();
    let told = fs::read_to_string(told).unwrap();
    assert!(told.contains("PATH=") && !told.contains("NOTIFY") && !told.contains("WATCHDOG"), "{told}");
    assert!(!told.contains("LISTEN"), "{told}");
    // The three of the standard streams, and that of ls itself.
    assert_eq!(told.lines().filter(|line| line.parse::<u32>().is_ok()).count(), 4, "{told}");
    daemon.stop();
}

fn the_watchdog_is_content(rig: &Rig) {
    let (manager, path) = manager(rig);
    let store = freezable(rig, "guarded/images");
    let mut daemon = Daemon::new("guarded", &rig.folder("guarded"), &["--size", "16"]);
    daemon.start_with(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "200000".to_owned())]);
    create(&daemon, "v", &json!({}));
    let frozen = Frozen::new(&store);
    let socket = daemon.socket();
    let asking = thread::spawn(move || ask(&socket, "Mount", r#"{"Name": "v", "ID": "a"}"#));
    // What was said before nobody counts; then more than enough for a stuck one to fall silent.
    thread::sleep(Duration::from_millis(500));
    let mut buffer = [0; 4096];
    manager.set_nonblocking(true).unwrap();
    while manager.recv(&mut buffer).is_ok() {}
    manager.set_nonblocking(false).unwrap();
    for _ in 0..5 {
        let length = manager.recv(&mut buffer).unwrap();
        let said = str::from_utf8(&buffer[..length]).unwrap();
        assert!(said.contains("WATCHDOG=1"), "{said}");
    }
    assert!(!asking.is_finished(), "the Mount does not hang: this proves nothing");
    drop(frozen);
    let answer = asking.join().unwrap();
    assert_eq!(answer.map(|(status, _)| status), Some(200), "{}", daemon.logs());
    daemon.unmount("v", "a");
    at_rest(&daemon, "v");
    daemon.stop();
    umount2(&store, MntFlags::empty()).unwrap();
}

/// A process of another user, in a folder.
struct Stranger(Child);

impl Stranger {
    fn new(folder: &Path) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--clear-groups", "sleep", "600"]).current_dir(folder);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn the_capabilities_are_enough(rig: &Rig) {
    let unit = fs::read_to_string(format!("{UNITS}/rbd-docker-plugin.service")).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let all: Vec<String> =
        line.split(' ').map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase()).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(missed(rig, "all", &all), "");
    for (without, missing) in [
        ("sys_admin", "nothing is made"),
        ("chown", "nothing is made"),
        ("fowner", "nothing is made"),
        ("fsetid", "the set-id bit"),
        ("dac_override", "a file of another user"),
        ("sys_ptrace", "the process of another namespace"),
    ] {
        let fewer: Vec<&str> = all.iter().copied().filter(|name| *name != without).collect();
        assert!(
            missed(rig, without, &fewer).contains(missing),
            "without {without}: {}",
            missed(rig, without, &fewer)
        );
    }
    // Of the unit's, only what shows where dmesg is restricted is not tried.
    assert_eq!(all.len(), 7, "{all:?}");
}

/// What a daemon with these capabilities alone cannot do.
fn missed(rig: &Rig, name: &str, capabilities: &[&str]) -> String {
    let set = format!("-all,+{}", capabilities.join(",+"));
    let folder = rig.folder(name);
    let mut daemon = Daemon::new("few", &folder, &["--size", "16"]).run_by(&[
        "setpriv",
        "--no-new-privs",
        "--bounding-set",
        &set,
    ]);
    let mut missed = Vec::new();
    daemon.start();
    let options = json!({"uid": "999", "gid": "998", "mode": "2777"});
    if daemon.ask("Create", &json!({"Name": "v", "Opts": options})).unwrap().0 != 200 {
        daemon.stop();
        return "nothing is made".to_owned();
    }
    let at = daemon.mount("v", "a");
    let root = at.metadata().unwrap();
    if root.mode() & 0o7777 != 0o2777 || (root.uid(), root.gid()) != (999, 998) {
        missed.push("the set-id bit");
    }
    // An image that belongs to somebody else, who lets nobody in.
    std::os::unix::fs::chown(daemon.file("v", "img"), Some(999), Some(998)).unwrap();
    fs::set_permissions(daemon.file("v", "img"), fs::Permissions::from_mode(0o600)).unwrap();
    for (fstype, size) in [("xfs", "300M"), ("btrfs", "128M")] {
        create(&daemon, fstype, &json!({"fstype": fstype, "size": size}));
        daemon.mount(fstype, "a");
    }
    let stranger = Stranger::new(&at);
    let there = Part::play("namespace", Path::new("/"));
    daemon.stop();
    let (_, said, _) = unmount_all(&daemon, &[]);
    if !said.contains(&format!("(pid {}, mounted at ", there.process.id())) {
        missed.push("the process of another namespace");
    }
    drop(there);
    let (_, said, _) = unmount_all(&daemon, &[]);
    if !said.contains(&format!("sleep (pid {}, ", stranger.0.id())) {
        missed.push("the process of another user");
    }
    drop(stranger);
    unmount_all(&daemon, &[]);
    daemon.start();
    match daemon.ask("Mount", &json!({"Name": "v", "ID": "b"})) {
        Some((200, _)) => daemon.unmount("v", "b"),
        _ => missed.push("a file of another user"),
    }
    daemon.stop();
    missed.join(", ")
}

/// The units' file names.
fn units() -> Vec<String> {
    let units = fs::read_dir(UNITS).unwrap().map(|unit| unit.unwrap().file_name().into_string().unwrap());
    let mut units: Vec<String> = units.collect();
    units.sort();
    units
}

/// Verified in a root with the programs that they name, and systemd's own targets.
fn the_units_are_sound() -> Result<Completion, libtest_mimic::Failed> {
    let system = Path::new("/usr/lib/systemd/system");
    if !Command::new("systemd-analyze")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
    {
        let why = "there is no systemd-analyze (package systemd)";
        println!("skipped: {why}");
        return Ok(Completion::ignored_with(why));
    }
    let root = tempfile::tempdir().unwrap();
    let (bin, etc) = (root.path().join("usr/bin"), root.path().join("etc/systemd/system"));
    for folder in [&bin, &etc] {
        fs::create_dir_all(folder).unwrap();
    }
    std::os::unix::fs::symlink("usr/bin", root.path().join("bin")).unwrap();
    for program in ["rbd-docker-plugin", "kill"] {
        fs::copy("/bin/true", bin.join(program)).unwrap();
    }
    for target in fs::read_dir(system).unwrap().map(|file| file.unwrap().path()) {
        if target.extension().is_some_and(|kind| kind == "target") && target.is_file() {
            fs::copy(&target, etc.join(target.file_name().unwrap())).unwrap();
        }
    }
    for unit in units() {
        fs::copy(Path::new(UNITS).join(&unit), etc.join(&unit)).unwrap();
    }
    let named: Vec<String> = units().iter().map(|unit| unit.replace('@', "@other")).collect();
    let mut verify = Command::new("systemd-analyze");
    verify.arg("verify").arg(format!("--root={}", root.path().display())).args(["--man=no"]).args(&named);
    let output = verify.output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("rbd-docker-plugin")).collect();
    assert!(ours.is_empty() && output.status.success(), "{}: {said}", output.status);
    Ok(Completion::Completed)
}

/// One text for both: a further plugin is served as the first one is.
fn the_templates_are_the_units() {
    let (templates, plain): (Vec<String>, Vec<String>) =
        units().into_iter().partition(|unit| unit.contains('@'));
    assert_eq!((plain.len(), templates.len()), (3, 3));
    let directives = |unit: &str| {
        let text = fs::read_to_string(Path::new(UNITS).join(unit)).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.replace(" (%i)", "")).collect::<Vec<_>>().join("\n")
    };
    for unit in plain {
        let (stem, kind) = unit.rsplit_once('.').unwrap();
        let expected = directives(&unit)
            .replace("rbd-docker-plugin.s", "rbd-docker-plugin@%i.s")
            .replace("rbd-docker-plugin-unmount.s", "rbd-docker-plugin-unmount@%i.s")
            .replace("plugins/rbd.sock", "plugins/%i.sock")
            .replace(
                "/usr/bin/rbd-docker-plugin",
                "/usr/bin/rbd-docker-plugin --name %i --conf-file /etc/docker/rbd-docker-plugin-%i.conf",
            );
        assert_eq!(directives(&format!("{stem}@.{kind}")), expected);
    }
    let all: Vec<String> = units().iter().map(|unit| directives(unit)).collect();
    for implies_a_namespace in ["Protect", "Private", "Paths=", "MountFlags", "RootDirectory", "DynamicUser"]
    {
        assert!(!all.join("\n").contains(implies_a_namespace), "{implies_a_namespace}");
    }
    for stops_with_docker in ["PartOf=", "BindsTo=", "Requires=docker"] {
        assert!(!all.join("\n").contains(stops_with_docker), "{stops_with_docker}");
    }
}

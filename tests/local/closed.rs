//! A volume is for containers: no other user of the host reaches into it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use serde_json::json;

use crate::daemon::Daemon;
use crate::rig::{Ready, Rig, trial};
use crate::volumes::{create, mount_line, plugin};

const NOBODY: &str = "65534";
/// A group as userns-remap gives the root of its containers.
const REMAPPED: &str = "165536";

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("closed::{name}"), ready, test);
    vec![
        t("no_user_of_the_host_reaches_into_a_volume", no_user_of_the_host_reaches_into_a_volume),
        t("a_folder_of_an_earlier_version_is_closed", a_folder_of_an_earlier_version_is_closed),
        t("the_mount_group_passes_and_nobody_else", the_mount_group_passes_and_nobody_else),
        t("device_nodes_open_nothing_unless_asked", device_nodes_open_nothing_unless_asked),
    ]
}

/// Whether a user of the host can run a program with the set-user-id bit, and as whom.
fn run_as(user: &str, group: &str, program: &Path) -> Option<String> {
    let mut command = Command::new("setpriv");
    // A shell in between: setpriv itself still has the capabilities of root while it looks for the program.
    command.args(["--reuid", user, "--regid", group, "--clear-groups"]);
    command.args(["sh", "-c", "exec \"$0\" -u"]).arg(program);
    let output = command.output().expect("setpriv of util-linux");
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// Leaves `id` with the set-user-id bit in a folder, as root of a container may.
fn leave_program(folder: &Path) -> std::path::PathBuf {
    let program = folder.join("tool");
    fs::copy("/usr/bin/id", &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
    program
}

/// The rig's own folders hide nothing.
fn open_to_all(rig: &Rig) {
    fs::set_permissions(rig.path(""), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(run_as(NOBODY, NOBODY, &leave_program(&rig.path(""))).as_deref(), Some("0"));
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// The plugin's own folder below the root of the mountpoints.
fn own(daemon: &Daemon) -> std::path::PathBuf {
    daemon.mountpoint("v").ancestors().nth(2).unwrap().to_owned()
}

fn no_user_of_the_host_reaches_into_a_volume(rig: &Rig) {
    open_to_all(rig);
    let daemon = plugin(rig, "closed", &["--size", "16"]);
    create(&daemon, "v", &json!({"mode": "0777"}));
    let program = leave_program(&daemon.mount("v", "a"));
    assert_eq!(run_as(NOBODY, NOBODY, &program), None, "a program of a container's root");
    assert!(run_as("0", "0", &program).is_some(), "containers may have programs with that bit");
    for folder in [&own(&daemon), own(&daemon).parent().unwrap(), &daemon.state()] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    daemon.unmount("v", "a");
}

fn a_folder_of_an_earlier_version_is_closed(rig: &Rig) {
    open_to_all(rig);
    let mut daemon = plugin(rig, "before", &["--size", "16"]);
    create(&daemon, "v", &json!({}));
    let program = leave_program(&daemon.mount("v", "a"));
    daemon.stop();
    for folder in [&own(&daemon), own(&daemon).parent().unwrap()] {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(run_as(NOBODY, NOBODY, &program).as_deref(), Some("0"), "as earlier versions left it");
    daemon.start();
    assert_eq!(run_as(NOBODY, NOBODY, &program), None);
    assert_eq!(mode(&own(&daemon)), 0o700);
    assert_eq!(mode(own(&daemon).parent().unwrap()), 0o755, "it may be anybody's");
    daemon.unmount("v", "a");
}

fn the_mount_group_passes_and_nobody_else(rig: &Rig) {
    open_to_all(rig);
    let mut daemon = plugin(rig, "remap", &["--size", "16", "--mount-group", REMAPPED]);
    create(&daemon, "v", &json!({"mode": "0755"}));
    let program = leave_program(&daemon.mount("v", "a"));
    for _ in 0..2 {
        assert_eq!(run_as(NOBODY, NOBODY, &program), None);
        assert_eq!(
            run_as(REMAPPED, REMAPPED, &program).as_deref(),
            Some("0"),
            "root of a remapped container"
        );
        assert_eq!(mode(&own(&daemon)), 0o710);
        daemon.stop();
        daemon.start();
    }
    daemon.unmount("v", "a");
}

fn device_nodes_open_nothing_unless_asked(rig: &Rig) {
    let daemon = plugin(rig, "nodes", &["--size", "16"]);
    create(&daemon, "v", &json!({}));
    create(&daemon, "with", &json!({"mount-options": "noatime,dev"}));
    for (volume, opens) in [("v", false), ("with", true)] {
        let at = daemon.mount(volume, "a");
        assert_eq!(mount_line(&at).0.split(',').any(|word| word == "nodev"), !opens, "{:?}", mount_line(&at));
        let node = at.join("null");
        let kind = nix::sys::stat::SFlag::S_IFCHR;
        let all = nix::sys::stat::Mode::from_bits_truncate(0o666);
        nix::sys::stat::mknod(&node, kind, all, nix::sys::stat::makedev(1, 3)).unwrap();
        assert_eq!(fs::File::open(&node).is_ok(), opens, "{volume}");
        daemon.unmount(volume, "a");
    }
}

//! That the lab behaves as hosts do, and that they are none of this machine.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::daemon::wait;
use crate::rig::{Lab, test};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test("hosts_are_two_and_do_what_they_are_told", hosts),
        test("a_guest_of_a_tree_below_tmp_leaves_the_machine_alone", apart),
    ]
}

fn hosts(lab: &Lab) {
    for what in ["hostname", "cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id"] {
        assert_ne!(lab.alpha().ok(what), lab.beta().ok(what), "{what}");
    }
    let host = lab.alpha();
    host.ok("modprobe -a xfs btrfs overlay");
    let output = host.run("echo out; echo err >&2; exit 7");
    assert_eq!((output.status, &*output.stdout, &*output.stderr), (7, "out\n", "err\n"));
    let slow = host.spawn("while [ ! -e /run/go ]; do sleep .05; done", Duration::from_secs(60));
    let stuck = host.spawn("echo begun; sleep 600", Duration::from_secs(1));
    host.ok("touch /run/go");
    assert_eq!(slow.wait().status, 0);
    host.ok("rm /run/go");
    wait("the first line", || stuck.so_far() == "begun\n");
    assert!(stuck.end().unwrap_err().starts_with("begun\n"));
    assert_ne!(host.run("pgrep -x sleep").status, 0, "it was not ended");
}

/// What a machine may hold, and what a boot there would read, start or empty. A guest with systemd boots from a tree in the midst
/// of it, in a mount namespace where these are the machine's folders.
const FULL: &str = "set -e
    base=$1 tools=$2
    mkdir -p $base/tmp/clone/target $base/etc/docker $base/etc/systemd $base/docker
    seq -f $base/tmp/file-%g 3000 | xargs touch
    echo '{ broken' >$base/etc/docker/daemon.json
    for folder in modules-load.d tmpfiles.d ceph; do mkdir -p $base/etc/$folder; done
    echo nothing >$base/etc/modules-load.d/x.conf
    echo '/dev/nothing /nothing ext4 defaults 0 1' >$base/etc/fstab
    cp -r $tools $base/tmp/clone/tools
    cp -rl $tools/../target/vm $base/tmp/clone/target/vm 2>/dev/null || cp -r $tools/../target/vm $base/tmp/clone/target/vm
    for name in docker modules-load.d tmpfiles.d ceph; do
        [ ! -d /etc/$name ] || mount --bind $base/etc/$name /etc/$name
    done
    mount --bind $base/etc/fstab /etc/fstab
    # The last one: the project may itself be below /tmp.
    mount --bind $base/tmp /tmp
    cd /tmp/clone
    trap 'tools/vm kill guest' EXIT
    tools/vm start guest --init systemd --watch $$
    tools/vm run guest 'systemctl is-system-running
        systemctl list-units --no-legend --plain --state=active --type=service,timer,automount,swap | cut -d\" \" -f1
        ls -A /tmp /etc/docker /etc/ceph /etc/modules-load.d /var/lib /var/tmp 2>/dev/null
        wc -c </etc/fstab; touch /tmp/clone/changed 2>/dev/null && echo changed
        touch /tmp/mine /usr/bin/mine'
    ls /tmp | wc -l
    ls /tmp/mine /usr/bin/mine 2>/dev/null || true";

fn apart(lab: &Lab) {
    let base = lab.folder().join("machine");
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c", FULL, "bash"])
        .args([&base, &tools])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_dir_all(&base).unwrap();
    let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    let [started, shown @ .., files] = &lines[..] else { panic!("{said}") };
    assert_eq!((*started, *files), ("running", "3001"), "{said}");
    let ours = ["dbus.service", "systemd-journald.service", "systemd-udevd.service", "vm-agent.service"];
    for unit in shown.iter().filter(|line| line.contains(".service") || line.contains(".timer")) {
        assert!(ours.contains(unit), "{unit} runs: {said}");
    }
    assert!(!said.contains("file-") && !said.contains("daemon.json") && !said.contains("x.conf"), "{said}");
    assert!(shown.contains(&"0") && !shown.contains(&"changed"), "{said}");
}

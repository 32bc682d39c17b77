//! The kernel's own rbd: what the plugin stands on, and that the lab behaves as hosts and a cluster do.

use libtest_mimic::Trial;

use crate::daemon::wait;
use crate::rig::{Lab, one_host, two_hosts};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        one_host("the_kernel_has_rbd", has_rbd),
        one_host("a_mapped_image_keeps_data", mapped_image),
        one_host("commands_run_at_once_and_end_at_their_deadline", commands),
        two_hosts("hosts_are_two", two),
        two_hosts("an_exclusive_mapping_keeps_the_other_host_out", exclusive),
    ]
}

fn has_rbd(lab: &Lab) {
    let host = lab.alpha();
    host.ok("test -w /sys/bus/rbd/add_single_major");
    let features = host.ok("cat /sys/bus/rbd/supported_features");
    let features = u64::from_str_radix(features.trim_start_matches("0x"), 16).unwrap();
    // Layering, exclusive lock, object map, fast diff, deep flatten: the features of a new image.
    assert_eq!(features & 61, 61, "{features:#x}");
    // The other modules that volumes need.
    host.ok("modprobe -a xfs btrfs dm-crypt overlay");
}

fn mapped_image(lab: &Lab) {
    let host = lab.alpha();
    lab.cluster.rbd(&["create", "--size", "64", "--id", "docker", "mapped"]);
    let device = host.ok("rbd --id docker map mapped");
    assert!(lab.cluster.rbd(&["status", "mapped"]).contains("watcher=10.99.0.1:0/"));
    host.ok(&format!("mkfs.ext4 -q {device} && mount {device} /mnt && echo data >/mnt/file && umount /mnt"));
    host.ok(&format!("rbd unmap {device}"));
    let device = host.ok("rbd --id docker map --read-only mapped");
    assert_eq!(host.ok(&format!("mount -o ro,noload {device} /mnt && cat /mnt/file && umount /mnt")), "data");
    host.ok(&format!("rbd unmap {device}"));
    lab.cluster.rbd(&["rm", "--no-progress", "mapped"]);
}

fn commands(lab: &Lab) {
    let host = lab.alpha();
    let output = host.run("echo out; echo err >&2; exit 7");
    assert_eq!((output.status, &*output.stdout, &*output.stderr), (7, "out\n", "err\n"));
    let long = std::time::Duration::from_secs(60);
    let slow = host.spawn("while [ ! -e /run/go ]; do sleep .05; done", long);
    let stuck = host.spawn("echo begun; sleep 600", std::time::Duration::from_secs(1));
    host.ok("touch /run/go");
    assert_eq!(slow.wait().status, 0);
    wait("the first line", || stuck.so_far() == "begun\n");
    assert!(stuck.end().unwrap_err().starts_with("begun\n"));
    assert_ne!(host.run("pgrep -x sleep").status, 0, "it was not ended");
}

fn two(lab: &Lab) {
    for what in ["hostname", "cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id"] {
        assert_ne!(lab.alpha().ok(what), lab.beta().ok(what), "{what}");
    }
}

fn exclusive(lab: &Lab) {
    lab.cluster.rbd(&["create", "--size", "64", "shut"]);
    let device = lab.alpha().ok("rbd map --exclusive shut");
    let refused = lab.beta().fails("rbd map shut");
    assert!(refused.contains("Read-only file system"), "{refused}");
    lab.alpha().ok(&format!("rbd unmap {device}"));
    let device = lab.beta().ok("rbd map shut");
    lab.beta().ok(&format!("rbd unmap {device}"));
    lab.cluster.rbd(&["rm", "--no-progress", "shut"]);
}

//! Hosts that freeze, lose power or the network, and a cluster that does not answer.

use std::time::Duration;

use libtest_mimic::Trial;

use crate::daemon::wait;
use crate::rig::{Lab, one_host, two_hosts};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        one_host("a_frozen_host_does_nothing_until_it_thaws", freeze),
        one_host("a_power_loss_takes_what_was_not_synced", power_loss),
        two_hosts("a_dead_host_is_fenced_and_its_image_taken", fenced),
        one_host("a_cut_network_hangs_writes_until_it_is_back", cut),
        one_host("a_storage_outage_hangs_writes_until_it_ends", outage),
        one_host("without_a_monitor_what_is_mapped_goes_on", no_monitor),
    ]
}

const LONG: Duration = Duration::from_secs(90);

fn freeze(lab: &Lab) {
    let host = lab.alpha();
    // A kernel that watches for lockups would call a busy task one that locked up, for twice as many seconds as written here.
    host.ok("echo 1 >/proc/sys/kernel/watchdog_thresh");
    let busy = host.spawn("while [ ! -e /tmp/enough ]; do :; done", LONG);
    host.freeze();
    let job = host.spawn("echo thawed; sleep 2; touch /tmp/enough", LONG);
    std::thread::sleep(Duration::from_secs(5));
    assert!(!job.is_done());
    host.thaw();
    let output = job.wait();
    assert_eq!(output.stdout, "thawed\n");
    assert!(output.took >= Duration::from_secs(5), "{output:?}");
    busy.wait();
    host.ok("rm /tmp/enough; echo 10 >/proc/sys/kernel/watchdog_thresh");
}

fn power_loss(lab: &Lab) {
    let host = lab.alpha();
    let (machine, boot) = ("cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id");
    let before = (host.ok(machine), host.ok(boot));
    host.ok("touch /root/changed; echo kept >/disk/kept; sync; echo lost >/disk/lost");
    host.power_off();
    host.boot();
    assert_eq!(host.ok(machine), before.0);
    assert_ne!(host.ok(boot), before.1);
    assert_eq!(
        host.ok("ls /root/changed /disk/kept /disk/lost 2>/dev/null; rm -f /disk/kept; true"),
        "/disk/kept"
    );
}

/// A new image, mapped and mounted at `/mnt` of the first host; its device.
fn mounted(lab: &Lab, image: &str) -> String {
    lab.cluster.rbd(&["create", "--size", "64", image]);
    let device = lab.alpha().ok(&format!("rbd map -o noshare {image}"));
    lab.alpha().ok(&format!("mkfs.ext4 -q {device} && mount {device} /mnt && echo data >/mnt/file && sync"));
    device
}

fn unmounted(lab: &Lab, image: &str, device: &str) {
    lab.alpha().ok(&format!("umount /mnt && rbd unmap {device}"));
    lab.cluster.rbd(&["rm", "--no-progress", image]);
}

fn fenced(lab: &Lab) {
    mounted(lab, "taken");
    let client = lab.alpha().ok("cat /sys/bus/rbd/devices/0/client_addr");
    lab.alpha().power_off();
    lab.cluster.ceph(&["osd", "blocklist", "add", &client]);
    let device = lab.beta().ok("rbd map --exclusive taken");
    assert_eq!(lab.beta().ok(&format!("mount {device} /mnt && cat /mnt/file && umount /mnt")), "data");
    lab.beta().ok(&format!("rbd unmap {device}"));
    lab.alpha().boot();
    lab.cluster.rbd(&["rm", "--no-progress", "taken"]);
}

fn cut(lab: &Lab) {
    let host = lab.alpha();
    let device = mounted(lab, "cut");
    host.cut_network();
    let write = host.spawn("dd if=/dev/zero of=/mnt/zeros bs=1M count=4 conv=fsync", LONG);
    std::thread::sleep(Duration::from_secs(2));
    assert!(!write.is_done());
    host.restore_network();
    assert_eq!(write.wait().status, 0);
    unmounted(lab, "cut", &device);
}

fn outage(lab: &Lab) {
    let device = mounted(lab, "outage");
    lab.cluster.pause_osd();
    let write = lab.alpha().spawn("dd if=/dev/zero of=/mnt/zeros bs=1M count=4 conv=fsync", LONG);
    std::thread::sleep(Duration::from_secs(2));
    assert!(!write.is_done());
    lab.cluster.resume_osd();
    assert_eq!(write.wait().status, 0);
    unmounted(lab, "outage", &device);
}

fn no_monitor(lab: &Lab) {
    let device = mounted(lab, "alone");
    lab.cluster.stop_mon();
    lab.alpha().ok("dd if=/dev/zero of=/mnt/zeros bs=1M count=4 conv=fsync");
    lab.cluster.start_mon();
    wait("the cluster to answer", || lab.cluster.try_run("ceph", &["health"]).status.success());
    unmounted(lab, "alone", &device);
}

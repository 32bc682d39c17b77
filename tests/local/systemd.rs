//! What systemd is told while the storage hangs, and that no program that is run hears of systemd.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use libtest_mimic::Trial;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::daemon::Daemon;
use crate::rig::{Ready, Rig, trial};
use crate::volumes::{create, remove};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("systemd::{name}"), ready, test);
    vec![t("mkfs_hears_nothing_of_systemd", mkfs_hears_nothing_of_systemd)]
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
    let manager = rig.path("notify");
    let _manager = UnixDatagram::bind(&manager).unwrap();
    let mut daemon = Daemon::new("quiet", &rig.folder("quiet"), &[]);
    let manager = manager.display().to_string();
    daemon.start_with(&[
        ("NOTIFY_SOCKET", manager),
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

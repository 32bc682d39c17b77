//! The options of `docker volume create -o`: each is seen in the kernel or on the disk, and stays with the image.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use libtest_mimic::Trial;
use serde_json::json;

use crate::daemon::Daemon;
use crate::rig::{Ready, Rig, trial};
use crate::volumes::{at_rest, create, create_error, get, gone, mount_line, plugin, remove};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("options::{name}"), ready, test);
    vec![
        t("owner_and_mode_are_applied_once", owner_and_mode_are_applied_once),
        t("read_only", read_only),
        t("mount_options", mount_options),
        t("a_wrong_mount_option_fails_the_create", a_wrong_mount_option_fails_the_create),
        t("mkfs_options", mkfs_options),
        t("they_survive_a_restart", they_survive_a_restart),
    ]
}

fn root(path: &Path) -> (u32, u32, u32) {
    let root = fs::metadata(path).unwrap();
    (root.uid(), root.gid(), root.mode() & 0o7777)
}

/// Mounts, looks, unmounts.
fn mounted<T>(daemon: &Daemon, volume: &str, look: impl FnOnce(&Path) -> T) -> T {
    let found = look(&daemon.mount(volume, "look"));
    daemon.unmount(volume, "look");
    found
}

fn owner_and_mode_are_applied_once(rig: &Rig) {
    let daemon = plugin(rig, "owned", &[]);
    for (fstype, size) in [("ext4", "16M"), ("xfs", "300M"), ("btrfs", "128M")] {
        let options = json!({"fstype": fstype, "size": size, "uid": "1234", "gid": "4321", "mode": "2751"});
        create(&daemon, fstype, &options);
        assert_eq!(mounted(&daemon, fstype, root), (1234, 4321, 0o2751), "{fstype}");
        mounted(&daemon, fstype, |at| {
            std::os::unix::fs::chown(at, Some(5), Some(6)).unwrap();
            fs::set_permissions(at, Permissions::from_mode(0o1700)).unwrap();
        });
        assert_eq!(mounted(&daemon, fstype, root), (5, 6, 0o1700), "{fstype}: what its user did stays");
        create(&daemon, fstype, &options);
        assert_eq!(mounted(&daemon, fstype, root), (5, 6, 0o1700), "{fstype}");
        remove(&daemon, fstype);
    }
}

fn read_only(rig: &Rig) {
    let mut daemon = plugin(rig, "ro", &[]);
    for (fstype, size) in [("ext4", "16M"), ("xfs", "300M"), ("btrfs", "128M")] {
        create(
            &daemon,
            fstype,
            &json!({"fstype": fstype, "size": size, "read-only": "true", "mode": "0711"}),
        );
        for restarted in [false, true] {
            let at = daemon.mount(fstype, "a");
            let written = File::create(at.join("file")).unwrap_err();
            assert_eq!(written.raw_os_error(), Some(libc::EROFS), "{fstype}");
            assert!(mount_line(&at).0.starts_with("ro,"), "{fstype}: {:?}", mount_line(&at));
            assert_eq!(root(&at).2, 0o711, "set up before it was read-only");
            assert_eq!(get(&daemon, fstype)["Status"]["read-only"], true);
            daemon.unmount(fstype, "a");
            at_rest(&daemon, fstype);
            if !restarted {
                daemon.stop();
                daemon.start();
            }
        }
    }
    create(&daemon, "ro", &json!({"size": "16M", "mount-options": "noatime,ro"}));
    let at = daemon.mount("ro", "a");
    assert!(mount_line(&at).0.starts_with("ro,nodev,noatime,"), "{:?}", mount_line(&at));
    assert_eq!(get(&daemon, "ro")["Status"]["read-only"], true);
    daemon.unmount("ro", "a");
    // Of two words the later one counts, for the kernel and for what is told.
    create(&daemon, "rw", &json!({"size": "16M", "mount-options": "ro,rw"}));
    File::create(daemon.mount("rw", "a").join("file")).unwrap();
    assert_eq!(get(&daemon, "rw")["Status"]["read-only"], false);
    daemon.unmount("rw", "a");
}

fn mount_options(rig: &Rig) {
    let daemon = plugin(rig, "flags", &[]);
    for (volume, options) in [
        ("dashed", json!({"size": "16M", "mount-options": "noatime,nodev,commit=7,x-comment,_netdev"})),
        ("camel", json!({"size": "16M", "mountOptions": "noatime,nodev,commit=7"})),
    ] {
        create(&daemon, volume, &options);
        for _ in 0..2 {
            let (line, _) = mounted(&daemon, volume, mount_line);
            let words: Vec<&str> = line.split(',').collect();
            for word in ["rw", "noatime", "nodev", "commit=7"] {
                assert!(words.contains(&word), "{volume}: no {word} in {line}");
            }
        }
    }
    create(&daemon, "plain", &json!({"size": "16M"}));
    let (line, _) = mounted(&daemon, "plain", mount_line);
    assert!(line.contains("relatime") && !line.contains("commit="), "{line}");
}

fn a_wrong_mount_option_fails_the_create(rig: &Rig) {
    let daemon = plugin(rig, "bogus", &[]);
    for (fstype, size) in [("ext4", "16M"), ("xfs", "300M"), ("btrfs", "128M")] {
        let options = json!({"fstype": fstype, "size": size, "mount-options": "noatime,nonsense=1"});
        let e = create_error(&daemon, "foo", &options);
        assert!(e.contains("the kernel refused a mount option of the"), "{fstype}: {e}");
        assert!(e.contains("nonsense=1") && e.contains("EINVAL"), "{fstype}: {e}");
        assert!(!e.contains("also:"), "{fstype}: the rollback failed: {e}");
        gone(&daemon, "foo");
    }
    create(&daemon, "foo", &json!({"size": "16M", "mount-options": "noatime"}));
    assert!(mounted(&daemon, "foo", mount_line).0.contains("noatime"));
}

fn mkfs_options(rig: &Rig) {
    let daemon = plugin(rig, "mkfs", &[]);
    let field = |image: &str, offset| {
        let mut bytes = [0; 16];
        File::open(daemon.file(image, "img")).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    };
    create(&daemon, "ext4", &json!({"size": "16M", "mkfs-options": "-N 512 -L 'my label'"}));
    assert_eq!(field("ext4", 1024 + 0x78), *b"my label\0\0\0\0\0\0\0\0");
    assert_eq!(field("ext4", 1024)[..4], 512_u32.to_le_bytes());
    create(&daemon, "xfs", &json!({"size": "300M", "fstype": "xfs", "mkfsOptions": "-L label"}));
    assert_eq!(field("xfs", 108)[..12], *b"label\0\0\0\0\0\0\0");
    create(&daemon, "btrfs", &json!({"size": "16M", "fstype": "btrfs", "mkfs-options": "--mixed --label=x"}));
    assert_eq!(field("btrfs", (64 << 10) + 0x12b)[..2], *b"x\0");
    for volume in ["ext4", "xfs", "btrfs"] {
        let (_, fstype) = mounted(&daemon, volume, mount_line);
        assert_eq!(fstype, volume);
    }
    let e = create_error(&daemon, "foo", &json!({"size": "16M", "mkfs-options": "-b 777"}));
    assert!(e.contains("mkfs.ext4") && e.contains("777"), "what mkfs says reaches the user: {e}");
    gone(&daemon, "foo");
}

fn they_survive_a_restart(rig: &Rig) {
    let mut daemon = plugin(rig, "kept", &[]);
    let options = json!({"size": "16M", "uid": "1000", "mode": "0750", "mount-options": "noatime"});
    create(&daemon, "v", &options);
    let before = get(&daemon, "v");
    assert_eq!(
        before["Status"]["options"],
        json!({"size": "16M", "fstype": "ext4", "uid": "1000", "mode": "0750", "mount-options": "noatime"})
    );
    daemon.stop();
    daemon.start();
    assert_eq!(get(&daemon, "v"), before);
    let at = daemon.mount("v", "a");
    assert_eq!(root(&at), (1000, 0, 0o750));
    assert!(mount_line(&at).0.contains("noatime"));
    daemon.kill();
    daemon.start();
    assert_eq!(get(&daemon, "v")["Status"]["options"], before["Status"]["options"]);
    daemon.unmount("v", "a");
    create(&daemon, "v", &options);
    let e = create_error(&daemon, "v", &json!({"size": "17M", "gid": "1"}));
    assert!(
        e.contains("volume \"v\" exists with other options: gid is not set, not 1, size is 16M, not 17M"),
        "{e}"
    );
    assert!(mounted(&daemon, "v", mount_line).0.contains("noatime"));
}

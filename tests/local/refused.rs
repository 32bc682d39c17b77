//! Mounts that the kernel refuses although nothing is damaged: the error names the reason, and never advises a repair.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use libtest_mimic::Trial;
use nix::errno::Errno;
use rbd_docker_plugin::backend::{Device, Disks};
use rbd_docker_plugin::host::Host;
use rbd_docker_plugin::linux::exec::Programs;
use rbd_docker_plugin::linux::fs as filesystem;
use rbd_docker_plugin::model::error::{CallError, DriverError, ErrorKind};
use rbd_docker_plugin::model::filesystem::{Filesystem, FsKind, MountFlags};
use serde_json::json;

use crate::filesystems::{debugfs, later, make};
use crate::rig::{Ready, Rig, trial};
use crate::volumes::{create, create_error, devices, gone, mount_error, plugin};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("refused::{name}"), ready, test);
    vec![
        t("a_feature_newer_than_the_kernel_is_no_damage", a_feature_newer_than_the_kernel_is_no_damage),
        t("a_feature_that_only_writing_needs", a_feature_that_only_writing_needs),
        t(
            "a_checker_older_than_the_filesystem_finds_no_damage",
            a_checker_older_than_the_filesystem_finds_no_damage,
        ),
        t("a_create_with_a_newer_mkfs_leaves_nothing", a_create_with_a_newer_mkfs_leaves_nothing),
        t("a_copy_of_a_mounted_xfs", a_copy_of_a_mounted_xfs),
        t("a_copied_image_beside_its_origin", a_copied_image_beside_its_origin),
        t("a_device_that_somebody_keeps", a_device_that_somebody_keeps),
        t("a_refused_option_is_named", a_refused_option_is_named),
        t("a_journal_on_a_read_only_device", a_journal_on_a_read_only_device),
        t("a_log_that_is_not_replayed_is_no_damage", a_log_that_is_not_replayed_is_no_damage),
        t("an_image_that_was_cut_short", an_image_that_was_cut_short),
        t("a_filesystem_with_another_device", a_filesystem_with_another_device),
    ]
}

/// No word that could make somebody destroy what is whole.
fn harmless(e: &DriverError) {
    let text = e.to_string().to_lowercase();
    for word in ["repair", "fsck -", "mkfs.", "damaged", "has errors", " -l ", "--force"] {
        let excused = word == "mkfs." && text.contains("man mkfs.");
        assert!(excused || !text.contains(word), "{word:?} in: {e}");
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 0 { c >> 1 } else { c >> 1 ^ 0x82f6_3b78 })
    })
}

/// Changes the superblock and makes its checksum right again.
fn forge(device: &Device, kind: FsKind, change: impl FnOnce(&mut [u8])) {
    let (offset, length) = match kind {
        FsKind::Ext4 => (1024, 1024),
        FsKind::Xfs => (0, 512),
        FsKind::Btrfs => (64 << 10, 4096),
    };
    let file = OpenOptions::new().read(true).write(true).open(&device.path).unwrap();
    let mut sb = vec![0; length];
    file.read_exact_at(&mut sb, offset).unwrap();
    change(&mut sb);
    match kind {
        FsKind::Ext4 => {
            let sum = !crc32c(&sb[..0x3fc]);
            sb[0x3fc..].copy_from_slice(&sum.to_le_bytes());
        }
        FsKind::Xfs => {
            sb[224..228].fill(0);
            let sum = crc32c(&sb);
            sb[224..228].copy_from_slice(&sum.to_le_bytes());
        }
        FsKind::Btrfs => {
            let sum = crc32c(&sb[32..]);
            sb[..4].copy_from_slice(&sum.to_le_bytes());
        }
    }
    file.write_all_at(&sb, offset).unwrap();
    file.sync_all().unwrap();
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim().to_owned()
}

fn a_feature_newer_than_the_kernel_is_no_damage(rig: &Rig) {
    let disks = rig.disks();
    let target = rig.folder("m");
    for (kind, mib, top) in [(FsKind::Ext4, 16, 0x63), (FsKind::Xfs, 300, 216), (FsKind::Btrfs, 109, 0xbf)] {
        let (device, fs) = make(rig, kind.name(), kind, mib);
        forge(&device, kind, |sb| sb[top] |= 0x80);
        disks.check(&device, &fs, later()).unwrap();
        let e = disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap_err();
        assert_eq!(e.kind, ErrorKind::MissingTool, "{kind}: {e}");
        for part in ["does not know: 0x80000000", &kernel(), "newer kernel"] {
            assert!(e.to_string().contains(part), "{kind}: no {part:?} in {e}");
        }
        harmless(&e);
    }
}

fn a_feature_that_only_writing_needs(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    let target = rig.folder("m");
    for (kind, mib, top) in [(FsKind::Ext4, 16, 0x67), (FsKind::Xfs, 300, 212)] {
        let (device, fs) = make(rig, kind.name(), kind, mib);
        forge(&device, kind, |sb| sb[top] |= 0x80);
        let e = disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap_err();
        assert!(e.message.contains("0x80000000 of those that only writing needs"), "{kind}: {e}");
        assert!(e.to_string().contains("read-only it can be mounted"), "{kind}: {e}");
        harmless(&e);
        disks.mount(&device, &fs, &target, &MountFlags { read_only: true, ..Default::default() }).unwrap();
        host.unmount(&target).unwrap();
    }
}

fn a_checker_older_than_the_filesystem_finds_no_damage(rig: &Rig) {
    let disks = rig.disks();
    let (device, fs) = make(rig, "a", FsKind::Ext4, 16);
    debugfs(&device, "set_super_value state 2");
    forge(&device, FsKind::Ext4, |sb| sb[0x63] |= 0x80);
    for read_only in [false, true] {
        let device = if read_only { rig.attach(&rig.path("a"), true) } else { device.clone() };
        let e = disks.check(&device, &fs, later()).unwrap_err();
        assert_eq!(e.kind, ErrorKind::MissingTool, "{e}");
        for part in ["e2fsck 1.", "0x80000000", "nothing was checked", "newer e2fsprogs"] {
            assert!(e.to_string().contains(part), "no {part:?} in {e}");
        }
        harmless(&e);
    }
}

fn a_create_with_a_newer_mkfs_leaves_nothing(rig: &Rig) {
    let programs = rig.folder("programs");
    let script = "#!/bin/sh\n/usr/sbin/mkfs.ext4 -O ^metadata_csum \"$@\" || exit\nfor device; do :; done\n\
                  printf '\\200' | dd of=\"$device\" bs=1 seek=1123 conv=notrunc 2>/dev/null\n";
    let path = programs.join("mkfs.ext4");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut daemon = crate::daemon::Daemon::new("newer", &rig.folder("newer"), &[]);
    daemon.start_with(&[("RBD_FAULT_PROGRAMS", programs.display().to_string())]);
    let e = create_error(&daemon, "v", &json!({"size": "16M"}));
    for part in ["does not know: 0x80000000", "man mkfs.ext4"] {
        assert!(e.contains(part), "no {part:?} in {e}");
    }
    assert!(!e.contains("repair") && !e.contains("also:"), "{e}");
    gone(&daemon, "v");
}

/// A filesystem with a file in it, mounted; the image as it would be after a power failure now.
fn crashed(rig: &Rig, kind: FsKind, mib: u64, target: &Path) -> (Device, Filesystem, Device) {
    let disks = rig.disks();
    let (device, fs) = make(rig, kind.name(), kind, mib);
    disks.mount(&device, &fs, target, &MountFlags::default()).unwrap();
    let mut file = File::create(target.join("file")).unwrap();
    file.write_all(b"content").unwrap();
    file.sync_all().unwrap();
    let copy = rig.path("copy");
    fs::copy(rig.path(kind.name()), &copy).unwrap();
    (device.unheld(), fs, rig.attach(&copy, false))
}

fn a_copy_of_a_mounted_xfs(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    let (origin, target) = (rig.folder("origin"), rig.folder("m"));
    let (device, fs, copy) = crashed(rig, FsKind::Xfs, 300, &origin);
    let e = disks.mount(&copy, &fs, &target, &MountFlags::default()).unwrap_err();
    assert_eq!(e.kind, ErrorKind::InUse, "{e}");
    let said = format!("{}, mounted at {}, has the same UUID", device.path.display(), origin.display());
    for part in [said.as_str(), "mount-options=nouuid", "xfs_admin -U generate"] {
        assert!(e.to_string().contains(part), "no {part:?} in {e}");
    }
    harmless(&e);
    assert_eq!(disks.twin(&copy, &fs).unwrap().unwrap().target, origin);
    let flags = MountFlags { options: "nouuid".to_owned(), read_only: false };
    disks.mount(&copy, &fs, &target, &flags).unwrap();
    assert_eq!(fs::read(target.join("file")).unwrap(), b"content");
    host.unmount(&target).unwrap();
    host.unmount(&origin).unwrap();
}

fn a_copied_image_beside_its_origin(rig: &Rig) {
    let daemon = plugin(rig, "copies", &[]);
    for (fstype, size) in [("ext4", "16M"), ("xfs", "300M")] {
        create(&daemon, fstype, &json!({"size": size, "fstype": fstype}));
        let at = daemon.mount(fstype, "a");
        fs::write(at.join("file"), "content").unwrap();
        nix::unistd::syncfs(File::open(&at).unwrap()).unwrap();
        let copy = format!("{fstype}-copy");
        fs::copy(daemon.file(fstype, "img"), daemon.file(&copy, "img")).unwrap();
        if fstype == "ext4" {
            daemon.mount(&copy, "b");
            daemon.unmount(&copy, "b");
        } else {
            let e = mount_error(&daemon, &copy);
            let said = format!("rbd/xfs, mounted at {}, has the same UUID as rbd/xfs-copy", at.display());
            assert!(
                e.contains(&said) && e.contains("unmount the other first") && !e.contains("repair"),
                "{e}"
            );
            assert_eq!(devices(&daemon.file(&copy, "img")).len(), 0);
        }
        daemon.unmount(fstype, "a");
        daemon.mount(&copy, "b");
        daemon.unmount(&copy, "b");
    }
}

fn a_device_that_somebody_keeps(rig: &Rig) {
    let disks = rig.disks();
    let target = rig.folder("m");
    let (device, fs) = make(rig, "a", FsKind::Ext4, 16);
    let kept = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&device.path).unwrap();
    let me = format!("pid {}", std::process::id());
    let e = disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap_err();
    assert!(e.kind == ErrorKind::InUse && e.message.contains(&me), "{e}");
    harmless(&e);
    debugfs(&device, "set_super_value state 2");
    let e = disks.check(&device, &fs, later()).unwrap_err();
    assert!(e.kind == ErrorKind::InUse && e.message.contains(&me), "{e}");
    harmless(&e);
    drop(kept);
    disks.check(&device, &fs, later()).unwrap();
}

fn a_refused_option_is_named(rig: &Rig) {
    let disks = rig.disks();
    let target = rig.folder("m");
    for (kind, mib, option) in [
        (FsKind::Ext4, 16, "commit=x"),
        (FsKind::Ext4, 16, "nonsense"),
        (FsKind::Xfs, 300, "nonsense=1"),
        (FsKind::Btrfs, 109, "nonsense=1"),
    ] {
        let (device, fs) = make(rig, kind.name(), kind, mib);
        let flags = MountFlags { options: format!("noatime,{option}"), read_only: false };
        let e = disks.mount(&device, &fs, &target, &flags).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Failed, "{kind}: {e}");
        for part in [format!("mount-options=noatime,{option}").as_str(), "EINVAL", "(kernel: "] {
            assert!(e.to_string().contains(part), "{kind}: no {part:?} in {e}");
        }
        harmless(&e);
    }
}

fn a_journal_on_a_read_only_device(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    for (kind, mib, skip) in [(FsKind::Ext4, 16, "ro,noload"), (FsKind::Xfs, 300, "ro,norecovery")] {
        let target = rig.folder("m");
        let (_, fs, copy) = crashed(rig, kind, mib, &target);
        host.unmount(&target).unwrap();
        drop(copy);
        let copy = rig.attach(&rig.path("copy"), true);
        let e = disks.mount(&copy, &fs, &target, &MountFlags::default()).unwrap_err();
        assert!(e.message.contains("the device is read-only"), "{kind}: {e}");
        let flags = MountFlags { read_only: true, ..Default::default() };
        let e = disks.mount(&copy, &fs, &target, &flags).unwrap_err();
        assert!(e.message.contains("journal to be replayed"), "{kind}: {e}");
        assert!(e.to_string().contains(skip), "{kind}: {e}");
        harmless(&e);
        let flags = MountFlags { options: skip.to_owned(), read_only: false };
        disks.mount(&copy, &fs, &target, &flags).unwrap();
        host.unmount(&target).unwrap();
    }
}

fn a_log_that_is_not_replayed_is_no_damage(rig: &Rig) {
    let target = rig.folder("m");
    for (kind, mib) in [(FsKind::Xfs, 300), (FsKind::Ext4, 16)] {
        let (_, fs, copy) = crashed(rig, kind, mib, &target);
        for errno in [Errno::EINVAL, Errno::EIO] {
            let cause = CallError::new("mount", copy.path.display(), errno);
            let found = filesystem::diagnose(&Programs::find(), &copy.path, &fs, &cause);
            assert!(found.is_none(), "{kind}: {found:?}");
        }
        rig.host().unmount(&target).unwrap();
    }
    // What is damaged is still told.
    let (device, fs) = make(rig, "damaged", FsKind::Xfs, 300);
    OpenOptions::new().write(true).open(&device.path).unwrap().write_all_at(&[0xff; 512], 512).unwrap();
    let cause = CallError::new("mount", device.path.display(), Errno::EUCLEAN);
    let e = filesystem::diagnose(&Programs::find(), &device.path, &fs, &cause).unwrap();
    assert_eq!(e.kind, ErrorKind::NeedsRepair, "{e}");
}

fn an_image_that_was_cut_short(rig: &Rig) {
    let disks = rig.disks();
    let target = rig.folder("m");
    for (kind, mib) in [(FsKind::Ext4, 64), (FsKind::Xfs, 320), (FsKind::Btrfs, 128)] {
        let (device, fs) = make(rig, kind.name(), kind, mib);
        // Marked, it would be checked before it is mounted.
        if kind == FsKind::Ext4 {
            debugfs(&device, "set_super_value state 2");
        }
        drop(device);
        let image = rig.path(kind.name());
        File::options().write(true).open(&image).unwrap().set_len((mib - 10) << 20).unwrap();
        let before = fs::read(&image).unwrap();
        let device = rig.attach(&image, false);
        let checked = disks.check(&device, &fs, later()).unwrap_err();
        let mounted = disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap_err();
        for e in [checked, mounted] {
            assert_eq!(e.kind, ErrorKind::Failed, "{e}");
            let sizes = format!("has {mib}M, the image {}M", mib - 10);
            for part in ["smaller than its filesystem", &sizes, &format!("rbd resize --size {mib}M")] {
                assert!(e.to_string().contains(part), "{kind}: no {part:?} in {e}");
            }
            harmless(&e);
        }
        assert!(fs::read(&image).unwrap() == before, "{kind}: it is as it was");
    }
}

fn a_filesystem_with_another_device(rig: &Rig) {
    let disks = rig.disks();
    let target = rig.folder("m");
    let run = |line: &[&str]| {
        let output = std::process::Command::new(line[0]).args(&line[1..]).output().unwrap();
        assert!(output.status.success(), "{line:?}: {output:?}");
    };
    let said = |device: &Device, kind: FsKind| {
        let fs = Filesystem { kind, type_name: kind.name().to_owned(), uuid: None };
        disks.mount(device, &fs, &target, &MountFlags::default()).unwrap_err()
    };
    let cases = [
        (FsKind::Ext4, 64, "its journal"),
        (FsKind::Xfs, 320, "its log"),
        (FsKind::Btrfs, 128, "a part of it (2 devices in all)"),
    ];
    for (kind, mib, part) in cases {
        let names = [kind.name().to_owned(), format!("{kind}-other")];
        let other = rig.device(&names[1], 128);
        let device = rig.device(&names[0], mib);
        let (at, with) = (device.path.to_str().unwrap(), other.path.to_str().unwrap());
        match kind {
            FsKind::Ext4 => {
                run(&["mkfs.ext4", "-q", "-O", "journal_dev", with]);
                run(&["mkfs.ext4", "-q", "-J", &format!("device={with}"), at]);
            }
            FsKind::Xfs => run(&["mkfs.xfs", "-q", "-l", &format!("logdev={with}"), at]),
            FsKind::Btrfs => run(&["mkfs.btrfs", "-q", "-d", "raid0", "-m", "raid0", at, with]),
        }
        drop((device, other));
        let device = rig.attach(&rig.path(&names[0]), false);
        let e = said(&device, kind);
        assert!(
            e.kind == ErrorKind::Failed && e.message.contains(&format!("{part} on another device")),
            "{e}"
        );
        harmless(&e);
        if kind == FsKind::Ext4 {
            debugfs(&device, "set_super_value state 2");
            let fs = Filesystem { kind, type_name: "ext4".to_owned(), uuid: None };
            let e = disks.check(&device, &fs, later()).unwrap_err();
            assert!(e.message.contains("its journal on another device"), "{e}");
            harmless(&e);
        }
    }
    let device = rig.device("seed", 128);
    run(&["mkfs.btrfs", "-q", device.path.to_str().unwrap()]);
    run(&["btrfstune", "-S", "1", device.path.to_str().unwrap()]);
    let e = said(&device, FsKind::Btrfs);
    assert!(e.message.contains("is a seed") && !e.to_string().contains("make its image writable"), "{e}");
    harmless(&e);
}

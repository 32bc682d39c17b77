//! Filesystems: made, found, mounted, filled, damaged, judged.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::{Device, Disks};
use rbd_docker_plugin::block::kernel::KernelDisks;
use rbd_docker_plugin::host::Host;
use rbd_docker_plugin::linux::exec::Programs;
use rbd_docker_plugin::model::deadline::Deadline;
use rbd_docker_plugin::model::error::{DriverError, ErrorKind};
use rbd_docker_plugin::model::filesystem::{
    Checked, Content, Filesystem, Format, FsKind, MountFlags, Settle,
};

use crate::rig::{Ready, Rig, trial};

const KINDS: [(FsKind, u64); 3] = [(FsKind::Ext4, 16), (FsKind::Xfs, 300), (FsKind::Btrfs, 109)];

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("filesystems::{name}"), ready, test);
    vec![
        t("made_found_mounted_settled", made_found_mounted_settled),
        t("user_options_reach_mkfs", user_options_reach_mkfs),
        t("too_small", too_small),
        t("settle_spares_data", settle_spares_data),
        t("foreign_signatures", foreign_signatures),
        t("read_only", read_only),
        t("full", full),
        t("wrong_mount_option_is_no_damage", wrong_mount_option_is_no_damage),
        t("dirty_journals_are_the_kernels_job", dirty_journals_are_the_kernels_job),
        t("ext4_error_flag_is_checked_away", ext4_error_flag_is_checked_away),
        t("ext4_damage_needs_a_person", ext4_damage_needs_a_person),
        t("superblock_damage", superblock_damage),
        t("mount_failure_is_diagnosed", mount_failure_is_diagnosed),
        t("mkfs_dies_at_the_deadline", mkfs_dies_at_the_deadline),
        t("missing_program", missing_program),
        t("full_store", full_store),
    ]
}

pub(crate) fn later() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// With a new UUID each: mkfs.btrfs looks at all block devices of the machine and refuses one that any of them has.
fn plan(kind: FsKind) -> Format {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let uuid = format!("{:08x}-6d4c-4a08-9f3e-0d1c{number:08x}", std::process::id());
    Format { kind, uuid, options: Vec::new() }
}

fn found(disks: &KernelDisks, device: &Device) -> Filesystem {
    match disks.probe(device, None).unwrap() {
        Content::Filesystem(fs) => {
            let at_a_glance = disks.probe(device, Some(fs.kind)).unwrap();
            assert_eq!(at_a_glance, Content::Filesystem(fs.clone()), "as libblkid knows it");
            fs
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn make(rig: &Rig, name: &str, kind: FsKind, mib: u64) -> (Device, Filesystem) {
    let disks = rig.disks();
    let device = rig.device(name, mib);
    let plan = plan(kind);
    disks.format(&device, &plan, later()).unwrap();
    let fs = found(&disks, &device);
    assert_eq!(fs, Filesystem { kind, type_name: kind.name().to_owned(), uuid: Some(plan.uuid) });
    (device, fs)
}

/// A device with a fresh ext4.
pub(crate) fn made(rig: &Rig, name: &str, mib: u64) -> (Device, Filesystem) {
    make(rig, name, FsKind::Ext4, mib)
}

fn write_at(path: &Path, bytes: &[u8], offset: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

/// Flips bits of a byte on the device.
fn damage(device: &Device, offset: u64) {
    let mut byte = [0];
    File::open(&device.path).unwrap().read_exact_at(&mut byte, offset).unwrap();
    write_at(&device.path, &[!byte[0]], offset);
}

pub(crate) fn debugfs(device: &Device, request: &str) {
    let output =
        Command::new("/usr/sbin/debugfs").args(["-w", "-R", request]).arg(&device.path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn needs_repair(e: &DriverError) {
    assert_eq!(e.kind, ErrorKind::NeedsRepair, "{e}");
    assert!(e.message.starts_with("Image filesystem has errors, requires manual repairs"), "{e}");
    assert!(e.hint.as_ref().unwrap().contains('`'), "the hint names a command: {e}");
}

fn made_found_mounted_settled(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    for (kind, mib) in KINDS {
        let (device, fs) = make(rig, kind.name(), kind, mib);
        assert!(!disks.ends_are_zero(&device).unwrap());
        assert_eq!(disks.check(&device, &fs, later()).unwrap(), Checked::NotNeeded);
        let target = rig.folder("m");
        disks
            .mount(&device, &fs, &target, &MountFlags { options: "noatime".to_owned(), read_only: false })
            .unwrap();
        let device = device.unheld();
        disks.settle(&target, &Settle { uid: Some(1000), gid: Some(1001), mode: Some(0o2750) }).unwrap();
        let root = fs::metadata(&target).unwrap();
        assert_eq!((root.uid(), root.gid(), root.mode() & 0o7777), (1000, 1001, 0o2750));
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "{kind}: a volume begins empty");
        fs::write(target.join("file"), "content").unwrap();
        let usage = host.usage(&host.mounted_at(&target).unwrap().unwrap()).unwrap();
        assert!(
            usage.size > mib << 19 && usage.available < usage.size && usage.used < usage.size,
            "{usage:?}"
        );
        assert!(
            host.mounts().unwrap().iter().any(|m| m.target == target && Path::new(&m.source) == device.path)
        );
        host.unmount(&target).unwrap();
    }
}

fn user_options_reach_mkfs(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    for (kind, mib, words) in [
        (FsKind::Ext4, 16, "-b 1024 -N 512 -E stride=4 -O ^metadata_csum"),
        (FsKind::Xfs, 320, "-s size=4096 -m reflink=0"),
        (FsKind::Btrfs, 64, "-qM --nodesize 4096 --csum xxhash"),
    ] {
        let device = rig.device("a", mib);
        let options = words.split(' ').map(str::to_owned).collect();
        disks.format(&device, &Format { options, ..plan(kind) }, later()).unwrap();
        let fs = found(&disks, &device);
        assert_eq!(disks.check(&device, &fs, later()).unwrap(), Checked::NotNeeded, "{kind}");
        let target = rig.folder("m");
        let place = disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap();
        let mounted = host.mounted_at(&target).unwrap().unwrap();
        assert_eq!(place, mounted.place, "{kind}");
        if kind == FsKind::Ext4 {
            assert_eq!(host.usage(&mounted).unwrap().inodes, 512);
        }
        host.unmount(&target).unwrap();
    }
}

fn too_small(rig: &Rig) {
    let disks = rig.disks();
    for (kind, mib) in [(FsKind::Ext4, 1), (FsKind::Xfs, 299), (FsKind::Btrfs, 108)] {
        let device = rig.device("a", mib);
        let e = disks.format(&device, &plan(kind), later()).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Invalid, "{e}");
        assert!(e.message.contains("too small"), "{e}");
        assert!(disks.ends_are_zero(&device).unwrap());
    }
}

fn settle_spares_data(rig: &Rig) {
    let disks = rig.disks();
    let none = Settle::default();
    let root = rig.folder("root");
    let before = fs::metadata(&root).unwrap().mode();
    fs::create_dir(root.join("lost+found")).unwrap();
    fs::write(root.join("lost+found/#12"), "saved").unwrap();
    disks.settle(&root, &none).unwrap();
    assert!(root.join("lost+found/#12").exists());
    fs::remove_dir_all(root.join("lost+found")).unwrap();
    symlink(rig.folder("elsewhere"), root.join("lost+found")).unwrap();
    disks.settle(&root, &none).unwrap();
    assert!(root.join("lost+found").exists() && rig.path("elsewhere").exists());
    assert_eq!(fs::metadata(&root).unwrap().mode(), before);
    let link = rig.path("link");
    symlink(&root, &link).unwrap();
    disks.settle(&link, &none).expect_err("a symbolic link is followed");
}

fn foreign_signatures(rig: &Rig) {
    let mut swap = vec![0; 4096];
    swap[1024..1032].copy_from_slice(&[1, 0, 0, 0, 0xff, 3, 0, 0]);
    swap[4086..].copy_from_slice(b"SWAPSPACE2");
    let mut luks = vec![0; 592];
    luks[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    let mut table = vec![0; 512];
    table[446..462].copy_from_slice(&[0, 0x20, 0x21, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0]);
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    for (name, bytes) in
        [("swap", swap), ("crypto_LUKS", luks.clone()), ("partition table (dos)", table), ("vfat", vfat())]
    {
        let device = rig.device("a", 16);
        write_at(&device.path, &bytes, 0);
        assert_eq!(rig.disks().probe(&device, None).unwrap(), Content::Foreign(name.to_owned()));
    }
    let (device, _) = made(rig, "b", 16);
    write_at(&device.path, &vfat(), 0);
    let content = rig.disks().probe(&device, None).unwrap();
    assert_eq!(content, Content::Foreign("ambivalent: several signatures".to_owned()));
    let (device, _) = made(rig, "c", 16);
    write_at(&device.path, &luks, 0);
    let Content::Foreign(name) = rig.disks().probe(&device, None).unwrap() else {
        panic!("LUKS before ext4 is not ext4")
    };
    assert!(name.contains("LUKS") || name.contains("ambivalent"), "{name}");
}

/// The boot sector of a FAT16 filesystem of 16 MiB.
fn vfat() -> Vec<u8> {
    let mut sector = vec![0; 512];
    sector[..11].copy_from_slice(b"\xeb\x3c\x90mkfs.fat");
    sector[11..26].copy_from_slice(&[0, 2, 4, 4, 0, 2, 0, 2, 0, 0x80, 0xf8, 32, 0, 32, 0]);
    sector[38] = 0x29;
    sector[43..62].copy_from_slice(b"NO NAME    FAT16   ");
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn read_only(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    for (kind, mib) in KINDS {
        let (device, fs) = make(rig, kind.name(), kind, mib);
        let target = rig.folder("m");
        disks
            .mount(&device, &fs, &target, &MountFlags { options: "rw".to_owned(), read_only: true })
            .unwrap();
        assert_eq!(File::create(target.join("x")).unwrap_err().raw_os_error(), Some(libc::EROFS));
        assert!(host.mounts().unwrap().iter().any(|m| m.target == target && m.read_only));
        host.unmount(&target).unwrap();
        drop(device);
        let device = rig.attach(&rig.path(kind.name()), true);
        let e = disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap_err();
        assert!(e.kind == ErrorKind::Failed && e.message.contains("read-only"), "{kind}: {e}");
        disks.check(&device, &fs, later()).unwrap();
        disks.mount(&device, &fs, &target, &MountFlags { read_only: true, ..Default::default() }).unwrap();
        host.unmount(&target).unwrap();
    }
}

fn full(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    let (device, fs) = made(rig, "a", 16);
    let target = rig.folder("m");
    disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap();
    let mut file = File::create(target.join("big")).unwrap();
    let block = vec![1; 1 << 16];
    let error = (0..1024).find_map(|_| file.write_all(&block).err()).unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    drop(file);
    let usage = host.usage(&host.mounted_at(&target).unwrap().unwrap()).unwrap();
    assert!(usage.available < 1 << 16, "{usage:?}");
    host.unmount(&target).unwrap();
    assert_eq!(disks.check(&device, &fs, later()).unwrap(), Checked::NotNeeded);
    disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap();
    host.unmount(&target).unwrap();
}

fn wrong_mount_option_is_no_damage(rig: &Rig) {
    let disks = rig.disks();
    for (kind, mib) in KINDS {
        let (device, fs) = make(rig, kind.name(), kind, mib);
        let target = rig.folder("m");
        let flags = MountFlags { options: "noatime,nonsense=1".to_owned(), read_only: false };
        let e = disks.mount(&device, &fs, &target, &flags).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Failed, "{kind}: {e}");
        let flags = MountFlags { options: "bind".to_owned(), read_only: false };
        assert_eq!(disks.mount(&device, &fs, &target, &flags).unwrap_err().kind, ErrorKind::Invalid);
    }
}

fn dirty_journals_are_the_kernels_job(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    for (kind, mib) in KINDS {
        let (device, fs) = make(rig, kind.name(), kind, mib);
        let target = rig.folder("m");
        disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap();
        let mut file = File::create(target.join("file")).unwrap();
        file.write_all(b"content").unwrap();
        file.sync_all().unwrap();
        // As the disk would be after a power failure now.
        let crashed = rig.path("crashed");
        fs::copy(rig.path(kind.name()), &crashed).unwrap();
        drop(file);
        host.unmount(&target).unwrap();
        drop(device);
        let device = rig.attach(&crashed, false);
        if kind == FsKind::Ext4 {
            let mut incompat = [0];
            File::open(&crashed).unwrap().read_exact_at(&mut incompat, 1024 + 0x60).unwrap();
            assert_eq!(incompat[0] & 4, 4, "the journal has to be replayed");
        }
        assert_eq!(disks.check(&device, &fs, later()).unwrap(), Checked::NotNeeded, "{kind}");
        disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap();
        assert_eq!(fs::read(target.join("file")).unwrap(), b"content", "{kind}");
        host.unmount(&target).unwrap();
    }
}

fn ext4_error_flag_is_checked_away(rig: &Rig) {
    let disks = rig.disks();
    let (device, fs) = made(rig, "a", 16);
    debugfs(&device, "set_super_value state 2");
    assert_eq!(disks.check(&device, &fs, later()).unwrap(), Checked::Clean);
    assert_eq!(disks.check(&device, &fs, later()).unwrap(), Checked::NotNeeded);
}

fn ext4_damage_needs_a_person(rig: &Rig) {
    let disks = rig.disks();
    let (device, fs) = made(rig, "a", 16);
    debugfs(&device, "clri <2>");
    debugfs(&device, "set_super_value state 2");
    let e = disks.check(&device, &fs, later()).unwrap_err();
    needs_repair(&e);
    assert!(e.to_string().contains("e2fsck -f"), "{e}");
    drop(device);
    let device = rig.attach(&rig.path("a"), true);
    needs_repair(&disks.check(&device, &fs, later()).unwrap_err());
}

fn superblock_damage(rig: &Rig) {
    let disks = rig.disks();
    for ((kind, mib), offset) in KINDS.into_iter().zip([1024 + 0x78, 0x6c, (64 << 10) + 0x12b]) {
        let (device, fs) = make(rig, kind.name(), kind, mib);
        damage(&device, offset);
        // Still recognised as what it was, so that nobody takes it for blank.
        assert_ne!(disks.probe(&device, None).unwrap(), Content::Nothing, "{kind}");
        match (kind, disks.check(&device, &fs, later())) {
            // e2fsck restores a superblock from its backups without asking, where it can.
            (FsKind::Ext4, Ok(Checked::Clean)) => {}
            (_, checked) => needs_repair(&checked.expect_err(kind.name())),
        }
    }
}

fn mount_failure_is_diagnosed(rig: &Rig) {
    let disks = rig.disks();
    let target = rig.folder("m");
    let (device, fs) = make(rig, "xfs", FsKind::Xfs, 300);
    damage(&device, 0x6c);
    needs_repair(&disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap_err());
    let (device, fs) = made(rig, "ext4", 16);
    debugfs(&device, "clri <2>");
    let e = disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap_err();
    needs_repair(&e);
    assert!(e.source.is_some(), "{e}");
}

fn mkfs_dies_at_the_deadline(rig: &Rig) {
    let device = rig.device("a", 16);
    let e = rig.disks().format(&device, &plan(FsKind::Ext4), Deadline::after(Duration::ZERO)).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout, "{e}");
}

fn missing_program(rig: &Rig) {
    let disks = KernelDisks::new(Programs::find_in(&[]));
    let device = rig.device("a", 16);
    let e = disks.format(&device, &plan(FsKind::Ext4), later()).unwrap_err();
    assert_eq!(e.kind, ErrorKind::MissingTool);
    assert!(e.to_string().contains("e2fsprogs"), "{e}");
    assert!(disks.ends_are_zero(&device).unwrap());
}

fn full_store(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    let store = rig.folder("store");
    let (size, none) = (Some("size=8m"), None::<&str>);
    nix::mount::mount(none, &store, Some("tmpfs"), nix::mount::MsFlags::empty(), size).unwrap();
    fs::write(store.join("ballast"), vec![1; (8 << 20) - (128 << 10)]).unwrap();
    let device = rig.device("store/a", 256);
    let e = disks.format(&device, &plan(FsKind::Ext4), later()).unwrap_err();
    assert_eq!(e.kind, ErrorKind::NoSpace, "{e}");
    assert!(e.message.contains(&store.display().to_string()), "{e}");
    fs::remove_file(store.join("ballast")).unwrap();
    disks.format(&device, &plan(FsKind::Ext4), later()).unwrap();
    drop(device);
    crate::kernel::eventually("the store is free", || host.unmount(&store).is_ok());
}

//! Loop devices, mounts, processes: what the kernel does with them.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::errno::Errno;
use rbd_docker_plugin::backend::{Device, Disks};
use rbd_docker_plugin::host::Host;
use rbd_docker_plugin::linux::{blkdev, loopdev, loopdev::Backing, mountinfo, probe};
use rbd_docker_plugin::model::deadline::Deadline;
use rbd_docker_plugin::model::error::ErrorKind;
use rbd_docker_plugin::model::filesystem::{Content, MountFlags};
use rbd_docker_plugin::model::mount::{Attached, Place};

use crate::child::Part;
use crate::filesystems::made;
use crate::reads::reads;
use crate::rig::{Ready, Rig, trial};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("kernel::{name}"), ready, test);
    vec![
        t("loop_attach_find_detach", loop_attach_find_detach),
        t("loop_read_only", loop_read_only),
        t("loop_vanishes_with_its_holder", loop_vanishes_with_its_holder),
        t("loop_killed_attacher_leaves_nothing", loop_killed_attacher_leaves_nothing),
        t("loop_many_and_at_once", loop_many_and_at_once),
        t("loop_detach_tells_who_is_not_done", loop_detach_tells_who_is_not_done),
        t("loop_detach_spares_a_successor", loop_detach_spares_a_successor),
        t("loop_odd_names", loop_odd_names),
        t("ends_of_a_device", ends_of_a_device),
        t("a_lost_device_is_an_error", a_lost_device_is_an_error),
        t("unmount_is_idempotent", unmount_is_idempotent),
        t("detach_does_not_wait_for_its_users", detach_does_not_wait_for_its_users),
        t("busy_unmount_names_the_holder", busy_unmount_names_the_holder),
        t("mounts_in_other_namespaces", mounts_in_other_namespaces),
        t("what_a_container_holds_is_found_again_with_one_look", found_again_with_one_look),
        t("folders", folders),
        t("a_killed_plugin_takes_its_program_along", a_killed_plugin_takes_its_program_along),
    ]
}

/// The device of a backing file, among all there are: the look-up by name is for the backend, which knows the name.
fn attached(backing: Backing) -> Result<Option<loopdev::Loop>, rbd_docker_plugin::model::error::CallError> {
    Ok(loopdev::all()?.into_iter().find(|device| device.backing == backing))
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(2))
}

fn backing(path: &Path) -> loopdev::Backing {
    loopdev::Backing::from(&fs::metadata(path).unwrap())
}

/// Waits for what happens a moment after the event that causes it.
pub(crate) fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !test() {
        assert!(begin.elapsed() < Duration::from_secs(5), "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn loop_attach_find_detach(rig: &Rig) {
    let image = rig.image("a", 4);
    assert_eq!(attached(backing(&image)).unwrap(), None);
    let device = rig.attach(&image, false);
    let found = attached(backing(&image)).unwrap().unwrap();
    assert_eq!((&found.path, found.number), (&device.path, device.number));
    assert_eq!(found.backing_path, image);
    assert!(found.autoclear && !found.read_only);
    let file = blkdev::open(&device.path).unwrap();
    assert_eq!(blkdev::size(&file, &device.path).unwrap(), 4 << 20);
    drop((file, device));
    loopdev::detach(&found.path, found.backing, soon()).unwrap();
    loopdev::detach(&found.path, found.backing, soon()).unwrap();
    assert_eq!(attached(backing(&image)).unwrap(), None);
}

fn loop_read_only(rig: &Rig) {
    let image = rig.image("a", 4);
    let device = rig.attach(&image, true);
    assert!(attached(backing(&image)).unwrap().unwrap().read_only);
    let file = blkdev::open(&device.path).unwrap();
    assert!(blkdev::is_read_only(&file, &device.path).unwrap());
    let written =
        OpenOptions::new().write(true).open(&device.path).and_then(|file| file.write_all_at(b"x", 0));
    assert!(written.is_err());
}

fn loop_vanishes_with_its_holder(rig: &Rig) {
    let image = rig.image("a", 4);
    drop(rig.attach(&image, false));
    eventually("detached", || attached(backing(&image)).unwrap().is_none());
}

fn loop_killed_attacher_leaves_nothing(rig: &Rig) {
    let image = rig.image("a", 4);
    let part = Part::play("attach", &image);
    assert_eq!(attached(backing(&image)).unwrap().unwrap().path, Path::new(&part.said));
    drop(part);
    eventually("detached", || attached(backing(&image)).unwrap().is_none());
}

fn loop_many_and_at_once(rig: &Rig) {
    let images: Vec<_> = (0..72).map(|n| rig.image(&format!("i{n}"), 1)).collect();
    let devices: Vec<Device> = thread::scope(|scope| {
        let workers: Vec<_> = images
            .chunks(9)
            .map(|part| {
                scope.spawn(move || part.iter().map(|image| rig.attach(image, false)).collect::<Vec<_>>())
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(devices.iter().map(|d| &d.path).collect::<BTreeSet<_>>().len(), 72);
    let begin = Instant::now();
    let one_more = rig.device("one-more", 1);
    assert!(begin.elapsed() < Duration::from_millis(250), "attaching must not look at the others");
    assert_eq!(attached(backing(&images[40])).unwrap().unwrap().path, devices[40].path);
    drop((one_more, devices));
}

fn loop_detach_tells_who_is_not_done(rig: &Rig) {
    let image = rig.image("a", 4);
    let device = rig.attach(&image, false);
    let e = loopdev::detach(&device.path, backing(&image), Deadline::after(Duration::from_millis(100)))
        .unwrap_err();
    assert_eq!((e.call, e.errno), ("LOOP_CLR_FD", Errno::EBUSY));
    drop(device.hold);
    loopdev::detach(&device.path, backing(&image), soon()).unwrap();
    assert_eq!(attached(backing(&image)).unwrap(), None);
}

fn loop_detach_spares_a_successor(rig: &Rig) {
    let (old, new) = (rig.image("old", 4), rig.image("new", 4));
    // Attached the usual way, it stays without being held: a wrong LOOP_CLR_FD would show.
    let output = Command::new("losetup").args(["-f", "--show"]).arg(&new).output().unwrap();
    let device = String::from_utf8(output.stdout).unwrap();
    let device = Path::new(device.trim());
    let found = attached(backing(&new)).unwrap().unwrap();
    assert_eq!((found.path.as_path(), found.autoclear), (device, false));
    loopdev::detach(device, backing(&old), soon()).unwrap();
    assert_eq!(attached(backing(&new)).unwrap(), Some(found));
    loopdev::detach(device, backing(&new), soon()).unwrap();
    assert_eq!(attached(backing(&new)).unwrap(), None);
}

fn loop_odd_names(rig: &Rig) {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    fs::create_dir(rig.path(&"d".repeat(200))).unwrap();
    for name in [&*long, "a b\n(deleted)", "gone (deleted)"] {
        let image = rig.image(name, 1);
        let identity = backing(&image);
        let device = rig.attach(&image, false);
        assert_eq!(attached(identity).unwrap().unwrap().path, device.path, "{name}");
        fs::remove_file(&image).unwrap();
        assert_eq!(attached(identity).unwrap().unwrap().path, device.path, "{name}, deleted");
    }
}

fn ends_of_a_device(rig: &Rig) {
    for (mib, offset, zero) in
        [(1, 5_000, false), (3, 100, false), (3, (3 << 20) - 1, false), (3, 3 << 19, true)]
    {
        let image = rig.image("a", mib);
        let device = rig.attach(&image, false);
        let disks = rig.disks();
        assert!(disks.ends_are_zero(&device).unwrap());
        assert_eq!(disks.probe(&device, None).unwrap(), Content::Nothing);
        OpenOptions::new().write(true).open(&device.path).unwrap().write_all_at(b"x", offset).unwrap();
        assert_eq!(disks.ends_are_zero(&device).unwrap(), zero, "a byte at {offset} of {mib} MiB");
        assert_eq!(disks.probe(&device, None).unwrap(), Content::Nothing);
    }
}

fn a_lost_device_is_an_error(rig: &Rig) {
    let image = rig.image("a", 4);
    let path = rig.attach(&image, false).unheld().path;
    eventually("detached", || attached(backing(&image)).unwrap().is_none());
    // Another process of this machine may be given the number at any time.
    if loopdev::all().unwrap().iter().all(|l| l.path != path) {
        assert_eq!(probe::probe(&path).unwrap_err().errno, Errno::ENXIO);
        assert_eq!(blkdev::ends_are_zero(&path).unwrap_err().errno, Errno::ENXIO);
    }
    assert_eq!(probe::probe(&image).unwrap_err().errno, Errno::ENOTBLK);
    assert_eq!(probe::probe(&rig.path("none")).unwrap_err().errno, Errno::ENOENT);
}

fn unmount_is_idempotent(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    let (device, fs) = made(rig, "a", 16);
    let target = rig.folder("m n");
    host.unmount(&target).unwrap();
    host.unmount(&rig.path("missing")).unwrap();
    disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap();
    disks.mount(&device.unheld(), &fs, &target, &MountFlags::default()).expect_err("it is there already");
    let mounted = host.mounts().unwrap().into_iter().find(|m| m.target == target).unwrap();
    assert_eq!((mounted.place, mounted.read_only), (Place::whole(device.number), false));
    assert_eq!((mounted.fstype.as_str(), Path::new(&mounted.source)), ("ext4", device.path.as_path()));
    assert_eq!(host.remove_dir(&target).unwrap_err().kind, ErrorKind::InUse);
    host.unmount(&target).unwrap();
    host.unmount(&target).unwrap();
}

fn detach_does_not_wait_for_its_users(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    let target = rig.folder("m");
    host.detach(&target).unwrap();
    host.detach(&rig.path("missing")).unwrap();
    let (device, fs) = made(rig, "a", 16);
    disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap();
    let link = rig.path("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    host.detach(&link).unwrap();
    assert!(host.mounted_at(&target).unwrap().is_some(), "it follows no link");

    let open = File::create(target.join("file")).unwrap();
    assert_eq!(host.unmount(&target).unwrap_err().kind, ErrorKind::InUse);
    host.detach(&target).unwrap();
    assert_eq!(host.mounted_at(&target).unwrap(), None);
    assert!(blkdev::is_claimed(&device.path).unwrap(), "whoever has a file open keeps the filesystem");
    drop(open);
    eventually("let go", || !blkdev::is_claimed(&device.path).unwrap());
}

fn busy_unmount_names_the_holder(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    let (device, fs) = made(rig, "a", 16);
    let target = rig.folder("m");
    disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap();
    let mut sleeper = Command::new("sleep").arg("600").current_dir(&target).spawn().unwrap();
    let pid = sleeper.id();
    eventually("the program runs", || {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() == "sleep"
    });
    let e = host.unmount(&target).unwrap_err();
    assert_eq!(e.kind, ErrorKind::InUse);
    assert!(e.message.contains(&format!("sleep (pid {pid}, working directory)")), "{e}");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();

    let open = File::create(target.join("file")).unwrap();
    let e = host.unmount(&target).unwrap_err();
    assert!(e.message.contains(&format!("(pid {}, open {}", std::process::id(), target.display())), "{e}");
    drop(open);

    let inner = target.join("inner");
    fs::create_dir(&inner).unwrap();
    let (device, fs) = made(rig, "b", 16);
    disks.mount(&device, &fs, &inner, &MountFlags::default()).unwrap();
    let e = host.unmount(&target).unwrap_err();
    assert!(e.message.contains(&format!("a mount at {}", inner.display())), "{e}");
    host.unmount(&inner).unwrap();
    host.unmount(&target).unwrap();
}

/// A device that is mounted, or was.
fn attached_to(device: &Device) -> Attached {
    Attached {
        place: Place::whole(device.number),
        source: device.path.display().to_string(),
        fstype: "ext4".to_owned(),
        read_only: false,
    }
}

fn mounts_in_other_namespaces(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    let (device, fs) = made(rig, "a", 16);
    let target = rig.folder("m");
    let mut of = attached_to(&device);
    let held = |of: &Attached| disks.which_held(std::slice::from_ref(of)).unwrap() == [true];
    assert!(!held(&of));
    of.place = disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap();
    assert!(!held(&of), "mounted here alone");
    let part = Part::play("namespace", Path::new(""));
    assert!(held(&of), "a copy");
    // The copy of a private mount stays when ours goes.
    host.unmount(&target).unwrap();
    assert!(held(&of), "only the copy");
    drop(part);
    eventually("released", || !held(&of));
}

fn found_again_with_one_look(rig: &Rig) {
    let (disks, host) = (rig.disks(), rig.host());
    let play = || Part::play("namespace", Path::new(""));
    // These come before the one that has the volumes, and have none.
    let others: Vec<Part> = (0..20).map(|_| play()).collect();
    let volumes = ["a", "b"].map(|name| {
        let (device, fs) = made(rig, name, 16);
        let target = rig.folder(&format!("at-{name}"));
        disks.mount(&device, &fs, &target, &MountFlags::default()).unwrap();
        (device, target)
    });
    let attached = volumes.each_ref().map(|(device, _)| attached_to(device));
    let holder = play();
    let held = || assert_eq!(disks.which_held(&attached).unwrap(), [true, true]);
    let one = reads(|| drop(mountinfo::read(Path::new(mountinfo::OWN)).unwrap()));
    held();
    // Who holds them is not asked for its name, and namespaces that hold nothing are not looked at again.
    let again = reads(held);
    assert!(again <= 3 * one, "{again} reads, and {one} for the mounts of one namespace");
    drop(holder);
    eventually("released", || disks.which_held(&attached).unwrap() == [false, false]);
    volumes.iter().for_each(|(_, target)| host.unmount(target).unwrap());
    drop(others);
}

fn folders(rig: &Rig) {
    let host = rig.host();
    let dir = rig.path("a/b/c");
    host.make_dir(&dir).unwrap();
    host.make_dir(&dir).unwrap();
    host.remove_dir(&rig.path("a")).unwrap();
    assert!(dir.exists(), "a folder that is not empty stays, and is no error");
    host.remove_dir(&dir).unwrap();
    host.remove_dir(&dir).unwrap();
    host.save(&rig.path("a/state"), b"x").unwrap();
    host.forget(&rig.path("a/state")).unwrap();
}

fn a_killed_plugin_takes_its_program_along(rig: &Rig) {
    let note = rig.path("pid");
    let part = Part::play("exec", &note);
    eventually("the program runs", || note.exists());
    let pid = fs::read_to_string(&note).unwrap().trim().to_owned();
    drop(part);
    eventually("the program is gone", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
}

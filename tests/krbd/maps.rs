//! Mapping, and what may be wrong with it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::thread;

use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rbd_docker_plugin::ceph::features;
use rbd_docker_plugin::linux::blkdev;
use rbd_docker_plugin::linux::keyring::{self, Key};
use rbd_docker_plugin::linux::krbd::{Failure, Identity, Request};

use crate::rig::{MIB, POOL, Rig, attribute, eventually, kernel, keys, maker, trial, within};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("maps::found_by_identity_and_unmapped", found_by_identity_and_unmapped),
        trial("maps::the_key_stays_nowhere", the_key_stays_nowhere),
        trial("maps::a_wrong_key", a_wrong_key),
        trial("maps::what_is_missing_is_named", what_is_missing_is_named),
        trial("maps::another_image_is_unmapped_again", another_image_is_unmapped_again),
        trial("maps::a_namespace", a_namespace),
        trial("maps::a_snapshot_is_read_only", a_snapshot_is_read_only),
        trial("maps::two_at_once", two_at_once),
        trial("maps::one_image_twice", one_image_twice),
        trial("maps::a_dev_without_the_kernel", a_dev_without_the_kernel),
        trial("maps::what_this_kernel_can", what_this_kernel_can),
    ]
}

fn found_by_identity_and_unmapped(rig: &Rig) {
    let made = rig.image(None);
    let mapping = rig.map(&made);
    assert!(mapping.is(made.identity()), "{mapping:?}");
    assert_eq!((mapping.pool.as_str(), &mapping.image, mapping.size), (POOL, &made.name, 16 * MIB));
    assert_eq!(mapping.path, Path::new("/dev").join(format!("rbd{}", mapping.id)));
    let rdev = fs::metadata(&mapping.path).unwrap().rdev();
    assert_eq!(mapping.number, (libc::major(rdev), libc::minor(rdev)));
    assert_eq!(kernel().list().unwrap(), std::slice::from_ref(&mapping));
    assert_eq!(made.watchers(), std::slice::from_ref(&mapping.client_addr), "this is what a fence is put on");

    let device = OpenOptions::new().read(true).write(true).open(&mapping.path).unwrap();
    device.write_all_at(b"kept", 4 * MIB).unwrap();
    device.sync_all().unwrap();
    drop(device);
    kernel().unmap(mapping.id, false, within(60)).unwrap();
    assert_eq!(kernel().list().unwrap(), []);
    assert!(!mapping.path.exists());
    assert_eq!(made.watchers(), Vec::<String>::new());
    kernel().unmap(mapping.id, false, within(60)).unwrap();

    let again = rig.map(&made);
    let mut kept = [0; 4];
    File::open(&again.path).unwrap().read_exact_at(&mut kept, 4 * MIB).unwrap();
    assert_eq!(&kept, b"kept");
    assert_ne!(again.client_addr, mapping.client_addr, "noshare: a client for each mapping");
    kernel().unmap(again.id, false, within(60)).unwrap();
}

fn the_key_stays_nowhere(rig: &Rig) {
    let made = rig.image(None);
    let mapping = rig.map(&made);
    let config = attribute(&mapping, "config_info");
    assert!(config.contains("key=client.docker,") && config.contains(" rbd-docker-plugin:"), "{config}");
    assert!(!config.contains(&rig.secret) && !config.contains("secret"), "{config}");
    eventually("the key is gone", || keys().is_empty());
    kernel().unmap(mapping.id, false, within(60)).unwrap();
}

fn a_wrong_key(rig: &Rig) {
    let made = rig.image(None);
    let key = Key::from_base64(b"AQBmzkBnAAAAABAAAAECAwQFBgcICQoLDA0ODw==").unwrap();
    let options = Rig::options();
    let request = Request { key: Some(&key), ..rig.request(&made, &options) };
    let failure = kernel().map(request, made.identity(), &maker(), within(60)).unwrap_err();
    assert_eq!((failure.error.call, failure.error.errno), ("rbd_add", Errno::EACCES), "{failure}");
    assert!(failure.kernel.iter().any(|line| line.contains("authentication failed")), "{failure}");
    assert!(!failure.to_string().contains("AQBm"));
    eventually("the key is gone", || keys().is_empty());

    let failure =
        kernel().map(Request { key: None, ..request }, made.identity(), &maker(), within(60)).unwrap_err();
    assert!(matches!(failure.error.errno, Errno::EPERM | Errno::EINVAL | Errno::EACCES), "{failure}");
}

fn what_is_missing_is_named(rig: &Rig) {
    let made = rig.image(None);
    let options = Rig::options();
    let good = rig.request(&made, &options);
    let failed = |request: Request<'_>| -> Failure {
        kernel().map(request, made.identity(), &maker(), within(60)).unwrap_err()
    };
    for (request, says) in [
        (Request { image: "nope", ..good }, "image rbd/nope does not exist"),
        (Request { pool: "nopool", ..good }, "pool nopool does not exist"),
        (Request { namespace: Some("nons"), ..good }, "image rbd/nons/"),
        (Request { snapshot: Some("nosnap"), ..good }, "@nosnap does not exist"),
    ] {
        let failure = failed(request);
        assert_eq!(failure.error.errno, Errno::ENOENT, "{failure}");
        assert!(failure.kernel.iter().any(|line| line.contains(says)), "{says:?}: {failure}");
    }
    let bogus = ["bogus".to_owned()];
    let failure = failed(Request { options: &bogus, ..good });
    assert_eq!(failure.error.errno, Errno::EINVAL, "{failure}");
    assert!(failure.to_string().contains("bogus"), "{failure}");
}

fn another_image_is_unmapped_again(rig: &Rig) {
    let (made, other) = (rig.image(None), rig.image(None));
    let options = Rig::options();
    let right = made.identity();
    let nil = "00000000-0000-4000-8000-000000000000";
    for (wrong, says) in [
        (other.identity(), format!("image id {}, not {}", made.id, other.id)),
        (Identity { fsid: nil, ..right }, format!("cluster {}, not {nil}", made.fsid)),
        (Identity { pool_id: 99, ..right }, format!("pool id {}, not 99", right.pool_id)),
    ] {
        let failure = kernel().map(rig.request(&made, &options), wrong, &maker(), within(60)).unwrap_err();
        assert_eq!(failure.error.errno, Errno::ESTALE, "{failure}");
        assert!(failure.error.object.contains(&says), "{failure}");
        assert_eq!(kernel().list().unwrap(), []);
        assert_eq!(made.watchers(), Vec::<String>::new());
    }
}

fn a_namespace(rig: &Rig) {
    if !rig.cluster.ioctx(POOL, None).unwrap().namespaces().unwrap().contains(&"ns".to_owned()) {
        rig.rbd(&["namespace", "create", "rbd/ns"]);
    }
    let made = rig.image(Some("ns"));
    let mapping = rig.map(&made);
    assert!(mapping.is(made.identity()), "{mapping:?}");
    assert_eq!(mapping.namespace.as_deref(), Some("ns"));
    kernel().unmap(mapping.id, false, within(60)).unwrap();
}

fn a_snapshot_is_read_only(rig: &Rig) {
    let made = rig.image(None);
    rig.rbd(&["snap", "create", &format!("rbd/{}@s1", made.name)]);
    let options = Rig::options();
    let request = Request { snapshot: Some("s1"), ..rig.request(&made, &options) };
    let mapping = kernel().map(request, made.identity(), &maker(), within(60)).unwrap();
    assert_eq!(mapping.snapshot.as_deref(), Some("s1"));
    assert!(!mapping.is(made.identity()), "it is not the image itself");
    assert!(blkdev::is_read_only(&blkdev::open(&mapping.path).unwrap(), &mapping.path).unwrap());
    let written =
        OpenOptions::new().write(true).open(&mapping.path).and_then(|file| file.write_all_at(b"x", 0));
    assert!(written.is_err());
    kernel().unmap(mapping.id, false, within(60)).unwrap();
}

fn two_at_once(rig: &Rig) {
    let images: Vec<_> = (0..4).map(|_| rig.image(None)).collect();
    let mappings: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = images.iter().map(|made| scope.spawn(|| rig.map(made))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    for (made, mapping) in images.iter().zip(&mappings) {
        assert!(mapping.is(made.identity()), "{mapping:?}");
    }
    assert_eq!(mappings.iter().map(|mapping| mapping.id).collect::<BTreeSet<_>>().len(), 4);
    thread::scope(|scope| {
        for mapping in &mappings {
            scope.spawn(|| kernel().unmap(mapping.id, false, within(60)).unwrap());
        }
    });
}

/// The kernel finds nothing wrong with it; each caller gets a device of its own.
fn one_image_twice(rig: &Rig) {
    let made = rig.image(None);
    let [one, other] = thread::scope(|scope| {
        [(); 2].map(|()| scope.spawn(|| rig.map(&made))).map(|worker| worker.join().unwrap())
    });
    assert_ne!(one.id, other.id);
    kernel().unmap(one.id, false, within(60)).unwrap();
    assert_eq!(kernel().list().unwrap(), std::slice::from_ref(&other));
    kernel().unmap(other.id, false, within(60)).unwrap();
}

/// As in a container: a folder of files that somebody made long ago.
fn a_dev_without_the_kernel(rig: &Rig) {
    let made = rig.image(None);
    let in_namespace = || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), "/dev", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        for stale in [false, true] {
            if stale {
                let mode = Mode::S_IRUSR;
                for id in 0..8 {
                    let _ = fs::remove_file(format!("/dev/rbd{id}"));
                    mknod(Path::new(&format!("/dev/rbd{id}")), SFlag::S_IFBLK, mode, makedev(7, 77)).unwrap();
                }
            }
            let mapping = rig.map(&made);
            let device = blkdev::open(&mapping.path).unwrap();
            assert_eq!(blkdev::size(&device, &mapping.path).unwrap(), 16 * MIB);
            drop(device);
            kernel().unmap(mapping.id, false, within(60)).unwrap();
        }
    };
    thread::scope(|scope| scope.spawn(in_namespace).join().unwrap());
}

fn what_this_kernel_can(_: &Rig) {
    kernel().is_writable().unwrap();
    keyring::probe(keyring::AES).unwrap();
    let known = kernel().supported_features().unwrap().unwrap();
    for name in ["layering", "exclusive-lock", "object-map", "fast-diff", "deep-flatten"] {
        let bits = features::parse(name).unwrap();
        assert_eq!(known & bits, bits, "{name}");
    }
    assert_eq!(known & features::parse("journaling").unwrap(), 0);

    let read_only = || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, "/sys", none, flags, none).unwrap();
        kernel().is_writable().unwrap_err().errno
    };
    assert_eq!(thread::scope(|scope| scope.spawn(read_only).join().unwrap()), Errno::EROFS);
}

//! Locks on objects and on images.

use std::thread::sleep;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::errno::Errno;
use rbd_docker_plugin::ceph::{CreateOptions, Image, IoCtx};

use crate::rig::{Lab, Ready, TIMEOUT, fresh, trial, wait_until};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    vec![
        trial("a_shared_lock_is_held_by_several_and_given_up_by_each", ready, shared),
        trial("a_shared_lock_ends_by_itself_unless_it_is_renewed", ready, expiry),
        trial("an_image_lock_has_one_holder_and_can_be_broken", ready, image_lock),
        trial("lockers_of_an_image_are_those_of_this_moment", ready, fresh_lockers),
        trial("an_image_of_the_old_format_has_lockers_too", ready, old_format),
        trial("lockers_are_listed_however_many", ready, many_lockers),
    ]
}

const LONG: Duration = Duration::from_secs(60);

fn hold(io: &IoCtx, object: &str, cookie: &str, tag: &str, lasts: Duration) -> Result<(), Errno> {
    io.lock_shared(object, "guard", cookie, tag, "what for", lasts).map_err(|e| e.errno)
}

fn me(io: &IoCtx) -> String {
    format!("client.{}", io.cluster().instance_id())
}

fn shared(lab: &Lab) {
    let (io, other, object) = (&lab.io, lab.another(), fresh("lock"));
    assert_eq!(io.lockers(&object, "guard"), Ok(Vec::new()), "no such object");
    io.unlock(&object, "guard", "a").unwrap();
    assert_eq!(hold(io, &object, "a", "tag", LONG), Ok(()));
    assert_eq!(hold(&other, &object, "a", "tag", LONG), Ok(()));
    assert_eq!(hold(io, &object, "b", "tag", LONG), Ok(()));
    assert_eq!(hold(&other, &object, "b", "another tag", LONG), Err(Errno::EBUSY));
    let mut found = io.lockers(&object, "guard").unwrap();
    found.sort_by(|a, b| (&a.client, &a.cookie).cmp(&(&b.client, &b.cookie)));
    let mut expected = vec![(me(io), "a"), (me(io), "b"), (me(&other), "a")];
    expected.sort();
    let pairs: Vec<_> = found.iter().map(|l| (l.client.clone(), l.cookie.as_str())).collect();
    assert_eq!(pairs, expected);
    let ours = found.iter().find(|l| l.client == me(io)).unwrap();
    assert_eq!(ours.address, io.cluster().addresses().unwrap());
    assert_eq!(io.lockers(&object, "another lock"), Ok(Vec::new()));
    other.unlock(&object, "guard", "b").unwrap();
    assert_eq!(io.lockers(&object, "guard").unwrap().len(), 3, "that was not ours to give up");
    for (client, cookie) in [(io, "a"), (io, "b"), (&other, "a")] {
        client.unlock(&object, "guard", cookie).unwrap();
        client.unlock(&object, "guard", cookie).unwrap();
    }
    assert_eq!(io.lockers(&object, "guard"), Ok(Vec::new()));
    assert_eq!(hold(io, &object, "a", "another tag", LONG), Ok(()));
}

fn expiry(lab: &Lab) {
    const LASTS: Duration = Duration::from_millis(1500);
    let (io, other, object) = (&lab.io, lab.another(), fresh("lock"));
    let begin = Instant::now();
    assert_eq!(hold(io, &object, "renewed", "tag", LASTS), Ok(()));
    assert_eq!(hold(&other, &object, "left alone", "tag", LASTS), Ok(()));
    let holds = |cookie: &str| io.lockers(&object, "guard").unwrap().iter().any(|l| l.cookie == cookie);
    while begin.elapsed() < LASTS * 2 {
        assert!(holds("renewed"), "{:?}", begin.elapsed());
        sleep(Duration::from_millis(300));
        assert_eq!(hold(io, &object, "renewed", "tag", LASTS), Ok(()));
    }
    assert!(!holds("left alone"), "{:?}", io.lockers(&object, "guard"));
    assert_eq!(hold(&other, &object, "x", "another tag", LASTS), Err(Errno::EBUSY));
    wait_until("the lock is free", LASTS * 2, || !holds("renewed"));
    assert_eq!(hold(&other, &object, "x", "another tag", LASTS), Ok(()), "what is over binds nobody");
}

/// An image with the features that the old plugins locked: layering only.
fn image(lab: &Lab, name: &str) -> Image {
    let options = CreateOptions { features: Some(1), ..CreateOptions::default() };
    lab.io.create_image(name, 4 << 20, &options).unwrap();
    Image::open(&lab.io, name).unwrap()
}

fn image_lock(lab: &Lab) {
    let name = fresh("locked");
    let (ours, other) = (image(lab, &name), lab.another());
    let theirs = Image::open(&other, &name).unwrap();
    let none = ours.lockers().unwrap();
    assert!(none.lockers.is_empty() && none.tag.is_empty());
    ours.lock("host-1").unwrap();
    ours.lock("host-1").unwrap();
    let e = theirs.lock("host-2").unwrap_err();
    assert_eq!((e.call, e.errno), ("rbd_lock_exclusive", Errno::EBUSY));
    assert_eq!(e.object, lab.spec(&name));
    assert_eq!(theirs.lock("host-1").unwrap_err().errno, Errno::EBUSY, "the cookie alone is not the holder");
    let found = theirs.lockers().unwrap();
    assert!(found.exclusive);
    let [locker] = &found.lockers[..] else { panic!("{found:?}") };
    assert_eq!((&locker.client, locker.cookie.as_str()), (&me(&lab.io), "host-1"));
    assert_eq!(locker.address, lab.io.cluster().addresses().unwrap());
    theirs.unlock("host-1").unwrap();
    assert_eq!(ours.lockers().unwrap(), found, "it was not theirs");
    let listed = lab.run(&["rbd", "lock", "ls", &lab.spec(&name)]);
    assert!(listed.contains("host-1"), "{listed}");
    // Breaking our own would shut us out of the cluster.
    ours.break_lock(&locker.client, "host-1").unwrap();
    assert!(theirs.lockers().unwrap().lockers.is_empty());
    ours.break_lock(&locker.client, "host-1").unwrap();
    ours.unlock("host-1").unwrap();
    theirs.lock("host-2").unwrap();
    let locker = ours.lockers().unwrap().lockers.remove(0);
    ours.break_lock(&locker.client, &locker.cookie).unwrap();
    ours.break_lock(&locker.client, &locker.cookie).unwrap();
    assert!(ours.lockers().unwrap().lockers.is_empty());
    assert_eq!(
        theirs.lock("host-2").unwrap_err().errno,
        Errno::ESHUTDOWN,
        "who it was taken from is shut out"
    );
    let address = other.cluster().addresses().unwrap();
    lab.run(&["ceph", "osd", "blocklist", "rm", &address]);
    // A lock outlives the image that it was taken by, and the client.
    let another = lab.another();
    Image::open(&another, &name).unwrap().lock("host-3").unwrap();
    drop(another);
    assert_eq!(ours.lockers().unwrap().lockers[0].cookie, "host-3");
    assert_eq!(ours.break_lock("nonsense", "host-3").unwrap_err().errno, Errno::EINVAL);
}

fn fresh_lockers(lab: &Lab) {
    let name = fresh("locked");
    let writer = image(lab, &name);
    // It watches nothing, so nobody tells it.
    let reader = Image::open_read_only(&lab.io, &name).unwrap();
    assert!(reader.lockers().unwrap().lockers.is_empty());
    writer.lock("c").unwrap();
    assert_eq!(reader.lockers().unwrap().lockers.len(), 1);
    lab.io.rename_image(&name, &fresh("renamed")).unwrap();
    writer.unlock("c").unwrap();
    assert!(reader.lockers().unwrap().lockers.is_empty());
    // The lock that comes with the exclusive-lock feature is taken by the first write.
    let name = fresh("locked");
    lab.io.create_image(&name, 4 << 20, &CreateOptions { features: Some(5), ..Default::default() }).unwrap();
    let writer = Image::open(&lab.io, &name).unwrap();
    assert!(writer.lockers().unwrap().lockers.is_empty());
    writer.discard_all().unwrap();
    let found = Image::open_read_only(&lab.io, &name).unwrap().lockers().unwrap();
    assert_eq!((found.exclusive, found.tag.as_str(), found.lockers.len()), (true, "internal", 1));
    assert!(found.lockers[0].cookie.starts_with("auto "), "{found:?}");
    assert_eq!(found.lockers[0].address, lab.io.cluster().addresses().unwrap());
}

/// Nothing makes such images any more, but there are some: 4 MiB, no snapshots.
fn old_format(lab: &Lab) {
    let name = fresh("old");
    let mut header = b"<<< Rados Block Device Image >>>\n".to_vec();
    header.resize(40, 0);
    header.extend(b"rb.0.1");
    header.resize(64, 0);
    header.extend(b"RBD\x00001.005\x00");
    header.extend([22, 0, 0, 0]);
    header.extend((4_u64 << 20).to_le_bytes());
    header.resize(112, 0);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("header");
    std::fs::write(&file, header).unwrap();
    lab.run(&["rados", "-p", &lab.pool, "put", &format!("{name}.rbd"), file.to_str().unwrap()]);
    let image = Image::open(&lab.io, &name).unwrap();
    assert_eq!((image.size(), image.features()), (Ok(4 << 20), Ok(0)));
    assert_eq!(image.id().unwrap_err().errno, Errno::EINVAL);
    assert_eq!(image.lockers().unwrap().lockers, []);
    image.lock("cookie").unwrap();
    assert_eq!(image.lockers().unwrap().lockers[0].cookie, "cookie");
    assert_eq!(image.is_untouched(TIMEOUT), Ok(true));
}

fn many_lockers(lab: &Lab) {
    let (name, object) = (fresh("locked"), fresh("lock"));
    let image = image(lab, &name);
    let cookies: Vec<String> = (0..4).map(|n| format!("{n} {}", "cookie".repeat(20))).collect();
    for cookie in &cookies {
        lab.run(&["rbd", "lock", "add", "--shared", "a tag", &lab.spec(&name), cookie]);
        assert_eq!(hold(&lab.io, &object, cookie, "a tag", LONG), Ok(()));
    }
    let found = image.lockers().unwrap();
    assert_eq!((found.exclusive, found.tag.as_str()), (false, "a tag"));
    for found in [found.lockers, lab.io.lockers(&object, "guard").unwrap()] {
        let mut found: Vec<String> = found.into_iter().map(|l| l.cookie).collect();
        found.sort();
        assert_eq!(found, cookies);
    }
}

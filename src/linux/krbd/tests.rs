//! On a tree of files that looks like `/sys/bus/rbd`, and with a kernel that answers from a list.

use std::cell::{Cell, RefCell};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::add::{Turn, Wanted, find, line};
use super::remove::{repeat, unmap};
use super::*;

const FSID: &str = "3f7a8c1e-8b5a-4d1b-9a31-57c0e2f61d55";

struct Tree {
    dir: TempDir,
    sysfs: Arc<Sysfs>,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        at("bus/devices");
        for control in ["add_single_major", "remove_single_major"] {
            fs::write(dir.path().join("bus").join(control), "").unwrap();
        }
        let sysfs = Arc::new(Sysfs::new(at("bus"), at("block"), at("dev")));
        Self { dir, sysfs }
    }

    /// As kernel 6.1 shows it.
    fn device(&self, id: u32, changes: &[(&str, &str)]) {
        let folder = self.sysfs.device(id);
        fs::create_dir(&folder).unwrap();
        let attributes = [
            ("client_addr", "192.0.2.7:0/3589491565\n"),
            ("cluster_fsid", &format!("{FSID}\n")),
            ("config_info", "192.0.2.1:3300 name=docker,key=client.docker rbd foo - x:1\n"),
            ("current_snap", "-\n"),
            ("image_id", "1036e2b5a5d1\n"),
            ("major", "252\n"),
            ("minor", "48\n"),
            ("name", "foo\n"),
            ("pool", "rbd\n"),
            ("pool_id", "2\n"),
            ("pool_ns", "\n"),
            ("size", "10485760\n"),
        ];
        for (name, content) in attributes.iter().chain(changes) {
            fs::write(folder.join(name), content).unwrap();
        }
    }

    fn control(&self, name: &str) -> String {
        fs::read_to_string(self.sysfs.bus.join(name)).unwrap()
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

fn identity() -> Identity<'static> {
    Identity { fsid: FSID, pool_id: 2, namespace: None, image_id: "1036e2b5a5d1" }
}

fn request<'a>(monitors: &'a [String], options: &'a [String]) -> Request<'a> {
    Request {
        monitors,
        user: "docker",
        key: None,
        options,
        pool: "rbd",
        namespace: None,
        image: "foo",
        snapshot: None,
    }
}

fn key() -> Key {
    Key::from_base64(b"AQBmzkBnAAAAABAAAAECAwQFBgcICQoLDA0ODw==").unwrap()
}

#[test]
fn the_devices_of_a_host() {
    let tree = Tree::new();
    assert_eq!(tree.sysfs.list().unwrap(), []);
    tree.device(3, &[]);
    tree.device(10, &[("pool_ns", "ns\n"), ("current_snap", "s 1\n"), ("image_id", "b\n"), ("size", "0\n")]);
    fs::write(tree.sysfs.bus.join("devices/uevent"), "").unwrap();
    let [head, snapshot] = &tree.sysfs.list().unwrap()[..] else { panic!("two devices") };
    assert_eq!(
        *head,
        Mapping {
            id: 3,
            path: tree.dir.path().join("dev/rbd3"),
            number: (252, 48),
            fsid: FSID.to_owned(),
            pool: "rbd".to_owned(),
            pool_id: 2,
            namespace: None,
            image: "foo".to_owned(),
            image_id: "1036e2b5a5d1".to_owned(),
            snapshot: None,
            client_addr: "192.0.2.7:0/3589491565".to_owned(),
            size: 10 << 20,
            mark: None,
        }
    );
    assert!(head.is(identity()));
    assert_eq!((snapshot.namespace.as_deref(), snapshot.snapshot.as_deref()), (Some("ns"), Some("s 1")));
    assert!(!snapshot.is(snapshot.identity()), "a snapshot is not the image itself");
}

#[test]
fn a_device_that_goes_away_is_left_out_and_a_broken_one_is_an_error() {
    let tree = Tree::new();
    tree.device(3, &[]);
    tree.device(4, &[]);
    fs::remove_file(tree.sysfs.device(3).join("image_id")).unwrap();
    assert_eq!(tree.sysfs.list().unwrap().len(), 1);
    fs::write(tree.sysfs.device(4).join("size"), "much\n").unwrap();
    let e = tree.sysfs.list().unwrap_err();
    assert_eq!((e.call, e.errno), ("read", Errno::EINVAL));
    assert!(e.object.ends_with("devices/4/size"), "{e}");
}

#[test]
fn kernels_without_minor_and_namespaces() {
    let tree = Tree::new();
    tree.device(3, &[]);
    for name in ["minor", "pool_ns"] {
        fs::remove_file(tree.sysfs.device(3).join(name)).unwrap();
    }
    let found = tree.sysfs.mapping(3).unwrap().unwrap();
    assert_eq!((found.number, found.namespace), ((252, 0), None));
}

#[test]
fn a_host_without_the_module() {
    let tree = Tree::new();
    fs::remove_dir_all(&tree.sysfs.bus).unwrap();
    assert_eq!(tree.sysfs.list().unwrap(), []);
    assert_eq!(tree.sysfs.supported_features().unwrap(), None);
    let e = tree.sysfs.control(sysfs::ADD).unwrap_err();
    assert_eq!(e.errno, Errno::ENOENT);
    assert!(e.object.ends_with("bus/add_single_major"), "{e}");
    unmap(&tree.sysfs, 3, false, soon()).unwrap();
}

#[test]
fn features() {
    let tree = Tree::new();
    let path = tree.sysfs.bus.join("supported_features");
    fs::write(&path, "0x1bf\n").unwrap();
    assert_eq!(tree.sysfs.supported_features().unwrap(), Some(0x1bf));
    fs::write(&path, "many\n").unwrap();
    assert_eq!(tree.sysfs.supported_features().unwrap_err().errno, Errno::EINVAL);
    fs::remove_file(&path).unwrap();
    assert_eq!(tree.sysfs.supported_features().unwrap_err().errno, Errno::ENOENT);
}

#[test]
fn the_line_for_the_kernel() {
    let monitors = ["192.0.2.1:3300".to_owned(), "[2001:db8::1]:3300".to_owned()];
    let options = ["noshare".to_owned(), "lock_timeout=30".to_owned()];
    let key = key();
    let plain = request(&monitors, &[]);
    let full = Request {
        key: Some(&key),
        namespace: Some("ns"),
        snapshot: Some("s1"),
        ..request(&monitors, &options)
    };
    assert_eq!(line(&plain, "x:1").unwrap(), "192.0.2.1:3300,[2001:db8::1]:3300 name=docker rbd foo - x:1");
    assert_eq!(
        line(&full, "x:1").unwrap(),
        "192.0.2.1:3300,[2001:db8::1]:3300 \
         name=docker,key=client.docker,noshare,lock_timeout=30,_pool_ns=ns rbd foo s1 x:1"
    );
    assert_eq!(plain.to_string(), "rbd/foo");
    assert_eq!(full.to_string(), "rbd/ns/foo@s1");
    assert!(!format!("{full:?}").contains("AQBm"));
}

#[test]
fn names_that_the_kernel_would_read_as_something_else() {
    let monitors = ["192.0.2.1:3300".to_owned()];
    let refused = |request: Request<'_>| assert_eq!(line(&request, "x:1"), Err(Errno::EINVAL), "{request:?}");
    let good = request(&monitors, &[]);
    for odd in ["", "a b", "a\tb", "a\n", "\u{b}", "a\0"] {
        let list = [odd.to_owned()];
        refused(Request { pool: odd, ..good });
        refused(Request { image: odd, ..good });
        refused(Request { snapshot: Some(odd), ..good });
        refused(Request { namespace: Some(odd), ..good });
        refused(Request { user: odd, ..good });
        refused(Request { options: &list, ..good });
        refused(Request { monitors: &list, ..good });
    }
    refused(Request { user: "a,secret=x", ..good });
    refused(Request { namespace: Some("a,ro"), ..good });
    refused(Request { options: &["ro,noshare".to_owned()], ..good });
    refused(Request { snapshot: Some("-"), ..good });
    refused(Request { monitors: &[], ..good });
    line(&Request { image: "a,b", ..good }, "x:1").unwrap();
    let long = "i".repeat(4000);
    assert_eq!(line(&Request { image: &long, ..good }, "x:1"), Err(Errno::E2BIG));
}

#[test]
fn the_new_device_bears_the_mark() {
    let tree = Tree::new();
    let config = |mark: &str| format!("192.0.2.1:3300 name=docker rbd foo - {mark}\n");
    tree.device(1, &[("config_info", &config("x:1"))]);
    let before = tree.sysfs.ids().unwrap();
    assert_eq!(find(&tree.sysfs, &before, "x:1").unwrap(), None, "it was there before");
    tree.device(2, &[("config_info", "192.0.2.1:3300 name=admin rbd foo -\n")]);
    tree.device(3, &[("config_info", &config("x:2"))]);
    tree.device(4, &[("config_info", &config("x:1"))]);
    assert_eq!(find(&tree.sysfs, &before, "x:1").unwrap(), Some(4));
    assert_eq!(find(&tree.sysfs, &before, "x:3").unwrap(), None);
}

#[test]
fn what_was_mapped_has_to_be_what_was_meant() {
    let tree = Tree::new();
    tree.device(3, &[]);
    let found = tree.sysfs.mapping(3).unwrap().unwrap();
    let head = request(&[], &[]);
    let difference = |request, identity| Wanted::new(request, identity).difference(&found);
    assert_eq!(difference(head, identity()), None);
    for (wrong, says) in [
        (Identity { fsid: "other", ..identity() }, format!("cluster {FSID}, not other")),
        (Identity { pool_id: 3, ..identity() }, "pool id 2, not 3".to_owned()),
        (Identity { namespace: Some("ns"), ..identity() }, "namespace -, not ns".to_owned()),
        (Identity { image_id: "1036", ..identity() }, "image id 1036e2b5a5d1, not 1036".to_owned()),
    ] {
        assert_eq!(difference(head, wrong), Some(says));
    }
    let snapshot = Request { snapshot: Some("s1"), ..head };
    assert_eq!(difference(snapshot, identity()), Some("snapshot -, not s1".to_owned()));
}

#[test]
fn one_write_is_all_of_it() {
    let tree = Tree::new();
    tree.device(3, &[]);
    unmap(&tree.sysfs, 3, false, soon()).unwrap();
    assert_eq!(tree.control("remove_single_major"), "3");
    unmap(&tree.sysfs, 3, true, soon()).unwrap();
    assert_eq!(tree.control("remove_single_major"), "3 force");
    unmap(&tree.sysfs, 4, false, soon()).unwrap();
    assert_eq!(tree.control("remove_single_major"), "3 force", "nothing to write for what is not there");

    fs::rename(tree.sysfs.bus.join("remove_single_major"), tree.sysfs.bus.join("remove")).unwrap();
    unmap(&tree.sysfs, 3, false, soon()).unwrap();
    assert!(tree.control("remove").starts_with('3'));
    fs::remove_file(tree.sysfs.bus.join("remove")).unwrap();
    std::os::unix::fs::symlink("/dev/full", tree.sysfs.bus.join("remove_single_major")).unwrap();
    let e = unmap(&tree.sysfs, 3, false, soon()).unwrap_err();
    assert_eq!((e.call, e.errno), ("rbd_remove", Errno::ENOSPC));
    assert!(e.object.ends_with("dev/rbd3"), "{e}");
}

/// Answers to writes, and the device's inode after each of them.
fn removal(answers: &[(Result<(), Errno>, Option<u64>)], budget: Duration) -> (Result<(), Errno>, usize) {
    let writes = Cell::new(0);
    let inode = RefCell::new(Some(7));
    let write = || {
        let at = writes.replace(writes.get() + 1).min(answers.len() - 1);
        let (answer, after) = answers[at];
        *inode.borrow_mut() = after;
        answer.map_err(|errno| CallError::new("rbd_remove", "x", errno))
    };
    let result = repeat(|| Ok(*inode.borrow()), write, Deadline::after(budget));
    (result.map_err(|e| e.errno), writes.get())
}

#[test]
fn a_busy_device_is_tried_again() {
    let (long, short) = (Duration::from_secs(5), Duration::from_millis(30));
    let busy = (Err(Errno::EBUSY), Some(7));
    assert_eq!(removal(&[busy, busy, (Ok(()), None)], long), (Ok(()), 3));
    let (result, writes) = removal(&[busy], short);
    assert_eq!(result, Err(Errno::EBUSY));
    assert!(writes > 3, "{writes}");
    assert_eq!(removal(&[(Err(Errno::EPERM), Some(7))], long), (Err(Errno::EPERM), 1));
}

#[test]
fn a_device_is_gone_when_its_folder_is() {
    let (long, short) = (Duration::from_secs(5), Duration::from_millis(30));
    assert_eq!(removal(&[(Err(Errno::ENOENT), None)], long), (Ok(()), 1), "somebody was faster");
    let half = (Err(Errno::ENOENT), Some(7));
    assert_eq!(removal(&[half, half, (Ok(()), None)], long), (Ok(()), 3), "it is just being added");
    assert_eq!(removal(&[half], short).0, Err(Errno::ETIMEDOUT));
    let going = (Err(Errno::EINPROGRESS), Some(7));
    assert_eq!(removal(&[going, going, (Err(Errno::ENOENT), None)], long), (Ok(()), 3));
    assert_eq!(removal(&[going], short).0, Err(Errno::ETIMEDOUT));
    assert_eq!(
        removal(&[(Err(Errno::EBUSY), Some(8)), (Ok(()), None)], long),
        (Ok(()), 1),
        "the number belongs to somebody else by now"
    );
}

#[test]
fn a_call_that_hangs_is_left_behind_and_what_it_brings_is_taken_back() {
    let taken_back = Arc::new(AtomicBool::new(false));
    let late = {
        let taken_back = Arc::clone(&taken_back);
        move |()| taken_back.store(true, Ordering::SeqCst)
    };
    let slow = || {
        thread::sleep(Duration::from_millis(200));
        Ok(())
    };
    let begin = Instant::now();
    let e = by_deadline("rbd_add", "rbd/foo", Deadline::after(Duration::from_millis(20)), slow, late)
        .unwrap_err();
    assert_eq!((e.call, e.object.as_str(), e.errno), ("rbd_add", "rbd/foo", Errno::ETIMEDOUT));
    assert!(begin.elapsed() < Duration::from_millis(150));
    while !taken_back.load(Ordering::SeqCst) {
        assert!(begin.elapsed() < Duration::from_secs(5), "nobody took it back");
        thread::sleep(Duration::from_millis(5));
    }
    let never = |()| panic!("it was in time");
    by_deadline("rbd_add", "rbd/foo", soon(), || Ok(()), never).unwrap();
    let past = Deadline::after(Duration::ZERO);
    let e = by_deadline("rbd_add", "rbd/foo", past, || -> Result<(), _> { panic!("too late") }, never);
    assert_eq!(e.unwrap_err().errno, Errno::ETIMEDOUT);
}

#[test]
fn one_mapping_of_an_image_at_a_time() {
    let take = |budget| Turn::take("cluster/rbd/foo".to_owned(), Deadline::after(budget));
    let first = take(Duration::ZERO).unwrap();
    assert!(take(Duration::from_millis(20)).is_none());
    assert!(Turn::take("cluster/rbd/bar".to_owned(), soon()).is_some());
    let second = thread::spawn(move || take(Duration::from_secs(5)).is_some());
    thread::sleep(Duration::from_millis(20));
    drop(first);
    assert!(second.join().unwrap());
    assert!(take(Duration::ZERO).is_some());
}

#[test]
fn a_failure_says_what_the_kernel_said() {
    let error = CallError::new("rbd_add", "rbd/foo", Errno::ENOENT);
    let silent = Failure { error: error.clone(), kernel: Vec::new() };
    assert_eq!(silent.to_string(), "rbd_add(rbd/foo): No such file or directory (ENOENT)");
    let kernel = vec!["rbd: image rbd/foo does not exist".to_owned()];
    assert_eq!(
        Failure { error, kernel }.to_string(),
        "rbd_add(rbd/foo): No such file or directory (ENOENT); the kernel said: rbd: image rbd/foo does not exist"
    );
}

#[test]
fn devices_on_top_are_named() {
    let tree = Tree::new();
    // A number that nothing on this machine has.
    tree.device(3, &[("major", "4095\n")]);
    let mapping = tree.sysfs.mapping(3).unwrap().unwrap();
    assert_eq!(busy::above(&tree.sysfs, &mapping), Vec::<String>::new());
    fs::create_dir_all(tree.sysfs.block.join("rbd3/holders/dm-0")).unwrap();
    assert_eq!(busy::holders(&tree.sysfs, &mapping), ["the device dm-0 on top of it"]);
}

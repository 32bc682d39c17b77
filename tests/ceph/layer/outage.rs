//! When nobody answers: every call ends, and says that it knows nothing.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::errno::Errno;
use rbd_docker_plugin::ceph::{ClassCall, CreateOptions, Image, Result, Swap, features};
use serde_json::json;

use crate::rig::{Lab, Ready, fresh, trial, trial_if};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    vec![
        trial_if("with_the_osd_frozen_every_call_ends", ready, Lab::is_ours, frozen_osd),
        trial_if("with_the_monitor_frozen_every_call_ends", ready, Lab::is_ours, frozen_monitor),
        trial("an_open_image_of_a_blocklisted_client_can_be_closed", ready, blocklisted),
    ]
}

const TIMEOUT: Duration = Duration::from_secs(1);

/// How long it took, and how it failed.
fn ends<T>(what: &str, requests: u32, call: impl FnOnce() -> Result<T>) -> Option<Errno> {
    let begin = Instant::now();
    let errno = call().err().map(|e| e.errno);
    let took = begin.elapsed();
    assert!(took < TIMEOUT * requests + Duration::from_secs(1), "{what}: {errno:?} after {took:?}");
    errno
}

fn frozen_osd(lab: &Lab) {
    let io = lab.connect(TIMEOUT).ioctx(&lab.pool, None).unwrap();
    let (object, name, dirty) = (fresh("frozen"), fresh("frozen"), fresh("frozen"));
    io.create_object(&object).unwrap();
    let plain = CreateOptions { features: Some(features::LAYERING), ..CreateOptions::default() };
    io.create_image(&name, 64 << 20, &plain).unwrap();
    io.create_image(&dirty, 64 << 20, &CreateOptions::default()).unwrap();
    let image = Image::open(&io, &name).unwrap();
    // One that holds the exclusive lock, because it was written.
    let dirty = Image::open(&io, &dirty).unwrap();
    dirty.discard_all().unwrap();
    let reader = Image::open_read_only(&io, &name).unwrap();
    let none = Some(Errno::ETIMEDOUT);
    let frozen = lab.freeze("osd.");
    assert_eq!(ends("read", 1, || io.read(&object, 1)), none);
    assert_eq!(ends("create_object", 1, || io.create_object(&object)), none);
    assert_eq!(ends("remove_object", 1, || io.remove_object(&object)), none);
    assert_eq!(ends("omap", 1, || io.omap(&object)), none);
    let swap = Swap { key: "k", expected: None, new: Some(b"v") };
    assert_eq!(ends("omap_swap", 1, || io.omap_swap(&object, &[swap])), none);
    let call = ClassCall { class: "rbd", method: "get_size", input: b"" };
    assert_eq!(ends("exec_many", 1, || io.exec_many(&object, &[call, call])), none);
    let mut errors = Vec::new();
    let objects = (0..100).map(|_| object.clone());
    let each = |answer: rbd_docker_plugin::ceph::Result<_>| errors.push(answer.unwrap_err());
    let on_each = || {
        io.exec_on_each(objects, &[call], 8, each);
        Ok(())
    };
    assert_eq!(ends("exec_on_each", 1, on_each), None);
    assert_eq!((errors.len(), errors.iter().all(|e| Some(e.errno) == none)), (100, true));
    assert_eq!(ends("exec", 1, || io.exec(&object, "rbd", "get_size", b"")), none);
    assert_eq!(ends("lockers", 1, || io.lockers(&object, "l")), none);
    assert_eq!(ends("lock_shared", 1, || io.lock_shared(&object, "l", "", "", "", TIMEOUT)), none);
    assert_eq!(ends("images", 1, || io.images()), none);
    assert_eq!(ends("create_image", 3, || io.create_image(&fresh("frozen"), 4 << 20, &plain)), none);
    assert_eq!(ends("open", 2, || Image::open(&io, &name)), none);
    assert_eq!(ends("open_read_only", 2, || Image::open_read_only(&io, &name)), none);
    assert_eq!(ends("rename", 2, || io.rename_image(&name, "other")), none);
    assert_eq!(ends("remove", 3, || io.remove_image(&name, &mut |_| ())), none);
    assert_eq!(ends("watchers", 1, || image.watchers()), none);
    assert_eq!(ends("lockers of an image", 1, || image.lockers()), none);
    assert_eq!(ends("lock", 1, || image.lock("c")), none);
    assert_eq!(ends("is_untouched", 3, || reader.is_untouched(TIMEOUT)), none);
    assert_eq!(ends("discard_all", 1, || image.discard_all()), none);
    ends("close", 4, || image.close());
    ends("close of a reader", 1, || reader.close());
    ends("close of one with the exclusive lock", 6, || dirty.close());
    let begin = Instant::now();
    drop(io);
    assert!(begin.elapsed() < TIMEOUT, "{:?}", begin.elapsed());
    drop(frozen);
    let io = lab.connect(Duration::from_secs(30)).ioctx(&lab.pool, None).unwrap();
    io.create_object(&object).unwrap();
    Image::open(&io, &name).unwrap().close().unwrap();
}

fn frozen_monitor(lab: &Lab) {
    let cluster = lab.connect(TIMEOUT);
    let io = cluster.ioctx(&lab.pool, None).unwrap();
    let none = Some(Errno::ETIMEDOUT);
    let frozen = lab.freeze("mon.");
    assert_eq!(ends("mon_command", 1, || cluster.mon_command(&json!({ "prefix": "mon dump" }))), none);
    assert_eq!(ends("usage", 1, || cluster.usage()), none);
    assert_eq!(ends("a pool", 1, || cluster.ioctx(&lab.pool, None)), None, "it is in the map that we have");
    assert_eq!(ends("an object", 1, || io.create_object("here")), None, "the OSDs are there");
    assert_eq!(ends("blocklist", 2, || cluster.blocklist("10.255.255.1:0/1", TIMEOUT)), none);
    assert_eq!(ends("wait_for_latest_osdmap", 2, || cluster.wait_for_latest_osdmap()), none);
    assert_eq!(ends("no pool", 2, || cluster.ioctx("no-such-pool", None)), none);
    drop(frozen);
    lab.connect(Duration::from_secs(30)).wait_for_latest_osdmap().unwrap();
}

fn blocklisted(lab: &Lab) {
    let (io, name) = (lab.connect(TIMEOUT).ioctx(&lab.pool, None).unwrap(), fresh("fenced"));
    io.create_image(&name, 4 << 20, &CreateOptions::default()).unwrap();
    let image = Image::open(&io, &name).unwrap();
    image.discard_all().unwrap();
    let address = io.cluster().addresses().unwrap();
    lab.io.cluster().blocklist(&address, Duration::from_secs(60)).unwrap();
    let gone = Some(Errno::ESHUTDOWN);
    assert_eq!(ends("images", 1, || io.images()), gone);
    assert_eq!(ends("open", 1, || Image::open(&io, &name)), gone);
    assert_eq!(ends("omap", 1, || io.omap("x")), gone);
    assert_eq!(ends("lock", 1, || image.lock("c")), gone);
    assert_eq!(ends("discard_all", 1, || image.discard_all()), gone);
    ends("close", 4, || image.close());
    drop(io);
    // The image belongs to nobody any more.
    assert_eq!(Image::open_read_only(&lab.io, &name).unwrap().watchers(), Ok(Vec::new()));
    lab.io.remove_image(&name, &mut |_| ()).unwrap();
    lab.run(&["ceph", "osd", "blocklist", "rm", &address]);
}

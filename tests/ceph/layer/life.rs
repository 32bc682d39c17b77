//! A small life of everything that the layer allocates, in one test: `make test-leaks` runs it under valgrind.

use std::time::Duration;

use libtest_mimic::Trial;
use nix::errno::Errno;
use rbd_docker_plugin::ceph::{ClassCall, CreateOptions, Image, Swap};
use serde_json::json;

use crate::rig::{Lab, Ready, TIMEOUT, connect, fresh, trial};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    vec![trial("a_small_life", ready, life)]
}

/// Slow enough for valgrind.
const PATIENT: Duration = Duration::from_secs(60);

fn life(lab: &Lab) {
    for _ in 0..3 {
        cluster(lab);
        objects(lab);
        images(lab);
    }
}

fn cluster(lab: &Lab) {
    assert!(connect(&lab.conf.with_file_name("none"), PATIENT).is_err());
    let cluster = lab.connect(PATIENT);
    cluster.addresses().unwrap();
    cluster.pools().unwrap();
    cluster.mon_command(&json!({ "prefix": "mon dump", "format": "json" })).unwrap();
    assert!(cluster.mon_command(&json!({ "prefix": "nonsense" })).is_err());
    assert!(cluster.ioctx("no-such-pool", None).is_err());
}

fn objects(lab: &Lab) {
    let (io, object) = (lab.connect(PATIENT).ioctx(&lab.pool, None).unwrap(), fresh("life"));
    assert!(io.omap(&object).is_err());
    let change = |key, expected, new| Swap { key, expected, new };
    assert_eq!(io.omap_swap(&object, &[change("k", None, Some(b"1"))]), Ok(true));
    assert_eq!(io.omap_swap(&object, &[change("k", None, Some(b"2"))]), Ok(false));
    assert_eq!(io.omap(&object).unwrap().len(), 1);
    assert_eq!(io.omap_get(&object, &["k", "l"]).unwrap().len(), 1);
    io.lock_shared(&object, "lock", "c", "t", "d", PATIENT).unwrap();
    assert_eq!(io.lockers(&object, "lock").unwrap().len(), 1);
    io.unlock(&object, "lock", "c").unwrap();
    io.remove_object(&object).unwrap();
}

fn images(lab: &Lab) {
    let (io, name) = (lab.connect(PATIENT).ioctx(&lab.pool, None).unwrap(), fresh("life"));
    let options = CreateOptions { features: Some(1), order: Some(20), ..CreateOptions::default() };
    io.create_image(&name, 4 << 20, &options).unwrap();
    assert_eq!(io.create_image(&name, 4 << 20, &options).unwrap_err().errno, Errno::EEXIST);
    assert!(!io.images().unwrap().is_empty());
    assert!(Image::open(&io, "none").is_err());
    let image = Image::open(&io, &name).unwrap();
    let header = format!("rbd_header.{}", image.id().unwrap());
    let call = |method, input| ClassCall { class: "rbd", method, input };
    let calls = [call("get_size", &[0xfe, 255, 255, 255, 255, 255, 255, 255][..]), call("get_size", b"")];
    let answers = io.exec_many(&header, &calls).unwrap();
    assert!(answers[0].is_ok() && answers[1].is_err());
    assert!(io.exec_many("none", &calls).is_err());
    image.lock("cookie").unwrap();
    assert_eq!((image.watchers().unwrap().len(), image.lockers().unwrap().lockers.len()), (1, 1));
    lab.run(&["rbd", "snap", "create", "--no-progress", &format!("{}@s", lab.spec(&name))]);
    assert_eq!(Image::open(&io, &name).unwrap().snapshots().unwrap()[0].name, "s");
    lab.run(&["rbd", "snap", "rm", "--no-progress", &format!("{}@s", lab.spec(&name))]);
    image.unlock("cookie").unwrap();
    image.discard_all().unwrap();
    assert_eq!(image.is_untouched(TIMEOUT), Ok(true));
    image.close().unwrap();
    let renamed = fresh("life");
    io.rename_image(&name, &renamed).unwrap();
    io.remove_image(&renamed, &mut |_| ()).unwrap();
}

//! Images: made, listed, renamed, looked at, cleared, removed.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::errno::Errno;
use rbd_docker_plugin::ceph::{CreateOptions, Image, features};
use serde_json::{Value, json};

use crate::rig::{Lab, Ready, TIMEOUT, fresh, trial};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    vec![
        trial("an_image_is_made_with_each_option", ready, options),
        trial("an_image_is_made_once_and_only_as_it_can_be", ready, create_twice),
        trial("images_are_listed_however_many", ready, list),
        trial("an_image_is_renamed_and_keeps_its_id", ready, rename),
        trial("an_image_is_not_removed_under_a_watcher", ready, remove),
        trial("a_panic_in_the_progress_comes_back", ready, panic_in_progress),
        trial("watchers_are_those_who_have_it_open_for_changes", ready, watchers),
        trial("snapshots_are_listed_and_keep_the_image", ready, snapshots),
        trial("a_fresh_image_is_untouched_until_it_is_written", ready, untouched),
        trial("a_clone_is_touched_if_its_parent_is", ready, untouched_clone),
        trial("discard_clears_every_byte", ready, discard),
        trial("an_open_image_keeps_its_client", ready, keeps_client),
    ]
}

fn plain() -> CreateOptions {
    CreateOptions { features: Some(features::LAYERING), ..CreateOptions::default() }
}

fn info(lab: &Lab, image: &str) -> Value {
    serde_json::from_str(&lab.run(&["rbd", "info", "--format", "json", &lab.spec(image)])).unwrap()
}

/// Writes so much of the image, with random bytes.
fn write(lab: &Lab, image: &str, bytes: &str) {
    let spec = lab.spec(image);
    lab.run(&["rbd", "bench", "--io-type", "write", "--io-size", "4K", "--io-total", bytes, &spec]);
}

fn options(lab: &Lab) {
    let all = CreateOptions {
        features: Some(features::LAYERING | features::EXCLUSIVE_LOCK),
        order: Some(20),
        stripe_unit: Some(64 << 10),
        stripe_count: Some(4),
        data_pool: Some(format!("{}-data", lab.pool)),
    };
    let pool = all.data_pool.clone().unwrap();
    let cluster = lab.io.cluster();
    cluster.mon_command(&json!({ "prefix": "osd pool create", "pool": pool, "pg_num": 1 })).unwrap();
    let name = fresh("options");
    lab.io.create_image(&name, 8 << 20, &all).unwrap();
    let found = info(lab, &name);
    let image = Image::open_read_only(&lab.io, &name).unwrap();
    let names = features::names(image.features().unwrap());
    assert_eq!(names, ["layering", "striping", "exclusive-lock", "data-pool"]);
    assert_eq!(found["features"], json!(names));
    assert_eq!((&found["order"], &found["size"]), (&json!(20), &json!(8 << 20)));
    assert_eq!((&found["stripe_unit"], &found["stripe_count"]), (&json!(65536), &json!(4)));
    assert_eq!(found["data_pool"], json!(pool));
    assert_eq!(found["id"], json!(image.id().unwrap()));
    assert_eq!(image.size().unwrap(), 8 << 20);
    image.close().unwrap();
    lab.io.remove_image(&name, &mut |_| ()).unwrap();
    let delete = json!({
        "prefix": "osd pool delete", "pool": pool, "pool2": pool, "yes_i_really_really_mean_it": true
    });
    cluster.mon_command(&delete).unwrap();
    // What is not said is the cluster's default.
    let name = fresh("options");
    lab.io.create_image(&name, 4 << 20, &CreateOptions::default()).unwrap();
    let found = info(lab, &name);
    assert_eq!(found["order"], json!(22));
    assert!(found["features"].as_array().unwrap().contains(&json!("layering")));
}

fn create_twice(lab: &Lab) {
    let name = fresh("once");
    lab.io.create_image(&name, 4 << 20, &plain()).unwrap();
    let e = lab.io.create_image(&name, 4 << 20, &plain()).unwrap_err();
    assert_eq!((e.call, e.errno), ("rbd_create4", Errno::EEXIST));
    assert_eq!(e.object, lab.spec(&name));
    let wrong = [
        (CreateOptions { order: Some(99), ..plain() }, Errno::EDOM),
        (CreateOptions { features: Some(1 << 60), ..plain() }, Errno::ENOSYS),
        (CreateOptions { features: Some(features::OBJECT_MAP), ..plain() }, Errno::EINVAL),
        (CreateOptions { stripe_unit: Some(3), stripe_count: Some(2), ..plain() }, Errno::EINVAL),
        (CreateOptions { data_pool: Some("no-such-pool".to_owned()), ..plain() }, Errno::ENOENT),
    ];
    for (options, errno) in wrong {
        let e = lab.io.create_image(&fresh("wrong"), 4 << 20, &options).unwrap_err();
        assert_eq!(e.errno, errno, "{options:?}");
    }
    let e = Image::open(&lab.io, "none").unwrap_err();
    assert_eq!((e.call, e.errno), ("rbd_open", Errno::ENOENT));
    let e = Image::open_read_only(&lab.io, "none").unwrap_err();
    assert_eq!((e.call, e.errno), ("rbd_open_read_only", Errno::ENOENT));
}

fn list(lab: &Lab) {
    // Entries of a directory are enough, and made faster than images.
    const MANY: usize = 2500;
    let namespace = fresh("list");
    lab.run(&["rbd", "namespace", "create", &lab.spec(&namespace)]);
    let io = lab.io.cluster().ioctx(&lab.pool, Some(&namespace)).unwrap();
    assert_eq!(io.images(), Ok(Vec::new()));
    io.create_image("real", 1 << 20, &plain()).unwrap();
    let text = |text: &str| [&u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat();
    for n in 0..MANY {
        let input = [text(&format!("image {n}")), text(&format!("id{n}"))].concat();
        io.exec("rbd_directory", "rbd", "dir_add_image", &input).unwrap();
    }
    let begin = Instant::now();
    let found = io.images().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(found.len(), MANY + 1);
    let one = found.iter().find(|image| image.name == "image 1234").unwrap();
    assert_eq!(one.id, "id1234");
    let real = found.iter().find(|image| image.name == "real").unwrap();
    assert_eq!(real.id, Image::open_read_only(&io, "real").unwrap().id().unwrap());
    assert!(!lab.io.images().unwrap().iter().any(|image| image.name == "real"), "another namespace");
}

fn rename(lab: &Lab) {
    let (from, to, other) = (fresh("from"), fresh("to"), fresh("other"));
    lab.io.create_image(&from, 4 << 20, &plain()).unwrap();
    lab.io.create_image(&other, 4 << 20, &plain()).unwrap();
    let image = Image::open(&lab.io, &from).unwrap();
    let id = image.id().unwrap();
    let e = lab.io.rename_image(&from, &other).unwrap_err();
    assert_eq!((e.call, e.errno), ("rbd_rename", Errno::EEXIST));
    assert_eq!(e.object, format!("{} to {other}", lab.spec(&from)));
    lab.io.rename_image(&from, &to).unwrap();
    assert_eq!(image.size().unwrap(), 4 << 20);
    assert_eq!(Image::open(&lab.io, &to).unwrap().id().unwrap(), id);
    assert_eq!(Image::open(&lab.io, &from).unwrap_err().errno, Errno::ENOENT);
    assert_eq!(lab.io.rename_image(&from, &to).unwrap_err().errno, Errno::ENOENT);
}

fn remove(lab: &Lab) {
    let name = fresh("remove");
    lab.io.create_image(&name, 64 << 20, &plain()).unwrap();
    write(lab, &name, "1M");
    let image = Image::open(&lab.another(), &name).unwrap();
    let mut shares = Vec::new();
    let e = lab.io.remove_image(&name, &mut |share| shares.push(share)).unwrap_err();
    assert_eq!((e.call, e.errno), ("rbd_remove_with_progress", Errno::EBUSY));
    assert_eq!(image.is_untouched(TIMEOUT), Ok(false), "nothing was taken away");
    image.close().unwrap();
    shares.clear();
    lab.io.remove_image(&name, &mut |share| shares.push(share)).unwrap();
    assert!(!shares.is_empty() && shares.iter().all(|share| (0.0..=1.0).contains(share)), "{shares:?}");
    assert_eq!(lab.io.remove_image(&name, &mut |_| ()).unwrap_err().errno, Errno::ENOENT);
    assert!(!lab.io.images().unwrap().iter().any(|image| image.name == name));
}

fn panic_in_progress(lab: &Lab) {
    let name = fresh("panic");
    lab.io.create_image(&name, 64 << 20, &plain()).unwrap();
    write(lab, &name, "1M");
    let mut calls = 0;
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let result = catch_unwind(AssertUnwindSafe(|| {
        lab.io.remove_image(&name, &mut |_| {
            calls += 1;
            panic!("enough");
        })
    }));
    std::panic::set_hook(quiet);
    assert_eq!(result.unwrap_err().downcast_ref(), Some(&"enough"));
    assert_eq!(calls, 1);
}

fn watchers(lab: &Lab) {
    let name = fresh("watched");
    lab.io.create_image(&name, 4 << 20, &plain()).unwrap();
    let reader = Image::open_read_only(&lab.io, &name).unwrap();
    assert_eq!(reader.watchers(), Ok(Vec::new()));
    let other = lab.another();
    let (ours, theirs) = (Image::open(&lab.io, &name).unwrap(), Image::open(&other, &name).unwrap());
    let mut found: Vec<String> = reader.watchers().unwrap().into_iter().map(|w| w.address).collect();
    let mut expected = [lab.io.cluster().addresses().unwrap(), other.cluster().addresses().unwrap()];
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let id = i64::try_from(other.cluster().instance_id()).unwrap();
    assert!(ours.watchers().unwrap().iter().any(|w| w.id == id));
    drop(theirs);
    assert_eq!(reader.watchers().unwrap().len(), 1);
    let many: Vec<Image> = (0..19).map(|_| Image::open(&lab.io, &name).unwrap()).collect();
    assert_eq!(reader.watchers().unwrap().len(), 20);
    drop(many);
    ours.close().unwrap();
    assert_eq!(reader.watchers(), Ok(Vec::new()));
}

fn snapshots(lab: &Lab) {
    let name = fresh("snapshots");
    lab.io.create_image(&name, 4 << 20, &plain()).unwrap();
    let names: Vec<String> = (0..18).map(|n| format!("snap {n:02}")).collect();
    assert_eq!(Image::open(&lab.io, &name).unwrap().snapshots(), Ok(Vec::new()));
    for snapshot in &names {
        lab.run(&["rbd", "snap", "create", "--no-progress", "--snap", snapshot, &lab.spec(&name)]);
    }
    let image = Image::open(&lab.io, &name).unwrap();
    let mut found: Vec<String> =
        image.snapshots().unwrap().into_iter().map(|snapshot| snapshot.name).collect();
    found.sort();
    assert_eq!(found, names);
    image.close().unwrap();
    let e = lab.io.remove_image(&name, &mut |_| ()).unwrap_err();
    assert_eq!(e.errno, Errno::ENOTEMPTY);
}

fn untouched(lab: &Lab) {
    for bits in [features::LAYERING, 61] {
        let name = fresh("untouched");
        let options = CreateOptions { features: Some(bits), ..CreateOptions::default() };
        lab.io.create_image(&name, 256 << 20, &options).unwrap();
        let look = || Image::open_read_only(&lab.io, &name).unwrap().is_untouched(TIMEOUT).unwrap();
        assert!(look());
        lab.run(&["rbd", "resize", "--no-progress", "--size", "512", &lab.spec(&name)]);
        assert!(look(), "growing writes nothing");
        write(lab, &name, "4K");
        assert!(!look());
        let image = Image::open(&lab.io, &name).unwrap();
        assert_eq!(image.is_untouched(TIMEOUT), Ok(false));
        image.discard_all().unwrap();
        assert_eq!(image.is_untouched(TIMEOUT), Ok(true), "features {bits}");
    }
    let name = fresh("empty");
    lab.io.create_image(&name, 0, &plain()).unwrap();
    let image = Image::open(&lab.io, &name).unwrap();
    assert_eq!(image.is_untouched(TIMEOUT), Ok(true));
    image.discard_all().unwrap();
    // One block at the end of a large one.
    let name = fresh("large");
    lab.io.create_image(&name, 40 << 30, &plain()).unwrap();
    let image = Image::open_read_only(&lab.io, &name).unwrap();
    assert_eq!(image.is_untouched(TIMEOUT), Ok(true));
    let last: u64 = (40 << 30) / (4 << 20) - 1;
    let last = format!("rbd_data.{}.{last:016x}", image.id().unwrap());
    lab.run(&["rados", "-p", &lab.pool, "put", &last, "/etc/hostname"]);
    assert_eq!(image.is_untouched(TIMEOUT), Ok(false));
}

fn untouched_clone(lab: &Lab) {
    let (parent, clone) = (fresh("parent"), fresh("clone"));
    lab.io.create_image(&parent, 16 << 20, &plain()).unwrap();
    write(lab, &parent, "4K");
    let snapshot = format!("{}@s", lab.spec(&parent));
    lab.run(&["rbd", "snap", "create", "--no-progress", &snapshot]);
    lab.run(&["rbd", "clone", "--rbd-default-clone-format", "2", &snapshot, &lab.spec(&clone)]);
    assert_eq!(Image::open_read_only(&lab.io, &clone).unwrap().is_untouched(TIMEOUT), Ok(false));
}

fn discard(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let (full, after) = (dir.path().join("full"), dir.path().join("after"));
    // Neither whole objects nor whole 64 KiB, with which librbd's own discard is content.
    for bytes in [(9 << 20) + 1536, 8 << 20, 512] {
        let name = fresh("discard");
        fs::write(&full, vec![0xa5_u8; bytes]).unwrap();
        lab.run(&["rbd", "import", "--no-progress", full.to_str().unwrap(), &lab.spec(&name)]);
        let image = Image::open(&lab.io, &name).unwrap();
        assert_eq!(image.size().unwrap(), u64::try_from(bytes).unwrap());
        assert_eq!(image.is_untouched(TIMEOUT), Ok(false));
        image.discard_all().unwrap();
        image.close().unwrap();
        let _ = fs::remove_file(&after);
        lab.run(&["rbd", "export", "--no-progress", &lab.spec(&name), after.to_str().unwrap()]);
        assert!(fs::read(&after).unwrap().iter().all(|&byte| byte == 0), "{bytes} bytes");
        assert_eq!(fs::metadata(&after).unwrap().len(), u64::try_from(bytes).unwrap());
    }
    // More than one call may take.
    let name = fresh("discard");
    lab.io.create_image(&name, 5 << 30, &CreateOptions::default()).unwrap();
    let image = Image::open(&lab.io, &name).unwrap();
    image.discard_all().unwrap();
    assert_eq!(image.is_untouched(TIMEOUT), Ok(true));
    image.close().unwrap();
    assert_eq!(Image::open_read_only(&lab.io, &name).unwrap().discard_all().unwrap_err().errno, Errno::EROFS);
}

fn keeps_client(lab: &Lab) {
    let name = fresh("kept");
    lab.io.create_image(&name, 4 << 20, &plain()).unwrap();
    let image = Image::open(&lab.another(), &name).unwrap();
    // Client and pool are known to nobody else any more.
    assert_eq!(image.watchers().unwrap().len(), 1);
    std::thread::spawn(move || image.close()).join().unwrap().unwrap();
}

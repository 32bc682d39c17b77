//! Options on images that are there already, and what a new image gets of which nobody says anything.

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::ImageStore;
use rbd_docker_plugin::model::options::ImageOptions;
use rbd_docker_plugin::model::record::{Record, Stage};
use rbd_docker_plugin::model::size::Size;
use serde_json::{Value, json};

use crate::hosts::{host, record, spec};
use crate::kinds::{Plugin, with_filesystem};
use crate::rig::{Lab, Ready, fresh, trial};

const RECORD: &str = "rbd-docker-plugin.record";

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("options::{name}"), ready, test);
    vec![
        t("what_an_image_is_not_is_refused_by_name", what_an_image_is_not_is_refused_by_name),
        t("a_false_record_is_corrected", a_false_record_is_corrected),
        t("a_blank_image_takes_what_is_to_come", a_blank_image_takes_what_is_to_come),
        t("the_size_it_has_is_the_size_it_has", the_size_it_has_is_the_size_it_has),
        t("layouts_are_compared", layouts_are_compared),
        t("a_new_image_is_what_rbd_create_makes", a_new_image_is_what_rbd_create_makes),
        t("a_default_that_cannot_be_had_is_named", a_default_that_cannot_be_had_is_named),
        t("a_small_bare_number_is_remarked", a_small_bare_number_is_remarked),
    ]
}

fn metadata(lab: &Lab, name: &str) -> Option<Value> {
    let output = lab.command(&["rbd", "image-meta", "get", &lab.spec(name), RECORD]).output().unwrap();
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

fn id(lab: &Lab, name: &str) -> String {
    let info = lab.run(&["rbd", "info", "--format", "json", &lab.spec(name)]);
    serde_json::from_str::<Value>(&info).unwrap()["id"].as_str().unwrap().to_owned()
}

fn what_an_image_is_not_is_refused_by_name(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let name = fresh("pre");
    with_filesystem(lab, &name, "64M");
    let said = plugin.refused(
        &name,
        &json!({"fstype": "xfs", "uid": "999", "mode": "0700", "object-size": "8M", "features": "layering", "size": "1G"}),
    );
    for part in [
        "exists with other options",
        "fstype is ext4, not xfs",
        "uid=999 cannot be honoured",
        "mode=0700 cannot be honoured",
        "object-size is 4M, not 8M",
        "features is deep-flatten,exclusive-lock,fast-diff,layering,object-map, not layering",
        "size is 64M, not 1G",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(metadata(lab, &name), None, "nothing of it is recorded");
    let all = "layering,exclusive-lock,object-map,fast-diff,deep-flatten";
    plugin.create(&name, &json!({"fstype": "ext4", "size": "64M", "object-size": "4M", "features": all}));
    assert_eq!(metadata(lab, &name), None, "and there is nothing to record of what is so");
    plugin.create(&name, &json!({"mount-options": "noatime", "stripe-unit": "4M", "stripe-count": "1"}));
    let status = plugin.status(&name);
    assert_eq!(status["options"]["mount-options"], "noatime", "{status}");
    assert_eq!(
        (&status["fstype"], &status["options"]["fstype"]),
        (&json!("ext4"), &json!("ext4")),
        "{status}"
    );
    assert_eq!(status["options"].get("uid"), None, "{status}");
    let said = plugin.refused(&name, &json!({"gid": "7", "mount-options": "discard"}));
    assert!(
        said.contains("gid is not set, not 7") && said.contains("mount-options is noatime, not discard"),
        "{said}"
    );
    plugin.daemon.ok("Remove", &json!({"Name": name}));
}

fn a_false_record_is_corrected(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let name = fresh("false");
    with_filesystem(lab, &name, "64M");
    // As an earlier version has written it.
    let asked = json!({
        "state": "creating", "adopted": true, "created": 1, "image": id(lab, &name),
        "options": {"size": 33_554_432, "fstype": "xfs", "uid": 999, "mode": 448, "mount-options": "noatime", "features": "layering"},
    });
    lab.run(&["rbd", "image-meta", "set", &lab.spec(&name), RECORD, &asked.to_string()]);
    let status = plugin.status(&name);
    assert_eq!(status["size"], "64M");
    for key in ["fstype", "uid", "mode"] {
        assert_eq!((status.get(key), status["options"].get(key)), (None, None), "{key}: {status}");
    }
    plugin.create(&name, &json!({"fstype": "ext4"}));
    let now = metadata(lab, &name).unwrap();
    assert_eq!((&now["state"], &now["options"]["fstype"]), (&json!("ready"), &json!("ext4")), "{now}");
    assert_eq!((&now["options"]["size"], now["options"].get("uid")), (&json!(64 << 20), None), "{now}");
    assert_eq!(now["options"]["mount-options"], "noatime", "what holds stays: {now}");
    assert_ne!(now["options"]["features"], "layering", "{now}");
    assert!(plugin.refused(&name, &json!({"fstype": "xfs"})).contains("fstype is ext4, not xfs"));
    plugin.daemon.ok("Remove", &json!({"Name": name}));
}

fn a_blank_image_takes_what_is_to_come(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let name = fresh("blank");
    lab.run(&["rbd", "create", "--size", "64M", &lab.spec(&name)]);
    plugin.create(&name, &json!({"fstype": "ext4", "uid": "5", "size": "64M"}));
    plugin.create(&name, &json!({"fstype": "ext4", "uid": "5", "size": "64M"}));
    let status = plugin.status(&name);
    assert_eq!((status.get("fstype"), status["options"].get("uid")), (None, None), "not yet: {status}");
    assert_eq!(status["when-formatted"], json!({"fstype": "ext4", "uid": "5"}), "{status}");
    assert!(plugin.refused(&name, &json!({"uid": "6"})).contains("uid is 5, not 6"));
    let written = fresh("written");
    lab.run(&["rbd", "create", "--size", "64M", &lab.spec(&written)]);
    lab.run(&["rbd", "bench", "--io-type", "write", "--io-total", "1M", &lab.spec(&written)]);
    let said = plugin.refused(&written, &json!({"uid": "5"}));
    assert!(said.contains("uid=5 cannot be honoured: the image holds data"), "{said}");
    for name in [&name, &written] {
        plugin.daemon.ok("Remove", &json!({"Name": name}));
    }
}

fn the_size_it_has_is_the_size_it_has(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let backend = host(lab, &fresh("maker"));
    let name = fresh("grown");
    let image = spec(lab, &name);
    let options = ImageOptions { size: Some(Size::mib(64)), ..ImageOptions::default() };
    backend.claim(&image).unwrap();
    let ready = Record { options, ..record(Stage::Ready) };
    backend.create(&image, Size::mib(64), &ready).unwrap();
    backend.release(&image).unwrap();
    for (size, stale) in [("128M", "64M"), ("32M", "128M")] {
        lab.run(&["rbd", "resize", "--no-progress", "--allow-shrink", "--size", size, &lab.spec(&name)]);
        let said = plugin.refused(&name, &json!({"size": stale}));
        assert!(said.contains(&format!("size is {size}, not {stale}")), "{said}");
        plugin.create(&name, &json!({"size": size}));
        let status = plugin.status(&name);
        assert_eq!((&status["size"], &status["options"]["size"]), (&json!(size), &json!(size)), "{status}");
        let bytes = size.parse::<Size>().unwrap().as_bytes();
        assert_eq!(metadata(lab, &name).unwrap()["options"]["size"], bytes, "the record follows");
    }
    plugin.daemon.ok("Remove", &json!({"Name": name}));
}

fn layouts_are_compared(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let (name, pool) = (fresh("laid-out"), fresh("data"));
    lab.run(&["ceph", "osd", "pool", "create", &pool, "8"]);
    lab.run(&["ceph", "osd", "pool", "application", "enable", &pool, "rbd"]);
    lab.run(&[
        "rbd",
        "create",
        "--size",
        "8M",
        "--data-pool",
        &pool,
        "--object-size",
        "1M",
        "--stripe-unit",
        "64K",
        "--stripe-count",
        "4",
        &lab.spec(&name),
    ]);
    let is = json!({"data-pool": pool, "object-size": "1M", "stripe-unit": "64K", "stripe-count": "4"});
    plugin.create(&name, &is);
    let status = plugin.status(&name);
    assert_eq!(status["data-pool"], json!(pool), "{status}");
    let other = json!({"data-pool": lab.pool, "object-size": "4M", "stripe-unit": "4M", "stripe-count": "1"});
    let said = plugin.refused(&name, &other);
    for part in [
        format!("data-pool is {pool}, not {}", lab.pool),
        "object-size is 1M, not 4M".to_owned(),
        "stripe-unit is 64K, not 4M".to_owned(),
        "stripe-count is 4, not 1".to_owned(),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    plugin.daemon.ok("Remove", &json!({"Name": name}));
}

/// Features, order and striping, as `rbd info` has them.
fn layout(lab: &Lab, name: &str) -> Value {
    let info = lab.run(&["rbd", "info", "--format", "json", &lab.spec(name)]);
    let info: Value = serde_json::from_str(&info).unwrap();
    json!([info["features"], info["order"], info["stripe_unit"], info["stripe_count"], info["data_pool"]])
}

fn a_new_image_is_what_rbd_create_makes(lab: &Lab) {
    let backend = host(lab, &fresh("maker"));
    let data = fresh("default-data");
    lab.run(&["ceph", "osd", "pool", "create", &data, "8"]);
    lab.run(&["ceph", "osd", "pool", "application", "enable", &data, "rbd"]);
    let pool = ["rbd", "config", "pool"];
    for settings in [
        &[][..],
        &[("rbd_default_features", "layering")],
        &[("rbd_default_features", "layering,exclusive-lock,fast-diff")],
        &[("rbd_default_features", "5")],
        &[("rbd_default_order", "23")],
        &[("rbd_default_features", "")],
        &[("rbd_default_stripe_unit", "65536"), ("rbd_default_stripe_count", "4")],
        &[("rbd_default_data_pool", data.as_str())],
    ] {
        for (key, value) in settings {
            lab.run(&[&pool[..], &["set", &lab.pool, key, value]].concat());
        }
        let (theirs, ours) = (fresh("theirs"), fresh("ours"));
        lab.run(&["rbd", "create", "--size", "8M", &lab.spec(&theirs)]);
        let image = spec(lab, &ours);
        backend.claim(&image).unwrap();
        backend.create(&image, Size::mib(8), &record(Stage::Ready)).unwrap();
        assert_eq!(layout(lab, &ours), layout(lab, &theirs), "{settings:?}");
        backend.remove(&image).unwrap();
        backend.release(&image).unwrap();
        lab.run(&["rbd", "rm", "--no-progress", &lab.spec(&theirs)]);
        for (key, _) in settings {
            lab.run(&[&pool[..], &["remove", &lab.pool, key]].concat());
        }
    }
}

fn a_default_that_cannot_be_had_is_named(lab: &Lab) {
    let backend = host(lab, &fresh("maker"));
    for (key, value, part) in [
        ("rbd_default_data_pool", "no-such-pool", "no-such-pool"),
        ("rbd_default_features", "layering,object-map", "needs exclusive-lock"),
        ("rbd_default_stripe_unit", "12345", "rbd_default_stripe_unit=12345"),
    ] {
        lab.run(&["rbd", "config", "pool", "set", &lab.pool, key, value]);
        let image = spec(lab, &fresh("refused"));
        backend.claim(&image).unwrap();
        let e = backend.create(&image, Size::mib(8), &record(Stage::Ready)).unwrap_err().to_string();
        backend.release(&image).unwrap();
        lab.run(&["rbd", "config", "pool", "remove", &lab.pool, key]);
        assert!(e.contains(key) && e.contains(part), "{key}: {e}");
        assert!(backend.info(&image).unwrap().is_none(), "{key}");
    }
    let options = ImageOptions { data_pool: Some("no-such-pool".to_owned()), ..ImageOptions::default() };
    let image = spec(lab, &fresh("refused"));
    backend.claim(&image).unwrap();
    let given = Record { options, ..record(Stage::Ready) };
    let e = backend.create(&image, Size::mib(8), &given).unwrap_err().to_string();
    backend.release(&image).unwrap();
    assert!(e.contains("data-pool names the pool no-such-pool, which does not exist"), "{e}");
    lab.run(&["ceph", "config", "set", "client", "rbd_default_format", "1"]);
    let image = spec(lab, &fresh("refused"));
    let later = host(lab, &fresh("maker"));
    later.claim(&image).unwrap();
    let e = later.create(&image, Size::mib(8), &record(Stage::Ready)).unwrap_err().to_string();
    later.release(&image).unwrap();
    lab.run(&["ceph", "config", "rm", "client", "rbd_default_format"]);
    assert!(e.contains("the cluster sets rbd_default_format=1"), "{e}");
    lab.run(&["rbd", "config", "pool", "set", &lab.pool, "rbd_default_order", "23"]);
    for (unit, refused) in [(Size::mib(8), false), (Size::mib(16), true)] {
        let image = spec(lab, &fresh("striped"));
        let options =
            ImageOptions { stripe_unit: Some(unit), stripe_count: Some(2), ..ImageOptions::default() };
        backend.claim(&image).unwrap();
        match backend.create(&image, Size::mib(16), &Record { options, ..record(Stage::Ready) }) {
            Ok(()) => backend.remove(&image).unwrap(),
            Err(e) => assert!(refused && e.message.contains("the object size, 8M, is not a multiple"), "{e}"),
        }
        backend.release(&image).unwrap();
    }
    lab.run(&["rbd", "config", "pool", "remove", &lab.pool, "rbd_default_order"]);
    let huge = spec(lab, &fresh("refused"));
    backend.claim(&huge).unwrap();
    let e = backend.create(&huge, Size::mib(1 << 30), &record(Stage::Ready)).unwrap_err().to_string();
    backend.release(&huge).unwrap();
    assert!(e.contains("object map") && e.contains("features=layering,exclusive-lock"), "{e}");
}

fn a_small_bare_number_is_remarked(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let backend = host(lab, &fresh("maker"));
    let name = fresh("small");
    let image = spec(lab, &name);
    let options = ImageOptions { size: Some(Size::mib(16)), bare_size: true, ..ImageOptions::default() };
    backend.claim(&image).unwrap();
    backend.create(&image, Size::mib(16), &Record { options, ..record(Stage::Ready) }).unwrap();
    backend.release(&image).unwrap();
    let warning = plugin.status(&name)["warning"].as_str().unwrap().to_owned();
    assert!(warning.contains("16M") && warning.contains("MiB") && warning.contains("size=16G"), "{warning}");
    // Without a kernel it goes no further than this.
    let refused = plugin.refused(&fresh("small"), &json!({"size": "16"}));
    assert!(refused.contains("module rbd"), "{refused}");
    assert!(std::fs::read_to_string(plugin.daemon.log()).unwrap().contains("size=16G"));
    plugin.daemon.ok("Remove", &json!({"Name": name}));
}

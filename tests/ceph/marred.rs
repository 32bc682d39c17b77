//! Images that somebody has locked or damaged: nothing waits for them without end, and nothing of them is thrown away.

use std::time::Instant;

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::ImageStore;
use serde_json::json;

use crate::commands::run;
use crate::hosts::{host, spec};
use crate::kinds::{Plugin, has, make, object_of, with_filesystem};
use crate::rig::{Lab, Ready, fresh, trial};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("marred::{name}"), ready, test);
    vec![
        t("an_image_that_somebody_has_locked", an_image_that_somebody_has_locked),
        t("an_image_that_lost_its_name_keeps_its_data", an_image_that_lost_its_name_keeps_its_data),
        t("a_clone_whose_parent_is_gone", a_clone_whose_parent_is_gone),
    ]
}

fn an_image_that_somebody_has_locked(lab: &Lab) {
    let plugin = Plugin::new(lab, &["--owner-wait", "1"]);
    for features in ["layering,exclusive-lock", "layering"] {
        let name = make(lab, "locked", &["--size", "8M", "--image-feature", features]);
        lab.run(&["rbd", "lock", "add", &lab.spec(&name), "mine"]);
        let begin = Instant::now();
        for said in [plugin.remove_error(&name), plugin.mount_error(&name)] {
            has(
                &said,
                &["is locked by client.", "cookie \"mine\"", &format!("lock break {}", lab.spec(&name))],
            );
        }
        assert!(begin.elapsed().as_secs() < 20, "librbd would wait for the lock without end");
        assert!(plugin.one_story(&name), "a refusal leaves it whole");
        let broken = run(lab, &["lock", "break", &name]);
        assert_eq!(broken.code, Some(0), "{broken:?}");
        plugin.remove(&name);
        assert!(!plugin.one_story(&name));
    }
}

fn an_image_that_lost_its_name_keeps_its_data(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let name = fresh("nameless");
    with_filesystem(lab, &name, "8M");
    let id = object_of(lab, &name);
    let saved = tempfile::NamedTempFile::new().unwrap();
    let saved = saved.path().to_str().unwrap();
    let named = format!("rbd_id.{name}");
    let objects = || {
        let all = lab.run(&["rados", "-p", &lab.pool, "ls"]);
        all.lines().filter(|object| object.contains(&id)).count()
    };
    lab.run(&["rados", "-p", &lab.pool, "get", &named, saved]);
    let before = objects();
    assert!(before > 2, "{before}");
    lab.run(&["rados", "-p", &lab.pool, "rm", &named]);
    plugin.is_unusable(&name, &[&named, "is missing", "data may be whole", &id]);
    has(&plugin.remove_error(&name), &[&named, "is missing"]);
    // Nor by way of a Create that makes nothing, and is undone.
    let backend = host(lab, &fresh("undoing"));
    let removed = backend.remove(&spec(lab, &name)).unwrap_err();
    assert!(removed.message.contains("is missing"), "{removed}");
    assert_eq!(objects(), before, "all of it is there");
    lab.run(&["rados", "-p", &lab.pool, "put", &named, saved]);
    assert!(plugin.one_story(&name));
    has(&plugin.refused(&name, &json!({"fstype": "xfs"})), &["fstype is ext4, not xfs"]);
    plugin.remove(&name);
    assert_eq!(objects(), 0);
}

fn a_clone_whose_parent_is_gone(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let (pool, child) = (fresh("short-lived"), fresh("orphan"));
    lab.run(&["ceph", "osd", "pool", "create", &pool, "8"]);
    lab.run(&["ceph", "osd", "pool", "application", "enable", &pool, "rbd"]);
    lab.run(&["rbd", "create", "--size", "8M", &format!("{pool}/parent")]);
    let snapshot = format!("{pool}/parent@s");
    lab.run(&["rbd", "snap", "create", "--no-progress", &snapshot]);
    lab.run(&["rbd", "clone", "--rbd-default-clone-format", "2", &snapshot, &lab.spec(&child)]);
    lab.run(&["ceph", "osd", "pool", "rm", &pool, &pool, "--yes-i-really-really-mean-it"]);
    assert!(plugin.one_story(&child));
    let command = format!("rbd rm {}", lab.spec(&child));
    for said in [plugin.remove_error(&child), plugin.refused(&child, &json!({"fstype": "ext4"}))] {
        has(&said, &["is there and cannot be opened", "cloned from", &command]);
        assert!(!said.contains("does not exist"), "{said}");
    }
    assert!(plugin.one_story(&child), "a refusal leaves it whole");
    lab.run(&["rbd", "rm", "--no-progress", &lab.spec(&child)]);
}

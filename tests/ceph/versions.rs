//! Plugins of several versions on one cluster: what each writes, the others read, keep or refuse.

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::ImageStore;
use rbd_docker_plugin::ceph::Swap;
use rbd_docker_plugin::model::error::ErrorKind;
use rbd_docker_plugin::model::name::ImageSpec;
use rbd_docker_plugin::model::record::Stage;
use serde_json::{Value, json};

use crate::hosts::{host, record, spec, volume};
use crate::plugin::{Plugin, User};
use crate::rig::{Lab, Ready, trial};

const OWNERS: &str = "rbd_docker_plugin.owners";
const RECORD: &str = "rbd-docker-plugin.record";

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("versions::{name}"), ready, test);
    vec![
        t(
            "an_image_record_that_requires_more_is_left_alone",
            an_image_record_that_requires_more_is_left_alone,
        ),
        t(
            "an_owner_record_that_requires_more_is_left_alone",
            an_owner_record_that_requires_more_is_left_alone,
        ),
        t("what_a_newer_version_has_written_beside_stays", what_a_newer_version_has_written_beside_stays),
    ]
}

fn metadata(lab: &Lab, image: &ImageSpec) -> Value {
    serde_json::from_str(&lab.run(&["rbd", "image-meta", "get", &image.to_string(), RECORD])).unwrap()
}

fn set_metadata(lab: &Lab, image: &ImageSpec, record: &Value) {
    lab.run(&["rbd", "image-meta", "set", &image.to_string(), RECORD, &record.to_string()]);
}

/// The only owner record of an image of this name, and its key.
fn owner_record(lab: &Lab, image: &ImageSpec) -> Option<(String, Vec<u8>)> {
    let all = lab.io.omap(OWNERS).unwrap_or_default();
    let name = serde_json::to_value(image).unwrap();
    all.into_iter()
        .find(|(_, raw)| serde_json::from_slice::<Value>(raw).is_ok_and(|record| record["image"] == name))
}

/// Changes an owner record behind the back of its owner.
fn change_owner_record(lab: &Lab, image: &ImageSpec, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (key, before) = owner_record(lab, image).unwrap();
    let mut record = serde_json::from_slice(&before).unwrap();
    change(&mut record);
    let after = serde_json::to_vec(&record).unwrap();
    let swap = Swap { key: &key, expected: Some(&before), new: Some(&after) };
    assert!(lab.io.omap_swap(OWNERS, &[swap]).unwrap());
    after
}

type Change = fn(&mut Value);

/// What a newer version may have done to a record, and what is said of it.
fn newer() -> [(Change, &'static str); 2] {
    [
        (|record| record["v"] = json!(2), "is of version 2; this plugin understands versions up to 1"),
        (
            |record| record["requires"] = json!(["encryption"]),
            "requires what this version of the plugin does not have: encryption",
        ),
    ]
}

fn an_image_record_that_requires_more_is_left_alone(lab: &Lab) {
    let (user, home) = (User::of(lab, "newer", &lab.pool), tempfile::tempdir().unwrap());
    let plugin = Plugin::start(&user, home.path(), &["--pool", &lab.pool]);
    let image = spec(lab, "newer");
    volume(&host(lab, "maker"), &image);
    let before = metadata(lab, &image);
    assert_eq!((&before["v"], &before["requires"]), (&json!(1), &json!([])), "{before}");
    for (change, why) in newer() {
        let mut after = before.clone();
        change(&mut after);
        set_metadata(lab, &image, &after);
        for (endpoint, body) in [
            ("Mount", json!({"Name": "newer", "ID": "a"})),
            ("Remove", json!({"Name": "newer"})),
            ("Create", json!({"Name": "newer", "Opts": {"mount-options": "noatime"}})),
        ] {
            let said = plugin.error(endpoint, &body);
            assert!(said.contains(why) && said.contains("install that version"), "{endpoint}: {said}");
        }
        assert!(plugin.names().contains(&"newer".to_owned()), "it is a volume all the same");
        let shown = plugin.get("newer").to_string();
        assert!(shown.contains(why), "{shown}");
        assert_eq!(metadata(lab, &image), after);
    }
    set_metadata(lab, &image, &before);
    plugin.remove("newer");
    plugin.stop();
}

fn an_owner_record_that_requires_more_is_left_alone(lab: &Lab) {
    let (one, two) = (host(lab, "new-host"), host(lab, "old-host"));
    let image = spec(lab, "owned-newer");
    volume(&one, &image);
    one.claim(&image).unwrap();
    let before = owner_record(lab, &image).unwrap().1;
    for (change, why) in newer() {
        let after = change_owner_record(lab, &image, change);
        for answer in [
            one.claim(&image),
            two.claim(&image),
            one.write_record(&image, &record(Stage::Ready)),
            one.mend(&image).map(drop),
            one.remove(&image),
        ] {
            let e = answer.unwrap_err();
            assert_eq!(e.kind, ErrorKind::Failed, "{e}");
            assert!(e.to_string().contains(why), "{e}");
        }
        assert_eq!(owner_record(lab, &image).unwrap().1, after, "nobody may write it");
        let (key, raw) = owner_record(lab, &image).unwrap();
        let swap = Swap { key: &key, expected: Some(&raw), new: Some(&before) };
        assert!(lab.io.omap_swap(OWNERS, &[swap]).unwrap());
    }
    one.remove(&image).unwrap();
    one.release(&image).unwrap();
    assert_eq!(owner_record(lab, &image), None);
}

fn what_a_newer_version_has_written_beside_stays(lab: &Lab) {
    let one = host(lab, "keeps");
    let image = spec(lab, "kept");
    volume(&one, &image);
    let mut newer = metadata(lab, &image);
    newer["options"]["colour"] = json!("red");
    newer["owner"] = json!({"team": "a"});
    set_metadata(lab, &image, &newer);
    one.claim(&image).unwrap();
    let mut known = one.info(&image).unwrap().unwrap().record.unwrap();
    known.options.mount_options = Some("noatime".to_owned());
    one.write_record(&image, &known).unwrap();
    newer["options"]["mount-options"] = json!("noatime");
    assert_eq!(metadata(lab, &image), newer);

    change_owner_record(lab, &image, |record| record["zone"] = json!({"rack": 7}));
    one.note_uses(&image, &["x".to_owned()]).unwrap();
    one.mend(&image).unwrap();
    let after: Value = serde_json::from_slice(&owner_record(lab, &image).unwrap().1).unwrap();
    assert_eq!((&after["zone"], &after["mount_ids"]), (&json!({"rack": 7}), &json!(["x"])), "{after}");
    one.remove(&image).unwrap();
    one.release(&image).unwrap();
}

//! What could not be seen is told, and changes nothing: it is never taken for "nothing is there".

use nix::errno::Errno as E;
use rbd_docker_plugin::backend::sim::Data;
use rbd_docker_plugin::driver::api::VolumeDriver;
use rbd_docker_plugin::model::error::{CallError, DriverError, ErrorKind as K, Result};
use rbd_docker_plugin::model::name::ImageSpec;
use rbd_docker_plugin::model::options::ImageOptions;
use rbd_docker_plugin::model::record::{Record, Stage};
use rbd_docker_plugin::model::settings::Removal;

use super::cases::{create, filesystem, foreign, kind, names};
use super::rig::{Rig, spec};

fn failure(kind: K) -> DriverError {
    DriverError::new(kind, "not to be read")
}

/// A rig with a volume `a` that is mounted.
fn mounted() -> Rig {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "a", &[]).unwrap();
    mount(&rig, "x").unwrap();
    rig
}

fn mount(rig: &Rig, id: &str) -> Result<std::path::PathBuf> {
    rig.driver.mount("a", id, None, &|| true)
}

#[test]
fn a_half_made_image_that_cannot_be_looked_into_is_left_alone() {
    for (errno, as_kind, cleared) in [
        (E::EUCLEAN, K::NeedsRepair, true),
        (E::EBADMSG, K::NeedsRepair, true),
        // With the checker's word, and without.
        (E::EINVAL, K::NeedsRepair, true),
        (E::EINVAL, K::Failed, false),
        (E::EINVAL, K::MissingTool, false),
        (E::ENODEV, K::MissingTool, false),
        (E::ENOMEM, K::Failed, false),
        (E::EIO, K::Unreachable, false),
        (E::EIO, K::NeedsRepair, false),
        (E::EROFS, K::Failed, false),
        (E::EMFILE, K::Failed, false),
    ] {
        let rig = Rig::new(Removal::Delete);
        let data = Data::Filesystem(filesystem("u1"), "an operator's".to_owned());
        foreign(&rig, "foo", data.clone());
        let stage = Stage::Formatting { uuid: "u1".to_owned() };
        let record = Record::new(stage, false, 0, ImageOptions::default());
        rig.world.look().records.insert(spec("foo"), record.clone());
        let call = CallError::new("mount", "/dev/sim0 on /m", errno);
        let refusal = DriverError::new(as_kind, "refused").caused_by(call);
        rig.world.look().failing.insert("mount", refusal.clone());
        let answer = create(&rig.driver, "foo", &[]);
        assert_eq!(answer.is_ok(), cleared, "{errno}, {as_kind:?}: {answer:?}");
        if cleared {
            rig.check();
            continue;
        }
        let e = answer.unwrap_err();
        assert_eq!(e.kind, as_kind);
        assert!(e.to_string().contains("cannot be seen whether rbd/foo"), "{e}");
        rig.world.look().failing.insert("mount", refusal);
        assert_eq!(kind(rig.driver.remove("foo")), as_kind);
        let state = rig.world.look();
        assert_eq!(state.images[&spec("foo")].data, data, "{errno}: left alone");
        assert_eq!(state.records[&spec("foo")], record);
        assert!(state.devices.is_empty() && state.mounts.is_empty() && state.owners.is_empty());
    }
}

#[test]
fn a_mount_whose_owner_record_cannot_be_mended_is_not_handed_out_further() {
    let rig = mounted();
    rig.world.look().owners.clear();
    rig.world.look().failing.insert("mend", failure(K::Failed));
    let e = mount(&rig, "y").unwrap_err();
    let told = e.to_string();
    assert!(e.kind == K::Failed && told.contains("cannot be mended: not to be read"), "{told}");
    assert_eq!(rig.uses("a"), [("x".to_owned(), 1)].into());
    rig.world.look().failing.insert("mend", failure(K::Unreachable));
    mount(&rig, "y").expect("an outage stops no further container");
    rig.world.look().failing.clear();
    rig.driver.tick();
    rig.check();
}

#[test]
fn a_mount_whose_owner_record_is_not_understood_stays_and_is_not_handed_out_further() {
    let rig = mounted();
    rig.world.look().unread.insert(spec("a"), "written by a newer version".to_owned());
    let e = mount(&rig, "y").unwrap_err().to_string();
    assert!(e.contains("not known whose it is: written by a newer version"), "{e}");
    rig.driver.tick();
    assert_eq!(rig.uses("a"), [("x".to_owned(), 1)].into());
    rig.world.look().unread.clear();
    mount(&rig, "y").unwrap();
    rig.check();
}

#[test]
fn mounts_that_cannot_be_read_take_no_usage_away() {
    let rig = mounted();
    let used = || rig.driver.get("a").unwrap().status.get("used").cloned();
    let before = used();
    assert!(before.is_some());
    rig.world.look().failing.insert("mounts", failure(K::Failed));
    assert_eq!(used(), before);
    rig.world.look().failing.clear();
    rig.world.look().mounts.clear();
    assert_eq!(used(), None, "unmounted behind our back");
}

#[test]
fn names_that_cannot_be_read_are_no_others() {
    let other = ImageSpec::new("other", None, "foo").unwrap();
    let bound = || {
        let rig = Rig::new(Removal::Delete);
        foreign(&rig, "foo", Data::Untouched);
        foreign(&rig, "bar", Data::Untouched);
        let mut state = rig.world.look();
        let image = state.images[&spec("foo")].clone();
        state.images.insert(other.clone(), image);
        state.bindings.insert("foo".to_owned(), other.clone());
        drop(state);
        rig
    };
    let rig = bound();
    let whole = ["bar", "foo", "rbd/foo"];
    let sorted = |rig: &Rig| {
        let mut names = names(&rig.driver);
        names.sort();
        names
    };
    assert_eq!(sorted(&rig), whole);
    rig.world.look().failing.insert("bindings", failure(K::Failed));
    assert_eq!(sorted(&rig), whole, "as they were known");
    // Where nobody was told of any yet, no name is shown that may be another image's.
    let rig = bound();
    rig.world.look().failing.insert("bindings", failure(K::Failed));
    assert_eq!(sorted(&rig), ["other/foo", "rbd/bar", "rbd/foo"]);
}

#[test]
fn damaged_mount_ids_are_not_no_mount_ids() {
    let mut rig = mounted();
    rig.write("a", "mine");
    {
        let mut state = rig.world.look();
        let refs = state.files.iter_mut().find(|(file, _)| file.starts_with("/m/.state/p1/refs")).unwrap();
        *refs.1 = b"{".to_vec();
        let device = *state.devices.keys().next().unwrap();
        state.held.insert(device);
    }
    rig.restart();
    rig.driver.tick();
    assert_eq!(rig.world.look().mounts.len(), 1, "a container has it");
    assert_eq!(rig.uses("a").values().sum::<u64>(), 1);
    mount(&rig, "y").unwrap();
    rig.driver.unmount("a", "y").unwrap();
    rig.check();
    rig.world.look().held.clear();
    rig.restart();
    rig.driver.tick();
    assert!(rig.world.look().mounts.is_empty(), "nobody has it any more");
    rig.check();
}

#[test]
fn mount_ids_of_a_newer_version_are_left_to_it() {
    let mut rig = mounted();
    rig.write("a", "mine");
    let newer = br#"{"v": 2, "users": ["x"]}"#.to_vec();
    let (file, before) = {
        let mut state = rig.world.look();
        let refs = state.files.iter_mut().find(|(file, _)| file.starts_with("/m/.state/p1/refs")).unwrap();
        (refs.0.clone(), std::mem::replace(refs.1, newer.clone()))
    };
    rig.restart();
    rig.driver.tick();
    for refused in [mount(&rig, "y").map(drop), rig.driver.unmount("a", "x")] {
        let e = refused.unwrap_err().to_string();
        assert!(
            e.contains("the record of the mount IDs of rbd/a is of version 2")
                && e.contains("install that version"),
            "{e}"
        );
    }
    assert_eq!(rig.world.look().files[&file], newer);
    assert_eq!(rig.world.look().mounts.len(), 1, "its containers go on");
    rig.world.look().files.insert(file, before);
    rig.driver.unmount("a", "x").unwrap();
    rig.check();
}

//! What a user can count on, one sentence each.

use std::collections::BTreeMap;

use rbd_docker_plugin::backend::sim::{Data, Image};
use rbd_docker_plugin::driver::Driver;
use rbd_docker_plugin::driver::api::VolumeDriver;
use rbd_docker_plugin::model::error::{ErrorKind, Result};
use rbd_docker_plugin::model::filesystem::{Filesystem, FsKind};
use rbd_docker_plugin::model::mount::Place;
use rbd_docker_plugin::model::options::ImageOptions;
use rbd_docker_plugin::model::record::{Record, Stage};
use rbd_docker_plugin::model::settings::Removal;
use rbd_docker_plugin::model::size::Size;

use super::rig::{Rig, spec};

pub(crate) fn create(driver: &Driver, name: &str, options: &[(&str, &str)]) -> Result<()> {
    let options: BTreeMap<String, String> =
        options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    VolumeDriver::create(driver, name, &options)
}

pub(crate) fn names(driver: &Driver) -> Vec<String> {
    VolumeDriver::list(driver).unwrap().into_iter().map(|volume| volume.name).collect()
}

pub(crate) fn kind<T: std::fmt::Debug>(answer: Result<T>) -> ErrorKind {
    answer.unwrap_err().kind
}

/// An image that somebody else made.
pub(crate) fn foreign(rig: &Rig, image: &str, data: Data) {
    rig.world.look().images.insert(spec(image), Image { size: Size::mib(64), data });
}

pub(crate) fn filesystem(uuid: &str) -> Filesystem {
    Filesystem { kind: FsKind::Ext4, type_name: "ext4".to_owned(), uuid: Some(uuid.to_owned()) }
}

#[test]
fn one_volume_whatever_the_spelling() {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "foo", &[]).unwrap();
    create(&rig.driver, "rbd/foo", &[]).unwrap();
    create(&rig.driver, "foo@1024", &[]).unwrap();
    assert_eq!(names(&rig.driver), ["foo"]);
    let first = rig.driver.mount("foo", "x", None, &|| true).unwrap();
    assert_eq!(rig.driver.mount("rbd/foo", "y", None, &|| true).unwrap(), first);
    rig.driver.unmount("foo@1", "x").unwrap();
    assert_eq!(VolumeDriver::path(&*rig.driver, "foo").unwrap(), Some(first));
    rig.driver.unmount("foo", "y").unwrap();
    assert_eq!(VolumeDriver::path(&*rig.driver, "foo").unwrap(), None);
    rig.check();
}

#[test]
fn the_size_in_the_name_counts_when_it_is_made_and_the_option_counts_more() {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "a@128", &[]).unwrap();
    create(&rig.driver, "b@128", &[("size", "256M")]).unwrap();
    create(&rig.driver, "c", &[]).unwrap();
    let state = rig.world.look();
    assert_eq!(state.images[&spec("a")].size, Size::mib(128));
    assert_eq!(state.images[&spec("b")].size, Size::mib(256));
    assert_eq!(state.images[&spec("c")].size, Size::mib(64));
}

#[test]
fn a_pool_given_as_an_option_is_found_again_by_the_bare_name() {
    let mut rig = Rig::new(Removal::Delete);
    create(&rig.driver, "foo", &[("pool", "p2")]).unwrap();
    create(&rig.driver, "foo", &[("pool", "p2")]).unwrap();
    rig.restart();
    assert_eq!(names(&rig.driver), ["foo"]);
    assert_eq!(rig.driver.mount("foo", "x", None, &|| true).unwrap().to_str(), Some("/m/p1/p2/foo"));
    assert_eq!(rig.driver.get("p2/foo").unwrap().mountpoint, rig.driver.get("foo").unwrap().mountpoint);
    rig.driver.unmount("p2/foo", "x").unwrap();
    let e = create(&rig.driver, "foo", &[("pool", "p3")]).unwrap_err();
    assert_eq!(e.to_string(), "\"foo\" is the volume p2/foo already; use the name p3/foo for the other one");
    assert_eq!(kind(create(&rig.driver, "foo", &[("pool", "rbd")])), ErrorKind::AlreadyExists);
    create(&rig.driver, "rbd/foo", &[]).unwrap();
    assert_eq!(
        names(&rig.driver),
        ["foo", "rbd/foo"],
        "the one in the default pool shows under its whole name"
    );
    rig.driver.remove("foo").unwrap();
    assert_eq!(names(&rig.driver), ["foo"], "and under the bare one when that is free");
    assert_eq!(rig.driver.get("foo").unwrap().status["image"], "rbd/foo");
}

#[test]
fn contradicting_pools_and_taken_names_are_errors() {
    let rig = Rig::new(Removal::Delete);
    assert_eq!(kind(create(&rig.driver, "p1/foo", &[("pool", "p2")])), ErrorKind::Invalid);
    create(&rig.driver, "p2/foo", &[("pool", "p2")]).unwrap();
    create(&rig.driver, "bar", &[]).unwrap();
    assert_eq!(kind(create(&rig.driver, "bar", &[("pool", "p2")])), ErrorKind::AlreadyExists);
    assert!(rig.world.look().bindings.is_empty());
}

#[test]
fn namespaces_are_apart() {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "rbd/ns/foo", &[]).unwrap();
    create(&rig.driver, "rbd/ns", &[]).unwrap();
    assert_eq!(names(&rig.driver), ["ns", "rbd/ns/foo"]);
    assert_eq!(
        rig.driver.mount("rbd/ns/foo", "x", None, &|| true).unwrap().to_str(),
        Some("/m/p1/rbd/@ns/foo")
    );
    assert_eq!(rig.driver.mount("ns", "x", None, &|| true).unwrap().to_str(), Some("/m/p1/rbd/ns"));
    rig.check();
}

#[test]
fn other_options_than_those_it_was_made_with_are_an_error() {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "foo", &[("size", "128M"), ("uid", "5")]).unwrap();
    create(&rig.driver, "foo", &[("size", "128")]).unwrap();
    let e = create(&rig.driver, "foo", &[("size", "256"), ("mode", "700")]).unwrap_err();
    assert!(
        e.to_string()
            .contains("exists with other options: mode is not set, not 0700, size is 128M, not 256M"),
        "{e}"
    );
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_made() {
    let rig = Rig::new(Removal::Delete);
    for options in [
        &[("size", "64M"), ("fstype", "xfs")][..],
        &[("mkfs-options", "/dev/sda")],
        &[("mount-options", "bind")],
        &[("colour", "red")],
    ] {
        assert_eq!(kind(create(&rig.driver, "foo", options)), ErrorKind::Invalid, "{options:?}");
    }
    assert!(rig.world.look().images.is_empty());
    assert_eq!(kind(rig.driver.get("../etc")), ErrorKind::Invalid);
}

#[test]
fn removal_by_renaming_finds_a_free_name() {
    let rig = Rig::new(Removal::Rename);
    for n in 0..4 {
        create(&rig.driver, "foo", &[]).unwrap();
        rig.driver.remove("foo").unwrap();
        assert_eq!(names(&rig.driver).len(), n + 1);
    }
    assert!(names(&rig.driver).iter().all(|name| name.starts_with("zz_foo")));
    assert_eq!(kind(rig.driver.get("foo")), ErrorKind::NotFound);
    rig.check();
}

#[test]
fn removal_may_be_ignored_but_not_while_in_use() {
    let rig = Rig::new(Removal::Ignore);
    create(&rig.driver, "foo", &[]).unwrap();
    rig.driver.remove("foo").unwrap();
    assert!(rig.exists("foo"));
    rig.driver.mount("foo", "x", None, &|| true).unwrap();
    let e = rig.driver.remove("foo").unwrap_err();
    assert!(e.to_string().contains("in use: mounted 1 time(s), by mount ID x"), "{e}");
    rig.driver.remove("never-was").unwrap();
}

#[test]
fn an_image_that_is_mapped_by_hand_is_in_use() {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "foo", &[]).unwrap();
    rig.world.look().devices.insert(77, spec("foo"));
    for e in
        [rig.driver.remove("foo").unwrap_err(), rig.driver.mount("foo", "x", None, &|| true).unwrap_err()]
    {
        assert_eq!(e.kind, ErrorKind::InUse);
        assert!(e.to_string().contains("mapped to /dev/sim77, not by this plugin"), "{e}");
    }
    assert_eq!(rig.world.look().devices.len(), 1, "not ours to unmap");
    assert!(rig.exists("foo"));
}

#[test]
fn images_of_others_are_usable_and_never_formatted_over() {
    let rig = Rig::new(Removal::Delete);
    foreign(&rig, "formatted", Data::Filesystem(filesystem("u1"), "precious".to_owned()));
    foreign(&rig, "blank", Data::Untouched);
    foreign(&rig, "luks", Data::Foreign("crypto_LUKS".to_owned()));
    foreign(&rig, "raw", Data::Foreign(String::new()));
    rig.driver.mount("formatted", "x", None, &|| true).unwrap();
    rig.driver.mount("blank", "x", None, &|| true).unwrap();
    let e = rig.driver.mount("luks", "x", None, &|| true).unwrap_err();
    assert!(
        e.to_string().contains("holds crypto_LUKS, which is no filesystem that this plugin mounts"),
        "{e}"
    );
    let e = rig.driver.mount("raw", "x", None, &|| true).unwrap_err();
    assert!(e.to_string().contains("has no filesystem, but was written to"), "{e}");
    assert_eq!(rig.read("formatted").as_deref(), Some("precious"));
    for volume in ["formatted", "blank"] {
        rig.driver.unmount(volume, "x").unwrap();
    }
    rig.check();
    assert_eq!(rig.world.look().records.len(), 1, "only the one that we formatted has a record");
}

#[test]
fn options_for_an_image_of_somebody_else_are_kept() {
    let rig = Rig::new(Removal::Delete);
    foreign(&rig, "foo", Data::Filesystem(filesystem("u1"), "precious".to_owned()));
    create(&rig.driver, "foo", &[("read-only", "true")]).unwrap();
    rig.driver.mount("foo", "x", None, &|| true).unwrap();
    assert_eq!(rig.driver.get("foo").unwrap().status["read-only"], true);
    assert_eq!(kind(create(&rig.driver, "foo", &[("size", "65M")])), ErrorKind::AlreadyExists);
    assert_eq!(rig.read("foo").as_deref(), Some("precious"));
}

#[test]
fn a_formatted_image_whose_filesystem_is_gone_is_not_formatted_again() {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "foo", &[]).unwrap();
    rig.world.look().images.get_mut(&spec("foo")).unwrap().data = Data::Foreign(String::new());
    let e = rig.driver.mount("foo", "x", None, &|| true).unwrap_err();
    assert_eq!(e.kind, ErrorKind::NeedsRepair);
    assert_eq!(rig.world.look().images[&spec("foo")].data, Data::Foreign(String::new()));
}

#[test]
fn a_half_made_image_is_no_volume_and_is_finished_unless_it_holds_data_of_others() {
    let half = |stage: Stage| Record::new(stage, false, 0, ImageOptions::default());
    let formatting = || Stage::Formatting { uuid: "u1".to_owned() };
    for (stage, data, finished) in [
        (Stage::Creating, Data::Untouched, true),
        (Stage::Creating, Data::Foreign(String::new()), false),
        (formatting(), Data::HalfFormatted, true),
        (formatting(), Data::Filesystem(filesystem("u1"), String::new()), true),
        (formatting(), Data::Filesystem(filesystem("u1"), "an operator's".to_owned()), false),
        (formatting(), Data::Filesystem(filesystem("u2"), "precious".to_owned()), false),
        (formatting(), Data::Foreign("swap".to_owned()), false),
    ] {
        let rig = Rig::new(Removal::Delete);
        foreign(&rig, "foo", data.clone());
        rig.world.look().records.insert(spec("foo"), half(stage.clone()));
        assert_eq!(kind(rig.driver.get("foo")), ErrorKind::NotFound);
        assert_eq!(kind(rig.driver.mount("foo", "x", None, &|| true)), ErrorKind::NotFound);
        let answer = create(&rig.driver, "foo", &[]);
        assert_eq!(answer.is_ok(), finished, "{stage:?} {data:?}: {answer:?}");
        if finished {
            rig.check();
        } else {
            assert_eq!(kind(answer), ErrorKind::ForeignData);
            assert_eq!(rig.world.look().images[&spec("foo")].data, data, "left alone");
        }
    }
}

#[test]
fn a_half_made_image_that_somebody_has_mapped_is_left_alone() {
    let rig = Rig::new(Removal::Delete);
    let stage = Stage::Formatting { uuid: "u1".to_owned() };
    let record = Record::new(stage, false, 0, ImageOptions::default());
    foreign(&rig, "foo", Data::HalfFormatted);
    rig.world.look().records.insert(spec("foo"), record);
    rig.world.look().devices.insert(77, spec("foo"));
    assert_eq!(kind(create(&rig.driver, "foo", &[])), ErrorKind::InUse);
    assert_eq!(kind(rig.driver.remove("foo")), ErrorKind::InUse);
    assert!(rig.world.look().images.contains_key(&spec("foo")));
    rig.world.look().devices.clear();
    create(&rig.driver, "foo", &[]).unwrap();
    rig.check();
}

#[test]
fn a_client_that_has_left_leaves_no_use_behind_and_takes_nobody_elses() {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "foo", &[]).unwrap();
    assert_eq!(kind(rig.driver.mount("foo", "x", None, &|| false)), ErrorKind::Timeout);
    rig.check();
    assert!(rig.world.look().mounts.is_empty());
    rig.driver.mount("foo", "x", None, &|| true).unwrap();
    assert_eq!(kind(rig.driver.mount("foo", "x", None, &|| false)), ErrorKind::Timeout);
    assert_eq!(rig.uses("foo").values().sum::<u64>(), 1, "the use of the one that heard stays");
}

#[test]
fn ownership_stays_while_the_device_is_held_whatever_fails() {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "foo", &[]).unwrap();
    let mountpoint = rig.driver.mount("foo", "x", None, &|| true).unwrap();
    let device = *rig.world.look().devices.keys().next().unwrap();
    // A container holds the device, and the mount is gone behind our back.
    rig.world.look().held.insert(device);
    rig.world.look().mounts.clear();
    rig.world.look().folders.insert("/other".into());
    let other = rbd_docker_plugin::model::mount::Mounted {
        target: mountpoint,
        place: Place::whole((8, 1)),
        source: "/dev/sda1".to_owned(),
        fstype: "ext4".to_owned(),
        read_only: false,
        failed: false,
    };
    rig.world.look().mounts.push(other);
    for _ in 0..3 {
        assert_eq!(kind(rig.driver.mount("foo", "y", None, &|| true)), ErrorKind::InUse);
        assert!(rig.world.look().owners.contains_key(&spec("foo")), "given up over a mapped device");
    }
    rig.world.look().mounts.clear();
    rig.driver.mount("foo", "y", None, &|| true).unwrap();
    assert_eq!(rig.world.look().devices.len(), 1);
}

#[test]
fn a_spelling_that_only_a_get_used_is_known_in_an_outage_too() {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "data", &[]).unwrap();
    rig.driver.get("data@64").unwrap();
    assert_eq!(names(&rig.driver), ["data"]);
    rig.world.look().away = true;
    assert_eq!(rig.driver.get("data@64").unwrap().status["health"], "degraded");
    assert_eq!(names(&rig.driver), ["data"], "and is listed once");
}

#[test]
fn an_outage_is_not_not_found() {
    let mut rig = Rig::new(Removal::Delete);
    create(&rig.driver, "foo", &[]).unwrap();
    create(&rig.driver, "bar", &[]).unwrap();
    let mountpoint = rig.driver.mount("bar", "x", None, &|| true).unwrap();
    let healthy = rig.driver.get("foo").unwrap();
    // What is known is written in the background.
    rig.driver.tick();
    rig.world.look().away = true;
    assert_eq!(VolumeDriver::path(&*rig.driver, "bar").unwrap(), Some(mountpoint.clone()));
    let volume = rig.driver.get("foo").unwrap();
    assert_eq!(volume.status["health"], "degraded");
    assert_eq!(volume.created_at, healthy.created_at);
    assert_eq!(rig.driver.get("bar").unwrap().mountpoint, Some(mountpoint.clone()));
    assert_eq!(names(&rig.driver), ["bar", "foo"]);
    assert_eq!(kind(rig.driver.get("unknown")), ErrorKind::Unreachable, "nobody knows whether it exists");
    assert_eq!(kind(create(&rig.driver, "new", &[])), ErrorKind::Unreachable);
    // A plugin that is started meanwhile keeps what is mounted and what it knew.
    rig.restart();
    assert_eq!(names(&rig.driver), ["bar", "foo"]);
    rig.world.look().away = false;
    rig.driver.tick();
    assert_eq!(rig.driver.get("bar").unwrap().mountpoint, Some(mountpoint));
    rig.driver.unmount("bar", "x").unwrap();
    rig.check();
}

#[test]
fn an_unmount_during_an_outage_counts() {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "foo", &[]).unwrap();
    create(&rig.driver, "bar", &[("pool", "p2")]).unwrap();
    for volume in ["foo", "bar"] {
        rig.driver.mount(volume, "x", None, &|| true).unwrap();
        rig.driver.mount(volume, "y", None, &|| true).unwrap();
    }
    rig.world.look().away = true;
    for volume in ["foo", "bar"] {
        // The ID alone does not say which of the two is meant, and the name alone not either: both do.
        rig.driver.unmount(volume, "x").unwrap();
        assert_eq!(kind(rig.driver.unmount(volume, "y")), ErrorKind::Unreachable);
        assert_eq!(kind(rig.driver.unmount(volume, "z")), ErrorKind::Unreachable);
    }
    assert!(rig.world.look().mounts.is_empty(), "Docker does not ask again");
    rig.world.look().away = false;
    rig.driver.tick();
    rig.check();
    assert!(rig.world.look().devices.is_empty());
}

#[test]
fn a_busy_mountpoint_is_taken_down_later_and_can_be_used_again_before() {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "foo", &[]).unwrap();
    let mountpoint = rig.driver.mount("foo", "x", None, &|| true).unwrap();
    rig.world.look().busy.insert(mountpoint.clone());
    assert_eq!(kind(rig.driver.unmount("foo", "x")), ErrorKind::InUse);
    rig.driver.tick();
    assert_eq!(rig.driver.get("foo").unwrap().status["health"], "unsettled");
    assert!(rig.uses("foo").is_empty(), "Docker does not ask again: the use is gone");
    assert_eq!(rig.driver.mount("foo", "y", None, &|| true).unwrap(), mountpoint);
    rig.driver.tick();
    assert_eq!(rig.uses("foo").len(), 1);
    assert_eq!(kind(rig.driver.unmount("foo", "y")), ErrorKind::InUse);
    rig.world.look().busy.clear();
    rig.driver.tick();
    rig.check();
    assert!(rig.world.look().mounts.is_empty());
}

#[test]
fn a_device_that_a_container_still_holds_is_released_later_and_can_be_mounted_again_before() {
    let mut rig = Rig::new(Removal::Delete);
    create(&rig.driver, "foo", &[]).unwrap();
    rig.driver.mount("foo", "x", None, &|| true).unwrap();
    let device = *rig.world.look().devices.keys().next().unwrap();
    rig.world.look().held.insert(device);
    assert_eq!(kind(rig.driver.unmount("foo", "x")), ErrorKind::InUse);
    assert_eq!(kind(rig.driver.remove("foo")), ErrorKind::InUse);
    rig.restart();
    rig.driver.mount("foo", "y", None, &|| true).unwrap();
    assert_eq!(rig.world.look().devices.len(), 1, "one device, one filesystem");
    rig.world.look().held.clear();
    rig.driver.unmount("foo", "y").unwrap();
    rig.check();
    assert!(rig.world.look().devices.is_empty());
}

#[test]
fn what_was_unmounted_by_hand_is_mounted_again() {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "foo", &[]).unwrap();
    rig.driver.mount("foo", "x", None, &|| true).unwrap();
    rig.world.look().mounts.clear();
    rig.driver.mount("foo", "y", None, &|| true).unwrap();
    assert_eq!(rig.world.look().mounts.len(), 1);
    rig.check();
}

#[test]
fn what_somebody_mounted_in_our_place_is_left_alone() {
    let mut rig = Rig::new(Removal::Delete);
    create(&rig.driver, "foo", &[]).unwrap();
    create(&rig.driver, "bar", &[]).unwrap();
    let mountpoint = rig.driver.mount("bar", "x", None, &|| true).unwrap();
    let other = rbd_docker_plugin::model::mount::Mounted {
        target: mountpoint.with_file_name("foo"),
        ..rig.world.look().mounts[0].clone()
    };
    let other = rbd_docker_plugin::model::mount::Mounted {
        place: Place::whole((8, 1)),
        source: "/dev/sda1".to_owned(),
        ..other
    };
    rig.world.look().mounts.push(other.clone());
    let e = rig.driver.mount("foo", "x", None, &|| true).unwrap_err();
    assert!(e.to_string().contains("/dev/sda1 is mounted at /m/p1/rbd/foo"), "{e}");
    rig.restart();
    assert!(rig.world.look().mounts.contains(&other));
}

//! What is mounted is known by its place: the number of its filesystem, which is not always that of its device, and its root.

use std::path::PathBuf;

use rbd_docker_plugin::driver::api::VolumeDriver;
use rbd_docker_plugin::model::error::ErrorKind;
use rbd_docker_plugin::model::mount::{Mounted, Place};
use rbd_docker_plugin::model::owner::Owner;
use rbd_docker_plugin::model::settings::Removal;

use super::cases::{create, kind};
use super::rig::{Rig, spec};

/// A btrfs is mounted: its mount has a number that no device has.
fn btrfs() -> Rig {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "a", &[("fstype", "btrfs"), ("size", "128M")]).unwrap();
    rig.driver.mount("a", "x", None, &|| true).unwrap();
    let state = rig.world.look();
    assert!(!state.devices.contains_key(&state.mounts[0].place.number.1), "{:?}", state.mounts);
    drop(state);
    rig
}

#[test]
fn the_device_of_a_btrfs_is_unmapped_after_the_last_use() {
    let rig = btrfs();
    rig.driver.mount("a", "y", None, &|| true).unwrap();
    rig.driver.unmount("a", "x").unwrap();
    assert_eq!(rig.world.look().mounts.len(), 1);
    rig.driver.unmount("a", "y").unwrap();
    assert!(rig.world.look().devices.is_empty());
    rig.check();
}

#[test]
fn a_btrfs_that_was_believed_during_an_outage_is_unmapped_too() {
    let mut rig = btrfs();
    rig.world.look().away = true;
    rig.restart();
    assert_eq!(kind(rig.driver.unmount("a", "x")), ErrorKind::Unreachable);
    assert!(rig.world.look().devices.is_empty(), "what is behind its mount is asked of the kernel");
    rig.world.look().away = false;
    rig.driver.tick();
    rig.check();
}

#[test]
fn the_device_of_a_btrfs_that_was_taken_over_goes() {
    let rig = btrfs();
    let other = Owner {
        host: "h2".to_owned(),
        machine_id: "m2".to_owned(),
        ..rig.world.look().owners[&spec("a")].clone()
    };
    rig.world.look().owners.insert(spec("a"), other);
    rig.driver.tick();
    let state = rig.world.look();
    assert!(state.mounts.is_empty() && state.devices.is_empty(), "{:?}", state.devices);
}

#[test]
fn a_part_of_the_volume_in_its_place_is_not_the_volume() {
    let rig = Rig::new(Removal::Delete);
    create(&rig.driver, "a", &[]).unwrap();
    rig.driver.mount("a", "x", None, &|| true).unwrap();
    let whole = rig.world.look().mounts[0].clone();
    let part = Place { root: PathBuf::from("/folder"), ..whole.place.clone() };
    rig.world.look().mounts.push(Mounted { place: part.clone(), ..whole });
    assert_eq!(kind(rig.driver.mount("a", "y", None, &|| true)), ErrorKind::InUse);
    assert_eq!(rig.uses("a").values().sum::<u64>(), 1);
    rig.world.look().mounts.retain(|mount| mount.place != part);
    rig.driver.mount("a", "y", None, &|| true).unwrap();
    rig.check();
}

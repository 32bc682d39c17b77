//! Many threads, few volumes, no faults: the guards at work, and two plugins on one store.

use std::collections::BTreeMap;

use rbd_docker_plugin::backend::Stage;
use rbd_docker_plugin::driver::Removal;
use rbd_docker_plugin::driver::api::{Client, VolumeDriver};
use rbd_docker_plugin::error::ErrorKind;

use super::rig::{Rig, spec};

#[test]
fn many_threads_leave_nothing_behind() {
    let rig = Rig::new(Removal::Delete);
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let driver = &rig.driver;
            scope.spawn(move || {
                let volume = ["a", "b", "c"][thread % 3];
                for round in 0..60 {
                    let id = format!("{thread}-{round}");
                    VolumeDriver::create(&**driver, volume, &BTreeMap::new()).unwrap();
                    // Another thread may remove it in between.
                    if VolumeDriver::mount(&**driver, volume, &id, None, &|| true).is_ok() {
                        assert!(VolumeDriver::path(&**driver, volume).unwrap().is_some(), "mounted by us");
                        let e = VolumeDriver::remove(&**driver, volume).unwrap_err();
                        assert_eq!(e.kind, ErrorKind::InUse);
                        VolumeDriver::unmount(&**driver, volume, &id).unwrap();
                    }
                    let _ = VolumeDriver::remove(&**driver, volume);
                    VolumeDriver::list(&**driver).unwrap();
                }
            });
        }
    });
    rig.check();
    assert!(rig.world.look().mounts.is_empty());
}

#[test]
fn of_two_plugins_one_wins_each_volume() {
    let rig = Rig::new(Removal::Delete);
    let neighbour = rig.neighbour();
    for n in 0..15 {
        rig.driver.create(&format!("v{n}"), &BTreeMap::new()).unwrap();
    }
    let won: Vec<usize> = std::thread::scope(|scope| {
        [&rig.driver, &neighbour]
            .map(|driver| {
                scope.spawn(move || {
                    (0..15).filter(|n| driver.mount(&format!("v{n}"), "id", None, &|| true).is_ok()).count()
                })
            })
            .map(|thread| thread.join().unwrap())
            .to_vec()
    });
    assert_eq!(won.iter().sum::<usize>(), 15, "each volume has exactly one winner: {won:?}");
    let e =
        [&rig.driver, &neighbour].map(|d| VolumeDriver::mount(&**d, "v0", "id2", None, &|| true)).into_iter();
    let lost = e.filter_map(Result::err).next().unwrap();
    assert!(
        lost.to_string().starts_with("Unable to get Exclusive Lock: rbd/v0 is in use by plugin"),
        "{lost}"
    );
}

/// As Swarm does it, which sends Create to each node.
#[test]
fn of_two_plugins_that_create_one_volume_both_succeed() {
    let rig = Rig::new(Removal::Delete);
    let neighbour = rig.neighbour();
    std::thread::scope(|scope| {
        for driver in [&rig.driver, &neighbour] {
            scope.spawn(move || {
                for n in 0..200 {
                    driver.create(&format!("v{n}"), &BTreeMap::new()).unwrap();
                }
            });
        }
    });
    let state = rig.world.look();
    assert_eq!((state.images.len(), state.owners.len(), state.devices.len()), (200, 0, 0));
    assert!(state.records.values().all(|record| record.stage == Stage::Ready));
    assert!(state.destroyed.is_empty());
}

#[test]
fn the_uses_of_an_engine_that_is_gone_are_dropped_once_no_container_holds_the_device() {
    let rig = Rig::new(Removal::Delete);
    let (old, new) = (Client { pid: 10, start: 1 }, Client { pid: 11, start: 2 });
    rig.driver.create("a", &BTreeMap::new()).unwrap();
    rig.driver.mount("a", "x", Some(old), &|| true).unwrap();
    let device = *rig.world.look().devices.keys().next().unwrap();
    rig.world.look().held.insert(device);
    rig.world.look().dead.insert(old);
    rig.driver.tick();
    assert_eq!(rig.uses("a").len(), 1, "a container still runs");
    rig.world.look().held.clear();
    // The engine's successor comes with the ID that it kept: that is one use, not two.
    rig.driver.mount("a", "x", Some(new), &|| true).unwrap();
    assert_eq!(rig.uses("a").values().sum::<u64>(), 1);
    rig.world.look().dead.insert(new);
    rig.driver.tick();
    rig.driver.tick();
    assert!(rig.uses("a").is_empty());
    rig.check();
    assert!(!rig.world.look().owners.contains_key(&spec("a")));
}

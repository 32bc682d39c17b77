//! Many threads, few volumes, no faults: the guards at work, and two plugins on one store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use rbd_docker_plugin::backend::fault::{Faults, Plan};
use rbd_docker_plugin::driver::api::{Client, DriverStatus, VolumeDriver};
use rbd_docker_plugin::model::error::ErrorKind;
use rbd_docker_plugin::model::name::ImageSpec;
use rbd_docker_plugin::model::record::Stage;
use rbd_docker_plugin::model::settings::Removal;

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

/// All at once, from a thread each.
fn at_once(count: usize, work: impl Fn(usize) + Sync) {
    let together = Barrier::new(count);
    std::thread::scope(|scope| {
        for n in 0..count {
            let (work, together) = (&work, &together);
            scope.spawn(move || {
                together.wait();
                work(n);
            });
        }
    });
}

#[test]
fn hundreds_of_clients_share_a_volume_and_none_is_refused() {
    const CLIENTS: usize = 500;
    let rig = Rig::new(Removal::Delete);
    rig.driver.create("a", &BTreeMap::new()).unwrap();
    let id = |n: usize| format!("id{n}");
    at_once(CLIENTS, |n| drop(rig.driver.mount("a", &id(n), None, &|| true).unwrap()));
    assert_eq!(rig.uses("a").len(), CLIENTS);
    at_once(CLIENTS, |n| rig.driver.unmount("a", &id(n)).unwrap());
    assert_eq!(rig.uses("a").len(), 0);
    rig.check();
    assert!(rig.world.look().mounts.is_empty(), "nothing is left");
}

#[test]
fn mounts_and_unmounts_of_few_ids_at_once_keep_their_number() {
    for round in 0..20 {
        let mut rig = Rig::new(Removal::Delete);
        rig.driver.create("a", &BTreeMap::new()).unwrap();
        let id = |n: usize| ["x", "y", "z"][n % 3];
        // Each of these uses is ended by one of the Unmounts below, while others come.
        (0..30).for_each(|n| drop(rig.driver.mount("a", id(n), None, &|| true).unwrap()));
        at_once(60, |n| {
            if n % 2 == 0 {
                rig.driver.mount("a", id(n / 2), None, &|| true).unwrap();
            } else {
                rig.driver.unmount("a", id(n / 2)).unwrap();
            }
        });
        assert_eq!(rig.uses("a").values().collect::<Vec<_>>(), [&10, &10, &10], "round {round}");
        rig.restart();
        assert_eq!(rig.uses("a").values().collect::<Vec<_>>(), [&10, &10, &10], "on disk, round {round}");
        at_once(30, |n| rig.driver.unmount("a", id(n)).unwrap());
        rig.check();
        assert!(rig.world.look().mounts.is_empty());
    }
}

#[test]
fn a_mount_and_the_unmount_of_its_id_at_once_leave_nothing() {
    let rig = Rig::new(Removal::Delete);
    rig.driver.create("a", &BTreeMap::new()).unwrap();
    for round in 0..200 {
        at_once(2, |n| {
            if n == 0 {
                rig.driver.mount("a", "x", None, &|| true).unwrap();
            } else {
                rig.driver.unmount("a", "x").unwrap();
            }
        });
        // The Unmount may have come first: then it was nobody's.
        let left = rig.uses("a");
        assert!(left.is_empty() || left == [("x".to_owned(), 1)].into(), "round {round}: {left:?}");
        rig.driver.unmount("a", "x").unwrap();
        rig.check();
        assert!(rig.world.look().mounts.is_empty());
    }
}

#[test]
fn the_last_use_is_dropped_though_another_operation_holds_the_volume() {
    let mut rig = Rig::new(Removal::Delete).set(|settings| settings.driver.wait = Duration::from_millis(50));
    rig.driver.create("a", &BTreeMap::new()).unwrap();
    rig.driver.mount("a", "x", None, &|| true).unwrap();
    rig.driver.mount("a", "y", None, &|| true).unwrap();
    rig.faults.hang_in("info");
    let driver = Arc::clone(&rig.driver);
    std::thread::spawn(move || driver.create("a", &BTreeMap::new()));
    // Whatever asks whether it has the guard by now would hang as well.
    std::thread::sleep(Duration::from_millis(500));
    rig.driver.unmount("a", "x").expect("others are left");
    let e = rig.driver.unmount("a", "y").unwrap_err();
    assert_eq!(e.kind, ErrorKind::Busy, "{e}");
    let mounts = rig.driver.overview().mounts;
    assert_eq!(mounts.iter().map(|mount| mount.mounts).sum::<u64>(), 0, "{mounts:?}");
    assert_eq!(rig.driver.overview().unsettled, 1, "it is taken down in the background");
    // The operation that holds it dies with the plugin.
    rig.faults = Faults::new(Plan::Count);
    rig.restart();
    assert_eq!(rig.uses("a").len(), 0, "a restart does not bring it back");
    rig.check();
    assert!(rig.world.look().mounts.is_empty());
}

#[test]
fn spellings_with_a_size_do_not_fill_the_cache() {
    let rig = Rig::new(Removal::Delete);
    rig.driver.create("a", &BTreeMap::new()).unwrap();
    for size in 1..=10_000 {
        assert_eq!(rig.driver.get(&format!("a@{size}")).unwrap().name, format!("a@{size}"));
    }
    rig.driver.tick();
    let known = rig.world.look().files.get(Path::new("/m/.state/p1/volumes.json")).cloned().unwrap();
    let known: serde_json::Value = serde_json::from_slice(&known).unwrap();
    assert_eq!(known["volumes"].as_object().unwrap().keys().collect::<Vec<_>>(), ["a"]);
    rig.world.look().away = true;
    let degraded = rig.driver.get("a@77").unwrap();
    assert_eq!((degraded.name.as_str(), &degraded.status["health"]), ("a@77", &"degraded".into()));
}

#[test]
fn a_name_whose_image_is_gone_does_not_lead_to_its_old_pool() {
    let pool = |pool: &str| BTreeMap::from([("pool".to_owned(), pool.to_owned())]);
    let mut removed = 0;
    for point in 0..90 {
        let mut rig = Rig::new(Removal::Delete);
        rig.driver.create("a", &pool("p2")).unwrap();
        let old = ImageSpec::new("p2", None, "a").unwrap();
        let answer = rig.with_fault(Plan::Crash(point), |driver| driver.remove("a"));
        if !rig.world.look().images.contains_key(&old) {
            removed += 1;
            VolumeDriver::create(&*rig.driver, "a", &BTreeMap::new()).unwrap();
            let images: Vec<ImageSpec> = rig.world.look().images.keys().cloned().collect();
            assert_eq!(images, [spec("a")], "after a crash at point {point}");
        }
        if answer.is_ok() {
            break;
        }
    }
    assert!(removed > 3, "only {removed} crashes after the image was gone");
    // Removed by hand, and no outage.
    let rig = Rig::new(Removal::Delete);
    rig.driver.create("a", &pool("p2")).unwrap();
    rig.world.look().away = true;
    VolumeDriver::create(&*rig.driver, "a", &BTreeMap::new()).unwrap_err();
    rig.world.look().away = false;
    assert_eq!(rig.driver.get("a").unwrap().status["image"], "p2/a", "an outage takes no name away");
    rig.world.look().images.clear();
    rig.world.look().records.clear();
    VolumeDriver::create(&*rig.driver, "a", &BTreeMap::new()).unwrap();
    assert_eq!(rig.driver.get("a").unwrap().status["image"], "rbd/a");
}

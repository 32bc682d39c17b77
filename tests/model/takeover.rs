//! Volumes that another host takes away, and a store that is away when the plugin starts.

use rbd_docker_plugin::backend::fault::Plan;
use rbd_docker_plugin::driver::api::VolumeDriver;
use rbd_docker_plugin::model::error::ErrorKind;
use rbd_docker_plugin::model::owner::Owner;
use rbd_docker_plugin::model::settings::Removal;
use rbd_docker_plugin::model::stored::Unknown;
use serde_json::json;

use super::rig::{Rig, spec};

fn other_host() -> Owner {
    Owner {
        host: "h2".to_owned(),
        machine_id: "m2".to_owned(),
        firmware_id: String::new(),
        boot_id: "boot2".to_owned(),
        plugin: "p1".to_owned(),
        root: "/m/p1".into(),
        since: 0,
        client_addr: None,
        mount_ids: Vec::new(),
        unknown: Unknown::default(),
    }
}

/// A rig with a volume `a` that is mounted, and that another host takes over.
fn taken_over() -> Rig {
    let rig = Rig::new(Removal::Delete);
    VolumeDriver::create(&*rig.driver, "a", &[].into()).unwrap();
    rig.driver.mount("a", "x", None, &|| true).unwrap();
    rig.write("a", "mine");
    rig.world.look().owners.insert(spec("a"), other_host());
    rig
}

fn is_detached(rig: &Rig) {
    let state = rig.world.look();
    assert!(state.mounts.is_empty(), "{:?}", state.mounts);
    assert!(state.devices.is_empty(), "{:?}", state.devices);
    assert_eq!(state.files.keys().filter(|file| file.starts_with("/m/.state/p1/refs")).count(), 0);
    assert_eq!(state.owners.get(&spec("a")).map(|owner| owner.host.as_str()), Some("h2"), "it is theirs");
}

fn health(rig: &Rig) -> serde_json::Value {
    rig.driver.get("a").unwrap().status["health"].clone()
}

#[test]
fn a_fenced_volume_is_detached_says_so_and_can_be_mounted_again_when_it_is_free() {
    let rig = taken_over();
    rig.driver.tick();
    is_detached(&rig);
    assert_eq!(health(&rig), json!("fenced"));
    let e = rig.driver.mount("a", "y", None, &|| true).unwrap_err();
    assert_eq!(e.kind, ErrorKind::InUse);
    assert!(e.to_string().contains("host h2"), "{e}");
    rig.driver.unmount("a", "x").expect("Docker's Unmount of the dead mount succeeds");
    rig.world.look().owners.clear();
    rig.driver.mount("a", "y", None, &|| true).unwrap();
    assert_eq!(health(&rig), json!("ok"));
    assert_eq!(rig.read("a").as_deref(), Some("mine"));
    rig.driver.unmount("a", "y").unwrap();
    rig.check();
}

#[test]
fn no_second_container_gets_a_dead_mount() {
    let rig = taken_over();
    let e = rig.driver.mount("a", "y", None, &|| true).unwrap_err();
    assert_eq!(e.kind, ErrorKind::InUse, "before anybody has looked");
    is_detached(&rig);
}

#[test]
fn wherever_giving_up_fails_or_dies_it_is_finished_later() {
    for plan in [Plan::Fail, Plan::Crash] {
        for point in 0.. {
            let mut rig = taken_over();
            rig.with_fault(plan(point), |driver| driver.tick());
            let reached = rig.faults.trace().len() as u64 > point;
            rig.driver.tick();
            is_detached(&rig);
            if !reached {
                assert!(point > 8, "few points: {point}");
                break;
            }
        }
    }
}

#[test]
fn volumes_of_an_earlier_life_are_found_when_the_store_comes_back_after_the_start() {
    let mut rig = Rig::new(Removal::Delete);
    VolumeDriver::create(&*rig.driver, "a", &[].into()).unwrap();
    // Killed after the claim of a Mount.
    rig.with_fault(Plan::Count, |_| ());
    rig.faults.arm(Plan::Crash(14));
    rig.driver.mount("a", "x", None, &|| true).unwrap_err();
    assert!(!rig.world.look().owners.is_empty(), "the claim is left");
    rig.world.look().away = true;
    rig.restart();
    rig.driver.tick();
    assert!(!rig.world.look().owners.is_empty());
    rig.world.look().away = false;
    rig.driver.tick();
    rig.check();
    assert!(rig.world.look().owners.is_empty(), "it was found and released");
}

/// A mounted volume whose mount is taken away under a running container, as an engine does when it disables a managed plugin by force.
fn unmounted_under_a_container() -> (Rig, u32) {
    let rig = Rig::new(Removal::Delete);
    VolumeDriver::create(&*rig.driver, "a", &[].into()).unwrap();
    rig.driver.mount("a", "x", None, &|| true).unwrap();
    let device = *rig.world.look().devices.keys().next().unwrap();
    rig.world.look().held.insert(device);
    rig.world.look().mounts.clear();
    (rig, device)
}

#[test]
fn what_was_unmounted_under_a_container_is_mounted_again_and_stays_its_own() {
    for restarts in [true, false] {
        let (mut rig, device) = unmounted_under_a_container();
        if restarts {
            rig.restart();
        }
        rig.driver.mount("a", "y", None, &|| true).unwrap();
        assert_eq!(rig.world.look().mounts.len(), 1);
        assert_eq!(rig.world.look().devices.keys().collect::<Vec<_>>(), [&device], "the filesystem it has");
        assert_eq!(rig.uses("a"), [("x".to_owned(), 1), ("y".to_owned(), 1)].into());
        rig.driver.unmount("a", "y").unwrap();
        rig.check();
        rig.world.look().held.clear();
        rig.driver.unmount("a", "x").unwrap();
        rig.check();
        assert!(rig.world.look().devices.is_empty());
    }
}

#[test]
fn what_was_unmounted_after_its_last_container_is_taken_down_at_the_next_start() {
    let (mut rig, _) = unmounted_under_a_container();
    rig.world.look().held.clear();
    rig.restart();
    rig.check();
    assert!(rig.world.look().devices.is_empty());
    rig.driver.unmount("a", "x").expect("Docker's late Unmount");
}

#[test]
fn what_was_unmounted_under_a_container_is_not_forgotten_while_the_store_is_away() {
    let (mut rig, device) = unmounted_under_a_container();
    rig.world.look().away = true;
    rig.restart();
    rig.world.look().away = false;
    rig.driver.tick();
    assert_eq!(rig.world.look().mounts.len(), 1);
    assert_eq!(rig.world.look().devices.keys().collect::<Vec<_>>(), [&device]);
    assert_eq!(rig.uses("a").len(), 1);
    rig.check();
}

#[test]
fn wherever_mounting_it_again_fails_or_dies_it_is_finished_later() {
    for plan in [Plan::Fail, Plan::Crash] {
        for point in 0.. {
            let (mut rig, _) = unmounted_under_a_container();
            rig.with_fault(plan(point), |driver| drop(driver.mount("a", "y", None, &|| true)));
            let trace = rig.faults.trace();
            let reached = trace.len() as u64 > point;
            rig.restart();
            assert_eq!(rig.world.look().mounts.len(), 1, "{trace:?}");
            assert!(rig.uses("a").contains_key("x"), "the container's use: {trace:?}");
            rig.check();
            if !reached {
                break;
            }
        }
    }
}

//! Unmounting all: a plugin has stopped, and what it had mounted is given back; what is held stays as it was.

use rbd_docker_plugin::backend::fault::Plan;
use rbd_docker_plugin::driver::api::VolumeDriver;
use rbd_docker_plugin::model::error::ErrorKind;
use rbd_docker_plugin::model::settings::Removal;

use super::rig::{Rig, Uses, spec};

/// Volumes with data, each mounted by two containers.
fn mounted(volumes: &[&str]) -> Rig {
    let rig = Rig::new(Removal::Delete);
    for volume in volumes {
        VolumeDriver::create(&*rig.driver, volume, &[].into()).unwrap();
        for id in ["x", "y"] {
            rig.driver.mount(volume, id, None, &|| true).unwrap();
        }
        rig.write(volume, "kept");
    }
    rig
}

fn at_rest(rig: &Rig, volume: &str) {
    let state = rig.world.look();
    assert!(!state.owners.contains_key(&spec(volume)), "{:?}", state.owners);
    assert!(!state.devices.values().any(|mapped| *mapped == spec(volume)), "{:?}", state.devices);
}

#[test]
fn all_is_given_back_and_a_second_time_nothing_is_there() {
    let mut rig = mounted(&["a", "b", "c"]);
    let released = rig.release_all();
    assert_eq!(released.volumes.keys().collect::<Vec<_>>(), [&spec("a"), &spec("b"), &spec("c")]);
    assert!(released.volumes.values().all(Result::is_ok) && released.unknown.is_none(), "{released:?}");
    assert!(rig.world.look().mounts.is_empty());
    let again = rig.release_all();
    assert!(again.volumes.is_empty() && again.unknown.is_none(), "{again:?}");
    // Docker's late Unmounts, and the next life.
    rig.restart();
    rig.check();
    rig.driver.unmount("a", "x").unwrap();
    rig.driver.mount("a", "z", None, &|| true).unwrap();
    assert_eq!(rig.uses("a"), Uses::from([("z".to_owned(), 1)]));
    assert_eq!(rig.read("a").as_deref(), Some("kept"));
    rig.check();
}

#[test]
fn what_is_held_is_left_with_its_mount_ids_and_the_rest_is_given_back() {
    for by_container in [true, false] {
        let mut rig = mounted(&["a", "held"]);
        let mountpoint = rig.driver.path("held").unwrap().unwrap();
        {
            let mut state = rig.world.look();
            let device = *state.devices.iter().find(|(_, mapped)| **mapped == spec("held")).unwrap().0;
            let new = if by_container { state.held.insert(device) } else { state.busy.insert(mountpoint) };
            assert!(new);
        }
        let released = rig.release_all();
        assert!(released.volumes[&spec("a")].is_ok(), "{released:?}");
        at_rest(&rig, "a");
        let e = released.volumes[&spec("held")].clone().unwrap_err();
        assert_eq!(e.kind, ErrorKind::InUse, "{e}");
        rig.restart();
        let both = Uses::from([("x".to_owned(), 1), ("y".to_owned(), 1)]);
        assert_eq!(rig.uses("held"), both, "a plugin that comes back knows who uses it");
        rig.check();
        {
            let mut state = rig.world.look();
            state.held.clear();
            state.busy.clear();
        }
        assert!(rig.release_all().volumes[&spec("held")].is_ok());
        rig.restart();
        rig.check();
        assert_eq!(rig.read("held").as_deref(), Some("kept"));
    }
}

#[test]
fn wherever_it_fails_or_dies_it_is_finished_the_next_time() {
    for plan in [Plan::Fail, Plan::Crash] {
        for point in 0.. {
            let mut rig = mounted(&["a"]);
            rig.faults.arm(plan(point));
            let released = rig.try_release_all();
            let reached = rig.faults.trace().len() as u64 > point;
            rig.faults.disarm();
            if !reached {
                assert!(point > 15, "few points: {point}");
                assert!(released.unwrap().volumes[&spec("a")].is_ok());
                break;
            }
            let rest = rig.release_all();
            assert!(rest.volumes.values().all(Result::is_ok) && rest.unknown.is_none(), "{point}: {rest:?}");
            at_rest(&rig, "a");
            rig.restart();
            rig.check();
            assert_eq!(rig.read("a").as_deref(), Some("kept"));
        }
    }
}

#[test]
fn a_half_made_mount_of_a_crash_is_given_back_too() {
    let mut rig = Rig::new(Removal::Delete);
    VolumeDriver::create(&*rig.driver, "a", &[].into()).unwrap();
    rig.faults.arm(Plan::Crash(14));
    rig.driver.mount("a", "x", None, &|| true).unwrap_err();
    rig.faults.disarm();
    assert!(!rig.world.look().owners.is_empty(), "the claim is left");
    assert!(rig.release_all().volumes[&spec("a")].is_ok());
    assert!(rig.world.look().owners.is_empty());
    rig.restart();
    rig.check();
}

#[test]
fn a_store_that_is_away_is_told_and_the_mounts_go_all_the_same() {
    let mut rig = mounted(&["a"]);
    rig.world.look().away = true;
    let released = rig.release_all();
    assert_eq!(released.unknown.unwrap().kind, ErrorKind::Unreachable);
    let e = released.volumes[&spec("a")].clone().unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unreachable, "{e}");
    assert!(rig.world.look().mounts.is_empty(), "what the container wrote is with the kernel");
    rig.world.look().away = false;
    assert!(rig.release_all().volumes[&spec("a")].is_ok());
    rig.restart();
    rig.check();
}

//! Random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use rbd_docker_plugin::backend::fault::Plan;
use rbd_docker_plugin::driver::api::VolumeDriver;
use rbd_docker_plugin::model::error::ErrorKind;
use rbd_docker_plugin::model::settings::Removal;

use super::rig::Rig;

/// More points than any operation has.
const POINTS: u64 = 90;

#[derive(Debug, Clone)]
enum Operation {
    Create(&'static str),
    Remove(&'static str),
    Mount(&'static str, &'static str),
    Unmount(&'static str, &'static str),
    Restart,
}

/// An operation, and the fault that meets it.
#[derive(Debug, Clone)]
struct Step {
    operation: Operation,
    fault: Fault,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    Fail(u64),
    Crash(u64),
}

impl Fault {
    fn plan(self) -> Plan {
        match self {
            Self::None => Plan::Count,
            Self::Fail(at) => Plan::Fail(at),
            Self::Crash(at) => Plan::Crash(at),
        }
    }
}

/// Generates; what is expected depends on where the fault struck, so the machine below keeps it.
#[derive(Debug)]
struct Histories;

impl ReferenceStateMachine for Histories {
    type State = ();
    type Transition = Step;

    fn init_state() -> BoxedStrategy<()> {
        Just(()).boxed()
    }

    fn transitions(_: &()) -> BoxedStrategy<Step> {
        let volume = prop_oneof![Just("a"), Just("b")];
        let id = prop_oneof![Just("x"), Just("y")];
        let operation = prop_oneof![
            3 => volume.clone().prop_map(Operation::Create),
            2 => volume.clone().prop_map(Operation::Remove),
            4 => (volume.clone(), id.clone()).prop_map(|(v, id)| Operation::Mount(v, id)),
            4 => (volume, id).prop_map(|(v, id)| Operation::Unmount(v, id)),
            1 => Just(Operation::Restart),
        ];
        let fault = prop_oneof![
            2 => Just(Fault::None),
            2 => (0..POINTS).prop_map(Fault::Fail),
            2 => (0..POINTS).prop_map(Fault::Crash),
        ];
        (operation, fault).prop_map(|(operation, fault)| Step { operation, fault }).boxed()
    }

    fn apply((): (), _: &Step) {}
}

/// What must be true of a volume.
#[derive(Debug, Clone, Default, PartialEq)]
struct Expected {
    exists: bool,
    uses: u64,
    data: String,
}

#[derive(Debug)]
struct Machine {
    rig: Rig,
    expected: BTreeMap<&'static str, Expected>,
    written: u32,
}

impl Machine {
    fn seen(&self, volume: &str) -> (bool, u64) {
        (self.rig.exists(volume), self.rig.uses(volume).values().sum())
    }

    /// One step; checks the answer against what was expected.
    fn step(&mut self, step: &Step) {
        let plan = step.fault.plan();
        let faulty = plan != Plan::Count;
        let before = self.expected.clone();
        let of = |volume: &str| before.get(volume).cloned().unwrap_or_default();
        let volume = match step.operation {
            Operation::Create(volume) => {
                let answer = self.rig.with_fault(plan, |d| VolumeDriver::create(d, volume, &BTreeMap::new()));
                assert!(faulty || answer.is_ok(), "{answer:?}");
                let (exists, uses) = self.seen(volume);
                assert!(exists || (answer.is_err() && !of(volume).exists), "{answer:?}");
                assert_eq!(uses, of(volume).uses);
                volume
            }
            Operation::Remove(volume) => {
                let answer = self.rig.with_fault(plan, |d| VolumeDriver::remove(d, volume));
                let (exists, uses) = self.seen(volume);
                if of(volume).uses > 0 {
                    assert!(faulty || answer.unwrap_err().kind == ErrorKind::InUse);
                    assert!(exists, "removed in use");
                } else if answer.is_ok() {
                    assert!(!exists);
                } else {
                    assert!(faulty, "{answer:?}");
                }
                assert_eq!(uses, of(volume).uses);
                volume
            }
            Operation::Mount(volume, id) => {
                let answer =
                    self.rig.with_fault(plan, |d| VolumeDriver::mount(d, volume, id, None, &|| true));
                let (exists, uses) = self.seen(volume);
                assert_eq!(exists, of(volume).exists);
                match &answer {
                    Ok(_) => assert_eq!(uses, of(volume).uses + 1),
                    // Its answer was lost with the plugin: the mount may be there, or not.
                    Err(_) if matches!(plan, Plan::Crash(_)) => {
                        assert!(uses == of(volume).uses || uses == of(volume).uses + 1);
                    }
                    Err(e) => {
                        assert_eq!(uses, of(volume).uses, "a failed Mount counts");
                        assert!(faulty || (!exists && e.kind == ErrorKind::NotFound), "{e}");
                    }
                }
                volume
            }
            Operation::Unmount(volume, id) => {
                let known = self.rig.uses(volume).contains_key(id);
                let answer = self.rig.with_fault(plan, |d| VolumeDriver::unmount(d, volume, id));
                let (exists, uses) = self.seen(volume);
                assert_eq!(exists, of(volume).exists);
                let fewer = of(volume).uses - u64::from(known);
                match answer {
                    Ok(()) => assert_eq!(uses, fewer),
                    Err(e) => {
                        assert!(faulty, "{e}");
                        assert!(uses == fewer || uses == of(volume).uses);
                    }
                }
                volume
            }
            Operation::Restart => {
                self.rig.restart();
                "a"
            }
        };
        let (exists, uses) = self.seen(volume);
        let kept = of(volume);
        let data = if exists && kept.exists { kept.data } else { String::new() };
        self.expected.insert(volume, Expected { exists, uses, data });
        self.check();
        if uses > 0 {
            self.written += 1;
            let text = format!("write {}", self.written);
            self.rig.write(volume, &text);
            self.expected.entry(volume).and_modify(|e| e.data = text);
        }
    }

    fn check(&self) {
        self.rig.check();
        for (volume, expected) in &self.expected {
            assert_eq!(self.seen(volume), (expected.exists, expected.uses), "{volume}");
            assert_eq!(
                self.rig.read(volume),
                expected.exists.then(|| expected.data.clone()),
                "{volume}: its data"
            );
        }
    }
}

impl StateMachineTest for Machine {
    type SystemUnderTest = Self;
    type Reference = Histories;

    fn init_test((): &()) -> Self {
        Self { rig: Rig::new(Removal::Delete), expected: BTreeMap::new(), written: 0 }
    }

    fn apply(mut machine: Self, (): &(), step: Step) -> Self {
        machine.step(&step);
        machine
    }

    fn teardown(mut machine: Self, (): ()) {
        for volume in ["a", "b"] {
            for (id, count) in machine.rig.uses(volume) {
                for _ in 0..count {
                    machine
                        .step(&Step { operation: Operation::Unmount(volume, leak(&id)), fault: Fault::None });
                }
            }
            for id in ["x", "y"] {
                let operation = Operation::Unmount(volume, id);
                machine.step(&Step { operation, fault: Fault::None });
            }
        }
        assert!(machine.rig.world.look().mounts.is_empty(), "unmounted by all, and still mounted");
    }
}

fn leak(id: &str) -> &'static str {
    if id == "x" { "x" } else { "y" }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_is_left(sequential 1..30 => Machine);
}

/// Every operation with a failure and a crash at every one of its points, one after the other: what chance may miss.
#[test]
fn every_point_of_every_operation() {
    let history = [
        Operation::Create("a"),
        Operation::Mount("a", "x"),
        Operation::Mount("a", "x"),
        Operation::Unmount("a", "x"),
        Operation::Unmount("a", "x"),
        Operation::Remove("a"),
    ];
    let mut points = 0;
    for at in 0..history.len() {
        for fault in [Fault::Fail, Fault::Crash] {
            for point in 0..POINTS {
                let mut machine = Machine::init_test(&());
                for operation in &history[..at] {
                    machine.step(&Step { operation: operation.clone(), fault: Fault::None });
                }
                machine.step(&Step { operation: history[at].clone(), fault: fault(point) });
                if machine.rig.faults.trace().len() as u64 <= point {
                    break;
                }
                points += 1;
                // A restart finds on disk what there is in memory.
                machine.step(&Step { operation: Operation::Restart, fault: Fault::None });
                // The same again without a fault must work.
                machine.step(&Step { operation: history[at].clone(), fault: Fault::None });
                Machine::teardown(machine, ());
            }
        }
    }
    assert!(points > 200, "only {points} points: are the fault points in place?");
}

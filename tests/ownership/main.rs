//! The protocol by which hosts own images, on a cluster in memory: many histories of three hosts, whose calls to the cluster come in any
//! order, and a fourth one that comes new in the end. `make model` runs a million of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::tests_outside_test_module,
    reason = "all of this is tests"
)]

mod cases;
mod history;
mod plugin;
mod schedule;

use std::sync::atomic::{AtomicU64, Ordering};

use history::{Violation, WORKERS};
use plugin::Mistakes;
use schedule::Schedule;

/// How many histories a test runs.
const HISTORIES: u64 = 10_000;
/// Threads that run histories, each with a cluster of its own.
const AT_ONCE: usize = 2;

/// Runs so many histories; the first violation, with the log of how it came to it.
fn explore(histories: u64, mistakes: Mistakes) -> Option<(Violation, Vec<String>)> {
    let (next, worst) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let schedule = Schedule::new(WORKERS);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= histories.min(worst.load(Ordering::Relaxed)) {
                        break;
                    }
                    if history::run(&schedule, seed, mistakes, false).is_err() {
                        worst.fetch_min(seed, Ordering::Relaxed);
                    }
                }
                schedule.end();
            });
        }
    });
    let seed = worst.into_inner();
    (seed < u64::MAX).then(|| {
        let schedule = Schedule::new(WORKERS);
        let violation =
            history::run(&schedule, seed, mistakes, true).expect_err("a history is the same each time");
        let log = schedule.log();
        schedule.end();
        (violation, log)
    })
}

/// So many as `RBD_HISTORIES` says.
fn histories() -> u64 {
    std::env::var("RBD_HISTORIES").map_or(HISTORIES, |text| text.parse().unwrap())
}

#[test]
fn no_image_has_two_writers_and_none_is_blocked_for_ever() {
    let histories = histories();
    if let Some((violation, log)) = explore(histories, Mistakes::default()) {
        panic!("{violation:#?}\n{}", log.join("\n"));
    }
    println!("{histories} histories");
}

/// The model bites: each mistake of the past is found.
fn is_found(mistakes: Mistakes) {
    let (violation, _) = explore(HISTORIES, mistakes).unwrap_or_else(|| panic!("{mistakes:?} was not found"));
    println!("{mistakes:?}: history {} shows that {}", violation.seed, violation.what);
}

#[test]
fn an_address_on_record_that_is_replaced_while_its_mapping_lives_is_found() {
    is_found(Mistakes { replaces_live_addresses: true, ..Mistakes::default() });
}

#[test]
fn a_look_that_brings_back_what_was_released_is_found() {
    is_found(Mistakes { looks_write: true, ..Mistakes::default() });
}

#[test]
fn a_fence_of_a_whole_host_that_is_not_seen_is_found() {
    is_found(Mistakes { sees_single_clients_only: true, ..Mistakes::default() });
}

#[test]
fn a_fence_that_ends_while_its_victim_sleeps_is_found() {
    is_found(Mistakes { fences_for_an_hour: true, ..Mistakes::default() });
}

//! What mapping costs beside the kernel's own part of it.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::rig::{Rig, kernel, trial, within};

const ROUNDS: usize = 15;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("speed::nothing_beside_the_write", nothing_beside_the_write)]
}

/// The write to sysfs, and nothing else.
fn bare(rig: &Rig, image: &str) -> Duration {
    let options = Rig::options().join(",");
    let line =
        format!("{} name=docker,secret={},{options} rbd {image} -", rig.monitors.join(","), rig.secret);
    let mut control = fs::OpenOptions::new().write(true).open("/sys/bus/rbd/add_single_major").unwrap();
    let begin = Instant::now();
    assert_eq!(control.write(line.as_bytes()).unwrap(), line.len());
    begin.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn nothing_beside_the_write(rig: &Rig) {
    let made = rig.image(None);
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        floor.push(bare(rig, &made.name));
        let id = kernel().list().unwrap()[0].id;
        kernel().unmap(id, false, within(60)).unwrap();
        let begin = Instant::now();
        let mapping = rig.map(&made);
        ours.push(begin.elapsed());
        kernel().unmap(mapping.id, false, within(60)).unwrap();
    }
    let (floor, ours) = (median(floor), median(ours));
    println!("map: {ours:?}, the write alone: {floor:?} (medians of {ROUNDS})");
    // An emulated machine with others beside it is not exact; one pause, or one wait for udev, would be more than this.
    assert!(ours < floor * 2 + Duration::from_millis(20), "{ours:?} against {floor:?}");
}

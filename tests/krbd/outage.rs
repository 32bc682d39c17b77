//! A cluster that does not answer.

use std::process::Command;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::errno::Errno;
use rbd_docker_plugin::linux::krbd::Request;
use rbd_docker_plugin::model::deadline::Deadline;

use crate::rig::{Rig, Running, eventually, kernel, keys, maker, trial, within};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("outage::a_late_mapping_is_taken_away", a_late_mapping_is_taken_away),
        trial("outage::killed_while_it_maps", killed_while_it_maps),
        trial("outage::the_next_map_waits_for_the_late_one", the_next_map_waits_for_the_late_one),
        trial("outage::unmapping_comes_to_its_end_later", unmapping_comes_to_its_end_later),
        trial("outage::monitors_that_are_not_there", monitors_that_are_not_there),
    ]
}

const PATIENCE: Duration = Duration::from_secs(3);

fn timed_out(e: &rbd_docker_plugin::model::error::CallError, begin: Instant) {
    let took = begin.elapsed();
    assert_eq!(e.errno, Errno::ETIMEDOUT, "{e}");
    assert!(
        took > PATIENCE - Duration::from_millis(100) && took < PATIENCE + Duration::from_secs(1),
        "{took:?}"
    );
}

/// How often the kernel has announced a device since it was booted.
fn announced() -> usize {
    let log = Command::new("dmesg").output().unwrap().stdout;
    String::from_utf8_lossy(&log)
        .lines()
        .filter(|line| line.contains("rbd: rbd") && line.contains(": capacity "))
        .count()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

fn a_late_mapping_is_taken_away(rig: &Rig) {
    let made = rig.image(None);
    let before = announced();
    rig.pause();
    let begin = Instant::now();
    let failure = rig.try_map(&made, Deadline::after(PATIENCE)).unwrap_err();
    timed_out(&failure.error, begin);
    assert_eq!(keys().len(), 1, "the thread that was left behind is still there, and its key with it");

    let running = threads();
    let begin = Instant::now();
    timed_out(&rig.try_map(&made, Deadline::after(PATIENCE)).unwrap_err().error, begin);
    assert_eq!(threads(), running, "no further thread hangs");

    rig.resume();
    eventually("the late device is announced", || announced() > before);
    eventually("and taken away", || kernel().list().unwrap().is_empty() && made.watchers().is_empty());
    eventually("with its key", || keys().is_empty());
    assert_eq!(announced(), before + 1, "it was mapped once only");
    let mapping = rig.map(&made);
    kernel().unmap(mapping.id, false, within(60)).unwrap();
}

/// The kernel gives up, so nothing comes later that nobody waits for.
fn killed_while_it_maps(rig: &Rig) {
    let made = rig.image(None);
    let before = announced();
    rig.pause();
    let image = format!("{} {}", made.name, made.id);
    let mapper = Running(Command::new("/proc/self/exe").env(MAPPER, image).spawn().unwrap());
    eventually("it is about to write", || !keys().is_empty());
    std::thread::sleep(Duration::from_secs(1));
    let begin = Instant::now();
    drop(mapper);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    rig.resume();
    let other = rig.image(None);
    let mapping = rig.map(&other);
    kernel().unmap(mapping.id, false, within(60)).unwrap();
    assert_eq!(made.watchers(), Vec::<String>::new());
    assert_eq!(announced(), before + 1, "only the other one was mapped");
}

/// The process that is killed there.
pub(crate) const MAPPER: &str = "KRBD_TEST_MAPPER";

pub(crate) fn mapper(image: &str) {
    let rig = Rig::new();
    let (name, id) = image.split_once(' ').unwrap();
    let made = rig.known(None, name.to_owned(), id.to_owned());
    let _ = rig.try_map(&made, within(600));
}

fn the_next_map_waits_for_the_late_one(rig: &Rig) {
    let made = rig.image(None);
    rig.pause();
    rig.try_map(&made, Deadline::after(Duration::from_secs(1))).unwrap_err();
    let mapping = std::thread::scope(|scope| {
        let next = scope.spawn(|| rig.map(&made));
        std::thread::sleep(Duration::from_millis(500));
        rig.resume();
        next.join().unwrap()
    });
    assert_eq!(
        kernel().list().unwrap(),
        std::slice::from_ref(&mapping),
        "the late one is gone, this one stays"
    );
    assert_eq!(made.watchers(), std::slice::from_ref(&mapping.client_addr));
    kernel().unmap(mapping.id, false, within(60)).unwrap();
}

fn unmapping_comes_to_its_end_later(rig: &Rig) {
    let made = rig.image(None);
    let mapping = rig.map(&made);
    // udev still looks at it, and could not go on below.
    eventually("nobody has it open", || kernel().holders(&mapping).is_empty());
    rig.pause();
    for force in [false, true] {
        let begin = Instant::now();
        match kernel().unmap(mapping.id, force, Deadline::after(PATIENCE)) {
            Err(e) => timed_out(&e, begin),
            Ok(()) => assert!(
                force,
                "the kernel has taken the device away, and only its lock is left to be given back"
            ),
        }
    }
    rig.resume();
    eventually("it is gone", || kernel().list().unwrap().is_empty() && made.watchers().is_empty());
    kernel().unmap(mapping.id, false, within(60)).unwrap();
}

fn monitors_that_are_not_there(rig: &Rig) {
    let made = rig.image(None);
    let nowhere = ["192.0.2.1:3300".to_owned()];
    let options = Rig::options();
    let request = Request { monitors: &nowhere, ..rig.request(&made, &options) };
    let begin = Instant::now();
    let failure = kernel().map(request, made.identity(), &maker(), Deadline::after(PATIENCE)).unwrap_err();
    timed_out(&failure.error, begin);

    // The kernel's own end of it comes before our deadline. The former call still hangs: another image.
    let made = rig.image(None);
    let options = [Rig::options(), vec!["mount_timeout=2".to_owned()]].concat();
    let request = Request { monitors: &nowhere, ..rig.request(&made, &options) };
    let failure = kernel().map(request, made.identity(), &maker(), within(30)).unwrap_err();
    assert_eq!(failure.error.errno, Errno::ETIMEDOUT, "{failure}");
}

//! Devices that somebody does not let go.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::errno::Errno;
use rbd_docker_plugin::linux::krbd::Mapping;
use rbd_docker_plugin::model::deadline::Deadline;

use crate::rig::{Rig, Running, eventually, kernel, trial, within};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("busy::a_process_has_it_open", a_process_has_it_open),
        trial("busy::mounted_in_another_namespace", mounted_in_another_namespace),
        trial("busy::just_closed", just_closed),
        trial("busy::right_after_mapping", right_after_mapping),
    ]
}

fn busy(mapping: &Mapping) {
    let begin = Instant::now();
    let e = kernel().unmap(mapping.id, false, Deadline::after(Duration::from_secs(2))).unwrap_err();
    assert_eq!((e.call, e.errno), ("rbd_remove", Errno::EBUSY), "{e}");
    assert!(begin.elapsed() < Duration::from_millis(2500), "{:?}", begin.elapsed());
}

fn a_process_has_it_open(rig: &Rig) {
    let made = rig.image(None);
    let mapping = rig.map(&made);
    let device = File::open(&mapping.path).unwrap();
    let sleeper = Running(Command::new("sleep").arg("600").stdin(device).spawn().unwrap());
    let says = format!("sleep (pid {}, open {})", sleeper.0.id(), mapping.path.display());
    busy(&mapping);
    let holders = kernel().holders(&mapping);
    assert!(holders.contains(&says), "{holders:?}");
    drop(sleeper);
    kernel().unmap(mapping.id, false, within(10)).unwrap();
}

fn mounted_in_another_namespace(rig: &Rig) {
    let made = rig.image(None);
    let mapping = rig.map(&made);
    let path = mapping.path.to_str().unwrap();
    assert!(Command::new("mkfs.ext4").args(["-q", "-F", path]).status().unwrap().success());
    let script = format!("mount -t ext4 {path} /mnt && echo mounted && exec sleep 600");
    let mut holder = Command::new("unshare");
    holder.args(["--mount", "--propagation", "private", "sh", "-c", &script]).stdout(Stdio::piped());
    let mut holder = Running(holder.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(holder.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "mounted\n");
    let says = format!("sleep (pid {}, mounted at /mnt in its namespace)", holder.0.id());
    eventually("it sleeps", || kernel().holders(&mapping).contains(&says));
    busy(&mapping);

    kernel().unmap(mapping.id, true, within(60)).unwrap();
    assert_eq!(kernel().list().unwrap(), []);
    assert_eq!(made.watchers(), Vec::<String>::new());
    drop(holder);
    let again = rig.map(&made);
    kernel().unmap(again.id, false, within(60)).unwrap();
}

fn just_closed(rig: &Rig) {
    let made = rig.image(None);
    let mapping = rig.map(&made);
    let device = File::open(&mapping.path).unwrap();
    let closing = thread::spawn(move || {
        thread::sleep(Duration::from_millis(400));
        drop(device);
    });
    let begin = Instant::now();
    kernel().unmap(mapping.id, false, within(30)).unwrap();
    assert!(begin.elapsed() > Duration::from_millis(300));
    closing.join().unwrap();
}

/// udev opens every new device to look at it.
fn right_after_mapping(rig: &Rig) {
    let made = rig.image(None);
    for _ in 0..8 {
        let mapping = rig.map(&made);
        kernel().unmap(mapping.id, false, within(30)).unwrap();
    }
}

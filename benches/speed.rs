//! `make bench`: what the plugin costs, each figure beside the floor of the same work done bare, in the same run on the same
//! images. Timings are medians; only the ratios mean something on another machine.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;
#[path = "../tests/common/daemon.rs"]
mod daemon;

use std::fs::{self, File, OpenOptions};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use common::{Session, median, shown, timed};
use daemon::Daemon;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rbd_docker_plugin::linux::loopdev::{self, Backing};
use rbd_docker_plugin::linux::mount as kernel;
use rbd_docker_plugin::model::deadline::Deadline;
use serde_json::json;

/// Rounds of a bare and a served mount.
const ROUNDS: usize = 60;
/// Volumes that are mounted at once.
const AT_ONCE: usize = 64;
/// Rounds of that.
const PARALLEL_ROUNDS: usize = 5;
/// Volumes that List shows.
const LISTED: usize = 10_000;

fn main() {
    // `cargo test --benches` and the like ask for nothing to be measured.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
        println!("skipped: measuring mounts needs root and loop devices");
        return;
    }
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();

    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let calm = calm(dir.path());
    measure(&calm.target);
    calm.unmount();
}

/// A filesystem that nobody else uses. On the machine's own one ext4 passes over every inode that was deleted in the last minutes
/// when it looks for a free one, and on a machine that has just built and tested something that takes milliseconds.
fn calm(dir: &Path) -> Bare {
    let (image, target) = (dir.join("calm.img"), dir.join("calm"));
    File::create(&image).unwrap().set_len(8 << 30).unwrap();
    let mkfs = std::process::Command::new("mkfs.ext4").arg("-q").arg(&image).status().unwrap();
    assert!(mkfs.success());
    fs::create_dir(&target).unwrap();
    Bare::mount(&image, &target)
}

fn measure(dir: &Path) {
    let none: Option<&str> = None;
    // The default folder of the socket is on one, too.
    fs::create_dir(dir.join("run")).unwrap();
    mount(Some("tmpfs"), &dir.join("run"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let mut daemon = Daemon::new("bench", dir, &[]);
    println!("| what | measured | floor | ratio or limit |\n|---|---|---|---|");
    ready(dir);
    daemon.start();
    row("idle memory", &format!("{:.1} MB", memory(&daemon)), "", "at most 20 MB");
    for n in 0..AT_ONCE {
        daemon.ok("Create", &json!({"Name": format!("v{n}"), "Opts": {"size": "16M"}}));
    }
    requests(&daemon);
    let ours = mounts(&daemon, dir);
    parallel(&daemon, dir);
    listing(&daemon, dir);
    mounts_with_the_crate(&daemon, dir, ours);
    daemon.stop();
    nix::mount::umount(&dir.join("run")).unwrap();
}

fn row(what: &str, measured: &str, floor: &str, limit: &str) {
    println!("| {what} | {measured} | {floor} | {limit} |");
}

fn compared(what: &str, measured: Duration, floor: Duration, limit: &str) {
    let ratio = measured.as_secs_f64() / floor.as_secs_f64();
    row(what, &shown(measured), &shown(floor), &format!("{ratio:.2} × (at most {limit} ×)"));
}

fn memory(daemon: &Daemon) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// From exec to a served connection; the floor is a program that does nothing.
fn ready(dir: &Path) {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for n in 0..20 {
        floor.push(timed(|| assert!(std::process::Command::new("/bin/true").status().unwrap().success())));
        let mut daemon = Daemon::new(&format!("ready{n}"), dir, &[]);
        ours.push(timed(|| {
            daemon.spawn(&[]);
            while UnixStream::connect(daemon.socket()).is_err() {
                std::hint::spin_loop();
            }
            daemon.ok("Capabilities", &json!({}));
        }));
        daemon.stop();
    }
    row(
        "ready to answer, from exec",
        &shown(median(ours)),
        &format!("{} (/bin/true)", shown(median(floor))),
        "at most 50 ms",
    );
}

fn requests(daemon: &Daemon) {
    let mut session = Session::new(&daemon.socket());
    for endpoint in ["Get", "Path", "Capabilities"] {
        let times =
            (0..1000).map(|_| timed(|| assert!(session.ask(endpoint, r#"{"Name":"v0"}"#) > 0))).collect();
        row(&format!("{endpoint}, p50"), &shown(median(times)), "", "at most 1 ms");
    }
}

/// An image attached and mounted by hand, without any of the plugin's care.
struct Bare {
    device: loopdev::Attached,
    backing: Backing,
    target: std::path::PathBuf,
}

impl Bare {
    fn mount(image: &Path, target: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(image).unwrap();
        let backing = Backing::from(&file.metadata().unwrap());
        let device = loopdev::attach(&file, image, false).unwrap();
        kernel::mount(&device.path, "ext4", target, &kernel::parse("").unwrap()).unwrap();
        Self { device, backing, target: target.to_owned() }
    }

    fn unmount(self) {
        assert!(kernel::unmount(&self.target).unwrap());
        drop(self.device.hold);
        loopdev::detach(&self.device.path, self.backing, Deadline::after(Duration::from_secs(60))).unwrap();
    }
}

fn mounts(daemon: &Daemon, dir: &Path) -> Vec<Duration> {
    let (image, target) = (daemon.file("v0", "img"), dir.join("bare"));
    fs::create_dir_all(&target).unwrap();
    let mut session = Session::new(&daemon.socket());
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        floor.push(timed(|| Bare::mount(&image, &target).unmount()));
        ours.push(timed(|| {
            session.ask("Mount", r#"{"Name":"v0","ID":"id"}"#);
            session.ask("Unmount", r#"{"Name":"v0","ID":"id"}"#);
        }));
    }
    compared("Mount + Unmount", median(ours.clone()), median(floor), "1.2");
    ours
}

/// Against the attach of the loopdev crates; last, because what the kernel does after that attach disturbs whatever comes next.
fn mounts_with_the_crate(daemon: &Daemon, dir: &Path, ours: Vec<Duration>) {
    let (image, target) = (daemon.file("v0", "img"), dir.join("bare"));
    let floor = (0..ROUNDS).map(|_| timed(|| with_the_loopdev_crate(&image, &target))).collect();
    compared("Mount + Unmount, floor with the loopdev crate", median(ours), median(floor), "1.2");
}

/// The same in two ioctls, as the loopdev crates and the losetup of most distributions attach: the second one freezes the device.
fn with_the_loopdev_crate(image: &Path, target: &Path) {
    let device = ::loopdev::LoopControl::open().unwrap().next_free().unwrap();
    device.with().attach(image).unwrap();
    kernel::mount(&device.path().unwrap(), "ext4", target, &kernel::parse("").unwrap()).unwrap();
    assert!(kernel::unmount(target).unwrap());
    device.detach().unwrap();
}

fn parallel(daemon: &Daemon, dir: &Path) {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    let targets: Vec<_> = (0..AT_ONCE).map(|n| dir.join(format!("bare{n}"))).collect();
    targets.iter().for_each(|target| fs::create_dir_all(target).unwrap());
    for _ in 0..PARALLEL_ROUNDS {
        let mut mounted = Vec::new();
        floor.push(timed(|| {
            mounted = at_once(|n| Bare::mount(&daemon.file(&format!("v{n}"), "img"), &targets[n]));
        }));
        mounted.into_iter().for_each(Bare::unmount);
        ours.push(timed(|| drop(at_once(|n| daemon.mount(&format!("v{n}"), "id")))));
        (0..AT_ONCE).for_each(|n| daemon.unmount(&format!("v{n}"), "id"));
    }
    compared(&format!("{AT_ONCE} volumes mounted at once"), median(ours), median(floor), "3");
}

fn at_once<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..AT_ONCE).map(|n| scope.spawn(move || work(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn listing(daemon: &Daemon, dir: &Path) {
    for n in 0..LISTED - AT_ONCE {
        File::create(dir.join(format!("images/rbd/listed{n}.img"))).unwrap();
    }
    let count = daemon.ok("List", &json!({}))["Volumes"].as_array().unwrap().len();
    assert_eq!(count, LISTED);
    let mut session = Session::new(&daemon.socket());
    let times = (0..20).map(|_| timed(|| assert!(session.ask("List", "{}") > LISTED))).collect();
    row(&format!("List of {LISTED} volumes"), &shown(median(times)), "", "at most 100 ms");
    row("memory after that", &format!("{:.1} MB", memory(daemon)), "", "");
}

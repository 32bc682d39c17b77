//! The local backend: requests, mounts, lists, memory.

use std::fs::{self, File, OpenOptions};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rbd_docker_plugin::linux::loopdev::{self, Backing};
use rbd_docker_plugin::linux::mount as kernel;
use rbd_docker_plugin::model::deadline::Deadline;
use serde_json::json;

use crate::common::{Session, median, shown, timed};
use crate::cost::memory;
use crate::crowd;
use crate::crowd::SETTLES;
use crate::daemon::Daemon;
use crate::table::{compared, told, within};

/// Rounds of a bare and a served mount.
const ROUNDS: usize = 60;
/// Volumes that are mounted at once.
const AT_ONCE: usize = 64;
/// Rounds of that.
const PARALLEL_ROUNDS: usize = 5;
/// Volumes that List shows.
const LISTED: usize = 10_000;

pub(crate) fn measure(dir: &Path) {
    let mut daemon = Daemon::new("bench", dir, &[]);
    ready(dir);
    daemon.start();
    sleep(SETTLES);
    let idle = memory(daemon.pid());
    told("Memory, backend local, idle", &idle.to_string());
    for n in 0..AT_ONCE {
        daemon.ok("Create", &json!({"Name": format!("v{n}"), "Opts": {"size": "16M"}}));
    }
    requests(&daemon);
    let ours = mounts(&daemon, dir);
    parallel(&daemon, dir);
    listing(&daemon, dir);
    crowd::requests(&daemon, LISTED);
    crowd::mounts(&daemon, "v0");
    crowd::memory_after(&daemon, "local", idle);
    mounts_with_the_crate(&daemon, dir, ours);
    daemon.stop();
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
    let floor = format!("{} (/bin/true)", shown(median(floor)));
    within("Ready to answer, from exec", median(ours), &floor, Duration::from_millis(50));
}

fn requests(daemon: &Daemon) {
    let mut session = Session::new(&daemon.socket());
    for endpoint in ["Get", "Path", "Capabilities"] {
        let times =
            (0..1000).map(|_| timed(|| assert!(session.ask(endpoint, r#"{"Name":"v0"}"#) > 0))).collect();
        within(&format!("{endpoint}, p50"), median(times), "", Duration::from_millis(1));
    }
}

/// An image attached and mounted by hand, without any of the plugin's care.
pub(crate) struct Bare {
    device: loopdev::Attached,
    backing: Backing,
    pub(crate) target: std::path::PathBuf,
}

impl Bare {
    pub(crate) fn mount(image: &Path, target: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(image).unwrap();
        let backing = Backing::from(&file.metadata().unwrap());
        let device = loopdev::attach(&file, image, false).unwrap();
        kernel::mount(&device.path, "ext4", target, &kernel::parse("dev").unwrap()).unwrap();
        Self { device, backing, target: target.to_owned() }
    }

    pub(crate) fn unmount(self) {
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
    compared("Mount + Unmount", median(ours.clone()), (median(floor), ""), 1.3);
    ours
}

/// Against the attach of the loopdev crates; last, because what the kernel does after that attach disturbs whatever comes next.
fn mounts_with_the_crate(daemon: &Daemon, dir: &Path, ours: Vec<Duration>) {
    let (image, target) = (daemon.file("v0", "img"), dir.join("bare"));
    let floor = (0..ROUNDS).map(|_| timed(|| with_the_loopdev_crate(&image, &target))).collect();
    compared("Mount + Unmount, floor with the loopdev crate", median(ours), (median(floor), ""), 1.2);
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
    compared(&format!("{AT_ONCE} volumes mounted at once"), median(ours), (median(floor), ""), 3.0);
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
    within(&format!("List of {LISTED} volumes"), median(times), "", Duration::from_millis(100));
}

//! `make bench-ceph`: what the plugin costs on a real cluster with a real kernel, beside the programs that rbd-docker-plugin 2.0.1
//! runs and beside the bare system calls, in one run on the same images. Timings are medians; only the ratios mean something on
//! another machine. `tools/bench-ceph` runs this program in a virtual machine.
//!
//! ```text
//! RBD_BENCH_CONF=ceph.conf ceph --bench [PART…]  measures: floor, takeover, programs, create, list
//! RBD_BENCH_CONF=ceph.conf ceph --bench --leave  mounts volumes and goes: the host that will have lost its power
//! ```
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
mod floor;
mod programs;
mod served;

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::{median, shown, timed};
use floor::Floor;
use programs::Programs;
use rbd_docker_plugin::ceph::{Cluster, Connect, CreateOptions, IoCtx, features};
use served::Plugin;

/// Rounds of everything that takes the programs seconds.
const ROUNDS: usize = 5;
/// Rounds of plugin and bare calls.
const FINE_ROUNDS: usize = 15;
/// Rounds that make an image.
const MADE: usize = 5;
/// Images that List shows.
const LISTED: usize = 1000;
/// Volumes of the host that lost its power.
const LEFT: usize = 6;

/// A part of the table: its name, and what measures it.
type Part = (&'static str, fn(&mut Bench));

fn main() {
    // `cargo test --benches` and the like ask for nothing to be measured.
    let arguments: Vec<String> = std::env::args().collect();
    let asked = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if !asked("--bench") {
        return;
    }
    let Some(conf) = std::env::var_os("RBD_BENCH_CONF").map(PathBuf::from) else {
        println!("skipped: make bench-ceph runs this in a virtual machine, with a cluster");
        return;
    };
    let plugin = Plugin::start(&conf);
    if asked("--leave") {
        leave(plugin);
        return;
    }
    let connect = Connect {
        conf: conf.clone(),
        user: "docker".to_owned(),
        keyring: None,
        cluster: String::new(),
        timeout: Duration::from_secs(30),
    };
    let io = Cluster::connect(&connect).unwrap().ioctx("rbd", None).unwrap();
    println!("| what | measured | compared with | ratio | limit | |\n|---|---|---|---|---|---|");
    let mut bench = Bench { plugin, programs: Programs::default(), io, conf };
    // Named parts only, or all of them.
    let parts: [Part; 5] = [
        ("floor", Bench::against_the_floor),
        ("takeover", Bench::takeover),
        ("programs", Bench::against_the_programs),
        ("create", Bench::create),
        ("list", Bench::list),
    ];
    let some = parts.iter().any(|(name, _)| asked(name));
    for (_, part) in parts.iter().filter(|(name, _)| !some || asked(name)) {
        part(&mut bench);
    }
    bench.plugin.stop();
}

/// Mounts volumes, writes to each, and ends without a word to anybody.
fn leave(mut plugin: Plugin) {
    for n in 0..LEFT {
        plugin.create(&format!("left{n}"), "");
        let mountpoint = plugin.mount(&format!("left{n}"));
        std::fs::write(mountpoint.join("file"), "here before").unwrap();
    }
    nix::unistd::sync();
    plugin.leave();
}

struct Bench {
    plugin: Plugin,
    programs: Programs,
    io: IoCtx,
    conf: PathBuf,
}

/// Measures when udev has nothing left to do. It looks at every new device and keeps it open for a moment: the programs wait for that inside `rbd map`,
/// and between a mount and an unmount a container runs.
fn calmly(work: impl FnOnce()) -> Duration {
    let settled = Command::new("udevadm").args(["settle", "--timeout=60"]).status();
    assert!(settled.unwrap().success());
    timed(work)
}

/// A limit on a ratio.
enum Limit {
    /// The other side takes at least so many times as long.
    Faster(f64),
    /// We take at most so many times as long.
    Within(f64),
}

fn row(what: &str, ours: Vec<Duration>, with: &str, theirs: Vec<Duration>, limit: &Limit) {
    let (ours, theirs) = (median(ours), median(theirs));
    let (ours_s, theirs_s) = (ours.as_secs_f64(), theirs.as_secs_f64());
    let (ratio, limit, kept) = match limit {
        Limit::Faster(by) => (
            format!("{:.1} × as fast", theirs_s / ours_s),
            format!("at least {by} ×"),
            theirs_s / ours_s >= *by,
        ),
        Limit::Within(by) => (
            format!("{:.2} × as long", ours_s / theirs_s),
            format!("at most {by} ×"),
            ours_s / theirs_s <= *by,
        ),
    };
    let kept = if kept { "kept" } else { "missed" };
    println!("| {what} | {} | {} ({with}) | {ratio} | {limit} | {kept} |", shown(ours), shown(theirs));
}

impl Bench {
    /// On an image that those programs can mount: one with the feature layering only.
    fn against_the_programs(&mut self) {
        let Self { plugin, programs, .. } = self;
        plugin.create("old", r#""features":"layering""#);
        let mut times: [Vec<Duration>; 6] = Default::default();
        for round in 0..=ROUNDS {
            let taken = [
                calmly(|| drop(plugin.mount("old"))),
                calmly(|| plugin.unmount("old")),
                calmly(|| plugin.get("old")),
                calmly(|| programs.mount("old")),
                calmly(|| programs.unmount("old")),
                calmly(|| programs.get("old")),
            ];
            // The first round has the programs read from the disk.
            if round > 0 {
                times.iter_mut().zip(taken).for_each(|(times, taken)| times.push(taken));
            }
        }
        plugin.remove("old");
        let [mount, unmount, get, their_mount, their_unmount, their_get] = times;
        row("Mount", mount, "rbd info, lock add, map; blkid, mount", their_mount, &Limit::Faster(10.0));
        row("Unmount", unmount, "umount; rbd unmap, lock ls, lock rm", their_unmount, &Limit::Faster(10.0));
        row("Get", get, "rbd info", their_get, &Limit::Faster(50.0));
    }

    /// On an image with the features that the cluster gives it.
    fn against_the_floor(&mut self) {
        let Self { plugin, conf, .. } = self;
        plugin.create("new", "");
        let mountpoint = plugin.mount("new");
        let floor = Floor::prepared(conf, &mountpoint, "new");
        plugin.unmount("new");
        let mut times: [Vec<Duration>; 4] = Default::default();
        for _ in 0..FINE_ROUNDS {
            let mut device = None;
            let taken = [
                calmly(|| drop(plugin.mount("new"))),
                calmly(|| plugin.unmount("new")),
                calmly(|| device = Some(floor.mount())),
                calmly(|| floor.unmount(device.unwrap())),
            ];
            times.iter_mut().zip(taken).for_each(|(times, taken)| times.push(taken));
        }
        plugin.remove("new");
        let [mount, unmount, their_mount, their_unmount] = times;
        row("Mount", mount, "one write to sysfs, mount(2)", their_mount, &Limit::Within(1.3));
        row("Unmount", unmount, "umount2(2), one write to sysfs", their_unmount, &Limit::Within(1.3));
        let one = (0..FINE_ROUNDS).map(|_| calmly(|| drop(self.io.read("rbd_directory", 1)))).collect();
        println!(
            "| For comparison: one request to the cluster, through librados | {} | | | | |",
            shown(median(one))
        );
    }

    fn create(&mut self) {
        let Self { plugin, programs, conf, io } = self;
        plugin.create("new", "");
        let mountpoint = plugin.mount("new");
        let floor = Floor::prepared(conf, &mountpoint, "new");
        plugin.unmount("new");
        plugin.remove("new");
        let mut times: [Vec<Duration>; 4] = Default::default();
        for round in 0..=MADE {
            let (ours, bare) = (format!("new{round}"), format!("bare{round}"));
            let (ours_old, theirs) = (format!("newold{round}"), format!("old{round}"));
            let taken = [
                calmly(|| plugin.create(&ours, "")),
                calmly(|| floor.create(io, &bare)),
                calmly(|| plugin.create(&ours_old, r#""features":"layering""#)),
                calmly(|| programs.create(&theirs)),
            ];
            if round > 0 {
                times.iter_mut().zip(taken).for_each(|(times, taken)| times.push(taken));
            }
            for image in [&ours, &bare, &ours_old, &theirs] {
                plugin.remove(image);
            }
        }
        let [ours, bare, ours_old, theirs] = times;
        row(
            "Create of 512 MiB, ext4",
            ours_old,
            "rbd info, create, lock add, map; mkfs; rbd unmap, lock ls, lock rm",
            theirs,
            &Limit::Faster(1.0),
        );
        row(
            "Create of 512 MiB, ext4",
            ours,
            "rbd_create4, one write to sysfs, the same mkfs, one write to sysfs",
            bare,
            &Limit::Within(1.3),
        );
    }

    fn list(&mut self) {
        let Self { plugin, programs, io, .. } = self;
        let layering = CreateOptions { features: Some(features::LAYERING), ..CreateOptions::default() };
        let threads = 8;
        thread::scope(|scope| {
            for thread in 0..threads {
                let (io, layering) = (&*io, &layering);
                scope.spawn(move || {
                    for n in (thread..LISTED).step_by(threads) {
                        io.create_image(&format!("listed{n}"), 1 << 20, layering).unwrap();
                    }
                });
            }
        });
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(calmly(|| assert!(plugin.list() > LISTED * "listed000".len())));
            theirs.push(calmly(|| assert!(programs.list() >= LISTED)));
        }
        row(&format!("List of {LISTED} images"), ours, "rbd ls", theirs, &Limit::Faster(10.0));
    }

    /// The other host is off by now. For its first volume the plugin finds that out by itself; then it is fenced by hand.
    fn takeover(&mut self) {
        let Self { plugin, conf, .. } = self;
        let confirmed = timed(|| drop(plugin.mount("left0")));
        let fence = calmly(|| served::fence(conf, "doomed"));
        let mut times = Vec::new();
        for n in 1..LEFT {
            times.push(calmly(|| drop(plugin.mount(&format!("left{n}")))));
        }
        for n in 0..LEFT {
            let volume = format!("left{n}");
            let file = std::fs::read_to_string(plugin.mountpoint(&volume).join("file")).unwrap();
            assert_eq!(file, "here before");
            plugin.unmount(&volume);
        }
        let worst = fence + *times.iter().max().unwrap();
        let kept = if worst < Duration::from_secs(3) { "kept" } else { "missed" };
        println!(
            "| Takeover from a dead host by hand: `fence HOST` ({}), then Mount, which replays the journal | {} (the slowest of {}) | | \
             | less than 3 s | {kept} |",
            shown(fence),
            shown(worst),
            times.len(),
        );
        println!(
            "| The same by itself, once its watch is gone: 10 s of confirmation, then as above | {} | | | | |",
            shown(confirmed)
        );
    }
}

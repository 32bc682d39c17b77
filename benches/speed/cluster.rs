//! The backend rbd on a real cluster, with what stands for the kernel's `/sys/bus/rbd`: each device is a loop device.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{scope, sleep};
use std::time::Duration;

use rbd_docker_plugin::ceph::{Cluster, Connect, CreateOptions, IoCtx, features};
use serde_json::{Value, json};

use crate::common::{Session, median, shown, timed};
use crate::cost::{at_rest, memory};
use crate::crowd::{self, SETTLES};
use crate::daemon::Daemon;
use crate::fake_kernel::FakeKernel;
use crate::table::{at_most, compared, skipped, told, within};

/// Images that List shows.
const LISTED: usize = 10_000;
/// Volumes that are mounted.
const MOUNTED: usize = 200;
/// So many are made at a time.
const MAKERS: usize = 8;
/// How long nothing is asked of it.
const WINDOW: Duration = Duration::from_secs(60);

pub(crate) fn measure(dir: &Path) {
    let lab = match Lab::start(dir) {
        Ok(lab) => lab,
        Err(why) => return skipped("The backend rbd", &why),
    };
    let kernel = FakeKernel::unwatched(&dir.join("kernel"), &lab.conf());
    let conf = lab.conf().to_str().unwrap().to_owned();
    let mut daemon = Daemon::new("bench", dir, &["--backend", "rbd", "--config", &conf, "--size", "16"]);
    let start = |daemon: &mut Daemon| daemon.start_with(&[kernel.environment()]);
    lab.fill();
    start(&mut daemon);
    sleep(SETTLES);
    let idle = memory(daemon.pid());
    told("Memory, backend rbd, connected and idle", &idle.to_string());
    list(&daemon, &lab);
    daemon.ok("Create", &json!({"Name": "v0"}));
    crowd::requests(&daemon, LISTED);
    crowd::mounts(&daemon, "v0");
    crowd::memory_after(&daemon, "rbd", idle);

    mount_many(&daemon);
    sleep(SETTLES);
    let before = lab.requests();
    let cost = at_rest(daemon.pid(), WINDOW);
    let asked = f64::from(u32::try_from(lab.requests() - before).unwrap()) / WINDOW.as_secs_f64();
    let what = format!("{MOUNTED} mounted volumes, backend rbd, at rest for {} s", WINDOW.as_secs());
    at_most(&what, cost.busy, 1.0, "% of a core");
    told("Calls of read(2) meanwhile", &format!("{:.1} a second", cost.reads));
    told("Requests that the OSD got meanwhile, from anybody", &format!("{asked:.1} a second"));
    told("Memory with them", &memory(daemon.pid()).to_string());
    daemon.stop();
    let again = timed(|| start(&mut daemon));
    within(
        &format!("Ready again after a restart with {MOUNTED} mounted volumes, backend rbd"),
        again,
        "",
        Duration::from_secs(3),
    );
    assert_eq!(mounted(&daemon), MOUNTED, "adopted");
    at_once(|n| daemon.unmount(&format!("v{n}"), "id"));
    assert_eq!(mounted(&daemon), 0);
    daemon.stop();
}

/// The first List after a start, and later ones.
fn list(daemon: &Daemon, lab: &Lab) {
    lab.names();
    let theirs = median((0..3).map(|_| timed(|| assert_eq!(lab.names(), LISTED))).collect());
    let mut session = Session::new(&daemon.socket());
    let before = lab.requests();
    let first = timed(|| assert!(session.ask("List", "{}") > LISTED));
    let what = format!("First List of {LISTED} images after a start");
    compared(&what, first, (theirs, " (rbd ls)"), 3.0);
    told("Requests that the OSD got meanwhile, from anybody", &(lab.requests() - before).to_string());
    let later = (0..5).map(|_| timed(|| assert!(session.ask("List", "{}") > LISTED))).collect();
    compared("Later ones", median(later), (theirs, " (rbd ls)"), 1.0);
}

fn mount_many(daemon: &Daemon) {
    let time = timed(|| {
        at_once(|n| drop(daemon.ok("Create", &json!({"Name": format!("v{n}")}))));
        at_once(|n| drop(daemon.mount(&format!("v{n}"), "id")));
    });
    told(&format!("Create and Mount of {MOUNTED} volumes, {MAKERS} at a time"), &shown(time));
}

/// For each volume, [`MAKERS`] at a time.
fn at_once(work: impl Fn(usize) + Sync) {
    scope(|scope| {
        for maker in 0..MAKERS {
            let work = &work;
            scope.spawn(move || (maker..MOUNTED).step_by(MAKERS).for_each(work));
        }
    });
}

fn mounted(daemon: &Daemon) -> usize {
    let listed = daemon.ok("List", &json!({}));
    let volumes = listed["Volumes"].as_array().unwrap().iter();
    volumes.filter(|volume| volume["Mountpoint"].as_str().is_some_and(|at| !at.is_empty())).count()
}

/// A cluster of this run's own.
pub(crate) struct Lab(PathBuf);

impl Lab {
    pub(crate) fn start(dir: &Path) -> Result<Self, String> {
        let lab = Self(dir.join("ceph"));
        let output =
            tool("start", &lab.0).args(["--watch", &std::process::id().to_string()]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        match output.status.code() {
            Some(0) => Ok(lab),
            Some(3) => Err("the daemons of Ceph are not installed".to_owned()),
            _ => panic!("no cluster: {said}"),
        }
    }

    pub(crate) fn conf(&self) -> PathBuf {
        self.0.join("ceph.conf")
    }

    /// The default pool.
    pub(crate) fn pool(&self) -> IoCtx {
        let connect = Connect {
            conf: self.conf(),
            user: "admin".to_owned(),
            keyring: None,
            cluster: String::new(),
            timeout: Duration::from_secs(60),
        };
        Cluster::connect(&connect).unwrap().ioctx("rbd", None).unwrap()
    }

    /// Makes the images that are listed, beside those that are mounted.
    fn fill(&self) {
        let io = self.pool();
        let layering = CreateOptions { features: Some(features::LAYERING), ..CreateOptions::default() };
        scope(|scope| {
            for maker in 0..MAKERS {
                let (io, layering) = (&io, &layering);
                scope.spawn(move || {
                    for n in (maker..LISTED).step_by(MAKERS) {
                        io.create_image(&format!("listed{n}"), 1 << 20, layering).unwrap();
                    }
                });
            }
        });
    }

    /// How many images `rbd ls` shows.
    pub(crate) fn names(&self) -> usize {
        self.run(&["rbd", "ls"]).lines().count()
    }

    /// The requests that the OSD has got so far, from anybody.
    fn requests(&self) -> u64 {
        let dump: Value =
            serde_json::from_str(&self.run(&["ceph", "tell", "osd.0", "perf", "dump"])).unwrap();
        dump["osd"]["op"].as_u64().unwrap()
    }

    fn run(&self, line: &[&str]) -> String {
        let output = Command::new(line[0]).args(&line[1..]).env("CEPH_CONF", self.conf()).output().unwrap();
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        tool("stop", &self.0).status().unwrap();
    }
}

fn tool(command: &str, dir: &Path) -> Command {
    let mut tool = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/ceph-cluster"));
    tool.args([command, dir.to_str().unwrap()]).stdin(Stdio::null());
    tool
}

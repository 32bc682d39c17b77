//! What every test of this tier stands on: a cluster, a client of it, a pool that is removed afterwards, and the commands that
//! come with Ceph, as a second opinion.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Trial};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rbd_docker_plugin::ceph::{Cluster, Connect, IoCtx};
use serde_json::json;
use tempfile::TempDir;

/// The cluster for all tests; if there is none, why.
pub(crate) type Ready = Result<Arc<Lab>, String>;

/// How long a request may take, unless a test says otherwise.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) conf: PathBuf,
    pub(crate) pool: String,
    pub(crate) io: IoCtx,
    /// The folder of our own cluster; nothing when it is somebody else's.
    own: Option<TempDir>,
}

impl Lab {
    pub(crate) fn start() -> Ready {
        let (conf, own) = match env::var_os("RBD_TEST_CLUSTER") {
            Some(conf) => (PathBuf::from(conf), None),
            None => {
                let dir = tempfile::tempdir().map_err(|e| format!("no temporary folder: {e}"))?;
                start_cluster(dir.path(), &[])?;
                (dir.path().join("ceph.conf"), Some(dir))
            }
        };
        let pool = format!("rbd-docker-plugin-test-{}", std::process::id());
        let cluster = connect(&conf, TIMEOUT).map_err(|e| e.to_string())?;
        make_pool(&cluster, &pool).map_err(|e| e.to_string())?;
        let io = cluster.ioctx(&pool, None).map_err(|e| e.to_string())?;
        Ok(Arc::new(Self { conf, pool, io, own }))
    }

    /// A client of its own.
    pub(crate) fn connect(&self, timeout: Duration) -> Cluster {
        connect(&self.conf, timeout).unwrap()
    }

    /// The test pool, by a client of its own.
    pub(crate) fn another(&self) -> IoCtx {
        self.connect(TIMEOUT).ioctx(&self.pool, None).unwrap()
    }

    /// A command that comes with Ceph, such as `rbd snap create`; its output, when it succeeded.
    pub(crate) fn run(&self, line: &[&str]) -> String {
        let output = self.command(line).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    pub(crate) fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).env("CEPH_CONF", &self.conf).stdin(Stdio::null());
        command
    }

    /// The requests that the OSD has got so far, from anybody.
    pub(crate) fn requests(&self) -> u64 {
        let dump = self.run(&["ceph", "tell", "osd.0", "perf", "dump"]);
        let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
        dump["osd"]["op"].as_u64().unwrap()
    }

    /// The image as `rbd` names it.
    pub(crate) fn spec(&self, image: &str) -> String {
        format!("{}/{image}", self.pool)
    }

    /// Whether its daemons may be stopped; if not, why.
    pub(crate) fn is_ours(&self) -> Result<(), String> {
        self.own.as_ref().map(drop).ok_or_else(|| "it stops daemons, and the cluster is not ours".to_owned())
    }

    /// Freezes the daemons whose names begin so until the result is dropped.
    pub(crate) fn freeze(&self, prefix: &str) -> Frozen {
        freeze(self.conf.parent().unwrap(), prefix)
    }
}

fn freeze(cluster: &Path, prefix: &str) -> Frozen {
    let files = std::fs::read_dir(cluster.join("run")).unwrap().map(|file| file.unwrap());
    let files = files.filter(|file| {
        let name = file.file_name().into_string().unwrap();
        name.starts_with(prefix) && name.ends_with(".pid")
    });
    let pids: Vec<Pid> = files
        .map(|file| std::fs::read_to_string(file.path()).unwrap().trim().parse().unwrap())
        .map(Pid::from_raw)
        .collect();
    assert!(!pids.is_empty(), "no daemon {prefix}");
    let frozen = Frozen(pids);
    frozen.signal(Signal::SIGSTOP);
    // Each thread stops when it next comes out of the kernel: until then it may answer.
    wait_until("all threads of the daemons to stop", Duration::from_secs(60), || {
        frozen.0.iter().all(|pid| {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let stat = |task: std::io::Result<std::fs::DirEntry>| {
                std::fs::read_to_string(task.ok()?.path().join("stat")).ok()
            };
            // One that has ended meanwhile answers nothing more.
            tasks
                .filter_map(stat)
                .all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
        })
    });
    frozen
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(dir) = &self.own {
            tool(&["stop", dir.path().to_str().unwrap()]).status().unwrap();
            return;
        }
        let removed = self.io.cluster().mon_command(&json!({
            "prefix": "osd pool delete",
            "pool": self.pool,
            "pool2": self.pool,
            "yes_i_really_really_mean_it": true,
        }));
        if let Err(e) = removed {
            println!("The pool {} stays: {e}", self.pool);
        }
    }
}

/// A cluster of one test's own, whose daemons and settings it may change.
#[derive(Debug)]
pub(crate) struct Own(TempDir);

impl Own {
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1")
    }

    /// One that listens on this address.
    pub(crate) fn start_at(address: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        start_cluster(dir.path(), &["--address", address]).unwrap();
        Self(dir)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn conf(&self) -> PathBuf {
        self.0.path().join("ceph.conf")
    }

    pub(crate) fn connect(&self) -> Cluster {
        connect(&self.conf(), TIMEOUT).unwrap()
    }

    /// As [`Lab::freeze`].
    pub(crate) fn freeze(&self, prefix: &str) -> Frozen {
        freeze(self.dir(), prefix)
    }

    pub(crate) fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).env("CEPH_CONF", self.conf()).stdin(Stdio::null());
        command
    }

    /// A command that comes with Ceph; its output, when it succeeded.
    pub(crate) fn run(&self, line: &[&str]) -> String {
        let output = self.command(line).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// `tools/ceph-cluster COMMAND` on it.
    pub(crate) fn tool(&self, line: &[&str]) {
        let output = tool(line).arg(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        tool(&["stop", self.0.path().to_str().unwrap()]).status().unwrap();
    }
}

/// Daemons that do nothing any more, as if their host hung.
#[derive(Debug)]
pub(crate) struct Frozen(Vec<Pid>);

impl Frozen {
    fn signal(&self, signal: Signal) {
        for pid in &self.0 {
            kill(*pid, signal).unwrap();
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
    }
}

/// A test of the layer.
pub(crate) fn trial(name: &str, ready: &Ready, test: impl Fn(&Lab) + Send + 'static) -> Trial {
    trial_if(name, ready, |_| Ok(()), test)
}

/// A test that needs something more of the cluster; if it is not so, why.
pub(crate) fn trial_if(
    name: &str,
    ready: &Ready,
    can_run: impl Fn(&Lab) -> Result<(), String> + Send + 'static,
    test: impl Fn(&Lab) + Send + 'static,
) -> Trial {
    let ready = ready.clone();
    Trial::ignorable_test(name, move || {
        let lab = match ready.and_then(|lab| can_run(&lab).map(|()| lab)) {
            Ok(lab) => lab,
            Err(why) => {
                println!("skipped: {why}");
                return Ok(Completion::ignored_with(why));
            }
        };
        test(&lab);
        Ok(Completion::Completed)
    })
}

pub(crate) fn connect(
    conf: &Path,
    timeout: Duration,
) -> Result<Cluster, rbd_docker_plugin::model::error::CallError> {
    let user = "admin".to_owned();
    Cluster::connect(&Connect { conf: conf.to_owned(), user, keyring: None, cluster: String::new(), timeout })
}

static APART: OnceLock<Result<(), String>> = OnceLock::new();

/// Gives this process a mount namespace, so that no mount of the tests is ever seen outside, and none is left.
pub(crate) fn set_mounts_apart() {
    APART.get_or_init(|| {
        if !nix::unistd::geteuid().is_root() {
            return Err("it needs root".to_owned());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Err("there is no /dev/loop-control".to_owned());
        }
        unshare(CloneFlags::CLONE_NEWNS).map_err(|e| format!("unshare(CLONE_NEWNS): {e}"))?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .map_err(|e| format!("mount --make-rprivate: {e}"))
    });
}

/// Whether devices can be made and mounted here; if not, why.
pub(crate) fn mounts_are_apart() -> Result<(), String> {
    APART.get().cloned().unwrap_or_else(|| Err("it has no mount namespace".to_owned()))
}

/// A name that no other test uses.
pub(crate) fn fresh(what: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{what}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until it is so.
pub(crate) fn wait_until(what: &str, within: Duration, so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < within, "not within {within:?}: {what}");
        sleep(Duration::from_millis(50));
    }
}

fn make_pool(cluster: &Cluster, pool: &str) -> Result<(), rbd_docker_plugin::model::error::CallError> {
    cluster.mon_command(&json!({ "prefix": "osd pool create", "pool": pool, "pg_num": 8 }))?;
    let application = json!({ "prefix": "osd pool application enable", "pool": pool, "app": "rbd" });
    cluster.mon_command(&application).map(drop)
}

fn start_cluster(dir: &Path, flags: &[&str]) -> Result<(), String> {
    let me = std::process::id().to_string();
    let output: Output = tool(&["start", dir.to_str().unwrap(), "--watch", &me])
        .args(flags)
        .output()
        .map_err(|e| format!("tools/ceph-cluster: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(()),
        Some(3) => Err(said),
        // It is installed, so it has to work.
        _ => panic!("no cluster: {said}"),
    }
}

fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/ceph-cluster"));
    command.args(arguments).stdin(Stdio::null());
    command
}

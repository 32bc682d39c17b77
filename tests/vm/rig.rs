//! What every test of this tier stands on: labs that tests use one after the other, renewed after a failure, and a check of what
//! each test left.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};

use crate::cluster::Cluster;
use crate::daemon::tail;
use crate::host::{Host, Init};

/// Why there is no lab.
#[derive(Debug)]
pub(crate) enum Missing {
    /// This machine lacks something: a reason to skip.
    Here(String),
    /// It should have worked.
    Broken(String),
}

/// Runs `tools/TOOL COMMAND DIR FLAGS…`.
pub(crate) fn tool(tool: &str, command: &str, dir: &Path, flags: &[&str]) -> Result<(), Missing> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(tool);
    let output = Command::new(program).arg(command).arg(dir).args(flags).stdin(Stdio::null()).output();
    let output = output.map_err(|error| Missing::Broken(format!("tools/{tool}: {error}")))?;
    let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    match output.status.code() {
        Some(0) => Ok(()),
        Some(3) => Err(Missing::Here(text.lines().last().unwrap_or_default().to_owned())),
        _ => Err(Missing::Broken(format!("tools/{tool} {command}: {}\n{text}", output.status))),
    }
}

/// The names of a lab's hosts, and of their folders in it: its own, and those of the guide.
const HOSTS: [&str; 4] = ["alpha", "beta", "host1", "host2"];

/// A cluster and its hosts.
#[derive(Debug)]
pub(crate) struct Lab {
    // The order in which they end.
    hosts: Vec<Host>,
    pub(crate) cluster: Cluster,
    dir: PathBuf,
}

impl Lab {
    /// Starts a cluster and boots hosts, all at once.
    fn start(kind: Kind) -> Result<Self, Missing> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            return Err(Missing::Here("it needs root".to_owned()));
        }
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let dir = root().join(format!("{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let cluster = Cluster::new(&dir.join("ceph"), &format!("{}-{number}", namespace()));
        let mut lab = Self { hosts: Vec::new(), cluster, dir };
        let (cluster, hosts) = thread::scope(|scope| {
            let cluster = scope.spawn(|| lab.cluster.start());
            while !lab.cluster.has_netns() {
                if cluster.is_finished() {
                    return (cluster.join().unwrap(), Ok(Vec::new()));
                }
                thread::sleep(Duration::from_millis(20));
            }
            let hosts = lab.boot(kind.hosts(), kind.init());
            (cluster.join().unwrap(), hosts)
        });
        cluster?;
        lab.hosts = hosts?;
        Ok(lab)
    }

    /// Boots hosts, all at once. The cluster need not answer yet.
    fn boot(&self, names: &[&str], init: Init) -> Result<Vec<Host>, Missing> {
        thread::scope(|scope| {
            let boot = |name: &&str| {
                let (name, dir, cluster) = ((*name).to_owned(), self.dir.join(name), &self.cluster);
                scope.spawn(move || Host::boot_new(&name, &dir, cluster.netns(), &cluster.conf(), init))
            };
            let booting: Vec<_> = names.iter().map(boot).collect();
            booting.into_iter().map(|host| host.join().unwrap()).collect()
        })
    }

    /// Its folder, for what a test has to put somewhere.
    pub(crate) fn folder(&self) -> &Path {
        &self.dir
    }

    /// A host by its name.
    pub(crate) fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap_or_else(|| panic!("no host {name}"))
    }

    pub(crate) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The first host.
    pub(crate) fn alpha(&self) -> &Host {
        &self.hosts[0]
    }

    /// The second one.
    pub(crate) fn beta(&self) -> &Host {
        &self.hosts[1]
    }

    /// Waits a moment for what ends by itself.
    fn leaks(&self) -> Vec<String> {
        let begin = Instant::now();
        loop {
            let hosts = thread::scope(|scope| {
                let asked: Vec<_> = self.hosts.iter().map(|host| scope.spawn(|| host.leaks())).collect();
                asked.into_iter().flat_map(|host| host.join().unwrap()).collect::<Vec<_>>()
            });
            let left = [hosts, self.cluster.images()].concat();
            if left.is_empty() || begin.elapsed() > Duration::from_secs(5) {
                return left;
            }
        }
    }

    fn logs(&self) -> String {
        let mut files: Vec<PathBuf> = self.hosts.iter().map(Host::console).collect();
        for host in &self.hosts {
            let logs = fs::read_dir(host.share()).into_iter().flatten().flatten().map(|entry| entry.path());
            files.extend(logs.filter(|path| path.extension().is_some_and(|kind| kind == "log")));
        }
        files.iter().map(|file| tail(file)).collect::<Vec<_>>().join("\n")
    }
}

/// What a lab has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Two hosts with next to nothing on them.
    Plain,
    /// Two hosts as the guide sets them up, with systemd. Their test alone uses them.
    Guide,
}

impl Kind {
    fn hosts(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &HOSTS[..2],
            Self::Guide => &HOSTS[2..],
        }
    }

    fn init(self) -> Init {
        match self {
            Self::Plain => Init::Busybox,
            Self::Guide => Init::Systemd,
        }
    }
}

/// Of each test: all of it, the part that started a lab, its name.
static TIMES: Mutex<Vec<(Duration, Duration, String)>> = Mutex::new(Vec::new());
/// The labs that no test uses at the moment.
static LABS: Mutex<Vec<Lab>> = Mutex::new(Vec::new());
/// How many tests have not ended.
static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// How many tests run at once, each in a lab of its own. They wait more than they work, but a lab takes memory.
pub(crate) fn at_once() -> usize {
    const NEEDED: u64 = 8 << 20;
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = available.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    if available.is_some_and(|kib| kib >= NEEDED) { 2 } else { 1 }
}

/// A test with the two hosts of a lab.
pub(crate) fn test(name: &str, test: fn(&Lab)) -> Trial {
    trial(name, Kind::Plain, test)
}

/// A test with the two hosts of the guide.
pub(crate) fn guide(name: &str, test: fn(&Lab)) -> Trial {
    trial(name, Kind::Guide, test)
}

/// The lab of a test before, or a new one.
fn lab(kind: Kind) -> Result<Lab, Missing> {
    static LACKING: OnceLock<String> = OnceLock::new();
    if let Some(why) = LACKING.get() {
        return Err(Missing::Here(why.clone()));
    }
    let lab = if kind == Kind::Plain { LABS.lock().unwrap().pop() } else { None };
    let lab = lab.map_or_else(|| Lab::start(kind), Ok);
    if let Err(Missing::Here(why)) = &lab {
        LACKING.get_or_init(|| why.clone());
    }
    lab
}

/// Counts down however a test ends.
struct Ends;

impl Drop for Ends {
    fn drop(&mut self) {
        *RUNNING.0.lock().unwrap() -= 1;
        RUNNING.1.notify_all();
    }
}

fn trial(name: &str, kind: Kind, test: fn(&Lab)) -> Trial {
    let (called, ends) = (name.to_owned(), Ends);
    *RUNNING.0.lock().unwrap() += 1;
    Trial::ignorable_test(name, move || {
        let _ends = ends;
        let begin = Instant::now();
        let lab = match lab(kind) {
            Ok(lab) => lab,
            Err(Missing::Here(why)) => {
                println!("skipped: {why}");
                return Ok(Completion::ignored_with(why));
            }
            Err(Missing::Broken(why)) => return Err(why.into()),
        };
        let started = begin.elapsed();
        let result = catch_unwind(AssertUnwindSafe(|| {
            test(&lab);
            match kind {
                Kind::Plain => lab.leaks(),
                // Its hosts are not used again: one is off in the end, and on the other the plugin runs.
                Kind::Guide => lab.cluster.images(),
            }
        }));
        TIMES.lock().unwrap().push((begin.elapsed(), started, called));
        match result {
            Ok(left) if left.is_empty() => {
                if kind == Kind::Plain {
                    LABS.lock().unwrap().push(lab);
                }
                Ok(Completion::Completed)
            }
            Ok(left) => {
                // Whoever put something there may still be at it: this lab is not used again.
                let why = format!("left behind: {left:#?}");
                eprintln!("{}\n{why}", lab.logs());
                Err(why.into())
            }
            Err(panic) => {
                eprintln!("{}", lab.logs());
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Err(Failed::from(text.unwrap_or("it panicked")))
            }
        }
    })
}

/// The test that takes the lab down and looks for what it left on this machine.
pub(crate) fn last() -> Trial {
    Trial::ignorable_test("nothing_is_left_on_this_machine", || {
        if !root().exists() {
            return Ok(Completion::ignored_with("there was no lab"));
        }
        let others = RUNNING.1.wait_while(RUNNING.0.lock().unwrap(), |running| *running > 0).unwrap();
        drop(others);
        end();
        let left = [processes(), namespaces(), mounts()].concat();
        if left.is_empty() { Ok(Completion::Completed) } else { Err(format!("left: {left:#?}").into()) }
    })
}

/// Takes the lab down. The folders stay for who wants to read logs, until the next run.
pub(crate) fn end() {
    let labs = std::mem::take(&mut *LABS.lock().unwrap());
    thread::scope(|scope| labs.into_iter().for_each(|lab| drop(scope.spawn(move || drop(lab)))));
}

/// How long tests took, the longest first.
pub(crate) fn print_times() {
    let mut times = std::mem::take(&mut *TIMES.lock().unwrap());
    times.sort_unstable_by(|one, other| other.cmp(one));
    for (took, started, name) in times {
        let lab = if started.as_secs() > 0 {
            format!(" ({:.0} s of it to start a lab)", started.as_secs_f32())
        } else {
            String::new()
        };
        println!("{:7.1} s  {name}{lab}", took.as_secs_f32());
    }
}

/// The folder of this run's labs; the first call removes what runs before this one have left.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm");
        for old in fs::read_dir(&all).into_iter().flatten().flatten() {
            let pid = old.file_name().to_string_lossy().split('-').next().map(str::to_owned);
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // Its watchers find it by these files, and may not have been there yet.
                for host in HOSTS {
                    let _ = tool("vm", "kill", &old.path().join(host), &[]);
                }
                for cluster in ["ceph2", "ceph"] {
                    let _ = tool("ceph-cluster", "stop", &old.path().join(cluster), &[]);
                }
                let _ = fs::remove_dir_all(old.path());
            }
        }
        all
    })
}

fn namespace() -> String {
    format!("rbd-vm-{}", std::process::id())
}

/// The processes of this run's labs.
fn processes() -> Vec<String> {
    let ours = format!("{}/{}-", root().display(), std::process::id());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&ours))
        .collect()
}

fn namespaces() -> Vec<String> {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&namespace()))
        .collect()
}

fn mounts() -> Vec<String> {
    let ours = root().display().to_string();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains(&ours)).map(str::to_owned).collect()
}

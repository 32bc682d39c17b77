//! What every test of this tier stands on: one lab for all, renewed after a failure, and a check of what each test left.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
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
    fn start() -> Result<Self, Missing> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            return Err(Missing::Here("it needs root".to_owned()));
        }
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let dir = root().join(format!("{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let cluster = Cluster::start(&dir.join("ceph"), &format!("{}-{number}", namespace()))?;
        Ok(Self { hosts: Vec::new(), cluster, dir })
    }

    /// Boots what is missing to so many hosts.
    fn with_hosts(mut self, count: usize) -> Result<Self, Missing> {
        let missing = HOSTS.get(self.hosts.len()..count).unwrap_or_default();
        let booted = self.boot(missing, Init::Busybox)?;
        self.hosts.extend(booted);
        Ok(self)
    }

    /// Boots hosts, all at once.
    pub(crate) fn boot(&self, names: &[&str], init: Init) -> Result<Vec<Host>, Missing> {
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

    /// The first host.
    pub(crate) fn alpha(&self) -> &Host {
        &self.hosts[0]
    }

    /// The second one, in tests of [`two_hosts`].
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

static LAB: Mutex<Option<Lab>> = Mutex::new(None);

/// A test that boots its hosts itself.
pub(crate) fn with_cluster(name: &str, test: fn(&Lab)) -> Trial {
    trial(name, 0, test)
}

/// A test with one host.
pub(crate) fn one_host(name: &str, test: fn(&Lab)) -> Trial {
    trial(name, 1, test)
}

/// A test with two hosts.
pub(crate) fn two_hosts(name: &str, test: fn(&Lab)) -> Trial {
    trial(name, 2, test)
}

/// The lab of the test before, or a new one.
fn lab(hosts: usize) -> Result<Lab, Missing> {
    static LACKING: OnceLock<String> = OnceLock::new();
    if let Some(why) = LACKING.get() {
        return Err(Missing::Here(why.clone()));
    }
    let lab = LAB.lock().unwrap().take();
    let lab = lab.map_or_else(Lab::start, Ok).and_then(|lab| lab.with_hosts(hosts));
    if let Err(Missing::Here(why)) = &lab {
        LACKING.get_or_init(|| why.clone());
    }
    lab
}

fn trial(name: &str, hosts: usize, test: fn(&Lab)) -> Trial {
    Trial::ignorable_test(name, move || {
        let lab = match lab(hosts) {
            Ok(lab) => lab,
            Err(Missing::Here(why)) => {
                println!("skipped: {why}");
                return Ok(Completion::ignored_with(why));
            }
            Err(Missing::Broken(why)) => return Err(why.into()),
        };
        let result = catch_unwind(AssertUnwindSafe(|| {
            test(&lab);
            lab.leaks()
        }));
        match result {
            Ok(left) if left.is_empty() => {
                *LAB.lock().unwrap() = Some(lab);
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
        end();
        let left = [processes(), namespaces(), mounts()].concat();
        if left.is_empty() { Ok(Completion::Completed) } else { Err(format!("left: {left:#?}").into()) }
    })
}

/// Takes the lab down. The folders stay for who wants to read logs, until the next run.
pub(crate) fn end() {
    drop(LAB.lock().unwrap().take());
}

/// The folder of this run's labs; the first call removes what runs before this one have left.
fn root() -> &'static Path {
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
                let _ = tool("ceph-cluster", "stop", &old.path().join("ceph"), &[]);
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

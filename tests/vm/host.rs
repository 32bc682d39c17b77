//! A host: a virtual machine of `tools/vm`, with a kernel that has rbd loaded, and plugins.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::daemon::wait;
use crate::plugin::Plugin;
use crate::rig::{Missing, root, tool};

/// What a command may take if its caller does not say: ten times what the slowest takes.
const DEADLINE: Duration = Duration::from_secs(600);

/// How a command in the guest ended.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// Its exit status; 128 and more for a signal.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The first process of a host.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Init {
    /// Next to none.
    Busybox,
    /// As on a host of today, with nothing started but what a test starts.
    Systemd,
}

/// A virtual machine that stands for a host.
#[derive(Debug)]
pub(crate) struct Host {
    /// Its hostname.
    pub(crate) name: String,
    dir: PathBuf,
    netns: String,
    conf: PathBuf,
    init: Init,
}

impl Host {
    /// Boots one. It ends with this process, whatever ends that.
    pub(crate) fn boot_new(
        name: &str,
        dir: &Path,
        netns: &str,
        conf: &Path,
        init: Init,
    ) -> Result<Self, Missing> {
        let (dir, netns, conf) = (dir.to_owned(), netns.to_owned(), conf.to_owned());
        let host = Self { name: name.to_owned(), dir, netns, conf, init };
        host.start()?;
        Ok(host)
    }

    fn start(&self) -> Result<(), Missing> {
        let watch = std::process::id().to_string();
        let init = match self.init {
            Init::Busybox => "busybox",
            Init::Systemd => "systemd",
        };
        // Where cargo builds and where labs lie may be outside of the clone.
        let program =
            Path::new(env!("CARGO_BIN_EXE_rbd-docker-plugin")).parent().unwrap_or_else(|| Path::new("/"));
        let (program, lab) = (program.display().to_string(), root().display().to_string());
        let flags = [
            "--name",
            &self.name,
            "--netns",
            &self.netns,
            "--init",
            init,
            "--watch",
            &watch,
            "--see",
            &program,
            "--see",
            &lab,
        ];
        tool("vm", "start", &self.dir, &flags)?;
        self.ok("modprobe -a rbd loop");
        Ok(())
    }

    /// A folder that is the same on both sides, at the same path. What a host must keep over a power loss is better on `/disk`,
    /// where it has to be synced as on any disk.
    pub(crate) fn share(&self) -> PathBuf {
        self.dir.join("share")
    }

    /// What its kernel wrote on the console, this boot.
    pub(crate) fn console(&self) -> PathBuf {
        self.dir.join("console")
    }

    /// Starts a shell command and does not wait. It has no stdin, sees `CEPH_CONF`, and is killed at the deadline with its
    /// children, except those that `setsid` took out of its group. Several can run at once.
    pub(crate) fn spawn(&self, command: &str, deadline: Duration) -> Job<'_> {
        static JOBS: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}-{}", std::process::id(), JOBS.fetch_add(1, Ordering::Relaxed));
        let files = self.share().join(".run").join(&name);
        let script = format!("export CEPH_CONF='{}'\n{command}\n", self.conf.display());
        fs::write(files.with_extension("sh"), script).expect("the shared folder can be written");
        // Read-write, so that it never waits for a reader.
        let agent = OpenOptions::new().read(true).write(true).open(self.dir.join("run/agent.in"));
        let line = format!("{name} {}\n", deadline.as_secs().max(1));
        agent.and_then(|mut agent| agent.write_all(line.as_bytes())).expect("the host takes commands");
        Job { host: self, files, command: command.to_owned(), begin: Instant::now(), deadline }
    }

    /// Runs a shell command to its end.
    #[track_caller]
    pub(crate) fn run(&self, command: &str) -> Output {
        self.spawn(command, DEADLINE).wait()
    }

    /// The same, which must succeed; what it wrote to stdout, without the last line feed.
    #[track_caller]
    pub(crate) fn ok(&self, command: &str) -> String {
        let output = self.run(command);
        assert_eq!(output.status, 0, "{}: {command}\n{}{}", self.name, output.stdout, output.stderr);
        output.stdout.trim_end().to_owned()
    }

    /// The same, which must fail; what it wrote to stderr.
    #[track_caller]
    pub(crate) fn fails(&self, command: &str) -> String {
        let output = self.run(command);
        assert_ne!(
            output.status, 0,
            "{}: {command} succeeded\n{}{}",
            self.name, output.stdout, output.stderr
        );
        output.stderr.trim_end().to_owned()
    }

    /// Whether it is up: not after [`Self::power_off`], nor after it has shut itself down.
    pub(crate) fn runs(&self) -> bool {
        let pid = fs::read_to_string(self.dir.join("run/pid")).unwrap_or_default();
        !pid.is_empty() && Path::new("/proc").join(pid.trim()).join("exe").exists()
    }

    /// Stops it in its tracks, with all it holds, until [`Self::thaw`].
    pub(crate) fn freeze(&self) {
        self.tool("freeze");
    }

    pub(crate) fn thaw(&self) {
        self.tool("thaw");
    }

    /// A power loss: nothing is written any more, nobody is told.
    pub(crate) fn power_off(&self) {
        self.tool("kill");
    }

    /// Power is back: the same name and machine-id, its disk and [`Self::share`] as they were; nothing runs, nothing is mapped.
    pub(crate) fn boot(&self) {
        self.start().unwrap_or_else(|why| panic!("{why:?}"));
    }

    /// Takes out the network cable. Commands still reach the host.
    pub(crate) fn cut_network(&self) {
        self.tool("cut");
        self.wait_carrier("0");
    }

    pub(crate) fn restore_network(&self) {
        self.tool("restore");
        self.wait_carrier("1");
    }

    fn wait_carrier(&self, state: &str) {
        wait(&format!("the link of {} to be {state}", self.name), || {
            self.ok("cat /sys/class/net/eth0/carrier") == state
        });
    }

    /// Starts the plugin under test and waits until it answers. See [`Plugin::new`].
    pub(crate) fn plugin(&self, name: &str, flags: &[&str]) -> Plugin<'_> {
        let mut plugin = Plugin::new(self, name, flags);
        plugin.start();
        plugin
    }

    fn tool(&self, command: &str) {
        tool("vm", command, &self.dir, &[]).unwrap_or_else(|why| panic!("{why:?}"));
    }

    /// What is on it that a test must not leave: mappings, mounts of devices, plugins, kernel faults.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let left = self.ok(include_str!("leaks.sh"));
        left.lines().map(|line| format!("{}: {line}", self.name)).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(why) = tool("vm", "kill", &self.dir, &[]) {
            eprintln!("{why:?}");
        }
    }
}

/// A command on its way.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    host: &'a Host,
    files: PathBuf,
    command: String,
    begin: Instant,
    deadline: Duration,
}

impl Job<'_> {
    /// Whether it has ended. Not while its host is frozen.
    pub(crate) fn is_done(&self) -> bool {
        self.files.with_extension("status").exists()
    }

    /// What it wrote to stdout so far.
    pub(crate) fn so_far(&self) -> String {
        self.text("out")
    }

    fn text(&self, kind: &str) -> String {
        let bytes = fs::read(self.files.with_extension(kind)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for its end; a panic at the deadline, with what it wrote.
    #[track_caller]
    pub(crate) fn wait(self) -> Output {
        let (name, command, limit) = (self.host.name.clone(), self.command.clone(), self.deadline);
        self.end().unwrap_or_else(|written| panic!("{name}: {command}: more than {limit:?}\n{written}"))
    }

    /// Waits for its end, or for its deadline: then what it wrote until then.
    pub(crate) fn end(self) -> Result<Output, String> {
        // The guest ends it at the deadline; a frozen one, or one whose process is stuck in the kernel, does not.
        let limit = self.deadline + Duration::from_secs(3);
        while !self.is_done() && self.begin.elapsed() < limit {
            sleep(Duration::from_millis(5));
        }
        let took = self.begin.elapsed();
        let (stdout, stderr, status) = (self.text("out"), self.text("err"), self.text("status"));
        match status.trim().parse() {
            Ok(status) if status != 137 || took < self.deadline => Ok(Output { status, stdout, stderr }),
            _ => Err(format!("{stdout}{stderr}")),
        }
    }
}

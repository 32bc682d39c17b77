//! The plugin under test as a process: started, asked as Docker asks, stopped, killed, started again.
#![allow(dead_code, reason = "each tier uses a part of it")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Ten times what the slowest step takes on a slow machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Waits until `done`; the panic names what was waited for.
pub(crate) fn wait(what: &str, done: impl FnMut() -> bool) {
    poll(what, DEADLINE, done);
}

/// For what includes many other steps.
pub(crate) fn wait_longer(what: &str, done: impl FnMut() -> bool) {
    poll(what, DEADLINE * 15, done);
}

fn poll(what: &str, deadline: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < deadline, "waited {} s in vain for {what}", deadline.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The end of a log, for a panic message.
pub(crate) fn tail(path: &Path) -> String {
    let text =
        fs::read(path).map_or_else(|e| e.to_string(), |bytes| String::from_utf8_lossy(&bytes).into_owned());
    let lines: Vec<&str> = text.lines().collect();
    format!("--- {}\n{}", path.display(), lines[lines.len().saturating_sub(40)..].join("\n"))
}

/// One request as Docker sends it; status and body of the answer, or nothing when the connection ended without one.
pub(crate) fn ask(socket: &Path, endpoint: &str, body: &str) -> Option<(u16, Value)> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST /VolumeDriver.{endpoint} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {length}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\nConnection: close\r\n\r\n{body}"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?))
}

/// A plugin on the local backend; all it makes is below one folder.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// Its name for Docker.
    pub(crate) name: String,
    dir: PathBuf,
    sockets: PathBuf,
    flags: Vec<String>,
    wrapper: Vec<String>,
    child: Option<Child>,
}

impl Daemon {
    /// Not started yet. `flags` come after the defaults, and win.
    pub(crate) fn new(name: &str, dir: &Path, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            sockets: dir.join("run"),
            flags,
            wrapper: Vec::new(),
            child: None,
        }
    }

    /// Run by a program of these words, which has to become it.
    pub(crate) fn run_by(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// With its socket, and the mount IDs beside it, in another folder.
    pub(crate) fn with_sockets(mut self, sockets: &Path) -> Self {
        self.sockets = sockets.to_owned();
        self
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with an environment.
    pub(crate) fn start_with(&mut self, environment: &[(&str, String)]) {
        self.spawn(environment);
        wait("the plugin to answer", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the plugin ended with {status}\n{}", self.logs());
            }
            // It listens before it is ready.
            UnixStream::connect(self.socket()).is_ok() && self.ask("Capabilities", &json!({})).is_some()
        });
    }

    /// Starts it and does not wait.
    pub(crate) fn spawn(&mut self, environment: &[(&str, String)]) {
        fs::create_dir_all(self.dir.join("log")).unwrap();
        let output = File::options().create(true).append(true).open(self.dir.join("log/stderr")).unwrap();
        let mut command = self.command();
        command.envs(environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        self.child = Some(command.spawn().unwrap());
    }

    /// The program with its settings.
    pub(crate) fn command(&self) -> Command {
        let mut words =
            self.wrapper.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_rbd-docker-plugin")]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        command.args(["--conf-file", "none", "--backend", "local", "--create", "--remove", "delete"]);
        command.args(["--fs", "ext4", "--size", "64", "--name", &self.name]);
        command.arg("--plugins").arg(&self.sockets);
        let folders =
            [("--local-dir", "images"), ("--mount", "mnt"), ("--logdir", "log"), ("--admin", "admin")];
        for (flag, folder) in folders {
            command.arg(flag).arg(self.dir.join(folder));
        }
        command.args(&self.flags);
        command
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.sockets.join(format!("{}.sock", self.name))
    }

    /// A file of an image in the default pool: `img`, `json` or `owner`.
    pub(crate) fn file(&self, image: &str, kind: &str) -> PathBuf {
        self.dir.join("images/rbd").join(format!("{image}.{kind}"))
    }

    /// Whether an image of the default pool has an owner. The file stays when its record is given back, beginning with a zero byte.
    pub(crate) fn is_owned(&self, image: &str) -> bool {
        fs::read(self.file(image, "owner")).is_ok_and(|record| record.first().is_some_and(|&byte| byte != 0))
    }

    /// Where a volume of the default pool is mounted.
    pub(crate) fn mountpoint(&self, image: &str) -> PathBuf {
        self.dir.join("mnt").join(&self.name).join("rbd").join(image)
    }

    /// The folder of its mount IDs.
    pub(crate) fn refs(&self) -> PathBuf {
        self.sockets.join(format!("{}.mounts", self.name))
    }

    /// The folder of its state.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("mnt/.state").join(&self.name)
    }

    /// Its log file.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log").join(format!("{}-docker-plugin.log", self.name))
    }

    pub(crate) fn logs(&self) -> String {
        format!("{}\n{}", tail(&self.dir.join("log/stderr")), tail(&self.log()))
    }

    /// One request as Docker sends it; status and body of the answer, or nothing when the connection ended without one.
    pub(crate) fn ask(&self, endpoint: &str, body: &Value) -> Option<(u16, Value)> {
        ask(&self.socket(), endpoint, &body.to_string())
    }

    /// A request that must succeed.
    pub(crate) fn ok(&self, endpoint: &str, body: &Value) -> Value {
        match self.ask(endpoint, body) {
            Some((200, answer)) => answer,
            other => panic!("{endpoint} {body}: {other:?}\n{}", self.logs()),
        }
    }

    /// A request that must fail; the error text.
    pub(crate) fn error(&self, endpoint: &str, body: &Value) -> String {
        match self.ask(endpoint, body) {
            Some((500, answer)) => answer["Err"].as_str().unwrap().to_owned(),
            other => panic!("{endpoint} {body}: {other:?}\n{}", self.logs()),
        }
    }

    /// Mounts; the mountpoint.
    pub(crate) fn mount(&self, volume: &str, id: &str) -> PathBuf {
        self.ok("Mount", &json!({"Name": volume, "ID": id}))["Mountpoint"].as_str().unwrap().into()
    }

    pub(crate) fn unmount(&self, volume: &str, id: &str) {
        self.ok("Unmount", &json!({"Name": volume, "ID": id}));
    }

    /// A graceful stop: exit code 0, no socket left.
    pub(crate) fn stop(&mut self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let status = self.end();
        assert!(status.success(), "the plugin stopped with {status}\n{}", self.logs());
        assert!(!self.socket().exists(), "the socket is still there after a graceful stop");
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        kill(self.pid(), Signal::SIGKILL).unwrap();
        self.end();
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let mut status = None;
        wait("the plugin to end", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.as_ref().unwrap().id()).unwrap())
    }
}

/// After a failed test.
impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

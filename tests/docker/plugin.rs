//! The plugin under test as a process: started, stopped, killed, asked without Docker.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{tail, wait};

/// A running, stopped or killed plugin.
pub(crate) struct Plugin {
    /// Its name for Docker.
    pub(crate) name: String,
    dir: PathBuf,
    flags: Vec<String>,
    child: Option<Child>,
}

impl Plugin {
    /// Starts a plugin on the local backend and waits until it answers.
    pub(crate) fn start(name: &str, dir: &Path, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut plugin = Self { name: name.to_owned(), dir: dir.to_owned(), flags, child: None };
        fs::create_dir_all(plugin.images()).expect("a folder for images");
        fs::create_dir_all(plugin.sockets()).expect("a folder for the socket");
        fs::create_dir_all(dir.join("log")).expect("a folder for logs");
        plugin.up();
        plugin
    }

    /// Starts the plugin, again or for the first time, and waits until it answers.
    pub(crate) fn up(&mut self) {
        let output =
            File::options().create(true).append(true).open(self.dir.join("log/stderr")).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbd-docker-plugin"));
        command
            .args(["--conf-file", "none", "--backend", "local", "--create", "--remove", "delete"])
            .args(["--fs", "ext4", "--size", "64", "--name", &self.name])
            .arg("--plugins")
            .arg(self.sockets())
            .arg("--local-dir")
            .arg(self.images())
            .arg("--mount")
            .arg(self.dir.join("mnt"))
            .arg("--logdir")
            .arg(self.dir.join("log"))
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle of the log"))
            .stderr(output);
        self.child = Some(command.spawn().expect("the plugin can be started"));
        wait("the plugin to answer", || {
            let child = self.child.as_mut().expect("it was started");
            if let Some(status) = child.try_wait().expect("its state can be asked") {
                panic!(
                    "the plugin ended with {status}\n{}\n{}",
                    tail(&self.dir.join("log/stderr")),
                    tail(&self.log())
                );
            }
            UnixStream::connect(self.socket()).is_ok()
        });
    }

    /// Images, records and owner files.
    pub(crate) fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// An image of the default pool.
    pub(crate) fn image(&self, volume: &str) -> PathBuf {
        self.images().join("rbd").join(format!("{volume}.img"))
    }

    /// All mountpoints are below.
    pub(crate) fn mount_root(&self) -> PathBuf {
        self.dir.join("mnt").join(&self.name)
    }

    /// Where a volume of the default pool is mounted.
    pub(crate) fn mountpoint(&self, volume: &str) -> PathBuf {
        self.mount_root().join("rbd").join(volume)
    }

    /// Its log file.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log").join(format!("{}-docker-plugin.log", self.name))
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.sockets().join(format!("{}.sock", self.name))
    }

    /// The folder that its engine sees as `/run/docker/plugins`.
    fn sockets(&self) -> PathBuf {
        crate::engine::rig().join(&self.name).join("plugins")
    }

    /// One request as Docker sends it; status and body of the answer.
    pub(crate) fn call(&self, path: &str, body: &serde_json::Value) -> (u16, serde_json::Value) {
        let mut stream = UnixStream::connect(self.socket()).expect("the plugin's socket answers");
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout can be set");
        let body = body.to_string();
        let length = body.len();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\n\
             Content-Length: {length}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\nConnection: close\r\n\r\n{body}"
        )
        .expect("the request can be written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the answer can be read");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        let body = answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok());
        (status.expect("a status line"), body.unwrap_or_else(|| panic!("no JSON in {answer:?}")))
    }

    /// A graceful stop: exit code 0, no socket left.
    pub(crate) fn stop(&mut self) {
        let Some(pid) = self.pid() else { return };
        kill(pid, Signal::SIGTERM).expect("the plugin can be signalled");
        let mut child = self.child.take().expect("it has a process id");
        let mut status = None;
        wait("the plugin to stop", || {
            status = child.try_wait().expect("its state can be asked");
            status.is_some()
        });
        assert!(
            status.is_some_and(|s| s.success()),
            "the plugin stopped with {status:?}\n{}",
            tail(&self.log())
        );
        assert!(!self.socket().exists(), "the socket is still there after a graceful stop");
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the plugin can be killed");
            child.wait().expect("the plugin can be reaped");
        }
    }

    /// Its process, while it runs.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).map(Pid::from_raw)
    }

    /// After a failure.
    pub(crate) fn force_down(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_file(self.socket());
    }
}

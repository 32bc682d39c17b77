//! Our side: the plugin, asked over its socket.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::Session;

const SOCKETS: &str = "/run/bench";
const LOG: &str = "/run/bench/log";

pub(crate) struct Plugin {
    child: Child,
    session: Session,
}

impl Plugin {
    /// With its state and mounts on a disk of the machine's own.
    pub(crate) fn start(conf: &Path) -> Self {
        fs::create_dir_all(LOG).unwrap();
        let output = File::create(Path::new(LOG).join("stderr")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_rbd-docker-plugin"))
            .args([
                "--conf-file",
                "none",
                "--backend",
                "rbd",
                "--user",
                "docker",
                "--create",
                "--remove",
                "delete",
            ])
            .args([
                "--fs",
                "ext4",
                "--size",
                "512M",
                "--name",
                "bench",
                "--plugins",
                SOCKETS,
                "--admin",
                "none",
                "--logdir",
                LOG,
            ])
            .args(std::env::var("RBD_BENCH_FLAGS").iter().flat_map(|flags| flags.split_ascii_whitespace()))
            .args(["--mount", "/disk/volumes", "--config"])
            .arg(conf)
            .stdin(Stdio::null())
            .stderr(output)
            .spawn()
            .unwrap();
        let socket = Path::new(SOCKETS).join("bench.sock");
        let begin = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(60), "the plugin does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, session: Session::new(&socket) }
    }

    pub(crate) fn create(&mut self, volume: &str, options: &str) {
        self.session.ask("Create", &format!(r#"{{"Name":"{volume}","Opts":{{{options}}}}}"#));
    }

    pub(crate) fn mountpoint(&self, volume: &str) -> PathBuf {
        Path::new("/disk/volumes/bench/rbd").join(volume)
    }

    pub(crate) fn mount(&mut self, volume: &str) -> PathBuf {
        self.session.ask("Mount", &format!(r#"{{"Name":"{volume}","ID":"id"}}"#));
        self.mountpoint(volume)
    }

    pub(crate) fn unmount(&mut self, volume: &str) {
        self.session.ask("Unmount", &format!(r#"{{"Name":"{volume}","ID":"id"}}"#));
    }

    pub(crate) fn get(&mut self, volume: &str) {
        self.session.ask("Get", &format!(r#"{{"Name":"{volume}"}}"#));
    }

    pub(crate) fn remove(&mut self, volume: &str) {
        self.session.ask("Remove", &format!(r#"{{"Name":"{volume}"}}"#));
    }

    pub(crate) fn list(&mut self) -> usize {
        self.session.ask("List", "{}")
    }

    pub(crate) fn stop(mut self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    /// Kills it: its volumes stay mounted.
    pub(crate) fn leave(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What an administrator types when a host is gone.
pub(crate) fn fence(conf: &Path, host: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_rbd-docker-plugin"))
        .args(["--conf-file", "none", "--user", "docker", "--config"])
        .arg(conf)
        .args(["fence", host])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

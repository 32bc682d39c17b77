//! The plugin under test, where a case's engine finds it.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use serde_json::Value;

use crate::daemon::Daemon;

/// A [`Daemon`] with its socket in the folder that its engine sees as `/run/docker/plugins`.
#[derive(Debug)]
pub(crate) struct Plugin {
    daemon: Daemon,
    dir: PathBuf,
}

impl Plugin {
    /// Starts a plugin on the local backend and waits until it answers. Docker knows it as `driver`.
    pub(crate) fn start(case: &str, driver: &str, dir: &Path, flags: &[&str]) -> Self {
        Self::start_by(&[], case, driver, dir, flags)
    }

    /// The same, run by a program of these words, which becomes it.
    pub(crate) fn start_by(words: &[&str], case: &str, driver: &str, dir: &Path, flags: &[&str]) -> Self {
        let sockets = crate::engine::rig().join(case).join("plugins");
        std::fs::create_dir_all(&sockets).expect("a folder for the socket");
        let mut daemon = Daemon::new(driver, dir, flags).with_sockets(&sockets).run_by(words);
        daemon.start();
        Self { daemon, dir: dir.to_owned() }
    }

    /// Starts the plugin again.
    pub(crate) fn up(&mut self) {
        self.daemon.start();
    }

    /// Images, records and owner files.
    pub(crate) fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// An image of the default pool.
    pub(crate) fn image(&self, volume: &str) -> PathBuf {
        self.daemon.file(volume, "img")
    }

    /// All mountpoints are below.
    pub(crate) fn mount_root(&self) -> PathBuf {
        self.dir.join("mnt").join(&self.daemon.name)
    }

    /// One request as Docker sends it; status and body of the answer.
    pub(crate) fn call(&self, path: &str, body: &Value) -> (u16, Value) {
        let endpoint = path.trim_start_matches("/VolumeDriver.");
        self.daemon.ask(endpoint, body).expect("an answer")
    }

    /// Its process, while it runs.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.daemon.is_running().then(|| self.daemon.pid())
    }

    /// A graceful stop, if it runs.
    pub(crate) fn stop(&mut self) {
        if self.daemon.is_running() {
            self.daemon.stop();
        }
    }

    /// kill -9, if it runs.
    pub(crate) fn kill(&mut self) {
        if self.daemon.is_running() {
            self.daemon.kill();
        }
    }
}

impl Deref for Plugin {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Plugin {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

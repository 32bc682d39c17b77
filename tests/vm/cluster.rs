//! The cluster of a lab: `tools/ceph-cluster` in a network namespace of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::rig::{Missing, tool};

/// Where it listens, in its namespace.
const ADDRESS: &str = "10.99.0.1";

/// A running cluster with the pool `rbd`.
#[derive(Debug)]
pub(crate) struct Cluster {
    dir: PathBuf,
    netns: String,
}

impl Cluster {
    /// Not started yet.
    pub(crate) fn new(dir: &Path, netns: &str) -> Self {
        Self { dir: dir.to_owned(), netns: netns.to_owned() }
    }

    /// Starts it. It ends with this process, whatever ends that.
    pub(crate) fn start(&self) -> Result<(), Missing> {
        let watch = std::process::id().to_string();
        let flags = ["--netns", &self.netns, "--address", ADDRESS, "--watch", &watch];
        tool("ceph-cluster", "start", &self.dir, &flags)
    }

    /// Whether there is its namespace, which comes long before it answers.
    pub(crate) fn has_netns(&self) -> bool {
        self.dir.join("run/netns").exists()
    }

    /// The namespace to reach it from.
    pub(crate) fn netns(&self) -> &str {
        &self.netns
    }

    /// Its configuration, with the keys of `client.admin` and `client.docker`.
    pub(crate) fn conf(&self) -> PathBuf {
        self.dir.join("ceph.conf")
    }

    /// Runs a program of this machine (`rbd`, `ceph`, `rados`) on the cluster, for a minute at most.
    pub(crate) fn try_run(&self, program: &str, args: &[&str]) -> Output {
        Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.netns))
            .args(["timeout", "-k", "5", "60", program])
            .args(args)
            .env("CEPH_CONF", self.conf())
            .env_remove("CEPH_ARGS")
            .stdin(Stdio::null())
            .output()
            .expect("nsenter can be started")
    }

    fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.try_run(program, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {}\n{stderr}", output.status);
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// `rbd ARGS` on this machine, which must succeed; what it wrote to stdout.
    pub(crate) fn rbd(&self, args: &[&str]) -> String {
        self.run("rbd", args)
    }

    /// `ceph ARGS`, likewise.
    pub(crate) fn ceph(&self, args: &[&str]) -> String {
        self.run("ceph", args)
    }

    /// A storage outage: every request hangs, until [`Self::resume_osd`].
    pub(crate) fn pause_osd(&self) {
        self.tool("pause-osd");
    }

    pub(crate) fn resume_osd(&self) {
        self.tool("resume-osd");
    }

    /// No new session and no news of the cluster, until [`Self::start_mon`].
    pub(crate) fn stop_mon(&self) {
        self.tool("stop-mon");
    }

    pub(crate) fn start_mon(&self) {
        self.tool("start-mon");
    }

    fn tool(&self, command: &str) {
        tool("ceph-cluster", command, &self.dir, &[]).unwrap_or_else(|why| panic!("{why:?}"));
    }

    /// Images, and images in the trash, of all pools.
    pub(crate) fn images(&self) -> Vec<String> {
        let mut images = Vec::new();
        for pool in self.run("rados", &["lspools"]).lines().filter(|pool| !pool.starts_with("device_health"))
        {
            images.extend(self.rbd(&["ls", pool]).lines().map(|image| format!("{pool}/{image}")));
            let trash = self.rbd(&["trash", "ls", pool]);
            images.extend(trash.lines().map(|image| format!("{pool}/{image} (trash)")));
        }
        images
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(why) = tool("ceph-cluster", "stop", &self.dir, &[]) {
            eprintln!("{why:?}");
        }
    }
}

//! strace(1) on a running plugin: to see what it does, or to stop it at one system call.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, wait};
use crate::rig::Ready;

const STRACE: &str = "/usr/bin/strace";

/// Whether there is one; else the reason why a test is skipped.
pub(crate) fn ready(ready: &Ready) -> Ready {
    let there = if Path::new(STRACE).exists() { Ok(()) } else { Err(format!("there is no {STRACE}")) };
    ready.clone().and(there)
}

/// strace while it is attached.
#[derive(Debug)]
pub(crate) struct Strace {
    process: Child,
    trace: PathBuf,
    /// It speaks of every thread that it follows, and must find somebody who listens.
    _stderr: BufReader<ChildStderr>,
}

impl Strace {
    /// Attaches it, with its words, to all threads there are and will be.
    pub(crate) fn attach(daemon: &Daemon, words: &[&str], trace: PathBuf) -> Self {
        let mut process = Command::new(STRACE)
            .args(["-f", "-p", &daemon.pid().to_string(), "-o"])
            .arg(&trace)
            .args(words)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let mut said = String::new();
        stderr.read_line(&mut said).unwrap();
        let strace = Self { process, trace, _stderr: stderr };
        assert!(said.contains("attached"), "{said}");
        strace
    }

    /// What it has written.
    pub(crate) fn trace(&self) -> String {
        fs::read_to_string(&self.trace).unwrap_or_default()
    }

    /// Detaches it; what it has written.
    pub(crate) fn end(mut self) -> String {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        kill(pid, Signal::SIGINT).unwrap();
        wait("strace to end", || self.process.try_wait().unwrap().is_some());
        self.trace()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

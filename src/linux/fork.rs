//! This process a second time, for work that may hang in the kernel: a thread that does keeps its process from ending, and the first one
//! goes on.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::{self, File};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, pipe2};

use crate::model::error::{CallError, OrCall};

/// Who has come back.
#[derive(Debug)]
pub enum Fork {
    /// The second process, whose output the first one reads.
    Second,
    /// The first one.
    First(Second),
}

/// The second process, as the first one has it.
#[derive(Debug)]
pub struct Second {
    /// Its process.
    pub child: Child,
    /// What it says. Not inherited: whoever reads what we say would wait for it to end.
    pub stdout: File,
    /// What it complains of.
    pub stderr: File,
}

/// Comes back twice. Refused once there is a second thread: of that the new process would have what it holds, and not the thread.
pub fn fork() -> Result<Fork, CallError> {
    let threads = "/proc/self/task";
    if fs::read_dir(threads).or_call("open", threads)?.count() != 1 {
        return Err(CallError::new("fork", "a process with threads", Errno::EBUSY));
    }
    let pipe = || pipe2(OFlag::O_CLOEXEC).or_call("pipe2", "the second process's output");
    let ((stdout, its_stdout), (stderr, its_stderr)) = (pipe()?, pipe()?);
    let null = File::open("/dev/null").or_call("open", "/dev/null")?;
    // SAFETY: there is one thread, so nothing in the copy's memory waits for another one.
    match unsafe { nix::unistd::fork() }.or_call("fork", "this process")? {
        ForkResult::Parent { child } => {
            Ok(Fork::First(Second { child: Child(child), stdout: stdout.into(), stderr: stderr.into() }))
        }
        ForkResult::Child => {
            dup2_stdin(null).or_call("dup2", "stdin")?;
            dup2_stdout(its_stdout).or_call("dup2", "stdout")?;
            dup2_stderr(its_stderr).or_call("dup2", "stderr")?;
            Ok(Fork::Second)
        }
    }
}

/// Ends this process at once, whatever its threads do. exit(3) would run the destructors of librados and librbd, which end with a
/// signal what another thread is about in these libraries.
pub fn end(status: u8) -> ! {
    // SAFETY: it takes a number and does not return.
    unsafe { nix::libc::_exit(i32::from(status)) }
}

/// A process that was forked; shown as its id.
#[derive(Debug, Clone, Copy)]
pub struct Child(Pid);

impl fmt::Display for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Child {
    /// How it ended, if it has: its exit status, 1 for a signal.
    pub fn ended(self) -> Result<Option<u8>, CallError> {
        let status = waitpid(self.0, Some(WaitPidFlag::WNOHANG)).or_call("waitpid", self)?;
        Ok(match status {
            WaitStatus::Exited(_, code) => Some(u8::try_from(code).unwrap_or(1)),
            WaitStatus::Signaled(..) => Some(1),
            _ => None,
        })
    }
}

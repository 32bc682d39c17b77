//! Runs the few programs that no library replaces: each filesystem's mkfs and checker.
//!
//! By absolute path, found once in fixed folders and never through `$PATH`; with an argv, never a shell; with no standard
//! input, a clean environment and `/` as working directory. The program leads a process group of its own, which is killed
//! as a whole at the deadline. It dies with the thread that started it, and that thread waits here until it is over: if the
//! plugin is killed, so is the program. Only one that mends a filesystem is [never killed](run_to_its_end), and outlives the plugin.
#![allow(unsafe_code)]

mod capture;
mod program;

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::model::deadline::Deadline;
use crate::model::error::{CallError, DriverError, ErrorKind, OrCall};

use program::FOLDERS;
pub use program::{Program, Programs};

/// How long a killed program may take to die before a thread of its own waits for it: in uninterruptible sleep it cannot.
const REAP: Duration = Duration::from_secs(2);

/// What a program left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its last words on standard error, at most 4 KiB.
    pub stderr_tail: String,
    /// The same of its standard output.
    pub stdout_tail: String,
    /// The first 4 KiB of its standard output, and of its standard error.
    pub beginning: String,
}

impl Output {
    /// Fails unless the program succeeded.
    pub fn success(self, program: Program) -> Result<Self, ExecError> {
        if self.status.success() {
            return Ok(self);
        }
        Err(ExecError::Failed { program, status: self.status, stderr: self.said() })
    }

    /// What it said, for one line: its errors, or its output when it complained there.
    pub fn said(&self) -> String {
        let text = if self.stderr_tail.trim().is_empty() { &self.stdout_tail } else { &self.stderr_tail };
        one_line(text)
    }
}

/// Why a program did not do its work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExecError {
    /// It is not installed.
    #[error("{program} is not installed")]
    NotFound {
        /// Which.
        program: Program,
    },
    /// It could not be started or waited for.
    #[error("{program} could not be run: {source}")]
    Start {
        /// Which.
        program: Program,
        /// The failed call.
        source: CallError,
    },
    /// It was killed at the deadline.
    #[error("{program} did not end in time and was killed{}", if *.reaped { "" } else { ", but is stuck in the kernel" })]
    Timeout {
        /// Which.
        program: Program,
        /// Whether it is gone; if not, it waits for a device that does not answer.
        reaped: bool,
    },
    /// It ended with a failure.
    #[error("{program} failed ({status}): {stderr}")]
    Failed {
        /// Which.
        program: Program,
        /// How it ended.
        status: ExitStatus,
        /// What it said, on one line.
        stderr: String,
    },
}

impl From<ExecError> for DriverError {
    fn from(e: ExecError) -> Self {
        let message = e.to_string();
        match e {
            ExecError::NotFound { program } => Self::new(ErrorKind::MissingTool, message)
                .hint(format!("install the package {}", program.package())),
            ExecError::Start { program, source } => {
                Self::new(ErrorKind::Failed, format!("{program} could not be run")).caused_by(source)
            }
            ExecError::Timeout { .. } => Self::new(ErrorKind::Timeout, message),
            ExecError::Failed { stderr, .. } if stderr.contains("No space left on device") => {
                Self::new(ErrorKind::NoSpace, message)
                    .hint("free some space, or extend the storage, and try again")
            }
            ExecError::Failed { .. } => Self::new(ErrorKind::Failed, message),
        }
    }
}

/// Runs the file at `path`; `program` is what errors call it.
pub fn run<S: AsRef<OsStr>>(
    path: &Path,
    program: Program,
    argv: &[S],
    deadline: Deadline,
) -> Result<Output, ExecError> {
    let not_run = |call| move |e| not_run(path, program, call, e);
    let mut child = command(path, argv, Life::Ours).spawn().map_err(not_run("execve"))?;
    match capture::until_end(&mut child, deadline, || None) {
        Ok(Some(output)) => Ok(output),
        Ok(None) => Err(ExecError::Timeout { program, reaped: kill(child, program) }),
        Err(e) => {
            kill(child, program);
            Err(not_run("poll")(e))
        }
    }
}

/// The same for a program that must not be killed while it writes: it is waited for as long as it takes, which is told each time that
/// `patience` has passed, and goes on when this process dies.
pub fn run_to_its_end<S: AsRef<OsStr>>(
    path: &Path,
    program: Program,
    argv: &[S],
    patience: Duration,
) -> Result<Output, ExecError> {
    let not_run = |call| move |e| not_run(path, program, call, e);
    let mut child = command(path, argv, Life::ItsOwn).spawn().map_err(not_run("execve"))?;
    let (pid, begun) = (child.id(), Instant::now());
    let tell = || {
        let hours = begun.elapsed().as_secs() / 3600;
        tracing::error!(%program, pid, hours, "a program has not ended yet; it is not killed, because it writes");
        Some(Deadline::after(patience))
    };
    match capture::until_end(&mut child, Deadline::after(patience), tell) {
        Ok(Some(output)) => Ok(output),
        // It is never given up.
        Ok(None) => Err(ExecError::Timeout { program, reaped: false }),
        Err(e) => Err(not_run("poll")(e)),
    }
}

fn not_run(path: &Path, program: Program, call: &'static str, error: io::Error) -> ExecError {
    let source = Err::<(), _>(error).or_call(call, path.display()).err();
    ExecError::Start { program, source: source.unwrap_or_else(|| CallError::new(call, program, Errno::EIO)) }
}

/// Whether a program ends with the thread that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Ours,
    ItsOwn,
}

fn command<S: AsRef<OsStr>>(path: &Path, argv: &[S], life: Life) -> Command {
    let parent = Pid::this();
    let mut command = Command::new(path);
    command
        .args(argv)
        .env_clear()
        .env("PATH", FOLDERS.join(":"))
        .env("LC_ALL", "C")
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let prepare = move || {
        keep_no_descriptors()?;
        match life {
            Life::Ours => die_with(parent),
            Life::ItsOwn => ignore_closed_pipes(),
        }
    };
    // SAFETY: between fork and exec the closure makes three system calls, allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
    command
}

/// Its output is a pipe to this process: when that is gone, what it writes there is lost, and it goes on.
fn ignore_closed_pipes() -> io::Result<()> {
    // SAFETY: to ignore a signal installs no handler; exec keeps it ignored.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whatever whoever started us left open without close-on-exec is none of the program's business.
fn keep_no_descriptors() -> io::Result<()> {
    let first: libc::c_uint = 3;
    // SAFETY: close_range(2) takes three numbers; closing on exec leaves the descriptors that std still needs before it.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    match Errno::result(result) {
        // Before Linux 5.11 only what is marked close-on-exec anyway, which is all that is ours.
        Ok(_) | Err(Errno::ENOSYS | Errno::EINVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Asks the kernel to kill this process when the thread that started it ends; it may have ended before we asked.
fn die_with(parent: Pid) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    Errno::result(result)?;
    if Pid::parent() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
}

/// Kills the whole group and reaps its leader; whether it is gone. What does not die now is left to a thread.
fn kill(mut child: Child, program: Program) -> bool {
    // The leader is not reaped yet, so its id cannot belong to anybody else.
    if let Ok(group) = i32::try_from(child.id())
        && let Err(errno) = killpg(Pid::from_raw(group), Signal::SIGKILL)
    {
        tracing::warn!(%program, group, %errno, "a program that ran out of time cannot be killed");
    }
    let deadline = Deadline::after(REAP);
    while !deadline.left().is_zero() {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let reaper = thread::Builder::new().name("reaper".to_owned());
    if let Err(error) = reaper.spawn(move || child.wait().map(drop)) {
        tracing::warn!(%program, %error, "no thread to wait for a program that is stuck in the kernel");
    }
    false
}

/// Joins lines, without the usage text that some programs append to their complaint, and keeps the last KiB.
fn one_line(text: &str) -> String {
    let complaint = text.lines().take_while(|line| !line.starts_with("Usage:"));
    let lines =
        complaint.map(|line| line.trim().replace(char::is_control, " ")).filter(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join("; ");
    let cut = line.len().saturating_sub(1024);
    let start = (cut..line.len()).find(|&at| line.is_char_boundary(at)).unwrap_or(0);
    line.split_at(start).1.to_owned()
}

#[cfg(test)]
mod tests;

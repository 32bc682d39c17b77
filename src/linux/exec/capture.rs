//! Reads what a program writes until it ends, however much that is, and keeps the end of it.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Child;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::Output;
use crate::model::deadline::Deadline;

/// How much of a stream is kept: a complaint must survive the usage text (1.6 KiB of mkfs.xfs) that follows it.
const KEPT: usize = 4096;

/// How often we look whether the program has ended although something else (a child of its own) keeps its output open.
const LOOK: Duration = Duration::from_millis(50);

/// What it said until it ended. At the deadline `late` says whether it is waited for further; if not, the answer is nothing, and the
/// program still runs.
pub(super) fn until_end(
    child: &mut Child,
    mut deadline: Deadline,
    mut late: impl FnMut() -> Option<Deadline>,
) -> io::Result<Option<Output>> {
    let mut out = Stream::new(child.stdout.take())?;
    let mut err = Stream::new(child.stderr.take())?;
    let mut step = Duration::from_micros(200);
    loop {
        let ended = child.try_wait()?;
        // After the end nothing is added by the program itself: what is in the pipes now is all there is.
        out.drain()?;
        err.drain()?;
        if let Some(status) = ended {
            let beginning = out.beginning() + &err.beginning();
            return Ok(Some(Output { status, stderr_tail: err.text(), stdout_tail: out.text(), beginning }));
        }
        if deadline.left().is_zero() {
            match late() {
                Some(later) => deadline = later,
                None => return Ok(None),
            }
        }
        if out.pipe.is_some() || err.pipe.is_some() {
            wait_readable(&out, &err, deadline.left().min(LOOK))?;
        } else {
            // Its output is closed, so it ends any moment.
            thread::sleep(step.min(deadline.left()));
            step = (step * 2).min(LOOK);
        }
    }
}

/// One output of the program: the pipe while it is open, and the first and the last bytes of it.
struct Stream<P> {
    pipe: Option<P>,
    head: Vec<u8>,
    tail: VecDeque<u8>,
}

impl<P: Read + AsFd> Stream<P> {
    fn new(pipe: Option<P>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self { pipe, head: Vec::new(), tail: VecDeque::with_capacity(KEPT) })
    }

    /// Takes what is there, at most some of it: a program that never stops writing must not keep us past the deadline.
    fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0_u8; 16 << 10];
        for _ in 0..64 {
            let Some(pipe) = &mut self.pipe else { return Ok(()) };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(n) => self.keep(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = KEPT.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend(&bytes[..room]);
        let new = &bytes[bytes.len().saturating_sub(KEPT)..];
        let surplus = (self.tail.len() + new.len()).saturating_sub(KEPT);
        self.tail.drain(..surplus);
        self.tail.extend(new);
    }

    fn beginning(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.tail.make_contiguous()).into_owned()
    }

    fn descriptor(&self) -> libc::c_int {
        // poll(2) skips negative descriptors.
        self.pipe.as_ref().map_or(-1, |pipe| pipe.as_fd().as_raw_fd())
    }
}

fn wait_readable<A: Read + AsFd, B: Read + AsFd>(
    a: &Stream<A>,
    b: &Stream<B>,
    time: Duration,
) -> io::Result<()> {
    let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut both = [entry(a.descriptor()), entry(b.descriptor())];
    let millis = i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1);
    // SAFETY: the pointer and the count describe `both`, whose descriptors stay open during the call.
    let result = unsafe { libc::poll(both.as_mut_ptr(), 2, millis) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

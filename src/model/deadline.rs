//! A point in time that an operation must not pass: Docker gives up on its own, and does not tell.

use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::model::error::{CallError, DriverError, ErrorKind, OrCall, Result};

/// When an operation has to be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `budget` from now.
    pub fn after(budget: Duration) -> Self {
        Self(Instant::now() + budget)
    }

    /// What is left, zero when it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// This one or `budget` from now, whichever is sooner.
    #[must_use]
    pub fn at_most(self, budget: Duration) -> Self {
        Self(self.0.min(Instant::now() + budget))
    }

    /// An error naming `what` when it has passed.
    pub fn check(self, what: &str) -> Result<()> {
        if self.left().is_zero() {
            return Err(DriverError::new(
                ErrorKind::Timeout,
                format!("{what}: Docker's deadline has passed"),
            ));
        }
        Ok(())
    }
}

/// Does `work` on a thread of that name, and waits for it no longer than `limit`: nothing then, or when it panics. The thread is left
/// behind, until its work or this process ends; what it brings about is dropped there.
pub fn within<T: Send + 'static>(
    limit: Duration,
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Option<T>, CallError> {
    let (done, wait) = sync_channel(1);
    let run = move || drop(done.send(work()));
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .or_call("clone", format_args!("thread {name}"))?;
    Ok(wait.recv_timeout(limit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_left_behind() {
        let long = Duration::from_secs(10);
        assert_eq!(within(long, "test", || 1).unwrap(), Some(1));
        let (held, hold) = std::sync::mpsc::channel::<()>();
        assert!(within(Duration::from_millis(20), "test", move || hold.recv()).unwrap().is_none());
        drop(held);
        assert_eq!(within(long, "test", || -> u8 { panic!("on purpose") }).unwrap(), None);
    }
}

//! A limit for calls that have none of their own.
//!
//! Where librados waits for the latest map of the cluster, no setting of it makes it stop: with all monitors away it waits until
//! one is back. So such a call has a thread of its own, which ends when the call does, however late; the caller stops waiting.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::{Cluster, Result};
use crate::model::error::{CallError, OrCall};

/// How many threads may be left waiting at the same time. What comes on top of them would wait in vain as well.
const MOST: usize = 64;

static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Counts one thread as long as it is there.
struct Waiting;

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs `work`, and fails with `ETIMEDOUT` when that takes longer than `limit`; it goes on then, and its result is dropped.
pub(super) fn bounded<T: Send + 'static>(
    cluster: &Cluster,
    limit: Duration,
    call: &'static str,
    object: &str,
    work: impl FnOnce(&Cluster) -> Result<T> + Send + 'static,
) -> Result<T> {
    let waiting = WAITING.fetch_add(1, Ordering::Relaxed);
    let one = Waiting;
    if waiting >= MOST {
        return Err(CallError::new(call, object, Errno::ETIMEDOUT));
    }
    let (answer, wait) = mpsc::sync_channel(1);
    let client = cluster.clone();
    let run = move || {
        let _one = one;
        // When nobody waits any more, the result comes back and is dropped here, before the client.
        drop(answer.send(work(&client)));
    };
    thread::Builder::new().name("monitor call".to_owned()).spawn(run).or_call("clone", call)?;
    let late = |_| Err(CallError::new(call, object, Errno::ETIMEDOUT));
    wait.recv_timeout(limit).unwrap_or_else(late)
}

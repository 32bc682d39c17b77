//! One step of the examination: on a thread of its own, given up when it takes too long.

use std::time::Duration;

use super::finding::Finding;
use crate::model::deadline;

/// How long a step on this host may take.
pub(super) const LOCAL_LIMIT: Duration = Duration::from_secs(10);

/// Does `work` on a thread of its own; nothing when that takes too long. It is left to itself then, until this process ends.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    deadline::within(limit, "doctor", work).ok().flatten()
}

pub(super) fn timed_out(check: &'static str, limit: Duration) -> Finding {
    let found = format!("no answer within {} s", limit.as_secs());
    Finding::fail(check, found, "dmesg may say what hangs; see ps -eo pid,stat,wchan,args")
}

pub(super) fn geteuid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

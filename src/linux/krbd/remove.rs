//! Unmapping.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;

use super::by_deadline;
use super::sysfs::{self, Sysfs};
use crate::model::deadline::Deadline;
use crate::model::error::CallError;
use crate::telemetry::count::{Count, count};

pub(super) const CALL: &str = "rbd_remove";

/// The first pause and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(50)];

/// What is left of the time for telling that the device is busy, and not only that time is up.
const REPORT: Duration = Duration::from_millis(250);

/// On a thread of its own: with a cluster that does not answer, the kernel waits in the write for the lock to be given back.
pub(super) fn unmap(sysfs: &Arc<Sysfs>, id: u32, force: bool, deadline: Deadline) -> Result<(), CallError> {
    let object = sysfs.node(id).display().to_string();
    let sysfs = Arc::clone(sysfs);
    let sooner = deadline.at_most(deadline.left().saturating_sub(REPORT.min(deadline.left() / 4)));
    by_deadline(CALL, &object, deadline, move || remove(&sysfs, id, force, sooner), |()| {})
}

/// The same on this thread: it comes to an end when the kernel does.
pub(super) fn remove(sysfs: &Sysfs, id: u32, force: bool, deadline: Deadline) -> Result<(), CallError> {
    let text = if force { format!("{id} force") } else { id.to_string() };
    let node = sysfs.node(id);
    let once = || sysfs::write(sysfs.control(sysfs::REMOVE)?, &text, CALL, node.display());
    repeat(|| sysfs.instance(id), once, deadline)
}

/// Writes until the device that was there at first is gone.
///
/// "Not there" is believed only when the device's folder has gone as well: the kernel shows a device before it can be removed, and still shows
/// one that it has begun to remove. A device with another inode is not ours any more: the number was given away again.
pub(super) fn repeat(
    instance: impl Fn() -> Result<Option<u64>, CallError>,
    mut write: impl FnMut() -> Result<(), CallError>,
    deadline: Deadline,
) -> Result<(), CallError> {
    let Some(ours) = instance()? else { return Ok(()) };
    let [mut pause, longest] = PAUSES;
    loop {
        let failed = match write() {
            Ok(()) => return Ok(()),
            Err(e) if matches!(e.errno, Errno::EBUSY | Errno::EINPROGRESS | Errno::ENOENT) => e,
            Err(e) => return Err(e),
        };
        if instance()? != Some(ours) {
            return Ok(());
        }
        if deadline.left() <= pause {
            let errno = if failed.errno == Errno::EBUSY { Errno::EBUSY } else { Errno::ETIMEDOUT };
            return Err(CallError { errno, ..failed });
        }
        if failed.errno == Errno::EBUSY {
            count(Count::BusyUnmap);
        }
        sleep(pause);
        if instance()? != Some(ours) {
            return Ok(());
        }
        pause = (pause * 2).min(longest);
    }
}

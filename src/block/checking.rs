//! Checks of filesystems that may take longer than Docker waits.
//!
//! A check runs on a thread of its own, and the Mount that begins it waits for its end. When that would be too late for Docker the
//! Mount is refused and the check goes on: the image stays claimed and mapped, nobody gets the volume's guard, and whoever asks for it is
//! told since when it is being checked. At its end the volume is brought to rest like any other that is unsettled, and the next Mount
//! finds what the checker has left on the device. What it could not mend is kept ([`Verdicts`](super::verdicts::Verdicts)), until the
//! superblock is another one.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Block;
use super::verdicts::Verdict;
use crate::backend::Device;
use crate::driver::kind::{Attach, Reserved};
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::{Checked, Filesystem};
use crate::model::name::ImageSpec;
use crate::model::time::{now, rfc3339};

/// How long a checker that only reads may take. One that writes is never ended.
const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// What a Mount needs after the check, before Docker gives up.
const SPARE: Duration = Duration::from_secs(5);

/// A check under way.
#[derive(Debug, Default)]
struct Check {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    result: Option<Result<Checked>>,
    /// Its Mount has been refused, and the volume is kept for it.
    left: Option<Reserved>,
}

impl Block {
    /// Checks a filesystem that its superblock says to need it; when that was begun, if its checker ran since the last mount. `Busy` when
    /// that goes on behind the Mount. Then nothing of the Mount may be undone: the volume is reserved.
    pub(super) fn check(
        &self,
        job: Attach<'_>,
        device: &Device,
        filesystem: &Filesystem,
    ) -> Result<Option<u64>> {
        let Attach { spec, volumes, deadline, .. } = job;
        let Some(print) = self.disks.needs_check(device, filesystem)? else {
            return Ok(self.verdicts.take_mended(spec, filesystem));
        };
        if let Some(found) = self.verdicts.found(spec, print) {
            return Err(found);
        }
        let (begun, begun_at) = (Instant::now(), now());
        let check = Arc::new(Check::default());
        self.begin(Arc::clone(&check), spec.clone(), device.clone(), filesystem.clone())?;
        let patience = Deadline::after(deadline.left().saturating_sub(SPARE).min(patience()));
        let mut state = check.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(result) = state.result.take() {
                return result.map(|checked| (checked == Checked::Clean).then_some(begun_at));
            }
            if patience.left().is_zero() {
                break;
            }
            let waited = check.ended.wait_timeout(state, patience.left());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.left = Some(volumes.reserve(spec, begun));
        tracing::warn!(image = %spec, "the check of its filesystem takes longer than Docker waits, and goes on");
        Err(Reserved::refusal(spec, begun))
    }

    fn begin(
        &self,
        check: Arc<Check>,
        spec: ImageSpec,
        device: Device,
        filesystem: Filesystem,
    ) -> Result<()> {
        let (disks, verdicts, begun) = (Arc::clone(&self.disks), Arc::clone(&self.verdicts), now());
        let work = move || {
            let result = disks.check(&device, &filesystem, Deadline::after(LONGEST));
            let print = disks.needs_check(&device, &filesystem);
            drop(device);
            let mut state = check.state.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(reserved) = state.left.take() else {
                state.result = Some(result);
                check.ended.notify_all();
                return;
            };
            match result {
                Ok(_) => {
                    tracing::info!(image = %spec, "the check of its filesystem has ended well");
                    verdicts.put(spec, Verdict::Mended { uuid: filesystem.uuid, begun });
                }
                Err(e) => {
                    tracing::error!(image = %spec, error = %e, "the check of its filesystem has ended");
                    // Whatever else kept it from judging may be over by the next Mount.
                    if e.kind == ErrorKind::NeedsRepair
                        && let Ok(Some(print)) = print
                    {
                        let found = e.context(format_args!("checked until {}", rfc3339(now())));
                        verdicts.put(spec, Verdict::damaged(print, found));
                    }
                }
            }
            drop(reserved);
        };
        let spawned = std::thread::Builder::new().name("check".to_owned()).spawn(work);
        spawned.map(drop).map_err(|e| {
            DriverError::new(ErrorKind::Failed, format!("no thread to check the filesystem on: {e}"))
        })
    }
}

#[cfg(not(feature = "fault-points"))]
fn patience() -> Duration {
    LONGEST
}

/// The tests do not wait as long as Docker does: `RBD_FAULT_PATIENCE` says how many milliseconds.
#[cfg(feature = "fault-points")]
fn patience() -> Duration {
    let asked = std::env::var("RBD_FAULT_PATIENCE").ok().and_then(|text| text.parse().ok());
    asked.map_or(LONGEST, Duration::from_millis)
}

//! Release: what this plugin has mounted on this host is unmounted, unmapped and given back, for a host that goes down.
//!
//! It is the way of an Unmount after the last use, without anybody having given the uses back: what containers still hold therefore stays
//! as it is, with its mount IDs. Each volume has a thread of its own, because an unmount hangs in the kernel for as long as
//! its storage is away.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

use super::Driver;
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::released::Released;

impl Driver {
    /// Releases every volume that bears a trace of us, all at once, and comes back at the deadline, whatever hangs.
    pub fn release_all(self: &Arc<Self>, deadline: Deadline) -> Result<Released> {
        let (specs, unseen) = self.traces()?;
        let unknown = match unseen {
            Ok(left_out) => left_out.into_iter().next().map(|out| out.why.clone().context(out.name())),
            Err(e) => Some(e),
        };
        let (done, released) = mpsc::channel();
        let late =
            || DriverError::new(ErrorKind::Timeout, "did not end in time").hint("its storage may be away");
        let mut volumes: BTreeMap<ImageSpec, Result<()>> =
            specs.iter().map(|spec| (spec.clone(), Err(late()))).collect();
        for spec in specs {
            let done = done.clone();
            self.in_background(move |driver| {
                let result = driver.release(&spec, deadline);
                let _ = done.send((spec, result));
            });
        }
        drop(done);
        // The last thread to end closes the channel.
        while let Ok((spec, result)) = released.recv_timeout(deadline.left()) {
            volumes.insert(spec, result);
        }
        Ok(Released { volumes, unknown })
    }

    fn release(&self, spec: &ImageSpec, deadline: Deadline) -> Result<()> {
        let _guard = self.guards.lock(spec, deadline)?;
        // Adopts what is used, and takes everything else down.
        self.restore(spec)?;
        let Some(mounted) = self.table.get(spec) else { return Ok(()) };
        self.kind.refuse_held(&mounted.refs.mountpoint, &mounted.attached)?;
        tracing::info!(image = %spec, uses = mounted.refs.shown(), "releasing");
        self.take_down(&mounted).inspect_err(|_| self.mark_unsettled(spec))
    }
}

//! The thread that keeps the heart beating.

use std::sync::{Arc, Weak};
use std::thread::sleep;

use super::kv::{ClusterKv, Place};
use super::owners::Owners;
use crate::lock;
use crate::model::error::{DriverError, OrCall, Result};

/// A heartbeat is renewed so many times before it runs out.
const BEATS: u32 = 4;

/// Renews the heartbeat everywhere, for as long as the owners are there. `connect` gives a client of the cluster, `failed` is told of what
/// went wrong.
pub fn keep_beating<K: ClusterKv>(
    owners: &Arc<Owners>,
    connect: impl Fn() -> Result<K> + Send + Sync + 'static,
    failed: impl Fn(DriverError) -> DriverError + Send + Sync + 'static,
) -> Result<()> {
    let weak: Weak<Owners> = Arc::downgrade(owners);
    let every = owners.heartbeat.lasts / BEATS;
    let beat = Arc::new(move |owners: &Owners, at: &Place| {
        if let Err(e) = connect().and_then(|kv| owners.heartbeat.beat(&kv, at)).map_err(&failed) {
            tracing::debug!(error = %e, pool = at.0, "no heartbeat");
        }
    });
    let run = move || {
        while let Some(owners) = weak.upgrade() {
            for (pool, namespace) in owners.heartbeat.leave_idle(|at| owners.owns_in(at)) {
                tracing::debug!(pool, namespace, "the heartbeat ends: nothing is owned there");
            }
            for at in owners.heartbeat.places() {
                // Each on its own: a pool that hangs must not stop the heart in the others.
                if lock(&owners.heartbeat.under_way).insert(at.clone()) {
                    let (of, here, beat) = (Arc::clone(&owners), at.clone(), Arc::clone(&beat));
                    let spawned = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
                        beat(&of, &here);
                        lock(&of.heartbeat.under_way).remove(&here);
                    });
                    if let Err(e) = spawned {
                        tracing::error!(error = %e, "no thread for a heartbeat");
                        lock(&owners.heartbeat.under_way).remove(&at);
                    }
                }
            }
            drop(owners);
            sleep(every);
        }
    };
    std::thread::Builder::new()
        .name("heartbeat".to_owned())
        .spawn(run)
        .or_call("clone", "the heartbeat thread")?;
    Ok(())
}

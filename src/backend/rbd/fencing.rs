//! The cluster's blocklist: read, and added to.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::errno::Errno;
use serde_json::json;

use crate::ceph::Cluster;
use crate::coordination::blocklist::{Blocklist, Fence};
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};
use crate::telemetry::count::{Count, count};

/// How many clients are shut out at a time.
const AT_ONCE: usize = 16;

/// The cluster's blocklist. A client that is shut out can still ask the monitors.
pub(super) fn blocklist(cluster: &Cluster) -> Result<Blocklist> {
    Blocklist::parse(&cluster.mon_command(&json!({"prefix": "osd blocklist ls", "format": "json"}))?)
}

/// The entry that shuts this very client out, if one does.
pub(super) fn own_fence(cluster: &Cluster) -> Result<Option<Fence>> {
    Ok(blocklist(cluster)?.covers(&cluster.addresses()?).cloned())
}

/// Shuts clients out of the cluster, and makes sure that we and whoever connects from now on know it. Many at a time: each waits for the monitors to
/// agree, which they do once a second or so.
pub(super) fn shut_out(cluster: &Cluster, addresses: &BTreeSet<String>, lasts: Duration) -> Result<()> {
    let addresses: Vec<&String> = addresses.iter().collect();
    for some in addresses.chunks(AT_ONCE) {
        let done: Vec<Result<()>> = std::thread::scope(|scope| {
            let fence = |address| {
                let thread = std::thread::Builder::new().name("fence".to_owned());
                thread
                    .spawn_scoped(scope, move || shut_one_out(cluster, address, lasts))
                    .or_call("clone", address)
            };
            let threads: Vec<_> = some.iter().map(|address| fence(address)).collect();
            let died = || Err(DriverError::new(ErrorKind::Failed, "a thread that fences died"));
            threads.into_iter().map(|thread| thread?.join().unwrap_or_else(|_| died())).collect()
        });
        done.into_iter().collect::<Result<()>>()?;
    }
    Ok(cluster.wait_for_latest_osdmap()?)
}

fn shut_one_out(cluster: &Cluster, address: &str, lasts: Duration) -> Result<()> {
    cluster.blocklist(address, lasts).map_err(|e| {
        let missing = matches!(e.errno, Errno::EACCES | Errno::EPERM);
        let error = DriverError::from(e);
        if missing { error.context(format_args!("cannot fence {address}")) } else { error }
    })?;
    count(Count::Fence);
    tracing::warn!(address, hours = lasts.as_secs() / 3600, "fenced");
    Ok(())
}

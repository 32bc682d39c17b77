//! For how long whoever is followed is shut out.

use std::time::Duration;

use super::kv::ClusterKv;
use super::record::OwnerRecord;
use crate::model::error::Result;

/// An earlier boot of a host is gone with its kernel: its requests that are still on their way end within minutes.
pub(super) const EARLIER_BOOT: Duration = Duration::from_secs(3600);

/// Shuts all clients of an owner out of the cluster. Only then may its record be replaced.
pub(super) fn fence(kv: &dyn ClusterKv, record: &OwnerRecord, lasts: Duration) -> Result<()> {
    kv.shut_out(&record.addresses(), lasts)
}

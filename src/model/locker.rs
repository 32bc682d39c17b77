//! Who holds an advisory lock in the cluster.

use serde::Serialize;

/// One holder of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Locker {
    /// The id of the holder's client: `client.4123`.
    pub client: String,
    /// What the holder calls this hold.
    pub cookie: String,
    /// The address of the holder's client.
    pub address: String,
}

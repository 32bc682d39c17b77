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

/// A lock and its holders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lockers {
    /// Whether there can be only one.
    pub exclusive: bool,
    /// What all holders of a shared lock agree on.
    pub tag: String,
    /// Nobody, when the lock is free.
    pub lockers: Vec<Locker>,
}

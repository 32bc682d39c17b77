//! What a block device has done.

use serde::{Deserialize, Serialize};

/// Since the device is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockIo {
    /// Reads that were completed.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Milliseconds that all reads took together.
    pub read_ms: u64,
    /// Writes that were completed.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Milliseconds that all writes took together.
    pub write_ms: u64,
    /// Requests that are under way.
    pub in_flight: u64,
    /// Milliseconds in which at least one request was under way.
    pub busy_ms: u64,
}

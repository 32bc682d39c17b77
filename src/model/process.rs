//! Processes of this host.

use serde::{Deserialize, Serialize};

/// A process, told from a later one of the same id by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// When it was started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start: u64,
}

/// What `/proc` tells of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its name, as the kernel cuts it.
    pub name: String,
    /// When it was started, in clock ticks since boot.
    pub start: u64,
}

impl Process {
    /// One that never runs.
    pub const NOBODY: Self = Self { pid: 0, start: 0 };
}

//! `rbd-docker-plugin`: a Docker VolumeDriver. The house, the laws and their reasons are in DESIGN.md.
//!
//! Data flows one way: socket → typed request ([`frontend`]) → [`driver`] → a kind of volume ([`block`]) → [`backend`] and
//! [`host`] → [`linux`] and `ceph`. Nothing below `driver` knows Docker, nothing above `block` knows devices, nothing above `backend` knows
//! how images are stored, `linux` and `ceph` know nothing of volumes.

pub mod backend;
pub mod block;
#[cfg(feature = "ceph")]
pub mod ceph;
pub mod cli;
pub mod cmd;
pub mod config;
pub mod coordination;
pub mod daemon;
pub mod doctor;
pub mod driver;
pub mod frontend;
pub mod host;
pub mod linux;
pub mod model;
pub mod telemetry;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a collection that is whole between any two statements, so that a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

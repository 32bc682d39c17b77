//! Ceph: a safe layer over librados and librbd. Knows clusters, objects and images; knows nothing of volumes.
//!
//! A [`Cluster`] is one client of a cluster, an [`IoCtx`] a pool (and namespace) seen by it, an [`Image`] an open image. Each keeps the
//! one above alive, so they are always closed in the order that the libraries demand. All may be used from many threads at once.
//!
//! Every call blocks, at most about as long as [`Connect::timeout`] says for each request that it sends. Failures are
//! [`CallError`]s named after the C function. Two of them mean the same everywhere:
//!
//! * `ETIMEDOUT`: no answer came. A change may have happened, or may even happen later: look again before trying again.
//! * `ESHUTDOWN`: this client is on the cluster's blocklist. It never recovers: drop everything that hangs on this [`Cluster`] and
//!   connect anew.
//!
//! `unsafe` in this folder is for the C calls, one operation per block; `librbd-sys` has the bindings.

mod bounded;
mod call;
mod class;
mod cluster;
pub mod features;
mod image;
mod images;
mod ioctx;
mod lock;
mod notify;
mod omap;
mod ties;
mod version;

pub use class::{Answers, ClassCall};
pub use cluster::{Cluster, ClusterUsage, Conf, Connect};
pub use image::{Image, Watcher};
pub use images::{CreateOptions, ImageName};
pub use ioctx::IoCtx;
pub use omap::Swap;
pub use ties::{Mirrored, Snapshot, SnapshotOf, Trashed};
pub use version::{Versions, versions};

use crate::model::error::CallError;
pub use crate::model::locker::{Locker, Lockers};

/// The result of everything here.
pub type Result<T> = std::result::Result<T, CallError>;

/// The answer about something that may not be there: `ENOENT` is nothing.
pub fn none_if_absent<T: Default>(answer: Result<T>) -> Result<T> {
    match answer {
        Err(e) if e.errno == nix::errno::Errno::ENOENT => Ok(T::default()),
        answer => answer,
    }
}

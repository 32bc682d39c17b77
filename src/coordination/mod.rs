//! What the hosts agree on: who owns an image, whose heart beats, who is shut out, which image a bare name means.
//!
//! All of it is kept in the cluster and reached through [`ClusterKv`], so the protocol runs alike on RADOS (the rbd backend implements
//! it) and in memory ([`memory`], where the model of the protocol runs). What a host knows of its own kernel comes through [`Mappings`]. This
//! room knows neither librados nor sysfs.
//!
//! ```text
//! rbd_docker_plugin.owners   in each pool and namespace: who may use which image      owners, change, takeover, lost
//! rbd_docker_plugin.hosts    in each pool and namespace: whose heart beats            heartbeat
//! rbd_docker_plugin.names    in the default pool and namespace: bare names            names
//! rbd_header.<id>            lock `rbd_lock`: what earlier plugins look at            advisory
//! ```

#[cfg(feature = "ceph")]
pub mod admin;
pub mod advisory;
mod beating;
pub mod blocklist;
mod blocklist_cache;
mod change;
mod claim;
pub mod heartbeat;
mod kv;
mod lost;
#[cfg(any(test, feature = "fault-points"))]
pub mod memory;
pub mod names;
pub mod owners;
pub mod record;
mod suspects;
mod takeover;

pub use beating::keep_beating;
pub use blocklist_cache::BlocklistCache;
pub use kv::{ClusterKv, HostMapping, Keys, Lease, Mappings, Place, Swap, place};
pub use lost::{Reading, by_place};
pub use owners::{Owners, Settings};
pub use takeover::UNMOUNT_THERE;

//! The protocols in front of the driver. Everything async is here; what is below is synchronous.
//!
//! [`http`] is the edge that they share: sockets, connections with limits, operations on blocking threads. [`docker`] is Docker's
//! VolumeDriver, [`admin`] health, metrics and the pages of the commands.

pub mod admin;
pub mod docker;
pub mod http;
mod volume_json;

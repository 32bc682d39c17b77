//! The kernel of this host, and the few programs that only it can be served by. Knows devices, mounts and filesystems; knows
//! nothing of volumes.
//!
//! Calls return [`CallError`](crate::model::error::CallError): which call, on what, with which errno. Only what runs a program or
//! judges a filesystem returns a [`DriverError`](crate::model::error::DriverError), because no errno tells what it has to say.
//! `unsafe` in this folder is for system calls, one operation per block.

pub mod backing;
pub mod blkdev;
pub mod blkstat;
pub mod boot;
pub mod exec;
pub mod files;
pub mod fork;
pub mod fs;
pub mod holders;
pub mod keyring;
pub mod kmsg;
pub mod krbd;
pub mod loopdev;
pub mod memory;
pub mod mount;
pub mod mountinfo;
pub mod probe;
pub mod process;
pub mod socket_activation;
pub mod stacked;
mod uapi;
pub mod wipe;

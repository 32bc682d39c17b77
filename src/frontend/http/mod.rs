//! The edge that all front ends share: HTTP/1 over a unix socket, within limits.
//!
//! * One operation is ONE closure on a blocking thread ([`operations`]). It owns all it needs and ends whether or not its
//!   client is still there: hyper drops a handler whose client hung up, and half an operation is worse than none.
//! * What has not begun when its client leaves does not begin.
//! * Changing operations share a number of permits smaller than the number of blocking threads, so that reads always find a thread,
//!   however many changes are stuck.
//! * A panic in the driver is an error like another, and a line in the log.
//!
//! The life of a socket is in [`socket`], connections are in [`server`].

pub mod operations;
pub(crate) mod peer;
pub mod server;
pub mod socket;
pub(crate) mod write_timeout;

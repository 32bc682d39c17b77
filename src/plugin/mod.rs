//! The plugin: Docker's volume-driver protocol, HTTP/1 over a unix socket, in front of a [`VolumeDriver`].
//!
//! Everything async is here; the driver is synchronous. The contract between the two:
//!
//! * One operation is ONE closure on a blocking thread ([`operations`]). It owns all it needs and ends whether or not its
//!   client is still there: hyper drops a handler whose client hung up, and half a Mount is worse than none.
//! * A Mount whose client left before the answer is undone: Docker takes it for failed and will send no Unmount for it.
//! * What has not begun when its client leaves does not begin.
//! * Changing operations share a number of permits smaller than the number of blocking threads, so that reads (Get, List,
//!   Path) always find a thread, however many Mounts are stuck.
//! * A Get that fails otherwise than by "no such volume" is not answered: Docker forgets a volume's labels and options at
//!   any answered error, but keeps them when the connection breaks.
//! * A panic in the driver is an error like another, and a line in the log.
//!
//! The socket's life is in [`socket`], connections in [`server`], paths in `route`, bodies in [`proto`] and `reply`.
//!
//! [`VolumeDriver`]: crate::driver::api::VolumeDriver

pub(crate) mod impatient;
pub mod operations;
mod peer;
pub mod proto;
pub(crate) mod reply;
mod route;
pub mod server;
pub mod socket;

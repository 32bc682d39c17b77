//! Docker's VolumeDriver protocol in front of a [`VolumeDriver`].
//!
//! * A Mount whose client left before the answer is undone: Docker takes it for failed and will send no Unmount for it.
//! * A Get that fails with any error but "no such volume" is not answered: Docker forgets a volume's labels and options at
//!   any answered error, but keeps them when the connection breaks.
//!
//! Paths are in `route`, requests in `request`, their bodies in [`protocol`], replies in `reply`.

mod engine;
pub mod protocol;
mod reply;
mod request;
mod route;

use std::future::Future;
use std::io;
use std::sync::Arc;

use crate::driver::api::VolumeDriver;
use crate::frontend::http::operations::Operations;
use crate::frontend::http::server::{self, Limits};
use crate::frontend::http::socket::Listener;
use crate::model::process::Stat;

/// A driver as Docker's plugin.
#[derive(Debug)]
pub struct Docker {
    /// What is served.
    pub driver: Arc<dyn VolumeDriver>,
    /// Where its operations run.
    pub operations: Arc<Operations>,
    /// What a client may use up.
    pub limits: Limits,
    /// What `/proc` tells of the process that has connected: only a Docker engine is kept as the one that mounted.
    pub stat: fn(i32) -> Option<Stat>,
}

impl Docker {
    /// Serves until `stop`, then lets running operations and their replies end. Answers how many operations did not end in time.
    pub async fn serve(self, listener: Listener, stop: impl Future<Output = ()>) -> io::Result<usize> {
        let (operations, limits) = (Arc::clone(&self.operations), self.limits.clone());
        server::serve(listener, Arc::new(self), operations, limits, stop).await
    }
}

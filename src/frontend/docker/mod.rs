//! Docker's VolumeDriver protocol in front of a [`VolumeDriver`].
//!
//! * A Mount whose client left before the answer is undone: Docker takes it for failed and will send no Unmount for it.
//! * A Get that fails otherwise than by "no such volume" is not answered: Docker forgets a volume's labels and options at
//!   any answered error, but keeps them when the connection breaks.
//!
//! Paths are in `route`, requests in `request`, their bodies in [`protocol`], replies in `reply`.

pub mod protocol;
pub(crate) mod reply;
mod request;
mod route;

use std::future::Future;
use std::io;
use std::sync::Arc;

use crate::driver::api::VolumeDriver;
use crate::frontend::http::operations::Operations;
use crate::frontend::http::server::{self, Limits};
use crate::frontend::http::socket::Listener;

/// Serves a driver until `stop`, then lets running operations and their replies end. Answers how many operations did not end in time.
pub async fn serve(
    listener: Listener,
    driver: Arc<dyn VolumeDriver>,
    operations: Arc<Operations>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> io::Result<usize> {
    let docker = route::Docker { driver, operations: Arc::clone(&operations), limits: limits.clone() };
    server::serve(listener, Arc::new(docker), operations, limits, stop).await
}

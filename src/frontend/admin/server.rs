//! Connections of the admin pages: accepted, served within limits, cut at the end of the process.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use super::pages::{Pages, Which};
use crate::frontend::http::server::{self, Limits, Source};
use crate::frontend::http::write_timeout::WriteTimeout;

/// Less than Docker's socket may use: nobody needs more than a few connections here.
fn limits() -> Limits {
    Limits {
        connections: 64,
        head_bytes: 16 << 10,
        head_time: Duration::from_secs(30),
        write_time: Duration::from_secs(10),
        ..Limits::default()
    }
}

pub(super) async fn unix(
    listener: std::os::unix::net::UnixListener,
    pages: Arc<Pages>,
    which: Which,
) -> io::Result<()> {
    serve(&UnixListener::from_std(listener)?, &pages, which).await
}

pub(super) async fn serve<L: Source>(listener: &L, pages: &Arc<Pages>, which: Which) -> io::Result<()> {
    let limits = limits();
    let slots = Arc::new(Semaphore::new(limits.connections));
    loop {
        let (slot, stream) = server::next(listener, &slots).await;
        let stream = TokioIo::new(WriteTimeout::new(stream, limits.write_time));
        let pages = Arc::clone(pages);
        let service = service_fn(move |request| {
            let pages = Arc::clone(&pages);
            async move { Ok::<_, Infallible>(pages.answer(&request, which).await) }
        });
        let connection = server::http(&limits).serve_connection(stream, service);
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(e) = connection.await {
                tracing::debug!("admin connection: {e}");
            }
        });
    }
}

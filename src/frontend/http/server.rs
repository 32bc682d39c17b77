//! Connections: accepted, served within limits, drained at the end.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::operations::Operations;
use super::peer::Peer;
use super::socket::Listener;
use super::write_timeout::WriteTimeout;

/// What a client may use up.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's backlog.
    pub connections: usize,
    /// Bytes of a request's head, 8192 at least.
    pub head_bytes: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// From one request (or the connect) to the whole head of the next: an idle connection is closed after it.
    pub head_time: Duration,
    /// From the head to the end of the body.
    pub body_time: Duration,
    /// How long a client may not take what is written to it.
    pub write_time: Duration,
    /// How long a stop waits for what is running.
    pub drain: Duration,
    /// How long a stop waits for connections when nothing is running any more.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            head_bytes: 64 << 10,
            body_bytes: 1 << 20,
            head_time: Duration::from_secs(60),
            body_time: Duration::from_secs(30),
            write_time: Duration::from_secs(30),
            drain: Duration::from_secs(60),
            linger: Duration::from_secs(1),
        }
    }
}

/// What answers the requests of a connection.
pub trait Service: Send + Sync + 'static {
    /// Why a request is not answered: then its connection breaks.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Answers one.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> impl Future<Output = Result<Response<Full<Bytes>>, Self::Error>> + Send;
}

/// Serves until `stop`, then lets running operations and their replies end. Answers how many operations did not end in time.
pub async fn serve<S: Service>(
    listener: Listener,
    service: Arc<S>,
    operations: Arc<Operations>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> io::Result<usize> {
    let Listener { socket, outlives_us } = listener;
    let listener = UnixListener::from_std(socket)?;
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = Connections {
        service,
        operations,
        limits: Arc::new(limits),
        graceful: GracefulShutdown::new(),
        tasks: JoinSet::new(),
    };
    let mut stop = pin!(stop);
    loop {
        let (slot, stream) = tokio::select! {
            biased;
            () = &mut stop => break,
            // What a connection has taken up is given back when it ends, not when the next one comes: that may be very much later.
            Some(_) = connections.tasks.join_next() => continue,
            next = next(&listener, &slots) => next,
        };
        connections.spawn(stream, slot);
    }
    // Those who are connected already are served; those who come now are refused by the kernel, which Docker retries with
    // its request intact. On a socket that outlives this process nobody is refused: they wait in it for the next one.
    while !outlives_us
        && let Ok(slot) = Arc::clone(&slots).try_acquire_owned()
        && let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await
    {
        connections.spawn(stream, Some(slot));
    }
    drop(listener);
    Ok(connections.drain().await)
}

/// Where connections come from.
pub(crate) trait Source {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Source for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Source for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

/// The next connection and its slot. Errors of accept are the host's and pass: it waits for that.
pub(crate) async fn next<L: Source>(
    listener: &L,
    slots: &Arc<Semaphore>,
) -> (Option<OwnedSemaphorePermit>, L::Stream) {
    const LONGEST: Duration = Duration::from_secs(1);
    // Never closed, so there is a slot in the end.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    let mut pause = Duration::from_millis(5);
    loop {
        match listener.next().await {
            Ok(stream) => return (slot, stream),
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                tracing::warn!("cannot accept a connection, next try in {} ms: {e}", pause.as_millis());
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST);
            }
        }
    }
}

/// HTTP within the limits.
pub(crate) fn http(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_time).max_buf_size(limits.head_bytes);
    http
}

struct Connections<S> {
    service: Arc<S>,
    operations: Arc<Operations>,
    limits: Arc<Limits>,
    graceful: GracefulShutdown,
    tasks: JoinSet<()>,
}

impl<S: Service> Connections<S> {
    fn spawn(&mut self, stream: UnixStream, slot: Option<OwnedSemaphorePermit>) {
        let limits = Arc::clone(&self.limits);
        let peer = Arc::new(Peer::new(stream.peer_cred().ok().and_then(|cred| cred.pid())));
        let stream = WriteTimeout::new(stream, limits.write_time);
        let http = http(&limits);
        let service = Arc::clone(&self.service);
        let service = service_fn(move |request| Arc::clone(&service).answer(request, Arc::clone(&peer)));
        let connection = self.graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        self.tasks.spawn(async move {
            let _slot = slot;
            if let Err(e) = connection.await {
                tracing::debug!("connection: {e}");
            }
        });
    }

    /// First the operations, each with its reply, within the drain time; then connections on which nothing happens are cut.
    async fn drain(mut self) -> usize {
        let linger = self.limits.linger;
        let end = Instant::now() + self.limits.drain;
        let quiet = async {
            self.operations.idle().await;
            sleep(linger).await;
        };
        tokio::select! {
            () = self.graceful.shutdown() => {}
            () = quiet => tracing::debug!("cutting connections that say nothing"),
            () = sleep_until(end) => {}
        }
        self.tasks.shutdown().await;
        // An operation whose client left has no connection.
        let _ = timeout_at(end, self.operations.idle()).await;
        self.operations.running()
    }
}

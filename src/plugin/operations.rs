//! Running the driver: one closure on a blocking thread per operation, counted, and logged when it ends.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tracing::Span;

use super::peer::Peer;
use super::proto::{CreateRequest, MountRequest, NameRequest};
use super::reply;
use crate::driver::api::VolumeDriver;
use crate::error::{DriverError, ErrorKind, Result};
use crate::lock;
use crate::telemetry::metrics::{Durations, OK};
use crate::telemetry::panic_text;

/// A request that was understood.
#[derive(Debug)]
pub(super) enum Request {
    Create(CreateRequest),
    Remove(NameRequest),
    Mount(MountRequest),
    Unmount(MountRequest),
    Path(NameRequest),
    Get(NameRequest),
    List,
    Capabilities,
}

/// The driver and the operations that are running on it.
#[derive(Debug)]
pub struct Operations {
    driver: Arc<dyn VolumeDriver>,
    permits: Arc<Semaphore>,
    running: Arc<watch::Sender<usize>>,
    under_way: Arc<Mutex<BTreeMap<u64, UnderWay>>>,
    requests: AtomicU64,
    durations: Durations,
}

/// An operation that is running.
#[derive(Debug, Clone)]
pub struct UnderWay {
    /// What Docker calls it.
    pub operation: &'static str,
    /// The volume, when it is about one.
    pub volume: Option<String>,
    /// When it came.
    pub since: Instant,
}

impl Operations {
    /// Allows `changes` changing operations at a time; reads and Unmounts are not limited here.
    pub fn new(driver: Arc<dyn VolumeDriver>, changes: usize) -> Self {
        Self {
            driver,
            permits: Arc::new(Semaphore::new(changes)),
            running: Arc::new(watch::Sender::new(0)),
            under_way: Arc::default(),
            requests: AtomicU64::new(0),
            durations: Durations::default(),
        }
    }

    /// What is running, by the number of the request, oldest first.
    pub fn under_way(&self) -> BTreeMap<u64, UnderWay> {
        lock(&self.under_way).clone()
    }

    /// How long operations took so far.
    pub fn durations(&self) -> &Durations {
        &self.durations
    }

    /// How many are running.
    pub fn running(&self) -> usize {
        *self.running.borrow()
    }

    /// Comes back when none is running.
    pub async fn idle(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }

    /// Runs a request to its end and answers with the body of the reply; `None` when it must not be answered. Dropping
    /// this future leaves what has begun running.
    pub(super) async fn run(&self, request: Request, peer: Arc<Peer>) -> Option<Result<Bytes>> {
        if matches!(request, Request::Capabilities) {
            // Asked all the time, and needs no thread.
            return Some(Ok(reply::capabilities(self.driver.scope())));
        }
        let started = Instant::now();
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let span = span(number, &request);
        let permit = self.permit(&request).await;
        let guard = Running::new(&self.running, &self.under_way, number, &request, started);
        let (driver, durations) = (Arc::clone(&self.driver), self.durations.clone());
        let (answer, answered) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let _held = (permit, guard);
            span.in_scope(|| {
                let waits = || !answer.is_closed();
                let result = guarded(|| request.perform(&*driver, &peer, &waits));
                let kind = result.as_ref().err().map(|e| e.kind);
                durations.observe(request.operation(), kind, started.elapsed());
                report(&request, &result, started.elapsed());
                let result = match result {
                    Err(e) if request.must_not_fail_with(e.kind) => None,
                    result => Some(result),
                };
                if answer.send(result).is_err() {
                    tracing::debug!("the client left before the answer");
                }
            });
        });
        // A closure that the runtime threw away at its end: the connection ends with it.
        answered.await.unwrap_or(None)
    }

    async fn permit(&self, request: &Request) -> Option<OwnedSemaphorePermit> {
        // Never closed, so there is a permit in the end. An Unmount needs none: Docker sends it once, and a client that left while it
        // waited would have sent it for nothing.
        if request.changes() && !matches!(request, Request::Unmount(_)) {
            Arc::clone(&self.permits).acquire_owned().await.ok()
        } else {
            None
        }
    }
}

/// At error level, so that there is one at every level of the log. The driver fills in the image when it knows it.
fn span(number: u64, request: &Request) -> Span {
    let span = tracing::error_span!(
        "request",
        number,
        operation = request.operation(),
        volume = tracing::field::Empty,
        image = tracing::field::Empty,
        mount_id = tracing::field::Empty
    );
    if let Some(name) = request.name() {
        span.record("volume", name);
    }
    if let Request::Mount(r) | Request::Unmount(r) = request {
        span.record("mount_id", r.id.as_str());
    }
    span
}

impl Request {
    /// What Docker calls it.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Self::Create(_) => "Create",
            Self::Remove(_) => "Remove",
            Self::Mount(_) => "Mount",
            Self::Unmount(_) => "Unmount",
            Self::Path(_) => "Path",
            Self::Get(_) => "Get",
            Self::List => "List",
            Self::Capabilities => "Capabilities",
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Create(r) => Some(&r.name),
            Self::Mount(r) | Self::Unmount(r) => Some(&r.name),
            Self::Remove(r) | Self::Path(r) | Self::Get(r) => Some(&r.name),
            Self::List | Self::Capabilities => None,
        }
    }

    fn changes(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Remove(_) | Self::Mount(_) | Self::Unmount(_))
    }

    /// Docker takes any answered error of Get for "no such volume" and forgets the volume's labels and options, so only an
    /// error that means it is answered.
    fn must_not_fail_with(&self, kind: ErrorKind) -> bool {
        matches!(self, Self::Get(_)) && !matches!(kind, ErrorKind::NotFound | ErrorKind::Invalid)
    }

    fn perform(&self, driver: &dyn VolumeDriver, peer: &Peer, waits: &dyn Fn() -> bool) -> Result<Bytes> {
        match self {
            Self::Create(r) => driver.create(&r.name, &r.options).map(|()| reply::empty()),
            Self::Remove(r) => driver.remove(&r.name).map(|()| reply::empty()),
            Self::Mount(r) => {
                driver.mount(&r.name, &r.id, peer.engine(), waits).map(|at| reply::mountpoint(Some(&at)))
            }
            Self::Unmount(r) => driver.unmount(&r.name, &r.id).map(|()| reply::empty()),
            Self::Path(r) => driver.path(&r.name).map(|at| reply::mountpoint(at.as_deref())),
            Self::Get(r) => driver.get(&r.name).map(|volume| reply::volume(&volume)),
            Self::List => driver.list().map(|volumes| reply::volumes(&volumes)),
            Self::Capabilities => Ok(reply::capabilities(driver.scope())),
        }
    }
}

/// Counts one running operation.
#[derive(Debug)]
struct Running {
    count: Arc<watch::Sender<usize>>,
    under_way: Arc<Mutex<BTreeMap<u64, UnderWay>>>,
    number: u64,
}

impl Running {
    fn new(
        count: &Arc<watch::Sender<usize>>,
        under_way: &Arc<Mutex<BTreeMap<u64, UnderWay>>>,
        number: u64,
        request: &Request,
        since: Instant,
    ) -> Self {
        count.send_modify(|running| *running += 1);
        let volume = request.name().map(str::to_owned);
        let this = UnderWay { operation: request.operation(), volume, since };
        lock(under_way).insert(number, this);
        Self { count: Arc::clone(count), under_way: Arc::clone(under_way), number }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.under_way).remove(&self.number);
        self.count.send_modify(|running| *running -= 1);
    }
}

/// A panic is an error like another. The driver's own state is its own to mend: nothing here is shared with it.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(DriverError::new(ErrorKind::Failed, format!("internal error: {}", panic_text(&*panic)))
            .hint("this is a bug of rbd-docker-plugin; its log says more"))
    })
}

/// One line at the end of every operation.
fn report(request: &Request, result: &Result<Bytes>, elapsed: Duration) {
    use ErrorKind as K;
    let elapsed_ms = elapsed.as_micros() as f64 / 1000.0;
    match result {
        Ok(_) if request.changes() => tracing::info!(result = OK, elapsed_ms, "{}", request.operation()),
        Ok(_) => tracing::debug!(result = OK, elapsed_ms, "{}", request.operation()),
        Err(e) => {
            let result = e.kind.name();
            match e.kind {
                kind if request.must_not_fail_with(kind) => {
                    tracing::error!(
                        result,
                        elapsed_ms,
                        "not answered, so that Docker keeps what it knows: {e}"
                    );
                }
                // Docker asks for every volume before it creates it.
                K::NotFound if !request.changes() => tracing::debug!(result, elapsed_ms, "{e}"),
                K::NotFound | K::AlreadyExists | K::Invalid | K::NotAllowed | K::InUse | K::Busy => {
                    tracing::warn!(result, elapsed_ms, "{e}");
                }
                _ => tracing::error!(result, elapsed_ms, "{e}"),
            }
        }
    }
}

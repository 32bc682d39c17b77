//! Operations: one closure on a blocking thread each, counted, and logged when it ends.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tracing::Span;

use crate::lock;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::telemetry::durations::{Durations, OK};
use crate::telemetry::panic_text;

/// What is known of an operation before it runs.
#[derive(Debug, Clone)]
pub struct Operation {
    /// What the protocol calls it.
    pub name: &'static str,
    /// The volume, when it is about one.
    pub volume: Option<String>,
    /// The mount ID, when it is about one.
    pub mount_id: Option<String>,
    /// Whether it changes something.
    pub changes: bool,
    /// Whether it waits for one of the permits.
    pub limited: bool,
    /// The errors that must not be answered.
    pub unanswered: fn(ErrorKind) -> bool,
}

/// The operations that are running.
#[derive(Debug)]
pub struct Operations {
    permits: Arc<Semaphore>,
    running: Arc<watch::Sender<usize>>,
    under_way: Arc<Mutex<BTreeMap<u64, UnderWay>>>,
    requests: AtomicU64,
    durations: Durations,
}

/// An operation that is running.
#[derive(Debug, Clone)]
pub struct UnderWay {
    /// What the protocol calls it.
    pub operation: &'static str,
    /// The volume, when it is about one.
    pub volume: Option<String>,
    /// When it came.
    pub since: Instant,
}

impl Operations {
    /// Allows `limit` limited operations at a time.
    pub fn new(limit: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limit)),
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

    /// Runs an operation to its end; `None` when it must not be answered. `work` is given a question: whether its client still waits.
    /// Dropping this future leaves what has begun running.
    pub async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        work: impl FnOnce(&dyn Fn() -> bool) -> Result<T> + Send + 'static,
    ) -> Option<Result<T>> {
        let started = Instant::now();
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let span = span(number, &operation);
        let permit = self.permit(&operation).await;
        let guard = Running::new(&self.running, &self.under_way, number, &operation, started);
        let durations = self.durations.clone();
        let (answer, answered) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let _held = (permit, guard);
            span.in_scope(|| {
                let waits = || !answer.is_closed();
                let result = guarded(|| work(&waits));
                let kind = result.as_ref().err().map(|e| e.kind);
                durations.observe(operation.name, kind, started.elapsed());
                report(&operation, result.as_ref().err(), started.elapsed());
                let result = match result {
                    Err(e) if (operation.unanswered)(e.kind) => None,
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

    async fn permit(&self, operation: &Operation) -> Option<OwnedSemaphorePermit> {
        // Never closed, so there is a permit in the end.
        if operation.limited { Arc::clone(&self.permits).acquire_owned().await.ok() } else { None }
    }
}

/// At error level, so that there is one at every level of the log. The driver fills in the image when it knows it.
fn span(number: u64, operation: &Operation) -> Span {
    let span = tracing::error_span!(
        "request",
        number,
        operation = operation.name,
        volume = tracing::field::Empty,
        image = tracing::field::Empty,
        mount_id = tracing::field::Empty
    );
    if let Some(volume) = &operation.volume {
        span.record("volume", volume.as_str());
    }
    if let Some(id) = &operation.mount_id {
        span.record("mount_id", id.as_str());
    }
    span
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
        operation: &Operation,
        since: Instant,
    ) -> Self {
        count.send_modify(|running| *running += 1);
        let this = UnderWay { operation: operation.name, volume: operation.volume.clone(), since };
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
fn report(operation: &Operation, error: Option<&DriverError>, elapsed: Duration) {
    use ErrorKind as K;
    let elapsed_ms = elapsed.as_micros() as f64 / 1000.0;
    let Some(e) = error else {
        if operation.changes {
            tracing::info!(result = OK, elapsed_ms, "{}", operation.name);
        } else {
            tracing::debug!(result = OK, elapsed_ms, "{}", operation.name);
        }
        return;
    };
    let result = e.kind.name();
    match e.kind {
        kind if (operation.unanswered)(kind) => {
            tracing::error!(result, elapsed_ms, "not answered, so that the client keeps what it knows: {e}");
        }
        // Docker asks for every volume before it creates it.
        K::NotFound if !operation.changes => tracing::debug!(result, elapsed_ms, "{e}"),
        K::NotFound | K::AlreadyExists | K::Invalid | K::NotAllowed | K::InUse | K::Busy => {
            tracing::warn!(result, elapsed_ms, "{e}");
        }
        _ => tracing::error!(result, elapsed_ms, "{e}"),
    }
}

//! Notifies systemd (`sd_notify`) that the daemon is ready, what it is doing, that it still serves, and that it stops. Without
//! `NOTIFY_SOCKET` nothing is sent.
//!
//! The contract of the watchdog: a message means that the runtime has run a task and that a blocking thread was available for it, so a
//! request would have been served. It asks neither the driver nor the store nor a mount, all of which may hang for as long as the storage
//! is away: an outage must not get the plugin killed.
//!
//! No child has to be kept from these variables: programs are run with an environment of their own (`linux/exec.rs`).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

/// How often the status is compared with the one sent last, and how long a stop waits until its message is sent.
const LOOK: Duration = Duration::from_secs(1);

/// Describes what the daemon is doing; the argument says whether it is stopping.
type Describe = Arc<dyn Fn(bool) -> String + Send + Sync>;

/// Sends the status before the daemon serves.
pub fn starting(doing: &str) {
    Message { status: Some(doing.to_owned()), ..Message::default() }.send();
}

/// Keeps systemd informed for as long as it lives.
pub struct Notifier {
    doing: Describe,
    stopping: watch::Sender<bool>,
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").field("stopping", &self.stopping).finish_non_exhaustive()
    }
}

/// Starts a task of the runtime that sends READY now, and the status whenever it has changed.
pub fn notify(doing: impl Fn(bool) -> String + Send + Sync + 'static) -> Notifier {
    let (stopping, told) = watch::channel(false);
    let doing: Describe = Arc::new(doing);
    if listens() {
        tokio::spawn(keep_notifying(Arc::clone(&doing), told));
    }
    Notifier { doing, stopping }
}

impl Notifier {
    /// Sends STOPPING, and the status from now on as of a daemon that stops.
    pub async fn stopping(&self) {
        if listens() {
            let message = Message { stopping: true, status: Some((self.doing)(true)), ..Message::default() };
            let _ = timeout(LOOK, spawn_blocking(move || message.send())).await;
        }
        self.stopping.send_replace(true);
    }
}

async fn keep_notifying(doing: Describe, mut stopping: watch::Receiver<bool>) {
    let half = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let pause = half.map_or(LOOK, |half| LOOK.min(half));
    let mut message = Message { ready: true, ..Message::default() };
    let mut said = String::new();
    let mut pinged: Option<Instant> = None;
    loop {
        let now = doing(*stopping.borrow_and_update());
        if now != said {
            said.clone_from(&now);
            message.status = Some(now);
        }
        message.alive = half.is_some_and(|half| pinged.is_none_or(|at| at.elapsed() >= half));
        if message.alive {
            pinged = Some(Instant::now());
        }
        let send = std::mem::take(&mut message);
        if send != Message::default() {
            // Sending may wait for systemd, and is itself the proof that there is a thread for a request.
            let _ = spawn_blocking(move || send.send()).await;
        }
        tokio::select! {
            changed = stopping.changed() => if changed.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}

/// Whether systemd listens.
fn listens() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// One message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    ready: bool,
    stopping: bool,
    alive: bool,
    status: Option<String>,
}

impl Message {
    fn send(&self) {
        // A line is a message.
        let status = self.status.as_ref().map(|text| text.replace(char::is_control, " "));
        let messages: Vec<NotifyState<'_>> = [
            self.ready.then_some(NotifyState::Ready),
            self.stopping.then_some(NotifyState::Stopping),
            self.alive.then_some(NotifyState::Watchdog),
            status.as_deref().map(NotifyState::Status),
        ]
        .into_iter()
        .flatten()
        .collect();
        if let Err(e) = sd_notify::notify(&messages) {
            tracing::warn!("cannot tell systemd {messages:?}: {e}");
        }
    }
}

//! What systemd is told (`sd_notify`): ready, what the daemon is doing, that it still serves, that it stops. Without `NOTIFY_SOCKET`
//! nothing is said.
//!
//! The contract of the watchdog: a message means that the runtime has run a task and that a blocking thread was to be had for it, so a
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

/// How often to see whether there is something new to say, and how long a stop waits for systemd to hear of it.
const LOOK: Duration = Duration::from_secs(1);

/// Says what the daemon is doing; whether it is stopping is the question.
type Doing = Arc<dyn Fn(bool) -> String + Send + Sync>;

/// Tells what is being done before the daemon serves.
pub fn starting(doing: &str) {
    News { status: Some(doing.to_owned()), ..News::default() }.send();
}

/// Tells of a daemon that serves, for as long as this is there.
pub struct Teller {
    doing: Doing,
    stopping: watch::Sender<bool>,
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").field("stopping", &self.stopping).finish_non_exhaustive()
    }
}

/// Begins to tell, from a task of the runtime: ready now, then whatever is done has changed.
pub fn tell(doing: impl Fn(bool) -> String + Send + Sync + 'static) -> Teller {
    let (stopping, told) = watch::channel(false);
    let doing: Doing = Arc::new(doing);
    if listens() {
        tokio::spawn(keep_telling(Arc::clone(&doing), told));
    }
    Teller { doing, stopping }
}

impl Teller {
    /// The daemon was told to stop.
    pub async fn stopping(&self) {
        if listens() {
            let news = News { stopping: true, status: Some((self.doing)(true)), ..News::default() };
            let _ = timeout(LOOK, spawn_blocking(move || news.send())).await;
        }
        self.stopping.send_replace(true);
    }
}

async fn keep_telling(doing: Doing, mut stopping: watch::Receiver<bool>) {
    let half = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let pause = half.map_or(LOOK, |half| LOOK.min(half));
    let mut news = News { ready: true, ..News::default() };
    let mut said = String::new();
    let mut pinged: Option<Instant> = None;
    loop {
        let now = doing(*stopping.borrow_and_update());
        if now != said {
            said.clone_from(&now);
            news.status = Some(now);
        }
        news.alive = half.is_some_and(|half| pinged.is_none_or(|at| at.elapsed() >= half));
        if news.alive {
            pinged = Some(Instant::now());
        }
        let send = std::mem::take(&mut news);
        if send != News::default() {
            // Sending may wait for systemd, and is itself the proof that there is a thread for a request.
            let _ = spawn_blocking(move || send.send()).await;
        }
        tokio::select! {
            changed = stopping.changed() => if changed.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}

/// Whether there is somebody to tell.
fn listens() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// One message.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    ready: bool,
    stopping: bool,
    alive: bool,
    status: Option<String>,
}

impl News {
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

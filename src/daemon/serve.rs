//! The daemon: claim the name, open the driver, serve, stop as told.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{self, Config};
use crate::daemon::{assemble, systemd};
use crate::driver::api::{DriverStatus, VolumeDriver};
use crate::frontend::http::operations::Operations;
use crate::frontend::http::socket::{Claim, Socket};
use crate::linux::{memory, process, socket_activation};
use crate::model::error::{CallError, DriverError, ErrorKind, OrCall, Result};
use crate::model::text::count;
use crate::model::version::version;
use crate::telemetry::log::{self, Log, Target};

/// Threads that take connections.
const WORKERS: usize = 2;

/// Blocking threads, made as they are needed; each running operation has one.
const THREADS: usize = 2048;
/// How long a thread without work is kept.
const IDLE: Duration = Duration::from_secs(2);
/// Operations that change something, at a time; the other threads are left to reads and Unmounts.
const CHANGES: usize = 1536;

/// Runs until a signal ends it. What goes wrong is in the log when there is one; the caller says it on stderr and ends this process.
pub fn run(flags: &BTreeMap<&'static str, String>) -> Result<()> {
    let config = &Config::load(flags, &config::environment()?)?;
    // Before any thread is made.
    memory::use_few_arenas();
    // Before anything is opened, the log too.
    let passed = socket_activation::take();
    assemble::check(config)?;
    process::keep_memory_private()?;
    let log = log::start(&config.log)?;
    let done = serve(config, &log, passed);
    if let Err(e) = &done
        && config.log.target != Target::Stderr
    {
        tracing::error!("{e}");
    }
    done
}

fn serve(config: &Config, log: &Log, passed: Passed) -> Result<()> {
    tracing::info!("rbd-docker-plugin {} starting as {}", version(), config.name);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    tracing::debug!("{config:?}");
    if let Err(e) = process::raise_file_limit() {
        tracing::warn!("cannot raise the limit of open files: {}", e.errno.desc());
    }
    // Before the driver: its recovery must not meet another plugin of this name at work.
    let claim = claim(config, passed)?;
    let admin = assemble::admin(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(THREADS)
        // After a crowd, threads and what they have freed are not kept.
        .thread_keep_alive(IDLE)
        .on_thread_stop(memory::trim_soon)
        .on_thread_start(|| {
            static STARTED: AtomicUsize = AtomicUsize::new(0);
            // They come first, and the spans of requests are made on them.
            if STARTED.fetch_add(1, Ordering::Relaxed) < WORKERS {
                log::make_room();
            }
        })
        .enable_all()
        .build()
        .or_call("clone", "the runtime's threads")?;
    let signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    // Who connects from here on waits for the answer, however long the volumes of an earlier life and the cluster take: a Docker engine
    // gives a managed plugin ten seconds to listen, and then disables it.
    let socket = claim.bind(config.socket_group.gid)?;
    tracing::info!("listening on {}", socket.path().display());
    systemd::starting("starting: bringing the volumes of an earlier life to rest");
    let operations = Arc::new(Operations::new(CHANGES));
    let opened = assemble::open(config).and_then(|driver| {
        let admin = admin.serve(Arc::clone(&driver), Arc::clone(&operations))?;
        Ok((driver, admin))
    });
    let (driver, admin) = match opened {
        Ok(opened) => opened,
        Err(e) => {
            socket.remove();
            return Err(e);
        }
    };
    let left = listen(&runtime, socket, Arc::clone(&driver), operations, signals, log.clone());
    driver.stopped();
    admin.end();
    // Not dropped: that would wait for operations that are stuck in the kernel.
    runtime.shutdown_background();
    match left? {
        0 => {
            tracing::info!("stopped; volumes stay mounted");
            Ok(())
        }
        left => Err(DriverError::new(
            ErrorKind::Timeout,
            format!("stopped with {left} operations unfinished; the next start cleans up after them"),
        )),
    }
}

fn listen(
    runtime: &Runtime,
    mut socket: Socket,
    driver: Arc<dyn DriverStatus>,
    operations: Arc<Operations>,
    mut signals: Signals,
    log: Log,
) -> Result<usize> {
    let Some(listener) = socket.listener() else {
        return Err(DriverError::new(ErrorKind::Failed, "the socket has no listener"));
    };
    let path = socket.path().display().to_string();
    let left = runtime.block_on(async {
        let (told, stop) = tokio::sync::oneshot::channel();
        tokio::spawn(async move { signals.handle(told, &log).await });
        let running = Arc::clone(&operations);
        let glanced = Arc::clone(&driver);
        let notifier = systemd::notify(move |stopping| describe(stopping, &*glanced, &running));
        let stop = async {
            drop(stop.await);
            notifier.stopping().await;
        };
        assemble::docker(driver, operations).serve(listener, stop).await
    });
    socket.remove();
    Ok(left.or_call("listen", path)?)
}

/// The descriptors that systemd has passed, or why they cannot be used.
type Passed = std::result::Result<Vec<OwnedFd>, CallError>;

/// Claims the name, with the socket that systemd passed if it did.
fn claim(config: &Config, passed: Passed) -> Result<Claim> {
    let (dir, name) = (&config.plugins, &config.name);
    let wrong = |what: String| {
        DriverError::new(ErrorKind::Config, format!("systemd passes {what}; this plugin serves one socket"))
            .hint(format!(
                "the socket unit needs one line ListenStream={}/{name}.sock and no other",
                dir.display()
            ))
    };
    let mut passed = passed.map_err(|e| wrong("descriptors that are not open".to_owned()).caused_by(e))?;
    match (passed.pop(), passed.len()) {
        (None, _) => Claim::take(dir, name),
        (Some(fd), 0) => {
            let listener = socket_activation::unix_listener(fd).map_err(|what| wrong(what.to_owned()))?;
            tracing::info!("systemd passes the socket: its SocketGroup= counts, and not --socket-group");
            Claim::take_passed(dir, name, listener)
        }
        (Some(_), more) => Err(wrong(count(more + 1, "descriptor"))),
    }
}

/// The status line for systemd.
fn describe(stopping: bool, driver: &dyn VolumeDriver, operations: &Operations) -> String {
    if stopping {
        return format!("stopping: finishing {}", count(operations.running(), "operation"));
    }
    let glance = driver.glance();
    let away = glance.away.map(|why| format!("; waiting for the store: {why}")).unwrap_or_default();
    format!("listening; {} mounted{away}", count(glance.mounted, "volume"))
}

/// The signals that the daemon acts on. SIGPIPE is ignored by Rust's own start-up code.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Catches them: from here on they no longer kill the process.
    fn new() -> Result<Self> {
        let catch = |kind: SignalKind| signal(kind).or_call("sigaction", kind.as_raw_value());
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    /// Passes the first signal to stop on; a second one ends the process at once.
    async fn handle(&mut self, told: tokio::sync::oneshot::Sender<()>, log: &Log) {
        let mut told = Some(told);
        loop {
            let name = tokio::select! {
                _ = self.hangup.recv() => {
                    log.reopen();
                    continue;
                }
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            };
            match told.take() {
                Some(told) => {
                    tracing::info!("{name}: finishing what is running");
                    let _ = told.send(());
                }
                None => stop_at_once(name),
            }
        }
    }
}

/// A second signal ends the process without waiting for operations.
fn stop_at_once(name: &str) -> ! {
    tracing::warn!("{name} again: stopping at once");
    super::end(1)
}

//! The connection to the cluster, which may come and go without the plugin ending or waiting.
//!
//! [`Link::session`] answers at once: with the session, or with the reason why there is none. When a request runs into its timeout, a
//! background thread looks whether it was that request alone (one pool may hang while all others work) or the cluster; then it takes the
//! link down, so that the next requests are answered from the cache instead of each waiting for a timeout of its own, and brings it up
//! again later. A client of ours that was blocklisted is thrown away and made anew.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::caps;
use super::monitors::{self, Monitors};
use super::places::{self, Replicated};
use crate::ceph::{Cluster, Connect, IoCtx};
use crate::config;
use crate::error::{CallError, DriverError, ErrorKind, OrCall, Result};
use crate::linux::keyring::Key;
use crate::linux::krbd;
use crate::lock;
use crate::name::ImageSpec;
use crate::telemetry::count::{Count, count};

/// How often a link that is down is tried.
const RETRY: Duration = Duration::from_secs(1);
/// How often to see whether a request has run into its timeout.
const LOOK: Duration = Duration::from_millis(100);
/// How often a link that is up looks at the monitors, which move rarely.
const REFRESH: Duration = Duration::from_secs(60);

/// A pool, and perhaps a namespace of it.
pub(super) type Place = (String, Option<String>);

/// The place of an image.
pub(super) fn place(spec: &ImageSpec) -> Place {
    (spec.pool().to_owned(), spec.namespace().map(str::to_owned))
}

/// How to connect.
pub(super) fn how(options: &config::Ceph) -> Connect {
    Connect {
        conf: options.conf.clone(),
        user: options.user.clone(),
        keyring: options.keyring.clone(),
        cluster: options.cluster.clone(),
        timeout: options.timeout,
    }
}

/// The cluster does not tell a wrong key from none; this host does.
fn rejected(e: DriverError, options: &config::Ceph) -> DriverError {
    let user = &options.user;
    match super::inspect::key_place(options) {
        Err(why) => {
            let message = format!("{}: {}", e.message, why.message);
            DriverError { message, hint: why.hint, ..e }
        }
        Ok(place) => {
            let place = place.unwrap_or_else(|| "the keyring".to_owned());
            e.hint(format!("compare the key of client.{user} in {place} with: ceph auth get client.{user}"))
        }
    }
}

/// A connected client.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) cluster: Cluster,
    /// The user's key, for the kernel; none where the cluster does not authenticate.
    pub(super) key: Option<Key>,
    /// Pools by name, open.
    open: Mutex<HashMap<Place, IoCtx>>,
    monitors: Mutex<Monitors>,
    replicated: Replicated,
}

impl Session {
    pub(super) fn connect(options: &config::Ceph) -> Result<Self> {
        let cluster = Cluster::connect(&how(options)).map_err(|e| match DriverError::from(e) {
            e if e.kind == ErrorKind::Denied => rejected(e, options),
            e => e,
        })?;
        let monitors = monitors::of(&cluster)?;
        let key = super::secret::find(|key| cluster.conf(key), cluster.user())?.map(|found| found.key);
        Ok(Self {
            cluster,
            key,
            open: Mutex::default(),
            monitors: Mutex::new(monitors),
            replicated: Replicated::default(),
        })
    }

    /// A pool or a namespace of it. `NotFound` when there is no such pool.
    pub(super) fn open(&self, place: &Place) -> Result<IoCtx> {
        if let Some(io) = lock(&self.open).get(place) {
            return Ok(io.clone());
        }
        let io = self.cluster.ioctx(&place.0, place.1.as_deref())?;
        self.replicated.require(&self.cluster, &io)?;
        lock(&self.open).insert(place.clone(), io.clone());
        Ok(io)
    }

    pub(super) fn of(&self, spec: &ImageSpec) -> Result<IoCtx> {
        self.open(&place(spec))
    }

    /// An error when a pool that is open is not there any more, or is another one of its name, or when its namespace
    /// is gone.
    pub(super) fn still(&self, place: &Place, io: &IoCtx) -> Result<()> {
        let now = self.cluster.ioctx(&place.0, None).map_err(|e| {
            let error = DriverError::from(e);
            // What was open a moment ago is gone by somebody's mistake, perhaps.
            let kind = if error.kind == ErrorKind::NotFound { ErrorKind::Config } else { error.kind };
            DriverError { kind, ..error }
        });
        let now = now.inspect_err(|_| lock(&self.open).clear())?;
        if now.pool_id() == io.pool_id() {
            return places::require_namespace(io);
        }
        lock(&self.open).clear();
        Err(DriverError::new(ErrorKind::Unreachable, format!("the pool {} was made anew", place.0))
            .hint("try again"))
    }

    pub(super) fn monitors(&self) -> Monitors {
        lock(&self.monitors).clone()
    }

    /// One small request to the monitors, which also keeps their addresses up to date. Pools are opened anew afterwards: one that
    /// was deleted and made again is another one.
    fn refresh(&self) -> Result<()> {
        let monitors = monitors::of(&self.cluster)?;
        lock(&self.open).clear();
        *lock(&self.monitors) = monitors;
        Ok(())
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    options: config::Ceph,
    /// A pool to try whether the storage answers too.
    probe: Place,
    state: Mutex<State>,
    /// Whether some request has run into its timeout since the last look.
    suspect: AtomicBool,
    /// Whether it was ever up.
    known: AtomicBool,
}

#[derive(Debug)]
enum State {
    Up(Arc<Session>),
    /// The session, if there was one, may work again by itself.
    Down(DriverError, Option<Arc<Session>>),
}

impl Link {
    /// Starts to connect, and waits for that at most `patience`.
    pub(super) fn open(options: config::Ceph, probe: Place, patience: Duration) -> Result<Arc<Self>> {
        let waiting = DriverError::new(ErrorKind::Unreachable, "not connected to the Ceph cluster yet");
        let link = Arc::new(Self {
            options,
            probe,
            state: Mutex::new(State::Down(waiting, None)),
            suspect: AtomicBool::new(false),
            known: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&link);
        std::thread::Builder::new()
            .name("ceph-link".to_owned())
            .spawn(move || keep_up(&weak))
            .or_call("clone", "the link thread")?;
        let until = Instant::now() + patience;
        while link.session().is_err() && Instant::now() < until {
            sleep(Duration::from_millis(20));
        }
        Ok(link)
    }

    /// The session, or why there is none.
    pub(super) fn session(&self) -> Result<Arc<Session>> {
        match &*lock(&self.state) {
            State::Up(session) => Ok(Arc::clone(session)),
            State::Down(why, _) => Err(why.clone()),
        }
    }

    /// Passes an answer on, and sees to the link when it says that the cluster does not answer.
    pub(super) fn heed<T>(&self, answer: Result<T>) -> Result<T> {
        answer.map_err(|e| self.heed_error(e))
    }

    /// The same for an error, which says afterwards what it means for this user.
    pub(super) fn heed_error(&self, e: DriverError) -> DriverError {
        if let Some(call) = &e.source {
            if is_fenced(call) {
                self.take_down(e.clone(), true);
            } else if is_silence(call) {
                self.suspect.store(true, Ordering::SeqCst);
            }
        }
        caps::explain(&self.options, e)
    }

    fn take_down(&self, why: DriverError, fenced: bool) {
        let mut state = lock(&self.state);
        if let State::Up(session) = &*state {
            tracing::error!("the Ceph cluster is away: {why}");
            let session = (!fenced).then(|| Arc::clone(session));
            let why = DriverError { kind: ErrorKind::Unreachable, ..why };
            *state = State::Down(why, session);
        }
    }

    /// One step of the background thread; how long until the next.
    fn step(&self) -> Duration {
        let (tried, was_up) = {
            match &*lock(&self.state) {
                State::Up(session) => (Some(Arc::clone(session)), true),
                State::Down(_, session) => (session.clone(), false),
            }
        };
        let answer = match &tried {
            Some(session) => session.refresh().and_then(|()| self.probe(session)),
            None => Ok(()),
        };
        let answer = answer.and_then(|()| match tried {
            Some(session) => Ok(session),
            None => Session::connect(&self.options).map(Arc::new),
        });
        match answer {
            Ok(session) => {
                if !was_up {
                    tracing::info!(cluster = session.cluster.fsid(), "connected to the Ceph cluster");
                    if self.known.swap(true, Ordering::SeqCst) {
                        count(Count::Reconnect);
                    }
                }
                *lock(&self.state) = State::Up(session);
                REFRESH
            }
            Err(e) => {
                let fenced = e.source.as_ref().is_some_and(is_fenced);
                if was_up {
                    // Other refusals than silence concern one request.
                    if fenced || e.source.as_ref().is_some_and(is_silence) {
                        self.take_down(e, fenced);
                    }
                } else {
                    let mut state = lock(&self.state);
                    let session = match &*state {
                        State::Down(_, session) if !fenced => session.clone(),
                        _ => None,
                    };
                    tracing::debug!(error = %e, "the Ceph cluster is still away");
                    *state = State::Down(DriverError { kind: ErrorKind::Unreachable, ..e }, session);
                }
                RETRY
            }
        }
    }

    /// Whether the storage answers, and not the monitors alone.
    fn probe(&self, session: &Session) -> Result<()> {
        let io = match session.open(&self.probe) {
            // Whether that pool is there is not the question here.
            Err(e) if e.kind == ErrorKind::NotFound => return Ok(()),
            io => io?,
        };
        match io.read("rbd_directory", 1) {
            Err(e) if is_silence(&e) || is_fenced(&e) => Err(e.into()),
            _ => Ok(()),
        }
    }
}

fn keep_up(link: &Weak<Link>) {
    let mut next = Instant::now();
    loop {
        let Some(link) = link.upgrade() else { return };
        let suspect = link.suspect.swap(false, Ordering::SeqCst);
        if suspect || Instant::now() >= next || link.session().is_err() {
            next = Instant::now() + link.step();
        }
        let pause = if link.session().is_ok() { LOOK } else { RETRY };
        drop(link);
        sleep(pause);
    }
}

/// The cluster did not answer in time: what was asked for may have happened or not.
fn is_silence(call: &CallError) -> bool {
    matches!(call.errno, Errno::ETIMEDOUT | Errno::ENOTCONN)
}

/// Our own client is on the blocklist, and not one of the kernel's.
fn is_fenced(call: &CallError) -> bool {
    call.errno == Errno::ESHUTDOWN && !krbd::CALLS.contains(&call.call)
}

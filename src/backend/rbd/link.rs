//! The connection to the cluster, which may come and go without the plugin ending or waiting.
//!
//! [`Link::session`] answers at once: with the session, or with the reason why there is none. When a request runs into its timeout, a
//! background thread looks whether it was that request alone, its pool (see [`silence`](super::silence)) or the cluster; then it takes the
//! link down, so that the next requests are answered from the cache instead of each waiting for a timeout of its own, and brings it up
//! again later.
//!
//! A client keeps the key and the monitors that it began with. So a new one is made beside the old, and takes its place once it
//! works: when ceph.conf or a file with the key has changed, and when the old one stays silent. A client that was blocklisted is
//! replaced at once, unless its whole host is on the blocklist: then no new one would fare better, and the old one, which the
//! monitors still answer, asks them until the entry is gone.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::caps;
use super::clients::Clients;
use super::fencing::own_fence;
use super::sources::Sources;
use crate::coordination::blocklist::{Fence, Reach};
use crate::linux::krbd;
use crate::lock;
use crate::model::error::{CallError, DriverError, ErrorKind, OrCall, Result};
use crate::model::settings;
use crate::telemetry::count::{Count, count};

pub(super) use super::session::{Place, Session, place};

/// How often a link that is down is tried.
const RETRY: Duration = Duration::from_secs(1);
/// How often to see whether a request has run into its timeout.
const LOOK: Duration = Duration::from_millis(100);
/// How often a link that is up looks at the monitors, which move rarely.
const REFRESH: Duration = Duration::from_secs(60);
/// So often an old client is asked in vain before a new one is tried beside it.
const PATIENCE: u32 = 3;
/// The longest pause between two new clients that are not let in.
const LONGEST: Duration = Duration::from_secs(15);
/// How often the blocklist is looked at while all of this host is on it.
const BLOCKED: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    options: settings::Ceph,
    state: Mutex<State>,
    /// Whether some request has run into its timeout since the last look.
    suspect: AtomicBool,
    /// Whether some request was refused since then because its client is on the blocklist.
    fenced: AtomicBool,
    /// Whether it was ever up.
    known: AtomicBool,
    /// The cluster of this life.
    fsid: OnceLock<String>,
    clients: Arc<Clients>,
}

#[derive(Debug)]
enum State {
    Up(Arc<Session>),
    /// The session, if there was one, may work again by itself.
    Down(DriverError, Option<Arc<Session>>),
}

/// What the background thread alone knows.
#[derive(Debug)]
struct Keeper {
    sources: Sources,
    /// Whether the sources have changed since the session connected.
    changed: bool,
    /// When the session is asked again.
    next: Instant,
    /// How often it was asked in vain.
    silent: u32,
    /// When a new client may be made, and how long after that the next one.
    client: Instant,
    pause: Duration,
    /// What the log says of the link last: not each second again.
    said: Option<String>,
    /// The pools of which the log says that they are silent.
    silent_pools: BTreeSet<String>,
}

impl Keeper {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            sources: Sources::default(),
            changed: false,
            next: now,
            silent: 0,
            client: now,
            pause: RETRY,
            said: None,
            silent_pools: BTreeSet::new(),
        }
    }

    /// Says once what is wrong, until it is something else.
    fn say(&mut self, about: &str, e: &DriverError) {
        // Which request it was that was not answered is no news.
        let news = if e.source.as_ref().is_some_and(is_silence) { e.message.clone() } else { e.to_string() };
        if self.said.as_ref() == Some(&news) {
            tracing::debug!(error = %e, "{about}");
        } else {
            tracing::error!("{about}: {e}");
            self.said = Some(news);
        }
    }

    /// Says once of each pool that it is silent, and that it answers again.
    fn tell_silence(&mut self, session: &Session) {
        for pool in session.silence.served() {
            if let Some(why) = session.silence.of(&pool) {
                if self.silent_pools.insert(pool) {
                    tracing::error!("{why}");
                }
            } else if session.silence.answers(&pool) && self.silent_pools.remove(&pool) {
                tracing::info!(pool, "the pool answers again");
            }
        }
    }

    /// A new client was not let in.
    fn wait(&mut self) {
        self.client = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST);
    }

    fn connected(&mut self) {
        (self.silent, self.pause, self.said) = (0, RETRY, None);
        self.client = Instant::now();
        self.next = Instant::now() + REFRESH;
    }
}

impl Link {
    /// Starts to connect, and waits for that at most `patience`.
    pub(super) fn open(options: settings::Ceph, patience: Duration) -> Result<Arc<Self>> {
        let waiting = DriverError::new(ErrorKind::Unreachable, "not connected to the Ceph cluster yet");
        let link = Arc::new(Self {
            options,
            state: Mutex::new(State::Down(waiting, None)),
            suspect: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            known: AtomicBool::new(false),
            fsid: OnceLock::new(),
            clients: Arc::default(),
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

    /// The pools that are served, and why one of them does not answer. Never waits.
    pub(super) fn pools(&self) -> Vec<(String, Option<DriverError>)> {
        match self.session() {
            Ok(session) => {
                let served = session.silence.served().into_iter();
                served.map(|pool| (pool.clone(), session.silence.of(&pool))).collect()
            }
            Err(e) => self.options.pools.iter().map(|pool| (pool.clone(), Some(e.clone()))).collect(),
        }
    }

    /// The clients of this life.
    pub(super) fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// Passes an answer on, and sees to the link when it says that the cluster does not answer.
    pub(super) fn heed<T>(&self, answer: Result<T>) -> Result<T> {
        answer.map_err(|e| self.heed_error(e))
    }

    /// The same for an error, which says afterwards what it means for this user.
    pub(super) fn heed_error(&self, e: DriverError) -> DriverError {
        if let Some(call) = &e.source {
            if is_fenced(call) {
                self.fenced.store(true, Ordering::SeqCst);
            } else if is_silence(call) {
                self.suspect.store(true, Ordering::SeqCst);
            }
        }
        caps::explain(&self.options, e)
    }

    fn up(&self, session: Arc<Session>) {
        self.put(State::Up(session));
    }

    fn down(&self, why: DriverError, session: Option<Arc<Session>>) {
        self.put(State::Down(DriverError { kind: ErrorKind::Unreachable, ..why }, session));
    }

    fn put(&self, state: State) {
        let old = std::mem::replace(&mut *lock(&self.state), state);
        // The last one to drop a session waits for its threads: nobody else is to wait for that.
        drop(std::thread::Builder::new().name("ceph-close".to_owned()).spawn(move || drop(old)));
    }

    /// One step of the background thread.
    fn step(&self, keeper: &mut Keeper) {
        if keeper.sources.changed(&self.options) {
            (keeper.changed, keeper.client, keeper.pause) = (true, Instant::now(), RETRY);
        }
        let (session, was_up) = match &*lock(&self.state) {
            State::Up(session) => (Some(Arc::clone(session)), true),
            State::Down(_, session) => (session.clone(), false),
        };
        // That answer may be one to a client that was replaced meanwhile.
        let fenced = self.fenced.swap(false, Ordering::SeqCst);
        let suspect = self.suspect.swap(false, Ordering::SeqCst) || fenced;
        let Some(session) = session else {
            return self.connect(keeper, None, "no connection to the Ceph cluster");
        };
        if was_up && keeper.changed && Instant::now() >= keeper.client {
            return self.exchange(keeper, &session);
        }
        if fenced && own_fence(&session.cluster).is_ok_and(|fence| fence.is_some()) {
            session.fence();
        }
        if session.is_fenced() {
            return self.shut_out(keeper, session);
        }
        if was_up {
            session.ask_the_silent();
            keeper.tell_silence(&session);
        }
        if was_up && !suspect && Instant::now() < keeper.next {
            return;
        }
        match session.refresh().and_then(|()| session.probe()) {
            Ok(()) if was_up => keeper.next = Instant::now() + REFRESH,
            Ok(()) => self.bring_up(keeper, session),
            Err(e) if e.source.as_ref().is_some_and(is_fenced) => {
                session.fence();
                self.down(e, Some(session));
            }
            // Other refusals than silence concern one request.
            Err(e) if was_up && !e.source.as_ref().is_some_and(is_silence) => {
                keeper.next = Instant::now() + RETRY
            }
            Err(e) => {
                keeper.silent += 1;
                if was_up {
                    keeper.say("the Ceph cluster is away", &e);
                    self.down(e, Some(session));
                } else if keeper.silent >= PATIENCE || keeper.changed {
                    self.connect(keeper, Some(session), "the Ceph cluster is away");
                }
            }
        }
    }

    fn bring_up(&self, keeper: &mut Keeper, session: Arc<Session>) {
        tracing::info!(cluster = session.cluster.fsid(), "connected to the Ceph cluster");
        if self.known.swap(true, Ordering::SeqCst) {
            count(Count::Reconnect);
        }
        keeper.connected();
        self.up(session);
    }

    /// A client that the storage answers, too.
    fn new_client(&self) -> (Result<()>, Option<Arc<Session>>) {
        match Session::connect(&self.options).map(Arc::new) {
            Ok(session) => match self
                .refuse_another(session.cluster.fsid())
                .and_then(|()| self.clients.note(&session.cluster))
            {
                Ok(()) => (session.probe(), Some(session)),
                Err(e) => (Err(e), None),
            },
            Err(e) => (Err(e), None),
        }
    }

    /// An error for a cluster that is not the one of this life: records and mappings of one mean nothing in another.
    fn refuse_another(&self, fsid: &str) -> Result<()> {
        let known = self.fsid.get_or_init(|| fsid.to_owned());
        if known == fsid {
            return Ok(());
        }
        Err(DriverError::new(
            ErrorKind::Config,
            format!(
                "ceph.conf leads to the cluster {fsid} now, and the volumes of this plugin are in {known}"
            ),
        )
        .hint("to serve that cluster, unmount all volumes and restart the plugin"))
    }

    /// Makes a new client while the link is down; `old` may answer again one day.
    fn connect(&self, keeper: &mut Keeper, old: Option<Arc<Session>>, about: &str) {
        if Instant::now() < keeper.client {
            return;
        }
        match self.new_client() {
            (Ok(()), Some(new)) => {
                keeper.changed = false;
                self.bring_up(keeper, new);
            }
            (Err(e), Some(new)) if e.source.as_ref().is_some_and(is_fenced) => {
                new.fence();
                keeper.wait();
                self.down(e, Some(Arc::clone(&new)));
                self.shut_out(keeper, new);
            }
            (Err(e), _) => {
                keeper.wait();
                keeper.say(about, &e);
                self.down(e, old);
            }
            (Ok(()), None) => {}
        }
    }

    /// Puts a client of today's ceph.conf and key in the place of one that still works.
    fn exchange(&self, keeper: &mut Keeper, old: &Arc<Session>) {
        match self.new_client() {
            (Ok(()), Some(new)) => {
                tracing::info!("ceph.conf or the key has changed: connected anew");
                keeper.changed = false;
                keeper.connected();
                count(Count::Reconnect);
                self.up(new);
            }
            (answer, _) => {
                keeper.wait();
                if let Err(e) = answer {
                    keeper.say(
                        "ceph.conf or the key has changed, and is of no use; the old connection is kept",
                        &e,
                    );
                }
                if old.is_fenced() {
                    self.shut_out(keeper, Arc::clone(old));
                }
            }
        }
    }

    /// A client that is on the blocklist. Another one helps if only this one is.
    fn shut_out(&self, keeper: &mut Keeper, session: Arc<Session>) {
        if Instant::now() < keeper.next
            && matches!(&*lock(&self.state), State::Down(..))
            && keeper.said.is_some()
        {
            return;
        }
        keeper.next = Instant::now() + BLOCKED;
        match own_fence(&session.cluster) {
            Ok(Some(fence)) if fence.reach != Reach::Client => {
                let why = why_shut_out(&session, &fence);
                keeper.say("the Ceph cluster is away", &why);
                self.down(why, Some(session));
            }
            Ok(_) => self.connect(keeper, Some(session), "the Ceph cluster is away"),
            Err(e) => {
                keeper.say("the Ceph cluster is away", &e);
                self.down(e, Some(Arc::clone(&session)));
                keeper.silent += 1;
                if keeper.silent >= PATIENCE {
                    self.connect(keeper, Some(session), "the Ceph cluster is away");
                }
            }
        }
    }
}

/// Why no client of this host may do anything.
fn why_shut_out(session: &Session, fence: &Fence) -> DriverError {
    let address = session.cluster.addresses().unwrap_or_default();
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
    DriverError::new(
        ErrorKind::Unreachable,
        format!(
            "this host ({host}) is on the cluster's blocklist until {}, by the entry {}",
            fence.until, fence.address
        ),
    )
    .hint(format!("it goes on by itself when the entry ends; to end it now: {}", fence.end()))
}

fn keep_up(link: &Weak<Link>) {
    let mut keeper = Keeper::new();
    loop {
        let Some(link) = link.upgrade() else { return };
        link.step(&mut keeper);
        let pause = if link.session().is_ok() { LOOK } else { RETRY };
        drop(link);
        sleep(pause);
    }
}

/// The cluster did not answer in time: what was asked for may have happened or not.
pub(super) fn is_silence(call: &CallError) -> bool {
    matches!(call.errno, Errno::ETIMEDOUT | Errno::ENOTCONN)
}

/// Our own client is on the blocklist, and not one of the kernel's.
pub(super) fn is_fenced(call: &CallError) -> bool {
    call.errno == Errno::ESHUTDOWN && !krbd::CALLS.contains(&call.call)
}

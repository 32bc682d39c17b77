//! Pools that do not answer while others do, because no OSD is there for their placement groups.
//!
//! A request to such a pool takes all of its timeout, and says no more than that. So each pool is asked by itself, in the background; what is
//! asked of a silent one meanwhile fails at once and names it, and the others go on. When no pool answers, that is no pool's fault: then
//! the [`link`](super::link) is down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::link::{is_fenced, is_silence};
use super::session::Session;
use crate::coordination::record;
use crate::lock;
use crate::model::error::{CallError, DriverError, ErrorKind, OrCall, Result};

/// How long after a question in vain a silent pool is asked again. It answers the one that it was asked when it comes back.
const AGAIN: Duration = Duration::from_secs(1);

/// What pools said last. See the module.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// The pools whose volumes are used.
    served: Mutex<BTreeSet<String>>,
    heard: Mutex<BTreeMap<String, (Result<()>, Instant)>>,
    /// Those that are being asked, and who waits for the answer.
    asked: Mutex<BTreeMap<String, Vec<mpsc::Sender<Result<()>>>>>,
}

impl Silence {
    pub(super) fn of_pools(pools: &[String]) -> Self {
        Self { served: Mutex::new(pools.iter().cloned().collect()), ..Self::default() }
    }

    /// A volume of the pool is used.
    pub(super) fn serve(&self, pool: &str) {
        let mut served = lock(&self.served);
        if !served.contains(pool) {
            served.insert(pool.to_owned());
        }
    }

    pub(super) fn served(&self) -> Vec<String> {
        lock(&self.served).iter().cloned().collect()
    }

    /// Whether the pool has answered when it was last asked.
    pub(super) fn answers(&self, pool: &str) -> bool {
        lock(&self.heard).get(pool).is_some_and(|(answer, _)| answer.is_ok())
    }

    /// Why it is no use to ask the pool for anything now.
    pub(super) fn of(&self, pool: &str) -> Option<DriverError> {
        let heard = lock(&self.heard);
        let call = silent(&heard.get(pool)?.0)?;
        heard.values().any(|(answer, _)| answer.is_ok()).then(|| {
            // Without the call: that would look like one more request without an answer.
            DriverError::new(ErrorKind::Unreachable, format!("the pool {pool} does not answer: {call}")).hint(
                "other pools are served; ceph health detail shows what is down; it is tried again by itself",
            )
        })
    }

    /// Silent pools that are not being asked, and were not for a while.
    fn due(&self) -> Vec<String> {
        let asked = lock(&self.asked);
        let is_due = |pool: &str, (answer, at): &(Result<()>, Instant)| {
            silent(answer).is_some() && at.elapsed() >= AGAIN && !asked.contains_key(pool)
        };
        let heard = lock(&self.heard);
        heard.iter().filter(|(pool, heard)| is_due(pool, heard)).map(|(pool, _)| pool.clone()).collect()
    }
}

fn silent(answer: &Result<()>) -> Option<&CallError> {
    answer.as_ref().err()?.source.as_ref().filter(|call| is_silence(call))
}

impl Session {
    /// Asks pools whether they answer, each on a thread of its own and once at a time. The answers come as they come.
    fn ask(self: &Arc<Self>, pools: Vec<String>) -> mpsc::Receiver<Result<()>> {
        let (answer, answers) = mpsc::channel();
        for pool in pools {
            let mut asked = lock(&self.silence.asked);
            let waiting = asked.entry(pool.clone()).or_default();
            waiting.push(answer.clone());
            if waiting.len() > 1 {
                continue;
            }
            let (session, of) = (Arc::clone(self), pool.clone());
            let ask = move || {
                let answer = session.question(&of);
                lock(&session.silence.heard).insert(of.clone(), (answer.clone(), Instant::now()));
                for waiting in lock(&session.silence.asked).remove(&of).unwrap_or_default() {
                    // Whoever asked may have heard enough.
                    drop(waiting.send(answer.clone()));
                }
            };
            let thread = std::thread::Builder::new().name("ceph-ask".to_owned()).spawn(ask);
            if let Err(e) = thread.or_call("clone", "the thread that asks a pool") {
                asked.remove(&pool);
                drop(answer.send(Err(e.into())));
            }
        }
        answers
    }

    /// Whether the OSDs of a pool answer, by the object that no Mount and no Unmount can do without.
    fn question(&self, pool: &str) -> Result<()> {
        let io = match self.reach(&(pool.to_owned(), None)) {
            // Whether that pool is there is not the question here.
            Err(e) if e.kind == ErrorKind::NotFound => return Ok(()),
            io => io?,
        };
        match io.read(record::OBJECT, 1) {
            Err(e) if is_silence(&e) || is_fenced(&e) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Whether the storage answers, and not the monitors alone: one pool is enough.
    pub(super) fn probe(self: &Arc<Self>) -> Result<()> {
        let mut why = Ok(());
        for answer in self.ask(self.silence.served()) {
            match answer {
                Ok(()) => return Ok(()),
                Err(e) if e.source.as_ref().is_some_and(is_fenced) => return Err(e),
                Err(e) if why.is_ok() || e.source.as_ref().is_some_and(is_silence) => why = Err(e),
                Err(_) => {}
            }
        }
        why
    }

    /// Asks those again that were silent; nobody waits for that.
    pub(super) fn ask_the_silent(self: &Arc<Self>) {
        drop(self.ask(self.silence.due()));
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_pool_is_silent_by_itself_only_when_another_answers() {
        let silence = Silence::of_pools(&["a".to_owned(), "b".to_owned()]);
        let says = |pool: &str, answer: Result<()>| {
            lock(&silence.heard).insert(pool.to_owned(), (answer, Instant::now()));
        };
        let no_answer = || Err(CallError::new("rados_read", "a/x", Errno::ETIMEDOUT).into());
        assert!(silence.of("a").is_none() && !silence.answers("a"), "it was not asked");
        says("a", no_answer());
        assert!(silence.of("a").is_none(), "perhaps the whole cluster is away");
        says("b", Ok(()));
        let why = silence.of("a").unwrap();
        assert!(why.to_string().starts_with("the pool a does not answer: rados_read(a/x)"), "{why}");
        assert!(why.source.is_none() && silence.of("b").is_none());
        says("b", Err(DriverError::new(ErrorKind::Config, "erasure-coded")));
        assert!(silence.of("b").is_none(), "that is another trouble");
        says("a", Ok(()));
        assert!(silence.of("a").is_none() && silence.answers("a"));
    }
}

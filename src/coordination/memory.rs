//! A cluster in memory, with hosts whose power, plugins and kernels can be taken away: where the protocol is tried out.
//!
//! Its clock stands still until somebody [advances](Memory::advance) it. Every call of a [`Client`] passes a [`Gate`] first, which may
//! let others go before it, lose its answer, or end its caller. It knows what no host knows: which kernels can still write
//! ([`Memory::writers`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::blocklist::Blocklist;
use super::kv::{ClusterKv, HostMapping, Keys, Lease, Mappings, Place, Swap};
use crate::lock;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::locker::{Locker, Lockers};
use crate::model::name::ImageSpec;

/// The OSD drops the watch of a client that is silent for so long.
const WATCH: Duration = Duration::from_secs(30);

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// It is made.
    Go,
    /// It never reaches the cluster.
    Refused,
    /// It is made, and its answer is lost.
    AnswerLost,
}

/// Decides over every call. See the module.
pub trait Gate: fmt::Debug + Send + Sync {
    /// Before a call of the host.
    fn pass(&self, call: &'static str) -> Passing;
    /// The host waits.
    fn wait(&self, memory: &Memory, time: Duration);
}

/// A kernel's client: one mapping of an image.
#[derive(Debug, Clone)]
pub struct KernelClient {
    /// Its host.
    pub host: usize,
    /// The image's id.
    pub image: String,
    /// As the image was called when it was mapped.
    pub spec: ImageSpec,
    /// Whether its filesystem is mounted: it may write at any time.
    pub mounted: bool,
    /// When it last was awake.
    awake: Duration,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    images: BTreeMap<ImageSpec, String>,
    objects: BTreeMap<(Place, String), Keys>,
    leases: BTreeMap<(Place, String), BTreeMap<String, Duration>>,
    /// Entries as the monitors write them, and until when they count.
    blocked: BTreeMap<String, Duration>,
    kernels: BTreeMap<String, KernelClient>,
    /// Hosts that are frozen: their kernels answer nothing, and may go on later.
    frozen: BTreeSet<usize>,
    made: u32,
}

impl State {
    fn blocklist(&self) -> Blocklist {
        let entries = self.blocked.iter().filter(|(_, until)| **until > self.now);
        Blocklist::of(entries.map(|(address, until)| (address.clone(), format!("{until:?}"))))
    }

    fn is_shut_out(&self, address: &str) -> bool {
        !self.blocked.is_empty() && self.blocklist().covers(address).is_some()
    }

    fn watchers(&self, id: &str) -> Vec<String> {
        let watches = |(address, kernel): &(&String, &KernelClient)| {
            kernel.image == id && kernel.awake + WATCH > self.now && !self.is_shut_out(address)
        };
        self.kernels.iter().filter(watches).map(|(address, _)| address.clone()).collect()
    }

    fn wake(&mut self) {
        let (now, frozen) = (self.now, &self.frozen);
        for kernel in self.kernels.values_mut().filter(|kernel| !frozen.contains(&kernel.host)) {
            kernel.awake = now;
        }
    }
}

/// The cluster, the hosts' kernels, and the time.
#[derive(Debug)]
pub struct Memory {
    start: Instant,
    state: Mutex<State>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { start: Instant::now(), state: Mutex::default() }
    }
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// How long it has run.
    pub fn now(&self) -> Duration {
        self.state().now
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        let mut state = self.state();
        state.now += time;
        state.wake();
    }

    /// Makes an image; one of that name goes.
    pub fn create(&self, spec: &ImageSpec) {
        let mut state = self.state();
        state.made += 1;
        let id = format!("id{}", state.made);
        state.images.insert(spec.clone(), id);
    }

    /// Gives an image another name; nothing happens when there is none, or the name is taken.
    pub fn rename(&self, from: &ImageSpec, to: &ImageSpec) {
        let mut state = self.state();
        if !state.images.contains_key(to)
            && let Some(id) = state.images.remove(from)
        {
            state.images.insert(to.clone(), id);
        }
    }

    /// All images.
    pub fn images(&self) -> Vec<(ImageSpec, String)> {
        self.state().images.iter().map(|(spec, id)| (spec.clone(), id.clone())).collect()
    }

    /// Puts an entry on the blocklist by hand.
    pub fn block(&self, address: &str, lasts: Duration) {
        let mut state = self.state();
        let until = state.now + lasts;
        state.blocked.insert(address.to_owned(), until);
    }

    /// Removes keys of an object by hand.
    pub fn remove_keys(&self, place: &Place, object: &str, which: impl Fn(&str, &[u8]) -> bool) {
        if let Some(keys) = self.state().objects.get_mut(&(place.clone(), object.to_owned())) {
            keys.retain(|key, value| !which(key, value));
        }
    }

    /// Freezes a host, or wakes it up.
    pub fn freeze(&self, host: usize, frozen: bool) {
        let mut state = self.state();
        if frozen {
            state.frozen.insert(host)
        } else {
            state.frozen.remove(&host)
        };
        state.wake();
    }

    /// Takes the power of a host away: its kernel is gone, and the watches of its clients run out.
    pub fn power_off(&self, host: usize) {
        let mut state = self.state();
        state.frozen.remove(&host);
        for kernel in state.kernels.values_mut().filter(|kernel| kernel.host == host) {
            // Nobody's any more.
            (kernel.host, kernel.mounted) = (usize::MAX, false);
        }
        state.frozen.insert(usize::MAX);
    }

    /// Maps an image on a host: a new client of its kernel, with an address of its own. Nothing when there is no such image.
    pub fn map(&self, host: usize, spec: &ImageSpec) -> Option<(String, String)> {
        let mut state = self.state();
        let id = state.images.get(spec)?.clone();
        state.made += 1;
        let address = format!("10.1.0.{host}:0/{}", state.made);
        let awake = state.now;
        let kernel = KernelClient { host, image: id.clone(), spec: spec.clone(), mounted: false, awake };
        state.kernels.insert(address.clone(), kernel);
        Some((address, id))
    }

    /// Takes a mapping away.
    pub fn unmap(&self, address: &str) {
        self.state().kernels.remove(address);
    }

    /// Mounts what is mapped, or unmounts it.
    pub fn mount(&self, address: &str, mounted: bool) {
        if let Some(kernel) = self.state().kernels.get_mut(address) {
            kernel.mounted = mounted;
        }
    }

    /// The clients of a host's kernel.
    pub fn kernels(&self, host: usize) -> Vec<(String, KernelClient)> {
        let state = self.state();
        let here = state.kernels.iter().filter(|(_, kernel)| kernel.host == host);
        here.map(|(address, kernel)| (address.clone(), kernel.clone())).collect()
    }

    /// The clients of a host's kernel that are shut out.
    pub fn fenced_kernels(&self, host: usize) -> Vec<String> {
        let state = self.state();
        let here = state.kernels.iter().filter(|(_, kernel)| kernel.host == host);
        here.map(|(address, _)| address.clone()).filter(|address| state.is_shut_out(address)).collect()
    }

    /// The kernels that have an image mounted and are not shut out: those that are frozen too, which may write when they wake up.
    pub fn writers(&self) -> BTreeMap<String, Vec<String>> {
        let state = self.state();
        let mut writers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (address, kernel) in state.kernels.iter().filter(|(_, kernel)| kernel.mounted) {
            if !state.is_shut_out(address) {
                writers.entry(kernel.image.clone()).or_default().push(address.clone());
            }
        }
        writers
    }
}

/// A plugin's client of that cluster, on one of its hosts.
#[derive(Debug, Clone)]
pub struct Client {
    memory: Arc<Memory>,
    host: usize,
    address: String,
    gate: Arc<dyn Gate>,
}

impl Client {
    /// A new client. No two have one address.
    pub fn new(memory: &Arc<Memory>, host: usize, gate: Arc<dyn Gate>) -> Self {
        let mut state = memory.state();
        state.made += 1;
        let address = format!("10.0.0.{host}:0/{}", state.made);
        drop(state);
        Self { memory: Arc::clone(memory), host, address, gate }
    }

    /// Whether it is shut out: then it is of no use any more.
    pub fn is_shut_out(&self) -> bool {
        self.memory.state().is_shut_out(&self.address)
    }

    fn call<T>(&self, call: &'static str, make: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let away = || Err(DriverError::new(ErrorKind::Unreachable, format!("{call}: no answer")));
        let passing = self.gate.pass(call);
        let mut state = self.memory.state();
        match passing {
            Passing::Refused => return away(),
            // The monitors answer whoever is shut out.
            _ if call != "blocklist" && state.is_shut_out(&self.address) => {
                return Err(DriverError::new(ErrorKind::Failed, format!("{call}: this client is shut out")));
            }
            Passing::Go | Passing::AnswerLost => {}
        }
        let answer = make(&mut state);
        if passing == Passing::AnswerLost { away() } else { answer }
    }
}

impl ClusterKv for Client {
    fn keys(&self, place: &Place, object: &str) -> Result<Keys> {
        let object = (place.clone(), object.to_owned());
        self.call("keys", |state| Ok(state.objects.get(&object).cloned().unwrap_or_default()))
    }

    fn some_keys(&self, place: &Place, object: &str, keys: &[&str]) -> Result<Keys> {
        let object = (place.clone(), object.to_owned());
        self.call("some_keys", |state| {
            let mut found = state.objects.get(&object).cloned().unwrap_or_default();
            found.retain(|key, _| keys.contains(&key.as_str()));
            Ok(found)
        })
    }

    fn swap(&self, place: &Place, object: &str, changes: &[Swap<'_>]) -> Result<bool> {
        let object = (place.clone(), object.to_owned());
        self.call("swap", |state| {
            let keys = state.objects.entry(object).or_default();
            if changes.iter().any(|swap| keys.get(swap.key).map(Vec::as_slice) != swap.expected) {
                return Ok(false);
            }
            for swap in changes {
                match swap.new {
                    Some(new) => keys.insert(swap.key.to_owned(), new.to_vec()),
                    None => keys.remove(swap.key),
                };
            }
            Ok(true)
        })
    }

    fn renew(&self, place: &Place, lease: Lease<'_>, lasts: Duration) -> Result<()> {
        self.call("renew", |state| {
            let until = state.now + lasts;
            let holders = state.leases.entry((place.clone(), lease.object.to_owned())).or_default();
            holders.insert(lease.holder.to_owned(), until);
            Ok(())
        })
    }

    fn holders(&self, place: &Place, object: &str, _name: &str) -> Result<BTreeSet<String>> {
        self.call("holders", |state| {
            let now = state.now;
            let holders = state.leases.get(&(place.clone(), object.to_owned()));
            let alive = holders.into_iter().flatten().filter(|(_, until)| **until > now);
            Ok(alive.map(|(holder, _)| holder.clone()).collect())
        })
    }

    fn give_up(&self, place: &Place, object: &str, _name: &str, holder: &str) -> Result<()> {
        self.call("give_up", |state| {
            if let Some(holders) = state.leases.get_mut(&(place.clone(), object.to_owned())) {
                holders.remove(holder);
            }
            Ok(())
        })
    }

    fn address(&self) -> Result<String> {
        Ok(self.address.clone())
    }

    fn earlier_addresses(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn shut_out(&self, addresses: &BTreeSet<String>, lasts: Duration) -> Result<()> {
        for address in addresses {
            self.call("shut_out", |state| {
                let until = state.now + lasts;
                state.blocked.insert(address.clone(), until);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn blocklist(&self) -> Result<Blocklist> {
        self.call("blocklist", |state| Ok(state.blocklist()))
    }

    fn image_id(&self, spec: &ImageSpec) -> Result<Option<String>> {
        self.call("image_id", |state| Ok(state.images.get(spec).cloned()))
    }

    fn pool_id(&self, _place: &Place) -> Result<i64> {
        Ok(1)
    }

    fn require_place(&self, _place: &Place) -> Result<()> {
        Ok(())
    }

    fn watchers(&self, _spec: &ImageSpec, id: &str) -> Result<Vec<String>> {
        self.call("watchers", |state| Ok(state.watchers(id)))
    }

    fn answering_watchers(&self, _spec: &ImageSpec, id: &str, patience: Duration) -> Result<Vec<String>> {
        let answering = |state: &mut State| {
            let watchers = state.watchers(id);
            let awake = |address: &&String| {
                state.kernels.get(*address).is_some_and(|kernel| !state.frozen.contains(&kernel.host))
            };
            let answering: Vec<String> = watchers.iter().filter(awake).cloned().collect();
            Ok((answering.len() == watchers.len(), answering))
        };
        let (all, at_once) = self.call("notify", answering)?;
        if all {
            return Ok(at_once);
        }
        self.gate.wait(&self.memory, patience);
        Ok(self.call("notify", answering)?.1)
    }

    fn has_exclusive_lock(&self, _spec: &ImageSpec, _id: &str) -> Result<bool> {
        Ok(true)
    }

    fn lock_image(&self, _spec: &ImageSpec, _id: &str, _cookie: &str) -> Result<bool> {
        Ok(true)
    }

    fn unlock_image(&self, _spec: &ImageSpec, _id: &str, _cookie: &str) -> Result<bool> {
        Ok(true)
    }

    fn image_lockers(&self, _spec: &ImageSpec, _id: &str) -> Result<Lockers> {
        Ok(Lockers::default())
    }

    fn break_image_lock(&self, _spec: &ImageSpec, _name: &str, _locker: &Locker) -> Result<()> {
        Ok(())
    }

    fn locker_name(&self) -> String {
        self.address.clone()
    }

    fn now(&self) -> Instant {
        self.memory.start + self.memory.now()
    }
}

impl Mappings for Client {
    fn list(&self) -> Result<Vec<HostMapping>> {
        let here = self.memory.kernels(self.host).into_iter();
        Ok(here
            .map(|(address, kernel)| HostMapping {
                pool_id: 1,
                namespace: None,
                spec: Some(kernel.spec),
                image_id: kernel.image,
                device: format!("the device of {address}"),
                address,
                snapshot: false,
                ours: true,
                made_by: "by this plugin".to_owned(),
            })
            .collect())
    }

    fn of(&self, _place: &Place, id: &str) -> Result<Option<HostMapping>> {
        Ok(self.list()?.into_iter().find(|mapping| mapping.image_id == id))
    }
}

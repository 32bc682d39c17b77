//! One history of some hosts, chosen by a number: who makes its next call when, who is frozen, killed, or loses its power, what is lost
//! on the way, what an administrator does. After every step, no image has two kernels that can write to it. In the end every image that
//! nobody uses can be had by a host that comes new.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rbd_docker_plugin::coordination::Settings;
use rbd_docker_plugin::coordination::memory::{Memory, Passing};
use rbd_docker_plugin::coordination::owners::Defects;
use rbd_docker_plugin::model::name::ImageSpec;

use crate::plugin::{Mistakes, Plugin, fence_host, forget_host, recorded_clients, records};
use crate::schedule::{At, Fate, Schedule};

pub(crate) const HOSTS: usize = 3;
/// The host that comes new in the end.
const NEW: usize = HOSTS;
/// Each host has a thread for operations and one that looks at what is mounted.
pub(crate) const WORKERS: usize = 2 * (HOSTS + 1);

const STEPS: u32 = 90;
const DEAD_AFTER: Duration = Duration::from_secs(10);
const FENCE: Duration = Duration::from_secs(30 * 86_400);
const HOUR: Duration = Duration::from_secs(3600);
/// How often a heart beats.
const BEAT: Duration = Duration::from_millis(2500);
/// How often the new host tries for each image.
const TRIES: u32 = 60;

/// What went wrong, and how it came to that.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) seed: u64,
    pub(crate) what: String,
}

/// Numbers that look like chance and are the same for the same seed.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    Frozen,
    Off,
}

#[derive(Debug)]
struct Host {
    power: Power,
    /// None while the plugin is dead.
    plugin: Option<Arc<Plugin>>,
    boot: usize,
    /// Whether it was ever frozen or without power: otherwise nobody has a reason to take anything from it.
    was_away: bool,
}

struct History<'a> {
    schedule: &'a Arc<Schedule>,
    memory: Arc<Memory>,
    chance: Chance,
    hosts: Vec<Host>,
    mistakes: Mistakes,
    settings: Settings,
    names: Vec<ImageSpec>,
    /// Hosts that an administrator has shut out.
    shut_out: BTreeSet<usize>,
    seed: u64,
}

/// Runs the history of a number.
pub(crate) fn run(
    schedule: &Arc<Schedule>,
    seed: u64,
    mistakes: Mistakes,
    logs: bool,
) -> Result<(), Violation> {
    schedule.begin(logs);
    let memory = Arc::new(Memory::default());
    let names: Vec<ImageSpec> =
        ["a", "b", "c"].iter().map(|name| ImageSpec::new("rbd", None, name).unwrap()).collect();
    names.iter().take(2).for_each(|name| memory.create(name));
    let settings = Settings {
        takeover: true,
        dead_after: DEAD_AFTER,
        fence: if mistakes.fences_for_an_hour { HOUR } else { FENCE },
        defects: Defects {
            replaces_live_addresses: mistakes.replaces_live_addresses,
            sees_single_clients_only: mistakes.sees_single_clients_only,
        },
    };
    let mut history = History {
        schedule,
        memory,
        chance: Chance(seed),
        hosts: Vec::new(),
        mistakes,
        settings,
        names,
        shut_out: BTreeSet::new(),
        seed,
    };
    for host in 0..=NEW {
        let plugin = Some(history.plugin(host, 0));
        history.hosts.push(Host { power: Power::On, plugin, boot: 0, was_away: false });
    }
    let done = history.unfold();
    history.end();
    done
}

impl History<'_> {
    fn plugin(&self, host: usize, boot: usize) -> Arc<Plugin> {
        Plugin::new(&self.memory, self.schedule, host, boot, self.settings.clone(), self.mistakes)
    }

    fn unfold(&mut self) -> Result<(), Violation> {
        for _ in 0..STEPS {
            self.step();
            self.check()?;
        }
        self.all_come_back()?;
        self.all_can_be_had()
    }

    fn step(&mut self) {
        let host = self.chance.below(HOSTS);
        match self.chance.below(100) {
            0..=63 => self.go_on(host),
            64..=77 => {
                let time = self.chance.pick(&[500, 500, 2_000, 4_000, 6_000, 12_000, 35_000]);
                self.pass(Duration::from_millis(time));
            }
            78 => self.pass(2 * HOUR),
            79..=82 => self.freeze(host),
            83..=86 => self.wake(host),
            87..=88 => self.kill(host),
            89 => self.power_off(host),
            90..=92 => self.start(host),
            93 => {
                let (from, to) = (self.chance.below(3), self.chance.below(3));
                self.note(|| format!("image {from} is renamed to {to}"));
                self.memory.rename(&self.names[from], &self.names[to]);
            }
            94..=96 => {
                let passing = self.chance.pick(&[Passing::Refused, Passing::AnswerLost]);
                let worker = 2 * host + self.chance.below(2);
                if self.schedule.fate(worker) == Fate::Lives {
                    self.schedule.set_fate(worker, Fate::Next(passing));
                }
            }
            97 => self.overlook(host),
            98 => {
                self.note(|| format!("an administrator fences host {host}"));
                fence_host(&self.memory, host, FENCE);
                self.shut_out.insert(host);
            }
            _ => {
                // All of the host's kernel, by hand; and its records, so that others may have the images.
                self.note(|| format!("an administrator puts host {host} on the blocklist"));
                self.memory.block(&format!("10.1.0.{host}:0/0"), FENCE);
                forget_host(&self.memory, host);
                self.shut_out.insert(host);
            }
        }
    }

    fn note(&self, what: impl FnOnce() -> String) {
        self.schedule.note(what);
    }

    /// A thread of the host makes some calls, or begins something.
    fn go_on(&mut self, host: usize) {
        if self.hosts[host].power != Power::On {
            return;
        }
        let Some(plugin) = self.hosts[host].plugin.clone() else { return };
        let worker = 2 * host + self.chance.below(2);
        match self.schedule.at(worker) {
            At::Idle if worker % 2 == 1 => {
                self.note(|| format!("host {host} looks"));
                self.schedule.give(worker, Box::new(move || plugin.look(worker)));
            }
            At::Idle => {
                let spec = self.names[self.chance.below(3)].clone();
                let what = self.chance.below(10);
                self.note(|| format!("host {host} begins {what} {spec}"));
                self.schedule.give(
                    worker,
                    match what {
                        0..=5 => Box::new(move || plugin.mount(worker, &spec)),
                        6..=8 => Box::new(move || plugin.unmount(worker, &spec)),
                        _ => Box::new(move || plugin.settle(worker)),
                    },
                );
            }
            At::Waiting(until) if until > self.memory.now() => return,
            At::Ready | At::Waiting(_) => {}
        }
        let calls = self.chance.pick(&[0, 0, 1, 1, 2, 4, 12]);
        self.schedule.resume(worker, u32::try_from(calls).unwrap());
    }

    /// Time passes, and hearts beat.
    fn pass(&mut self, time: Duration) {
        self.note(|| format!("{time:?} pass"));
        let mut left = time;
        // After that, every beat is like the one before.
        let far = left.saturating_sub(Duration::from_secs(60));
        self.memory.advance(far);
        left -= far;
        while !left.is_zero() {
            self.beat();
            let some = left.min(BEAT);
            self.memory.advance(some);
            left -= some;
        }
        self.beat();
    }

    fn beat(&self) {
        for host in self.hosts.iter().filter(|host| host.power == Power::On) {
            host.plugin.iter().for_each(|plugin| plugin.beat());
        }
    }

    fn freeze(&mut self, host: usize) {
        if self.hosts[host].power == Power::On {
            self.note(|| format!("host {host} is frozen"));
            self.hosts[host].power = Power::Frozen;
            self.hosts[host].was_away = true;
            self.memory.freeze(host, true);
        }
    }

    fn wake(&mut self, host: usize) {
        if self.hosts[host].power == Power::Frozen {
            self.note(|| format!("host {host} wakes up"));
            self.hosts[host].power = Power::On;
            self.memory.freeze(host, false);
        }
    }

    /// The plugin alone dies.
    fn kill(&mut self, host: usize) {
        if self.hosts[host].power == Power::On && self.hosts[host].plugin.take().is_some() {
            self.note(|| format!("the plugin of host {host} is killed"));
            self.finish(host);
        }
    }

    fn power_off(&mut self, host: usize) {
        if self.hosts[host].power == Power::Off {
            return;
        }
        self.note(|| format!("host {host} loses its power"));
        self.memory.power_off(host);
        self.hosts[host].plugin = None;
        self.hosts[host].power = Power::Off;
        self.hosts[host].was_away = true;
        self.finish(host);
    }

    /// What is dead makes no call any more.
    fn finish(&self, host: usize) {
        for worker in [2 * host, 2 * host + 1] {
            self.schedule.set_fate(worker, Fate::Dead);
            while self.schedule.at(worker) != At::Idle {
                self.schedule.resume(worker, u32::MAX);
            }
            self.schedule.set_fate(worker, Fate::Lives);
        }
    }

    /// A plugin that is dead is started, on a host that is started if need be.
    fn start(&mut self, host: usize) {
        if self.hosts[host].plugin.is_some() || self.hosts[host].power == Power::Frozen {
            return;
        }
        if self.hosts[host].power == Power::Off {
            self.hosts[host].boot += 1;
            self.hosts[host].power = Power::On;
        }
        let boot = self.hosts[host].boot;
        self.note(|| format!("the plugin of host {host} starts, boot {boot}"));
        let plugin = self.plugin(host, boot);
        self.hosts[host].plugin = Some(Arc::clone(&plugin));
        let worker = 2 * host;
        self.schedule.give(worker, Box::new(move || plugin.recover(worker)));
    }

    /// The next Mount of a host does not see the mapping that is there: something hides the kernel's tree for a moment.
    fn overlook(&mut self, host: usize) {
        if let Some(plugin) = &self.hosts[host].plugin {
            self.note(|| format!("host {host} overlooks a mapping"));
            *plugin.overlooks.lock().unwrap() = true;
        }
    }

    fn check(&self) -> Result<(), Violation> {
        for (image, writers) in self.memory.writers() {
            if writers.len() > 1 {
                return Err(self.violation(format!("{image} can be written by {writers:?}")));
            }
        }
        for (n, host) in self.hosts.iter().enumerate() {
            if !host.was_away && !self.shut_out.contains(&n) {
                let fenced = self.memory.fenced_kernels(n);
                if !fenced.is_empty() {
                    return Err(self.violation(format!("host {n} lives and was followed: {fenced:?}")));
                }
            }
        }
        Ok(())
    }

    fn violation(&self, what: String) -> Violation {
        Violation { seed: self.seed, what }
    }

    /// What is under way ends. Hosts that are without power or frozen stay so; plugins of the others are started.
    fn all_come_back(&mut self) -> Result<(), Violation> {
        for host in 0..HOSTS {
            if self.hosts[host].power == Power::On {
                self.start(host);
            }
        }
        for worker in 0..WORKERS {
            self.schedule.set_fate(worker, Fate::Lives);
        }
        self.run_all()?;
        for _ in 0..2 {
            for host in 0..HOSTS {
                if self.hosts[host].power == Power::On
                    && let Some(plugin) = self.hosts[host].plugin.clone()
                {
                    let worker = 2 * host;
                    self.schedule.give(worker, Box::new(move || plugin.settle(worker)));
                    self.run(worker)?;
                }
            }
            self.pass(BEAT);
        }
        self.records_are_true()
    }

    /// Where nothing is left to do, a record names no mapping that is not there.
    fn records_are_true(&self) -> Result<(), Violation> {
        for (n, host) in self.hosts.iter().enumerate().filter(|(_, host)| host.power == Power::On) {
            let mapped = self.memory.kernels(n);
            for address in recorded_clients(&self.memory, n) {
                // What was lost is looked at below.
                if !mapped.iter().any(|(here, _)| *here == address) && host.boot == 0 {
                    return Err(self.violation(format!("host {n} has {address} on record, and not mapped")));
                }
            }
        }
        Ok(())
    }

    /// All hosts that are awake end what they are at.
    fn run_all(&mut self) -> Result<(), Violation> {
        for host in 0..=NEW {
            if self.hosts[host].power == Power::On {
                for worker in [2 * host, 2 * host + 1] {
                    self.run(worker)?;
                }
            }
        }
        Ok(())
    }

    fn run(&mut self, worker: usize) -> Result<(), Violation> {
        for _ in 0..1000 {
            match self.schedule.at(worker) {
                At::Idle => return Ok(()),
                At::Waiting(until) if until > self.memory.now() => {
                    let time = until - self.memory.now();
                    self.pass(time);
                }
                At::Ready | At::Waiting(_) => self.schedule.resume(worker, 8),
            }
            self.check()?;
        }
        Err(self.violation(format!("worker {worker} makes calls without end")))
    }

    /// Every image is mounted on a host that is awake and may write, or the new host gets it.
    fn all_can_be_had(&mut self) -> Result<(), Violation> {
        for _ in 0..TRIES {
            let missing: Vec<ImageSpec> = self.missing();
            if missing.is_empty() {
                return Ok(());
            }
            for host in 0..HOSTS {
                if self.hosts[host].power == Power::On
                    && let Some(plugin) = self.hosts[host].plugin.clone()
                {
                    let (worker, looks) = (2 * host, 2 * host + 1);
                    let looking = Arc::clone(&plugin);
                    self.schedule.give(looks, Box::new(move || looking.look(looks)));
                    self.run(looks)?;
                    self.schedule.give(worker, Box::new(move || plugin.search(worker)));
                    self.run(worker)?;
                }
            }
            for spec in missing {
                let Some(plugin) = self.hosts[NEW].plugin.clone() else { continue };
                let worker = 2 * NEW;
                self.schedule.give(worker, Box::new(move || plugin.mount(worker, &spec)));
                self.run(worker)?;
            }
            self.pass(Duration::from_secs(1));
        }
        let missing: Vec<String> = self.missing().iter().map(ToString::to_string).collect();
        Err(self.violation(format!(
            "nobody can have {missing:?}; images {:?}; on record: {:?}; mapped: {:?}",
            self.memory.images().iter().map(|(spec, id)| format!("{spec} is {id}")).collect::<Vec<_>>(),
            records(&self.memory),
            (0..=NEW).flat_map(|host| self.memory.kernels(host)).collect::<Vec<_>>(),
        )))
    }

    /// Images that nobody uses. One whose name a mounted volume bears is used as well: that volume's image was given another name
    /// by hand, and this one its name.
    fn missing(&self) -> Vec<ImageSpec> {
        let writers: BTreeSet<String> = self.memory.writers().into_values().flatten().collect();
        let awake = (0..=NEW).filter(|host| self.hosts[*host].power == Power::On);
        let used: Vec<_> = awake
            .flat_map(|host| self.memory.kernels(host))
            .filter(|(address, _)| writers.contains(address))
            .map(|(_, kernel)| kernel)
            .collect();
        let is_used = |spec: &ImageSpec, id: &String| {
            used.iter().any(|kernel| kernel.image == *id || kernel.spec == *spec)
        };
        let images = self.memory.images().into_iter();
        images.filter(|(spec, id)| !is_used(spec, id)).map(|(spec, _)| spec).collect()
    }

    /// Nobody is left that makes a call.
    fn end(&mut self) {
        for host in 0..=NEW {
            self.hosts[host].plugin = None;
            self.finish(host);
        }
    }
}

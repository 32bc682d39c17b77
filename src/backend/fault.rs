//! Fault points, for tests only (feature `fault-points`): every call to a backend, its disks or a host passes here, and a
//! [`Plan`] can make it fail, make everything from it on fail (as if the plugin had died there), or kill the process.
//!
//! Each call has two points: before it and after it. Points are counted from [`Faults::arm`] on, so that a test can learn the
//! number of points of an operation first and then put a fault at each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::backend::{Backend, Device, Disks, ImageStore, Look, Mapper, Pulse, Source};
use crate::host::Host;
use crate::model::bindings::Bindings;
use crate::model::block_io::BlockIo;
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::{Checked, Content, Filesystem, Format, FsKind, MountFlags, Settle, Usage};
use crate::model::image::{ImageInfo, LeftOut, Listing, NoVolume};
use crate::model::mount::{Attached, Mounted, Place};
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::owner::Owner;
use crate::model::process::Process;
use crate::model::record::Record;
use crate::model::size::Size;

/// What a test does at a place inside of a call, by the place's name.
type Passing = Arc<dyn Fn() + Send + Sync>;
static PASSING: Mutex<BTreeMap<&'static str, Passing>> = Mutex::new(BTreeMap::new());

/// Does something each time that a place is passed; nothing more with `None`.
pub fn at(place: &'static str, passing: Option<Passing>) {
    let mut all = crate::lock(&PASSING);
    match passing {
        Some(passing) => drop(all.insert(place, passing)),
        None => drop(all.remove(place)),
    }
}

/// A place inside of a call, where a test may do something in between.
pub fn pass(place: &'static str) {
    let passing = crate::lock(&PASSING).get(place).cloned();
    if let Some(passing) = passing {
        passing();
    }
}

/// What happens at which point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing; points are only counted.
    Count,
    /// The call at this point fails, once: before it, it is not made; after it, its answer is lost.
    Fail(u64),
    /// The call at this point and all later ones fail, without being made.
    Crash(u64),
    /// The process is killed at this point.
    Kill(u64),
}

/// A plan under way.
#[derive(Debug)]
pub struct Faults {
    plan: Mutex<Plan>,
    only: OnceLock<String>,
    hangs: OnceLock<Vec<String>>,
    passed: AtomicU64,
    armed: AtomicU64,
    trace: Mutex<Vec<&'static str>>,
}

impl Faults {
    /// Not armed yet.
    pub fn new(plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            plan: Mutex::new(plan),
            only: OnceLock::new(),
            hangs: OnceLock::new(),
            passed: AtomicU64::new(0),
            armed: AtomicU64::new(0),
            trace: Mutex::default(),
        })
    }

    /// Begins to count, with a plan.
    pub fn arm(&self, plan: Plan) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = plan;
        self.passed.store(0, Ordering::SeqCst);
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.armed.store(1, Ordering::SeqCst);
    }

    /// From now on, only the points of this call are counted: what other threads do meanwhile shifts none of them.
    pub fn only(&self, call: &str) {
        let _ = self.only.set(call.to_owned());
    }

    /// From now on, these calls never come back, as if their storage did not answer.
    pub fn hang_in(&self, calls: &str) {
        let _ = self.hangs.set(calls.split(',').map(str::to_owned).collect());
    }

    fn hang(&self, call: &str) {
        while self.hangs.get().is_some_and(|calls| calls.iter().any(|hanging| hanging == call)) {
            std::thread::park();
        }
    }

    /// Stops counting; nothing fails any more.
    pub fn disarm(&self) {
        self.armed.store(0, Ordering::SeqCst);
    }

    /// The calls since it was armed, two points each.
    pub fn trace(&self) -> Vec<&'static str> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn point(&self, call: &'static str) -> Result<()> {
        self.hang(call);
        // What these threads ask comes at any time, and is no step of an operation.
        let is_aside = matches!(std::thread::current().name(), Some("look-after" | "usage"));
        if is_aside
            || self.armed.load(Ordering::SeqCst) == 0
            || self.only.get().is_some_and(|only| only != call)
        {
            return Ok(());
        }
        let here = self.passed.fetch_add(1, Ordering::SeqCst);
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        tracing::debug!("fault point {here} {call}");
        let plan = *self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        match plan {
            Plan::Fail(at) if here == at => {
                Err(DriverError::new(ErrorKind::Failed, format!("injected failure at point {here}, {call}")))
            }
            Plan::Crash(at) if here >= at => {
                Err(DriverError::new(ErrorKind::Failed, format!("crashed at point {at}, {call}")))
            }
            Plan::Kill(at) if here == at => {
                // There is no state to save: this is the point.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
                loop {
                    std::thread::park();
                }
            }
            _ => Ok(()),
        }
    }

    fn call<T>(&self, name: &'static str, call: impl FnOnce() -> Result<T>) -> Result<T> {
        self.point(name)?;
        let answer = call()?;
        self.point(name)?;
        Ok(answer)
    }
}

/// A backend, its disks or a host with fault points.
#[derive(Debug)]
pub struct Faulty<T: ?Sized> {
    faults: Arc<Faults>,
    inner: Arc<T>,
}

impl<T: ?Sized> Faulty<T> {
    /// Puts the points around every call.
    pub fn new(faults: &Arc<Faults>, inner: Arc<T>) -> Self {
        Self { faults: Arc::clone(faults), inner }
    }
}

/// Forwards each method through its two points.
macro_rules! through {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&self, $($arg: $kind),*) -> Result<$answer> {
            self.faults.call(stringify!($name), || self.inner.$name($($arg),*))
        })*
    };
}

impl ImageStore for Faulty<dyn Backend> {
    through! {
        info(spec: &ImageSpec) -> Option<ImageInfo>;
        list() -> Listing;
        create(spec: &ImageSpec, size: Size, record: &Record) -> ();
        write_record(spec: &ImageSpec, record: &Record) -> ();
        is_untouched(spec: &ImageSpec) -> bool;
        discard(spec: &ImageSpec) -> ();
        remove(spec: &ImageSpec) -> ();
        rename(from: &ImageSpec, to: &ImageSpec) -> ();
        claim(spec: &ImageSpec) -> ();
        release(spec: &ImageSpec) -> ();
        owner(spec: &ImageSpec, id: Option<&str>) -> Option<Owner>;
        may_exist(spec: &ImageSpec) -> bool;
        content(spec: &ImageSpec) -> Content;
        known_bindings() -> Arc<Bindings>;
        is_copy(spec: &ImageSpec, of: &Device) -> bool;
        owned() -> Listing;
        leftovers() -> Vec<ImageSpec>;
        look(mounted: &[ImageSpec]) -> Look;
        mend(spec: &ImageSpec) -> Option<String>;
        bindings() -> Arc<Bindings>;
        binding(name: &str) -> Option<ImageSpec>;
        bind(name: &str, spec: &ImageSpec) -> ();
        unbind(name: &str, spec: &ImageSpec) -> ();
    }

    fn check_options(&self, options: &ImageOptions) -> Result<()> {
        self.inner.check_options(options)
    }

    fn reachable(&self) -> Result<()> {
        self.inner.reachable()
    }

    fn no_volumes(&self) -> Vec<NoVolume> {
        self.inner.no_volumes()
    }

    fn whereabouts(&self, spec: &ImageSpec) -> Option<String> {
        self.inner.whereabouts(spec)
    }

    fn note_uses(&self, spec: &ImageSpec, ids: &[String]) -> Result<()> {
        self.inner.note_uses(spec, ids)
    }
}

impl Mapper for Faulty<dyn Backend> {
    through! {
        map(spec: &ImageSpec) -> Device;
        unmap(spec: &ImageSpec, device: Device) -> ();
        abandon(spec: &ImageSpec, device: Device) -> ();
        mapping(spec: &ImageSpec) -> Option<Device>;
        renamed_mapping(spec: &ImageSpec) -> Option<Device>;
    }
}

impl Backend for Faulty<dyn Backend> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    // What happens in the background is no point: it would shift those of the operations.
    fn pulse(&self) -> Result<Pulse> {
        self.faults.hang("pulse");
        self.inner.pulse()
    }

    fn source(&self) -> Source {
        self.inner.source()
    }

    fn left_out(&self) -> Vec<LeftOut> {
        self.inner.left_out()
    }

    fn pools(&self) -> Vec<(String, Option<DriverError>)> {
        self.inner.pools()
    }

    fn heartbeats(&self) -> Vec<(String, Duration)> {
        self.inner.heartbeats()
    }
}

impl Disks for Faulty<dyn Disks> {
    through! {
        probe(device: &Device, expected: Option<FsKind>) -> Content;
        ends_are_zero(device: &Device) -> bool;
        format(device: &Device, plan: &Format, deadline: Deadline) -> ();
        needs_check(device: &Device, fs: &Filesystem) -> Option<u32>;
        check(device: &Device, fs: &Filesystem, deadline: Deadline) -> Checked;
        mount(device: &Device, fs: &Filesystem, target: &Path, flags: &MountFlags) -> Place;
        twin(device: &Device, fs: &Filesystem) -> Option<Mounted>;
        settle(root: &Path, settle: &Settle) -> ();
        tidy(root: &Path, begun: u64) -> ();
        is_empty(root: &Path) -> bool;
        which_held(attached: &[Attached]) -> Vec<bool>;
        refuse_held(target: &Path, attached: &Attached) -> ();
        number(path: &Path) -> Option<(u32, u32)>;
    }

    fn counters(&self, path: &Path) -> (Option<u64>, Option<BlockIo>) {
        self.inner.counters(path)
    }
}

impl Host for Faulty<dyn Host> {
    through! {
        unmount(target: &Path) -> ();
        detach(target: &Path) -> ();
        mounted_at(target: &Path) -> Option<Mounted>;
        mounts() -> Vec<Mounted>;
        make_dir(dir: &Path) -> ();
        remove_dir(dir: &Path) -> ();
        save(path: &Path, content: &[u8]) -> ();
        append(path: &Path, content: &[u8]) -> ();
        load(path: &Path) -> Option<Vec<u8>>;
        files(folder: &Path) -> Vec<String>;
        forget(path: &Path) -> ();
    }

    // In the background, too.
    fn usage(&self, mount: &Mounted) -> Result<Usage> {
        self.faults.hang("usage");
        self.inner.usage(mount)
    }

    fn is_alive(&self, process: Process) -> bool {
        self.inner.is_alive(process)
    }

    fn trim_soon(&self) {
        self.inner.trim_soon();
    }

    fn trim_if_wanted(&self) {
        self.inner.trim_if_wanted();
    }
}

//! The semantics of a Docker volume: create, remove, mount, unmount, path, get, list, over a [kind of volume](kind) and a [`Host`].
//!
//! Every operation that changes a volume holds its guard from beginning to end, undoes itself when it fails ([`undo`]) and
//! may be killed at any step: the owner record, claimed first and released last, is the journal by which [`recovery`] finds
//! what was left. Reads look at the table of mounts and at the backend, and take no guard.

pub mod api;
pub mod guard;
pub mod kind;
pub mod refs;
pub mod undo;

mod cache;
mod cache_files;
mod create;
mod fenced;
mod mount;
mod naming;
mod orphans;
mod overview;
mod read;
mod recovery;
mod release;
mod remove;
mod table;
mod told;
mod unmount;
mod usage;
mod uses;
mod volume;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::model::settings::{Removal, Scope};
use api::{Client, Glance, Volume, VolumeDriver};
use cache::Cache;
use guard::Guards;
use kind::{Kind, Reserved, Volumes};
use orphans::Orphans;
use overview::Heard;
use table::Table;
use told::Told;
use undo::Undo;
use usage::Usages;
use uses::Comings;
use volume::Entries;

use crate::host::Host;
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, Result};
use crate::model::image::LeftOut;
use crate::model::name::ImageSpec;

/// The settings of a driver.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The pool of a bare name.
    pub pool: String,
    /// The namespace of a bare name.
    pub namespace: Option<String>,
    /// Whether Create may make volumes.
    pub create: bool,
    /// What Remove does.
    pub removal: Removal,
    /// Volumes are mounted at `<root>/<pool>/<image>`.
    pub root: PathBuf,
    /// Mount IDs are kept here: what is true until the host is restarted.
    pub refs: PathBuf,
    /// The cache is kept here: what should survive a restart of the host.
    pub state: PathBuf,
    /// What Capabilities answers.
    pub scope: Scope,
    /// How long an operation waits for another one on the same volume.
    pub wait: Duration,
    /// How long Mount waits for the owner of an image on another host.
    pub owner_wait: Duration,
    /// How long the uses of an engine that is gone are kept, once no container holds the device.
    pub orphan_grace: Duration,
    /// The kernel's boot id.
    pub boot_id: String,
}

/// Docker gives Create and Mount two minutes, everything else one; an operation ends some seconds before.
const LONG: Duration = Duration::from_secs(110);
const SHORT: Duration = Duration::from_secs(50);

/// The driver over a kind of volume and a host.
#[derive(Debug)]
pub struct Driver {
    settings: Settings,
    kind: Arc<dyn Kind>,
    host: Arc<dyn Host>,
    guards: Guards,
    /// Held for a moment only, by whoever changes the uses of a volume.
    uses: Guards,
    comings: Comings,
    table: Table,
    cache: Cache,
    /// What is remembered of volumes, whether they are mounted or not.
    entries: Entries,
    orphans: Orphans,
    /// Held by whoever looks for lost volumes, or for its own.
    looking: Mutex<()>,
    learning: Mutex<()>,
    /// Where the backend has not said yet which images this plugin owns; `None` means everywhere.
    unseen: Mutex<Option<Vec<LeftOut>>>,
    /// How many volumes a start has not tried to restore yet.
    restoring: AtomicUsize,
    usages: Usages,
    told: Told,
    /// What the store said last; held by whoever asks it.
    heard: Mutex<Heard>,
    feeling: Mutex<()>,
    /// When the store last answered List or Get.
    answered: Mutex<Instant>,
}

impl Driver {
    /// A driver that has adopted what is its own of an earlier life and cleaned up what that left half done.
    pub fn open(settings: Settings, kind: Arc<dyn Kind>, host: Arc<dyn Host>) -> Result<Arc<Self>> {
        let driver = Self::new(settings, kind, host)?;
        driver.recover()?;
        // In the background: a store that hangs must not keep the others from being served.
        driver.in_background(Self::feel_pulse);
        Ok(driver)
    }

    /// A driver that has looked at nothing yet: to [release](Self::release_all) what an earlier life has left, and not to serve.
    pub fn new(settings: Settings, kind: Arc<dyn Kind>, host: Arc<dyn Host>) -> Result<Arc<Self>> {
        let driver = Arc::new(Self {
            cache: Cache::open(&settings, Arc::clone(&kind), Arc::clone(&host)),
            settings,
            kind,
            host,
            guards: Guards::default(),
            uses: Guards::default(),
            comings: Comings::default(),
            table: Table::default(),
            entries: Entries::default(),
            orphans: Orphans::default(),
            looking: Mutex::default(),
            learning: Mutex::default(),
            unseen: Mutex::default(),
            restoring: AtomicUsize::new(0),
            usages: Usages::default(),
            told: Told::default(),
            heard: Mutex::default(),
            feeling: Mutex::default(),
            answered: Mutex::new(Instant::now()),
        });
        for folder in [&driver.settings.state, &driver.settings.refs] {
            driver.host.make_dir(folder)?;
        }
        Ok(driver)
    }

    /// The deadlines of an operation: until when it may wait for its guard, and when it has to be over.
    fn deadlines(&self, budget: Duration) -> (Deadline, Deadline) {
        (Deadline::after(budget.min(self.settings.wait)), Deadline::after(budget))
    }

    fn mountpoint(&self, spec: &ImageSpec) -> PathBuf {
        self.settings.root.join(spec.place())
    }

    fn refs_file(&self, spec: &ImageSpec) -> PathBuf {
        self.settings.refs.join(format!("{}.json", spec.file_name()))
    }

    /// Rolls an operation on a volume back.
    fn undo(&self, spec: &ImageSpec, undo: Undo<'_>, error: DriverError) -> DriverError {
        let undone = undo.run(error);
        if !undone.whole {
            self.mark_unsettled(spec);
        }
        undone.error
    }

    /// The image that the operation is about, for its line in the log.
    fn is_about(spec: &ImageSpec) {
        tracing::Span::current().record("image", tracing::field::display(spec));
    }

    fn mark_unsettled(&self, spec: &ImageSpec) {
        self.entries.change(spec, |entry| entry.unsettled = true);
    }

    /// Whether something of a volume is left to undo.
    fn is_unsettled(&self, spec: &ImageSpec) -> bool {
        self.entries.read(spec, |entry| entry.unsettled)
    }
}

impl Volumes for Driver {
    fn is_mounted(&self, spec: &ImageSpec) -> bool {
        self.table.get(spec).is_some()
    }

    fn mounted_at(&self, target: &Path) -> Option<ImageSpec> {
        let volumes = self.table.all();
        let found = volumes.iter().find(|volume| volume.refs.mountpoint == target);
        found.map(|volume| volume.refs.spec.clone())
    }

    fn is_unsettled(&self, spec: &ImageSpec) -> bool {
        Self::is_unsettled(self, spec)
    }

    fn mark_unsettled(&self, spec: &ImageSpec) {
        Self::mark_unsettled(self, spec);
    }

    fn reserve(&self, spec: &ImageSpec, since: Instant) -> Reserved {
        self.mark_unsettled(spec);
        self.guards.reserve(spec, since)
    }
}

impl VolumeDriver for Driver {
    fn create(&self, name: &str, options: &BTreeMap<String, String>) -> Result<()> {
        Self::create(self, name, options)
    }

    fn remove(&self, name: &str) -> Result<()> {
        Self::remove(self, name)
    }

    fn mount(
        &self,
        name: &str,
        id: &str,
        client: Option<Client>,
        waits: &dyn Fn() -> bool,
    ) -> Result<PathBuf> {
        Self::mount(self, name, id, client, waits)
    }

    fn unmount(&self, name: &str, id: &str) -> Result<()> {
        Self::unmount(self, name, id)
    }

    fn path(&self, name: &str) -> Result<Option<PathBuf>> {
        Self::path(self, name)
    }

    fn get(&self, name: &str) -> Result<Volume> {
        Self::get(self, name)
    }

    fn list(&self) -> Result<Vec<Volume>> {
        Self::list(self)
    }

    fn scope(&self) -> Scope {
        self.settings.scope
    }

    fn glance(&self) -> Glance {
        let away = self.kind.reachable().err().map(|why| why.message);
        Glance { mounted: self.table.all().len(), away }
    }

    fn stopped(&self) {
        self.cache.flush();
    }
}

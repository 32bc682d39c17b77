//! A driver on the simulator with fault points, and the invariants of a world at rest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rbd_docker_plugin::backend::fault::{Faults, Faulty, Plan};
use rbd_docker_plugin::backend::sim::{Data, World};
use rbd_docker_plugin::backend::{Backend, Disks};
use rbd_docker_plugin::block::{self, Block};
use rbd_docker_plugin::driver::api::VolumeDriver;
use rbd_docker_plugin::driver::kind::Kind;
use rbd_docker_plugin::driver::{Driver, Settings};
use rbd_docker_plugin::host::Host;
use rbd_docker_plugin::model::deadline::Deadline;
use rbd_docker_plugin::model::error::Result;
use rbd_docker_plugin::model::filesystem::FsKind;
use rbd_docker_plugin::model::name::ImageSpec;
use rbd_docker_plugin::model::owner::Owner;
use rbd_docker_plugin::model::record::Stage;
use rbd_docker_plugin::model::released::Released;
use rbd_docker_plugin::model::settings::{Removal, Scope};
use rbd_docker_plugin::model::size::Size;
use rbd_docker_plugin::model::stored::Unknown;

/// The mount IDs of a volume, as the driver has them.
pub(crate) type Uses = BTreeMap<String, u64>;

#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) faults: Arc<Faults>,
    pub(crate) driver: Arc<Driver>,
    removal: Removal,
}

pub(crate) fn spec(image: &str) -> ImageSpec {
    ImageSpec::new("rbd", None, image).unwrap()
}

fn identity(plugin: &str) -> Owner {
    Owner {
        host: "h1".to_owned(),
        machine_id: "m1".to_owned(),
        firmware_id: String::new(),
        boot_id: "boot".to_owned(),
        plugin: plugin.to_owned(),
        root: PathBuf::from("/m").join(plugin),
        since: 0,
        client_addr: None,
        mount_ids: Vec::new(),
        unknown: Unknown::default(),
    }
}

/// How a driver is made.
type Make = fn(Settings, Arc<dyn Kind>, Arc<dyn Host>) -> Result<Arc<Driver>>;

/// The settings of the driver and of its volumes.
#[derive(Debug)]
pub(crate) struct All {
    pub(crate) driver: Settings,
    pub(crate) block: block::Settings,
}

fn open(world: &World, faults: &Arc<Faults>, removal: Removal, plugin: &str) -> Arc<Driver> {
    make(world, faults, settings(removal, plugin), plugin, Driver::open).unwrap()
}

fn settings(removal: Removal, plugin: &str) -> All {
    let state = PathBuf::from("/m/.state").join(plugin);
    let driver = Settings {
        pool: "rbd".to_owned(),
        namespace: None,
        create: true,
        removal,
        root: PathBuf::from("/m").join(plugin),
        refs: state.join("refs"),
        state: state.clone(),
        scope: Scope::Global,
        wait: Duration::from_secs(60),
        owner_wait: Duration::ZERO,
        orphan_grace: Duration::ZERO,
        boot_id: "boot".to_owned(),
    };
    let block = block::Settings {
        create: true,
        size: Size::mib(64),
        fs: FsKind::Ext4,
        mkfs_options: Vec::new(),
        mount_options: None,
        state,
    };
    All { driver, block }
}

fn make(
    world: &World,
    faults: &Arc<Faults>,
    settings: All,
    plugin: &str,
    driver: Make,
) -> Result<Arc<Driver>> {
    let sim = world.plugin(identity(plugin));
    let backend: Arc<dyn Backend> = sim.clone();
    let disks: Arc<dyn Disks> = sim.clone();
    let host: Arc<dyn Host> = sim;
    let host: Arc<dyn Host> = Arc::new(Faulty::new(faults, host));
    let (backend, disks) = (Arc::new(Faulty::new(faults, backend)), Arc::new(Faulty::new(faults, disks)));
    let volumes = Block::open(settings.block, backend, disks, Arc::clone(&host))?;
    driver(settings.driver, volumes, host)
}

impl Rig {
    pub(crate) fn new(removal: Removal) -> Self {
        let (world, faults) = (World::new(), Faults::new(Plan::Count));
        let driver = open(&world, &faults, removal, "p1");
        Self { world, faults, driver, removal }
    }

    /// The same with other settings.
    pub(crate) fn set(mut self, change: impl FnOnce(&mut All)) -> Self {
        let mut settings = settings(self.removal, "p1");
        change(&mut settings);
        self.driver = make(&self.world, &self.faults, settings, "p1", Driver::open).unwrap();
        self
    }

    /// A second plugin on the same host and store.
    pub(crate) fn neighbour(&self) -> Arc<Driver> {
        open(&self.world, &Faults::new(Plan::Count), self.removal, "p2")
    }

    /// The plugin is gone and comes back.
    pub(crate) fn restart(&mut self) {
        self.faults.disarm();
        self.driver = open(&self.world, &self.faults, self.removal, "p1");
    }

    /// The plugin has stopped, and all it has mounted is unmounted.
    pub(crate) fn release_all(&mut self) -> Released {
        self.try_release_all().unwrap()
    }

    /// The same, with the faults there are.
    pub(crate) fn try_release_all(&mut self) -> Result<Released> {
        let driver = make(&self.world, &self.faults, settings(self.removal, "p1"), "p1", Driver::new)?;
        driver.release_all(Deadline::after(Duration::from_secs(600)))
    }

    /// Runs an operation with a fault; afterwards the plugin is at rest again. A crash restarts it.
    pub(crate) fn with_fault<T>(&mut self, plan: Plan, operation: impl FnOnce(&Driver) -> T) -> T {
        self.faults.arm(plan);
        let answer = operation(&self.driver);
        self.faults.disarm();
        if matches!(plan, Plan::Crash(_)) {
            self.restart();
        }
        self.driver.tick();
        answer
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.driver.get(name).is_ok()
    }

    pub(crate) fn uses(&self, name: &str) -> Uses {
        let Ok(volume) = self.driver.get(name) else { return Uses::new() };
        let counts =
            volume.status.get("mount-ids").and_then(|ids| ids.as_object()).cloned().unwrap_or_default();
        counts.into_iter().map(|(id, count)| (id, count.as_u64().unwrap())).collect()
    }

    /// Everything that exists belongs to a volume, and nothing that held data was formatted.
    pub(crate) fn check(&self) {
        let state = self.world.look();
        assert!(state.destroyed.is_empty(), "formatted over data: {:?}", state.destroyed);
        let mounted: Vec<ImageSpec> = {
            let root = PathBuf::from("/m/p1");
            let of = |m: &rbd_docker_plugin::model::mount::Mounted| {
                ImageSpec::from_place(m.target.strip_prefix(&root).ok()?)
            };
            state.mounts.iter().map(|m| of(m).unwrap_or_else(|| panic!("stray mount {m:?}"))).collect()
        };
        let mut sorted = mounted.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), mounted.len(), "a volume is mounted twice: {mounted:?}");
        let mut mapped: Vec<ImageSpec> = state.devices.values().cloned().collect();
        mapped.sort();
        assert_eq!(mapped, sorted, "mapped images are the mounted ones");
        let owned: Vec<ImageSpec> = state.owners.keys().cloned().collect();
        assert_eq!(owned, sorted, "owned images are the mounted ones");
        let mut folders: Vec<ImageSpec> = state
            .folders
            .iter()
            .filter(|f| {
                !["/m/.state/p1", "/m/.state/p1/checks", "/m/.state/p1/refs"]
                    .iter()
                    .any(|kept| **f == PathBuf::from(kept))
            })
            .map(|f| {
                ImageSpec::from_place(f.strip_prefix("/m/p1").unwrap_or(f))
                    .unwrap_or_else(|| panic!("stray folder {f:?}"))
            })
            .collect();
        folders.sort();
        assert_eq!(folders, sorted, "mountpoints are those of mounted volumes");
        let refs = state.files.keys().filter(|f| f.starts_with("/m/.state/p1/refs")).count();
        assert_eq!(refs, sorted.len(), "mount IDs are kept for mounted volumes only");
        for (spec, record) in &state.records {
            assert_eq!(record.stage, Stage::Ready, "half-made image left: {spec}");
            assert!(state.images.contains_key(spec), "a record without an image: {spec}");
        }
    }

    /// Writes to a volume, as a container would.
    pub(crate) fn write(&self, image: &str, text: &str) {
        match &mut self.world.look().images.get_mut(&spec(image)).unwrap().data {
            Data::Filesystem(_, data) => *data = text.to_owned(),
            other => panic!("{image} holds {other:?}"),
        }
    }

    pub(crate) fn read(&self, image: &str) -> Option<String> {
        match &self.world.look().images.get(&spec(image))?.data {
            Data::Filesystem(_, data) => Some(data.clone()),
            other => panic!("{image} holds {other:?}"),
        }
    }
}

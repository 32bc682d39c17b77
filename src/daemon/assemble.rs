//! From the plugin's settings to a driver that is ready to serve, and to what serves it. No other file names a concrete backend, host or
//! front end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Gid;

use crate::backend::local::LocalBackend;
use crate::backend::sim::World;
use crate::backend::{Backend, Disks};
use crate::block::kernel::KernelDisks;
use crate::block::{self, Block};
use crate::config::{self, Config};
#[cfg(feature = "ceph")]
use crate::coordination::admin::OwnerAdmin;
use crate::driver::api::DriverStatus;
use crate::driver::kind::Kind;
use crate::driver::{Driver, Settings};
use crate::frontend::admin::{self, Admin};
use crate::frontend::docker::Docker;
use crate::frontend::http::operations::Operations;
use crate::frontend::http::server::Limits;
use crate::host::Host;
use crate::host::kernel::KernelHost;
use crate::linux::exec::Programs;
use crate::linux::{boot, files, mountinfo, process};
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};
use crate::model::owner::Owner;
use crate::model::released::Released;
use crate::model::stored::{self, Unknown};

/// What can be said of the backend before anything is touched.
pub fn check(config: &Config) -> Result<()> {
    match config.backend {
        #[cfg(feature = "ceph")]
        config::Backend::Rbd => crate::backend::rbd::RbdBackend::check(&config.ceph),
        #[cfg(not(feature = "ceph"))]
        config::Backend::Rbd => Err(without_ceph()),
        _ => Ok(()),
    }
}

/// Connects to the cluster in which the images are, for the commands about owners.
#[cfg(feature = "ceph")]
pub fn owner_admin(config: &Config) -> Result<Box<dyn OwnerAdmin>> {
    Ok(Box::new(crate::backend::rbd::admin::Admin::connect(&config.ceph)?))
}

/// Opens the backend, recovers what an earlier life left, and begins to look after the volumes.
pub fn open(config: &Config) -> Result<Arc<dyn DriverStatus>> {
    let driver = open_at_fault_points(assemble(config)?)?;
    driver.look_after().or_call("clone", "the look-after thread")?;
    Ok(driver)
}

/// The admin front end, with its socket taken: before anything else is touched.
pub fn admin(config: &Config) -> Result<Admin> {
    Admin::claim(admin::Settings {
        name: config.name.clone(),
        folder: config.admin.clone(),
        metrics_address: config.metrics_address,
    })
}

/// Docker's front end.
pub fn docker(driver: Arc<dyn DriverStatus>, operations: Arc<Operations>) -> Docker {
    Docker { driver, operations, limits: Limits::default(), stat: process::stat }
}

/// Opens the backend, and unmounts and gives back what an earlier life has mounted. The caller made sure that none is at work.
pub fn release_all(config: &Config, deadline: Deadline) -> Result<Released> {
    assemble(config)?.driver(Driver::new)?.release_all(deadline)
}

/// What a driver is made of.
struct Parts {
    settings: Settings,
    block: block::Settings,
    backend: Arc<dyn Backend>,
    disks: Arc<dyn Disks>,
    host: Arc<dyn Host>,
}

/// How a driver is made.
type Make = fn(Settings, Arc<dyn Kind>, Arc<dyn Host>) -> Result<Arc<Driver>>;

impl Parts {
    /// A driver of them.
    fn driver(self, make: Make) -> Result<Arc<Driver>> {
        let Self { settings, block, backend, disks, host } = self;
        let kind = Block::open(block, backend, disks, Arc::clone(&host))?;
        make(settings, kind, host)
    }
}

fn assemble(config: &Config) -> Result<Parts> {
    let boot_id = boot::boot_id()?;
    // mountinfo shows paths without links; ours have to be the same.
    let (root, state) = match config.backend {
        config::Backend::Sim => (config.mount.join(&config.name), config.state.join(&config.name)),
        _ => (
            folder(&config.mount, &config.name, config.mount_group)?,
            folder(&config.state, &config.name, None)?,
        ),
    };
    let identity = Owner {
        host: boot::hostname()?,
        machine_id: boot::machine_id(),
        firmware_id: boot::firmware_id(),
        boot_id: boot_id.clone(),
        plugin: config.name.clone(),
        // Managed plugins of one host all have the same name and the same path in their containers.
        root: mountinfo::origin(&mountinfo::read(Path::new(mountinfo::OWN))?, &root),
        since: 0,
        client_addr: None,
        mount_ids: Vec::new(),
        unknown: Unknown::default(),
    };
    let identity = match config.backend {
        config::Backend::Sim => identity,
        _ => Owner { host: host_of_boot(&state, &identity)?, ..identity },
    };
    let settings = Settings {
        pool: config.pool.clone(),
        namespace: config.ceph.namespace.clone(),
        create: config.create,
        removal: config.remove,
        root,
        // Usually beside the socket: a tmpfs that lives as long as the mounts do, and one folder for one plugin.
        refs: config.mount_ids.join(format!("{}.mounts", config.name)),
        state: state.clone(),
        scope: config.scope,
        wait: config.wait,
        // Only in a cluster is there another host to wait for.
        owner_wait: if config.backend == config::Backend::Rbd {
            config.ceph.owner_wait
        } else {
            Duration::ZERO
        },
        orphan_grace: config.orphan_grace,
        boot_id,
    };
    let block = block::Settings {
        create: config.create,
        size: config.size,
        fs: config.fs,
        mkfs_options: config.mkfs_options.clone(),
        mount_options: config.mount_options.clone(),
        state: state.clone(),
    };
    let (backend, disks, host): (Arc<dyn Backend>, Arc<dyn Disks>, Arc<dyn Host>) = match &config.backend {
        config::Backend::Local(dir) => {
            claim(&state)?;
            let home = (config.pool.as_str(), config.ceph.namespace.as_deref());
            let backend = LocalBackend::open(dir, &state.join("store.json"), identity, home)?;
            (Arc::new(backend), Arc::new(kernel_disks()), Arc::new(KernelHost))
        }
        config::Backend::Sim => {
            let sim = World::new().plugin(identity);
            (sim.clone(), sim.clone(), sim)
        }
        #[cfg(feature = "ceph")]
        config::Backend::Rbd => {
            claim(&state)?;
            (
                Arc::new(crate::backend::rbd::RbdBackend::open(&config.ceph, identity)?),
                Arc::new(kernel_disks()),
                Arc::new(KernelHost),
            )
        }
        #[cfg(not(feature = "ceph"))]
        config::Backend::Rbd => return Err(without_ceph()),
    };
    Ok(Parts { settings, block, backend, disks, host })
}

fn kernel_disks() -> KernelDisks {
    let programs = programs();
    for program in programs.missing() {
        tracing::debug!(program = program.name(), package = program.package(), "is not installed");
    }
    KernelDisks::new(programs)
}

#[cfg(not(feature = "fault-points"))]
fn programs() -> Programs {
    Programs::find()
}

/// The tests put programs of their own before those of this host, in the folder that `RBD_FAULT_PROGRAMS` names.
#[cfg(feature = "fault-points")]
fn programs() -> Programs {
    std::env::var_os("RBD_FAULT_PROGRAMS")
        .map_or_else(Programs::find, |folder| Programs::find_first_in(&folder))
}

/// The host's name as this plugin has seen it first in this boot: it is a part of who the plugin is, and somebody may give the host another
/// name while volumes are mounted.
fn host_of_boot(state: &Path, identity: &Owner) -> Result<String> {
    let path = state.join("host.json");
    let ids = |owner: &Owner| {
        (owner.boot_id.clone(), owner.machine_id.clone(), owner.firmware_id.clone(), owner.root.clone())
    };
    let known = files::load(&path)?.and_then(|raw| {
        let known = stored::read::<Owner>(&raw);
        // Without it the host counts under the name that it has now, which is nearly always the same.
        known.inspect_err(|e| tracing::warn!("{} {e}; it is written anew", path.display())).ok()
    });
    if let Some(known) = known.filter(|known| ids(known) == ids(identity)) {
        return Ok(known.host);
    }
    files::save(&path, &stored::write(identity))?;
    Ok(identity.host.clone())
}

/// Why the default backend cannot be opened.
#[cfg(not(feature = "ceph"))]
fn without_ceph() -> DriverError {
    DriverError::new(ErrorKind::Config, "backend rbd: this build has no Ceph support")
        .hint("to try the plugin without Ceph: --backend local --local-dir DIR")
}

/// Makes this process the only one that uses the state folder, until it ends: two plugins of one name with different sockets would
/// otherwise take each other's mounts for their own.
fn claim(state: &Path) -> Result<()> {
    let path = state.join("lock");
    let mut options = fs::OpenOptions::new();
    let file =
        options.write(true).create(true).truncate(false).open(&path).or_call("open", path.display())?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            return Err(DriverError::new(
                ErrorKind::InUse,
                format!("{} is used by another plugin", state.display()),
            )
            .hint("give each its own --name, --mount or --state"));
        }
        Err(fs::TryLockError::Error(e)) => Err(e).or_call("flock", path.display())?,
    }
    // Closing the file would unlock it.
    std::mem::forget(file);
    Ok(())
}

/// The plugin's own folder below a root, made if need be, by its real path. It is closed: what is in a volume, programs with the
/// set-user-id bit among it, is for containers, and not for the users of this host. Those of `group` pass.
fn folder(root: &Path, name: &str, group: Option<u32>) -> Result<PathBuf> {
    let folder = root.join(name);
    files::make_closed(&folder, group.map(Gid::from_raw))?;
    let folder = folder.canonicalize().or_call("realpath", folder.display())?;
    for above in group.map(|group| files::impassable(&folder, group)).into_iter().flatten() {
        let gid = group.unwrap_or_default();
        tracing::warn!("group {gid} cannot pass {}: chmod o+x {}", above.display(), above.display());
    }
    Ok(folder)
}

#[cfg(not(feature = "fault-points"))]
fn open_at_fault_points(parts: Parts) -> Result<Arc<Driver>> {
    parts.driver(Driver::open)
}

/// The crash tests kill the plugin at a point that they choose by `RBD_FAULT_POINT`, counted from when it is ready: `17`, or
/// `claim:1` for a point of that call, where 0 is before its first use and 1 after it. The calls in `RBD_FAULT_HANG` (`usage,list`) never come back.
#[cfg(feature = "fault-points")]
fn open_at_fault_points(parts: Parts) -> Result<Arc<Driver>> {
    use crate::backend::fault::{Faults, Faulty, Plan};
    let variable = |name: &str| std::env::var(name).ok();
    let (asked, hanging) = (variable("RBD_FAULT_POINT"), variable("RBD_FAULT_HANG"));
    if asked.is_none() && hanging.is_none() {
        return parts.driver(Driver::open);
    }
    let faults = Faults::new(Plan::Count);
    let Parts { settings, block, backend, disks, host } = parts;
    let parts = Parts {
        settings,
        block,
        backend: Arc::new(Faulty::new(&faults, backend)),
        disks: Arc::new(Faulty::new(&faults, disks)),
        host: Arc::new(Faulty::new(&faults, host)),
    };
    let driver = parts.driver(Driver::open)?;
    if let Some(calls) = &hanging {
        faults.hang_in(calls);
    }
    let asked =
        asked.as_deref().map(|asked| asked.split_once(':').map_or((None, asked), |(a, b)| (Some(a), b)));
    if let Some((only, Ok(point))) = asked.map(|(only, point)| (only, point.parse())) {
        if let Some(call) = only {
            faults.only(call);
        }
        faults.arm(Plan::Kill(point));
    }
    Ok(driver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::owner::tests::owner;

    #[test]
    fn a_host_that_gets_another_name_stays_itself_until_it_is_restarted() {
        let dir = tempfile::tempdir().unwrap();
        let owner = |host: &str, boot: &str, machine: &str| owner(host, machine, "", boot);
        let of = |owner: Owner| host_of_boot(dir.path(), &owner).unwrap();
        assert_eq!(of(owner("before", "b1", "m")), "before");
        assert_eq!(of(owner("after", "b1", "m")), "before");
        assert_eq!(of(owner("copy", "b1", "n")), "copy", "a copy of the running machine is another host");
        assert_eq!(of(owner("after", "b2", "m")), "after");
        std::fs::write(dir.path().join("host.json"), "{").unwrap();
        assert_eq!(of(owner("after", "b2", "m")), "after");
    }
}

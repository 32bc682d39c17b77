//! The settings: flag over environment over file over default, checked once, at the start.
//!
//! [`keys`] is the table of them, [`layers`] finds who said what, and [`Config::load`] makes values of it. A wrong value is
//! an error that names the key, the value, where it came from and what is accepted.

mod env_wetopi;
pub mod examine;
pub mod file;
pub mod keys;
pub mod layers;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::FsKind;
pub use crate::model::settings::Ceph;
use crate::model::settings::{Removal, Scope};
use crate::model::size::Size;
use crate::telemetry::log;
use layers::{Layers, Refused, Value};
pub use values::SocketGroup;

/// All settings of the plugin, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of the driver: socket, mountpoints, log file.
    pub name: String,
    /// Folder of the socket.
    pub plugins: PathBuf,
    /// Group of the socket.
    pub socket_group: SocketGroup,
    /// Group that may pass through the folder of the mountpoints.
    pub mount_group: Option<u32>,
    /// Folder of the admin socket, if there is to be one.
    pub admin: Option<PathBuf>,
    /// Where metrics and health are served, too.
    pub metrics_address: Option<SocketAddr>,
    /// Root of the mountpoints; a volume is at `<mount>/<name>/<pool>/<image>`.
    pub mount: PathBuf,
    /// Folder for what must survive a restart. Plugins of different names may share it.
    pub state: PathBuf,
    /// Folder of the mount IDs: it must not be emptied while volumes are mounted.
    pub mount_ids: PathBuf,
    /// Where images live.
    pub backend: Backend,
    /// The Ceph cluster.
    pub ceph: Ceph,
    /// Pool of a volume whose name does not say one.
    pub pool: String,
    /// Whether images may be created.
    pub create: bool,
    /// What Remove does to the image.
    pub remove: Removal,
    /// Size of a new image.
    pub size: Size,
    /// Filesystem of a new image.
    pub fs: FsKind,
    /// Further options for its mkfs.
    pub mkfs_options: Vec<String>,
    /// Mount options of a new volume, and of images that others made.
    pub mount_options: Option<String>,
    /// The volume scope reported to Docker.
    pub scope: Scope,
    /// How long a request waits for another operation on the same volume.
    pub wait: Duration,
    /// How long a mount ID whose Docker engine is gone and which no container holds is kept.
    pub orphan_grace: Duration,
    /// The log.
    pub log: log::Options,
    /// Deprecated spellings that were accepted; the daemon logs them.
    pub warnings: Vec<String>,
}

/// Where images live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// In a Ceph cluster.
    Rbd,
    /// In a folder of this host.
    Local(PathBuf),
    /// In the memory of this process.
    Sim,
}

/// The shortest patience with a host that shows no sign of life: two questions that its kernel leaves unanswered, and three heartbeats.
const DEAD_AFTER: Duration = Duration::from_secs(6);

/// The environment variables that name settings: of this plugin, or of a plugin that it replaces.
pub fn environment() -> Result<BTreeMap<String, String>> {
    let mut ours = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with(keys::ENV_PREFIX) && !env_wetopi::is_theirs(name) {
            continue;
        }
        let value = value.into_string().map_err(|value| {
            DriverError::new(
                ErrorKind::Config,
                format!("the environment variable {name} is not UTF-8: {value:?}"),
            )
        })?;
        ours.insert(name.to_owned(), value);
    }
    Ok(ours)
}

impl Config {
    /// Reads the settings from all layers and checks them. `flags` are by the names of the table.
    pub fn load(
        flags: &BTreeMap<&'static str, String>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self> {
        Self::from_layers(&Layers::gather(flags, environment))
    }

    /// The same from layers that are gathered already.
    pub fn from_layers(all: &Layers) -> Result<Self> {
        match all.errors().first() {
            Some(e) => Err(e.clone()),
            None => Self::try_from_layers(all).map_err(|refused| refused.error),
        }
    }

    /// Checks the value of each key; the first one that is refused names its key.
    pub fn try_from_layers(all: &Layers) -> Result<Self, Refused> {
        let mut warnings = all.warnings().to_vec();
        let name = parse(all, "name", values::name)?;
        let mount = parse(all, "mount", values::path)?;
        let pool = parse(all, "pool", values::pool)?;
        let state = optional(all, "state", values::path)?.unwrap_or_else(|| mount.join(".state"));
        let fs = parse(all, "fs", |text| text.parse::<FsKind>().map_err(|e| e.to_string()))?;
        let mkfs_options = optional(all, "mkfs-options", |text| values::mkfs_options(text, fs))?;
        let (remove, deprecated) = parse(all, "remove", values::remove_action)?;
        warnings.extend(deprecated);
        let go_ceph = all.get("go-ceph")?;
        values::boolean(&go_ceph.text).map_err(|why| go_ceph.refused(why))?;
        if go_ceph.origin != layers::Origin::Default {
            warnings
                .push(format!("go-ceph (from {}) has no meaning any more and is ignored", go_ceph.origin));
        }
        let plugins = parse(all, "plugins", values::path)?;
        let admin = parse(all, "admin", values::folder_or_none)?;
        if admin.as_ref() == Some(&plugins) {
            return Err(all
                .get("admin")?
                .refused("it must be another folder than plugins: both sockets have one name"));
        }
        Ok(Self {
            mount_ids: optional(all, "mount-ids", values::path)?.unwrap_or_else(|| plugins.clone()),
            plugins,
            socket_group: parse(all, "socket-group", values::group)?,
            mount_group: optional(all, "mount-group", values::group)?.map(|group| group.gid),
            admin,
            metrics_address: optional(all, "metrics-address", values::address)?,
            backend: backend(all)?,
            ceph: ceph(all, &pool)?,
            pool,
            create: parse(all, "create", values::boolean)?,
            size: parse(all, "size", |text| text.parse::<Size>().map_err(|e| e.to_string()))?,
            fs,
            mkfs_options: mkfs_options.unwrap_or_default(),
            mount_options: optional(all, "mount-options", values::mount_options)?,
            scope: parse(all, "scope", values::scope)?,
            wait: parse(all, "wait", |text| values::seconds(text, 110))?,
            orphan_grace: parse(all, "orphan-grace", |text| values::seconds(text, 31_536_000))?,
            log: log_options(all, &name)?,
            name,
            mount,
            state,
            remove,
            warnings,
        })
    }
}

fn parse<T>(all: &Layers, key: &'static str, with: impl Fn(&str) -> Result<T, String>) -> Result<T, Refused> {
    let value = all.get(key)?;
    with(&value.text).map_err(|why| value.refused(why))
}

fn optional<T>(
    all: &Layers,
    key: &'static str,
    with: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Refused> {
    let value: &Value = all.get(key)?;
    if value.text.is_empty() { Ok(None) } else { parse(all, key, with).map(Some) }
}

fn backend(all: &Layers) -> Result<Backend, Refused> {
    let dir = optional(all, "local-dir", values::path)?;
    let value = all.get("backend")?;
    match (value.text.as_str(), dir) {
        ("rbd", _) => Ok(Backend::Rbd),
        ("sim", _) => Ok(Backend::Sim),
        ("local", Some(dir)) => Ok(Backend::Local(dir)),
        ("local", None) => {
            Err(value.refused("it needs local-dir, the folder for the images: --local-dir DIR"))
        }
        _ => Err(value.refused("accepted are rbd, local and sim")),
    }
}

fn ceph(all: &Layers, pool: &str) -> Result<Ceph, Refused> {
    let mut pools = vec![pool.to_owned()];
    for further in parse(all, "pools", |text| values::list(text, values::pool))? {
        if !pools.contains(&further) {
            pools.push(further);
        }
    }
    Ok(Ceph {
        user: parse(all, "user", values::user)?,
        conf: parse(all, "config", values::path)?,
        keyring: optional(all, "keyring", values::path)?,
        cluster: parse(all, "cluster", values::word)?,
        pools,
        namespace: optional(all, "namespace", values::namespace)?,
        features: optional(all, "features", values::word)?,
        object_size: optional(all, "object-size", values::object_size)?,
        map_options: optional(all, "map-options", values::word)?,
        takeover: parse(all, "takeover", values::takeover)?,
        dead_after: parse(all, "dead-after", |text| match values::seconds(text, 300)? {
            short if short < DEAD_AFTER => {
                Err(format!("it must be {} seconds at least", DEAD_AFTER.as_secs()))
            }
            some => Ok(some),
        })?,
        owner_wait: parse(all, "owner-wait", |text| values::seconds(text, 60))?,
        fence: parse(all, "fence-days", values::days)?,
        timeout: parse(all, "ceph-timeout", |text| match values::seconds(text, 60)? {
            none if none.is_zero() => Err("it must be 1 second at least".to_owned()),
            some => Ok(some),
        })?,
    })
}

fn log_options(all: &Layers, name: &str) -> Result<log::Options, Refused> {
    let debug = parse(all, "debug", values::boolean)?;
    let level = parse(all, "log-level", values::log_level)?;
    let logdir = all.get("logdir")?;
    let target = if debug || logdir.text == "-" {
        log::Target::Stderr
    } else {
        let dir = parse(all, "logdir", values::path)?;
        log::Target::File(dir.join(format!("{name}-docker-plugin.log")))
    };
    Ok(log::Options {
        target,
        format: parse(all, "log-format", values::log_format)?,
        // Of two levels the greater one is the more talkative.
        level: if debug { level.max(tracing::Level::DEBUG) } else { level },
    })
}

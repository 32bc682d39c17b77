//! Images in a Ceph cluster, mapped by the kernel.
//!
//! ```text
//! rbd_header.<id>            the image's own metadata: our record of it, under `rbd-docker-plugin.record`
//! rbd_docker_plugin.owners   in each pool and namespace: who may use which image (omap)
//! rbd_docker_plugin.hosts    in each pool and namespace: whose heart beats (a lock with a duration)
//! rbd_docker_plugin.names    in the default pool and namespace: bare names bound with `-o pool=` (omap)
//! ```
//!
//! Everything that goes to the cluster has a timeout; what runs into it takes the [`link`] down. See DESIGN.md "Ownership on Ceph".

pub mod admin;
pub mod conf_and_key;
pub mod inspect;

pub(crate) mod caps;
mod catalogue;
mod clients;
mod conf_text;
mod data_pool;
mod fencing;
#[cfg(fuzzing)]
pub mod fuzz;
mod glance;
mod header;
mod inside;
mod kin;
mod kinds;
mod kv;
mod link;
mod map;
mod metavariables;
mod monitors;
mod opened;
mod options;
mod osdmap;
mod owned;
mod places;
mod plan;
mod secret;
mod seen;
mod session;
mod silence;
mod sources;
mod store;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::backend::{Backend, ImageStore, Pulse, Source};
use crate::ceph;
use crate::coordination::names::Names;
use crate::coordination::{BlocklistCache, Owners, keep_beating};
use crate::linux::krbd::{Kernel, Maker, Mapping};
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};
use crate::model::image::LeftOut;
use crate::model::owner::Owner;
use crate::model::settings;
use catalogue::Catalogue;
use kv::{HostKernel, Rados};
use link::Link;
use opened::Opened;
use places::Omitted;
use seen::Seen;

/// How long a start waits for the cluster: with it, volumes of an earlier life are restored before the first request.
const PATIENCE: Duration = Duration::from_secs(5);

/// The Ceph backend.
#[derive(Debug)]
pub struct RbdBackend {
    options: settings::Ceph,
    link: Arc<Link>,
    names: Names,
    kernel: Kernel,
    /// Who this plugin is in the marks of its mappings.
    maker: Maker,
    /// What is behind the devices that the driver has, by number.
    devices: Mutex<HashMap<(u32, u32), Mapping>>,
    /// The cluster that they are of.
    known_fsid: Mutex<Option<String>>,
    opened: Arc<Opened>,
    owners: Arc<Owners>,
    seen: Seen,
    /// What the last listing has left out.
    omitted: Omitted,
    catalogue: Catalogue,
    blocklist: BlocklistCache,
}

/// How owners that are gone are followed.
fn takeover(options: &settings::Ceph) -> crate::coordination::Settings {
    crate::coordination::Settings {
        takeover: options.takeover,
        dead_after: options.dead_after,
        fence: options.fence,
        #[cfg(any(test, feature = "fault-points"))]
        defects: crate::coordination::owners::Defects::default(),
    }
}

impl RbdBackend {
    /// Refuses settings that cannot work.
    pub fn check(options: &settings::Ceph) -> Result<()> {
        let conf = &options.conf;
        std::fs::File::open(conf).or_call("open", conf.display()).map_err(|e| {
            DriverError::new(
                ErrorKind::Config,
                format!("Unable to find ceph config needed for ceph rbd tool: {}", conf.display()),
            )
            .hint("--config FILE names the cluster's ceph.conf; to try the plugin without Ceph: --backend local --local-dir DIR")
            .caused_by(e)
        })?;
        Self::check_words(options)
    }

    /// Refuses features and map options that nobody knows.
    pub fn check_words(options: &settings::Ceph) -> Result<()> {
        let given = crate::model::options::ImageOptions {
            features: options.features.clone(),
            object_size: options.object_size,
            map_options: options.map_options.clone(),
            ..crate::model::options::ImageOptions::default()
        };
        options::check(&given).map_err(|e| DriverError { kind: ErrorKind::Config, ..e })
    }

    /// Checks the settings and begins to connect. A cluster that does not answer is no error: it may come later.
    pub fn open(options: &settings::Ceph, identity: Owner) -> Result<Self> {
        Self::open_on(Kernel::host(), options, identity)
    }

    /// The same, with what stands for the kernel.
    pub fn open_on(kernel: Kernel, options: &settings::Ceph, identity: Owner) -> Result<Self> {
        Self::check(options)?;
        tracing::info!("{}", ceph::versions());
        let pool = options.pools.first().cloned().unwrap_or_default();
        let link = Link::open(options.clone(), PATIENCE)?;
        if let Err(e) = link.session() {
            tracing::error!("{e}; going on without it, and trying again");
        }
        let Owner { boot_id, plugin, root, .. } = identity.clone();
        let maker = Maker { boot_id, plugin, root };
        let owners = Arc::new(Owners::new(identity, takeover(options)));
        let opened: Arc<Opened> = Arc::default();
        let (down, heard) = (Arc::downgrade(&link), Arc::downgrade(&link));
        let of = Arc::clone(&opened);
        let connect = move || {
            let gone = || DriverError::new(ErrorKind::Unreachable, "the plugin stops");
            let link = down.upgrade().ok_or_else(gone)?;
            Ok(Rados::new(link.session()?, Arc::clone(link.clients()), Arc::clone(&of)))
        };
        keep_beating(&owners, connect, move |e| match heard.upgrade() {
            Some(link) => link.heed_error(e),
            None => e,
        })?;
        Ok(Self {
            options: options.clone(),
            kernel,
            maker,
            devices: Mutex::default(),
            known_fsid: Mutex::default(),
            names: Names::new((pool, options.namespace.clone())),
            opened,
            link,
            owners,
            seen: Seen::default(),
            omitted: Omitted::default(),
            catalogue: Catalogue::default(),
            blocklist: BlocklistCache::default(),
        })
    }

    /// A client of the cluster for one operation.
    fn cluster(&self) -> Result<Rados> {
        let session = self.link.session()?;
        Ok(Rados::new(session, Arc::clone(self.link.clients()), Arc::clone(&self.opened)))
    }

    /// What this host's kernel has mapped of that cluster.
    fn host<'a>(&'a self, kv: &'a Rados) -> HostKernel<'a> {
        HostKernel { kernel: &self.kernel, maker: &self.maker, kv }
    }
}

impl Drop for RbdBackend {
    /// This plugin ends: its heartbeat with it. What is mounted stays its own.
    fn drop(&mut self) {
        if let Ok(kv) = self.cluster() {
            self.owners.heartbeat.stop(&kv);
        }
    }
}

#[cfg(feature = "fault-points")]
impl RbdBackend {
    /// How many files of the kernel's tree this backend has read.
    pub fn kernel_reads(&self) -> u64 {
        self.kernel.reads()
    }
}

impl Backend for RbdBackend {
    fn name(&self) -> &'static str {
        "rbd"
    }

    fn pulse(&self) -> Result<Pulse> {
        self.reachable()?;
        let session = self.link.session()?;
        let is_ours = |mapping: &Mapping| mapping.fsid == session.cluster.fsid() && self.has_made(mapping);
        let devices = self.kernel.count(is_ours)?;
        let bindings = match self.known_bindings() {
            // Without its pool, the names are not known; the other pools are served.
            Err(e) if e.kind == ErrorKind::Unreachable => Arc::default(),
            bindings => bindings?,
        };
        Ok(Pulse { devices, bindings })
    }

    fn source(&self) -> Source {
        let conf = conf_and_key::survive(&self.options).ok();
        let conf = conf.and_then(|()| ceph::Conf::read(&conf_and_key::how(&self.options)).ok());
        let said = |key| conf.as_ref().and_then(|conf| conf.get(key)).filter(|text| !text.is_empty());
        let connected = self.link.session().ok().map(|session| session.cluster.fsid().to_owned());
        Source {
            user: self.options.user.clone(),
            cluster: connected.or_else(|| said("fsid")),
            address: said("mon_host"),
        }
    }

    fn left_out(&self) -> Vec<LeftOut> {
        let mut left_out = self.omitted.all();
        // While all is away, no pool is left out.
        let pools = self.link.session().map_or_else(|_| Vec::new(), |_| self.link.pools());
        // What was left out for its silence alone, was not asked.
        let was_asked = |why: &DriverError| why.kind != ErrorKind::Unreachable || why.source.is_some();
        let is_silent = |of: &str| pools.iter().any(|(pool, why)| pool == of && why.is_some());
        left_out.retain(|out| was_asked(&out.why) || is_silent(&out.pool));
        for (pool, why) in pools {
            if let Some(why) = why
                && !left_out.iter().any(|out| out.pool == pool)
            {
                left_out.push(LeftOut { pool, namespace: None, why });
            }
        }
        left_out
    }

    fn pools(&self) -> Vec<(String, Option<DriverError>)> {
        self.link.pools()
    }

    fn heartbeats(&self) -> Vec<(String, Duration)> {
        let named = |((pool, namespace), age): (link::Place, Duration)| match namespace {
            Some(namespace) => (format!("{pool}/{namespace}"), age),
            None => (pool, age),
        };
        self.owners.heartbeat.ages().into_iter().map(named).collect()
    }
}

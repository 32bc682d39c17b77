//! One client of the cluster, and why another one was not let in.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use super::conf_and_key::{self, how};
use super::monitors::{self, Monitors};
use super::places::{self, Replicated};
use super::secret::{self, Look};
use super::silence::Silence;
use crate::ceph::{Cluster, IoCtx};
pub(super) use crate::coordination::{Place, place};
use crate::linux::boot;
use crate::linux::keyring::{self, Key};
use crate::lock;
use crate::model::error::{CallError, DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::settings;

/// Why this client was not let in: the cluster does not tell a wrong key from none, or from one that librados cannot read; this
/// host does.
fn not_let_in(e: CallError, options: &settings::Ceph) -> DriverError {
    let user = &options.user;
    let denied = matches!(e.errno, Errno::EACCES | Errno::EPERM);
    let unusable = matches!(e.errno, Errno::ENOENT | Errno::EINVAL | Errno::EIO | Errno::EOPNOTSUPP);
    if e.call == "rados_conf_read_file" {
        return conf_and_key::unread(options, e);
    }
    if e.call != "rados_connect" || !(denied || unusable) {
        return e.into();
    }
    let error = DriverError::from(e);
    match conf_and_key::key(options) {
        Err(why) | Ok(Look::Missing(why)) if error.kind != ErrorKind::Denied => {
            DriverError { source: error.source, ..why }
        }
        Err(why) | Ok(Look::Missing(why)) => {
            let message = format!("{}: {}", error.message, why.message);
            DriverError { message, hint: why.hint, ..error }
        }
        Ok(Look::Found(found)) if unusable && found.key.kind() != keyring::AES => secret::unknown_type(
            &format!("this librados (of Ceph {})", crate::ceph::versions().librbd.1),
            user,
            &found,
        )
        ,
        Ok(Look::Found(found)) if denied => error.hint(format!(
            "the key of client.{user} in {} is not the cluster's, or there is no such user: compare it with: ceph auth get client.{user}",
            found.place
        )),
        Ok(Look::NotAsked) if denied => error.hint(format!(
            "auth_client_required or auth_supported in {} asks for no key, and the cluster does: take that line out",
            options.conf.display()
        )),
        Ok(_) => error,
    }
}

/// A connected client.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) cluster: Cluster,
    /// Pools by name, open.
    open: Mutex<HashMap<Place, IoCtx>>,
    monitors: Mutex<Monitors>,
    replicated: Replicated,
    pub(super) silence: Silence,
    /// Whether the OSDs refuse it, because it is on the cluster's blocklist. The monitors still answer it.
    fenced: AtomicBool,
}

impl Session {
    pub(super) fn connect(options: &settings::Ceph) -> Result<Self> {
        conf_and_key::survive(options)?;
        conf_and_key::require_method(options)?;
        let cluster = Cluster::connect(&how(options)).map_err(|e| not_let_in(e, options))?;
        let monitors = monitors::of(&cluster)?;
        Ok(Self {
            cluster,
            open: Mutex::default(),
            monitors: Mutex::new(monitors),
            replicated: Replicated::default(),
            silence: Silence::of_pools(&options.pools),
            fenced: AtomicBool::new(false),
        })
    }

    /// The user's key for the kernel, as it is at this moment: it may have been changed since this client connected. None where the
    /// cluster lets clients in without. An error when the kernel does not take its type: asked before anything is made that could
    /// not be mapped.
    pub(super) fn kernel_key(&self) -> Result<Option<Key>> {
        let look = secret::look(|key| self.cluster.conf(key), self.cluster.user())?;
        if let Look::Found(found) = &look
            && found.key.kind() != keyring::AES
            && let Err(e) = keyring::probe(found.key.kind())
            && e.errno == Errno::EOPNOTSUPP
        {
            let kernel = format!("this kernel ({})", boot::release());
            return Err(secret::unknown_type(&kernel, self.cluster.user(), found).caused_by(e));
        }
        Ok(look.key())
    }

    /// A pool or a namespace of it. `NotFound` when there is no such pool; an error at once when it is known to be silent.
    pub(super) fn open(&self, place: &Place) -> Result<IoCtx> {
        self.silence.of(&place.0).map_or_else(|| self.reach(place), Err)
    }

    /// The same of one that may be silent.
    pub(super) fn reach(&self, place: &Place) -> Result<IoCtx> {
        if let Some(io) = lock(&self.open).get(place) {
            return Ok(io.clone());
        }
        let io = self.cluster.ioctx(&place.0, place.1.as_deref())?;
        self.replicated.require(&self.cluster, &io)?;
        lock(&self.open).insert(place.clone(), io.clone());
        Ok(io)
    }

    pub(super) fn of(&self, spec: &ImageSpec) -> Result<IoCtx> {
        let io = self.open(&place(spec))?;
        self.silence.serve(spec.pool());
        Ok(io)
    }

    /// An error when a pool that is open is not there any more, or is another one of its name, or when its namespace
    /// is gone.
    pub(super) fn still(&self, place: &Place, io: &IoCtx) -> Result<()> {
        let now = self.cluster.ioctx(&place.0, None).map_err(|e| {
            let error = DriverError::from(e);
            // What was open a moment ago is gone by somebody's mistake, perhaps.
            let kind = if error.kind == ErrorKind::NotFound { ErrorKind::Config } else { error.kind };
            DriverError { kind, ..error }
        });
        let now = now.inspect_err(|_| lock(&self.open).clear())?;
        if now.pool_id() == io.pool_id() {
            return places::require_namespace(io);
        }
        lock(&self.open).clear();
        Err(DriverError::new(ErrorKind::Unreachable, format!("the pool {} was made anew", place.0))
            .hint("try again"))
    }

    /// It can never be used again.
    pub(super) fn fence(&self) {
        self.fenced.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::SeqCst)
    }

    pub(super) fn monitors(&self) -> Monitors {
        lock(&self.monitors).clone()
    }

    /// One small request to the monitors, which also keeps their addresses up to date. Pools are opened anew afterwards: one that
    /// was deleted and made again is another one.
    pub(super) fn refresh(&self) -> Result<()> {
        let monitors = monitors::of(&self.cluster)?;
        lock(&self.open).clear();
        *lock(&self.monitors) = monitors;
        Ok(())
    }
}

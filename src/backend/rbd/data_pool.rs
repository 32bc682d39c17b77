//! The pool of an image's data, where it is not the pool of the image. librbd and the kernel say nothing useful when the
//! user may not use it, and the kernel says it only when the first block is read.

use nix::errno::Errno;

use super::link::Session;
use super::{RbdBackend, caps, header};
use crate::ceph::{CreateOptions, IoCtx, features};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;

/// An object that is never made: reading and removing it shows what the user may do.
const PROBE: &str = "rbd_docker_plugin.doctor";
/// The option of ceph.conf that gives new images a data pool.
const DEFAULT: &str = "rbd_default_data_pool";

impl RbdBackend {
    /// An error when the data of a new image would go to a pool that is not there or that the user may not use.
    pub(super) fn check_new_data_pool(
        &self,
        session: &Session,
        io: &IoCtx,
        spec: &ImageSpec,
        create: &CreateOptions,
    ) -> Result<()> {
        let default = session.cluster.conf(DEFAULT).filter(|pool| !pool.is_empty());
        let (pool, source) = match (&create.data_pool, default) {
            (Some(pool), _) => (pool.clone(), "data-pool"),
            (None, Some(pool)) => (pool, DEFAULT),
            (None, None) => return Ok(()),
        };
        if pool == io.pool() {
            return Ok(());
        }
        let namespace = io.namespace();
        let data = session.cluster.ioctx(&pool, namespace).map_err(|e| match e.errno {
            Errno::ENOENT => {
                let hint = if source == DEFAULT {
                    format!("set {DEFAULT} in the cluster's configuration or ceph.conf to a pool that exists, or give another one with -o data-pool=POOL")
                } else {
                    "ceph osd pool ls shows the pools".to_owned()
                };
                DriverError::invalid(format!("{source} names the pool {pool}, which does not exist"))
                    .hint(hint)
                    .caused_by(e)
            }
            _ => e.into(),
        })?;
        self.try_data_pool(&data, spec)
    }

    /// An error when the user may not use the data pool of an image that is there.
    pub(super) fn check_data_pool(
        &self,
        session: &Session,
        io: &IoCtx,
        spec: &ImageSpec,
        (id, with): (&str, u64),
    ) -> Result<()> {
        if with & features::DATA_POOL == 0 {
            return Ok(());
        }
        let Some(wanted) = header::data_pool(io, id)? else { return Ok(()) };
        for pool in session.cluster.pools()? {
            let data = match session.cluster.ioctx(&pool, io.namespace()) {
                // Removed meanwhile.
                Err(e) if e.errno == Errno::ENOENT => continue,
                data => data?,
            };
            if data.pool_id() == wanted {
                return self.try_data_pool(&data, spec);
            }
        }
        Err(DriverError::new(
            ErrorKind::Failed,
            format!("the data pool of {spec} (id {wanted}) does not exist: its data is gone"),
        ))
    }

    fn try_data_pool(&self, data: &IoCtx, spec: &ImageSpec) -> Result<()> {
        let read = match data.read(PROBE, 1) {
            Err(e) if e.errno == Errno::ENOENT => Ok(()),
            read => read.map(drop),
        };
        read.and_then(|()| data.remove_object(PROBE)).map_err(|e| {
            caps::data_pool(&self.options, &spec.to_string(), (data.pool(), data.namespace()), e)
        })
    }
}

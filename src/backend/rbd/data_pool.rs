//! The pool of an image's data, where it is not the pool of the image. librbd and the kernel say nothing useful when the
//! user may not use it, and the kernel says it only when the first block is read.

use nix::errno::Errno;

use super::link::Session;
use super::plan::{DataPool, Plan, of_default};
use super::{RbdBackend, caps, header};
use crate::ceph::{IoCtx, features};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;

/// An object that is never made: reading and removing it shows what the user may do.
const PROBE: &str = "rbd_docker_plugin.doctor";

impl RbdBackend {
    /// An error when the data of a new image would go to a pool that is not there or that the user may not use.
    pub(super) fn check_new_data_pool(
        &self,
        session: &Session,
        io: &IoCtx,
        spec: &ImageSpec,
        plan: &Plan,
    ) -> Result<()> {
        let Some(DataPool { name, default }) = &plan.data_pool else { return Ok(()) };
        let data = session.cluster.ioctx(name, io.namespace()).map_err(|e| match (e.errno, default) {
            (Errno::ENOENT, Some(key)) => {
                let missing = DriverError::invalid(format!("it names the pool {name}, which does not exist"));
                of_default(missing.caused_by(e), key, name)
            }
            (Errno::ENOENT, None) => {
                DriverError::invalid(format!("data-pool names the pool {name}, which does not exist"))
                    .hint("ceph osd pool ls shows the pools")
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

//! librbd's advisory lock, as rbd-docker-plugin 2.0.1 takes it: exclusive, with the host's name for a cookie.
//!
//! Taken on images without the exclusive-lock feature only, so that hosts with the old plugin and hosts with this one respect each
//! other. On an image with that feature the two locks are one, and the kernel could not map it (EBUSY, measured); there the old
//! plugin cannot mount anything either.

use nix::errno::Errno;

use super::RbdBackend;
use super::header::{self, Header};
use crate::ceph::{Image, IoCtx, Lockers, features};
use crate::error::{DriverError, ErrorKind, Result};
use crate::lock;
use crate::name::ImageSpec;

/// librbd's name for it, on the image's header.
const LOCK: &str = "rbd_lock";

impl RbdBackend {
    /// Takes the lock if the image needs it. The caller owns the image by our own record.
    ///
    /// By way of the header's own lock: opening the image for it takes some fifty round trips, this takes one.
    pub(super) fn lock_like_the_old(
        &self,
        io: &IoCtx,
        spec: &ImageSpec,
        id: &str,
        header: &Header,
    ) -> Result<()> {
        let has_it = lock(&self.advisory).get(spec).is_some_and(|locked| locked == id);
        if has_it || header.features & features::EXCLUSIVE_LOCK != 0 {
            return Ok(());
        }
        let object = header::object(id);
        let take = || io.lock_exclusive(&object, LOCK, &self.identity.host);
        let taken = match take() {
            Err(e) if e.errno == Errno::EBUSY => {
                // Perhaps of an earlier life of this plugin, or of the old one on this host.
                self.break_own(io, spec.image(), id)?;
                take()
            }
            taken => taken,
        };
        match taken {
            Ok(()) => {
                lock(&self.advisory).insert(spec.clone(), id.to_owned());
                Ok(())
            }
            Err(e) if e.errno == Errno::EBUSY => Err(locked(spec, &io.list_lockers(&object, LOCK)?)),
            Err(e) => Err(e.into()),
        }
    }

    /// Ends the lock that an earlier life of this plugin took on an image that this life has never claimed.
    pub(super) fn end_earlier_lock(&self, io: &IoCtx, spec: &ImageSpec, id: &str) -> Result<()> {
        match header::read(io, id)? {
            Some(header) if header.features & features::EXCLUSIVE_LOCK == 0 => {
                self.break_own(io, spec.image(), id)
            }
            _ => Ok(()),
        }
    }

    /// Gives it back. `name` is the image's by now: it may have been renamed since.
    pub(super) fn unlock_like_the_old(&self, io: &IoCtx, spec: &ImageSpec, name: &str) -> Result<()> {
        let Some(id) = lock(&self.advisory).get(spec).cloned() else { return Ok(()) };
        if !io.unlock(&header::object(&id), LOCK, &self.identity.host)? {
            // It went with the image, or a client of ours holds it that is no more.
            self.break_own(io, name, &id)?;
        }
        lock(&self.advisory).remove(spec);
        Ok(())
    }

    /// Ends every lock that bears this host's name, of other clients than ours: breaking one shuts its holder out of the cluster.
    fn break_own(&self, io: &IoCtx, name: &str, id: &str) -> Result<()> {
        let own = format!("client.{}", io.cluster().instance_id());
        for locker in io.lockers(&header::object(id), LOCK)? {
            if locker.cookie == self.identity.host && locker.client != own {
                tracing::warn!(client = locker.client, "breaking a lock that bears this host's name");
                Image::open(io, name)?.break_lock(&locker.client, &locker.cookie)?;
            }
        }
        Ok(())
    }
}

/// Ends the lock that an owner took here which is shut out by now: nobody else could take it otherwise.
pub(super) fn end_lock_of(io: &IoCtx, name: &str, host: &str) -> Result<()> {
    let image = match Image::open(io, name) {
        Err(e) if e.errno == Errno::ENOENT => return Ok(()),
        image => image?,
    };
    for locker in image.lockers()?.lockers.iter().filter(|locker| locker.cookie == host) {
        image.break_lock(&locker.client, &locker.cookie)?;
    }
    Ok(())
}

/// Who has it locked, and how to end that.
pub(super) fn locked(spec: &ImageSpec, held: &Lockers) -> DriverError {
    let error = |who: String| DriverError::new(ErrorKind::InUse, format!("{spec} is locked by {who}"));
    match held.lockers.first() {
        Some(locker) => error(format!("{} at {}, cookie {:?}", locker.client, locker.address, locker.cookie))
            .hint(format!(
                "unmount it there; if that host is gone: rbd lock remove {spec} {:?} {}",
                locker.cookie, locker.client
            )),
        None => error("somebody".to_owned()),
    }
}

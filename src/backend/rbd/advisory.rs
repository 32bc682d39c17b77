//! librbd's advisory lock, as rbd-docker-plugin 2.0.1 takes it: exclusive, with the host's name for a cookie.
//!
//! Taken on images without the exclusive-lock feature only, so that hosts with the old plugin and hosts with this one respect each
//! other. On an image with that feature the two locks are one, and the kernel could not map it (EBUSY, measured); there the old
//! plugin cannot mount anything either.

use nix::errno::Errno;

use super::admin::Admin;
use super::header::{self, Header};
use super::{RbdBackend, fence};
use crate::ceph::{Image, IoCtx, Locker, Lockers, features};
use crate::lock;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;

/// librbd's name for it, on the image's header.
const LOCK: &str = "rbd_lock";
/// The cookie of tobilg/docker-volume-rbd, on every host.
const TOBILG: &str = "dockerLock";
/// How the cookie begins by which librbd and the kernel hold the exclusive lock of an image that has the feature: that is no lock of ours.
const EXCLUSIVE: &str = "auto ";

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

/// An error when somebody has locked an image by hand that has the exclusive-lock feature: its lock and the feature's are one, and neither
/// librbd nor the kernel ever gets it. librbd waits for it without end, also to remove the image.
pub(super) fn refuse_if_locked(io: &IoCtx, spec: &ImageSpec, id: &str) -> Result<()> {
    let mut held = match io.list_lockers(&header::object(id), LOCK) {
        Err(e) if e.errno == Errno::ENOENT => return Ok(()),
        held => held?,
    };
    held.lockers.retain(|locker| !locker.cookie.starts_with(EXCLUSIVE));
    if held.lockers.is_empty() {
        return Ok(());
    }
    let has_feature =
        header::read(io, id)?.is_some_and(|header| header.features & features::EXCLUSIVE_LOCK != 0);
    // Without the feature it is asked for by `lock_like_the_old`.
    if has_feature { Err(locked(spec, &held)) } else { Ok(()) }
}

/// What was ended.
#[derive(Debug)]
pub struct Unlocked {
    /// The locks.
    pub lockers: Vec<Locker>,
    /// The addresses that were shut out because they had the image mapped or open.
    pub fenced: Vec<String>,
}

impl Admin {
    /// Ends the advisory locks that other plugins, or people, have left on an image; nothing when there are none. Nobody keeps a connection
    /// for such a lock, so its holder's address says nothing: the sign of life is that somebody has the image mapped or open, who
    /// is shut out first, by `force` only.
    pub fn break_advisory(&self, spec: &ImageSpec, force: bool) -> Result<Option<Unlocked>> {
        let io = self.open(spec.pool(), spec.namespace())?;
        let Some(id) = header::id(&io, spec.image())? else { return Ok(None) };
        let mut lockers = io.lockers(&header::object(&id), LOCK)?;
        lockers.retain(|locker| !locker.cookie.starts_with(EXCLUSIVE));
        if lockers.is_empty() {
            return Ok(None);
        }
        let fenced = fence::watchers(&io, spec)?;
        if !fenced.is_empty() && !force {
            let message = format!("{spec} is locked, and mapped or open at {}", fenced.join(", "));
            return Err(DriverError::new(ErrorKind::InUse, message).hint(
                "unmount it there; or add --force: what has it mapped gets I/O errors, and what it has not yet written is lost. Other plugins share one client among all images of a host: then all of them are cut off",
            ));
        }
        fence::shut_out(self.cluster(), &fenced.iter().cloned().collect(), self.fence_lasts())?;
        let image = Image::open(&io, spec.image())?;
        for locker in &lockers {
            image.break_lock(&locker.client, &locker.cookie)?;
        }
        Ok(Some(Unlocked { lockers, fenced }))
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
        Some(locker) => {
            let Locker { client, cookie, address } = locker;
            let whose = if cookie == TOBILG { ", which docker-volume-rbd writes on every host" } else { "" };
            error(format!("{client} at {address}, cookie {cookie:?}{whose}")).hint(format!(
                "unmount it there; if that host is gone: rbd-docker-plugin lock break {spec}, or rbd lock remove {spec} {cookie:?} {client}"
            ))
        }
        None => error("somebody".to_owned()),
    }
}

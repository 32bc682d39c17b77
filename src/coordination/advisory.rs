//! librbd's advisory lock, as rbd-docker-plugin 2.0.1 takes it: exclusive, with the host's name for a cookie.
//!
//! Taken on images without the exclusive-lock feature only, so that hosts with the old plugin and hosts with this one respect each
//! other. On an image with that feature the two locks are one, and the kernel could not map it (EBUSY, measured); there the old
//! plugin cannot mount anything either.

use std::collections::HashMap;
use std::sync::Mutex;

use super::kv::ClusterKv;
use crate::lock;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::locker::{Locker, Lockers};
use crate::model::name::ImageSpec;

/// The cookie of tobilg/docker-volume-rbd, on every host.
const TOBILG: &str = "dockerLock";
/// How the cookie begins by which librbd and the kernel hold the exclusive lock of an image that has the feature: that is no lock of ours.
const EXCLUSIVE: &str = "auto ";

/// Images whose advisory lock we hold, with their ids.
#[derive(Debug, Default)]
pub(super) struct Advisory(Mutex<HashMap<ImageSpec, String>>);

impl Advisory {
    /// Takes the lock of an image without the exclusive-lock feature. The caller owns the image by our own record.
    pub(super) fn lock(&self, kv: &dyn ClusterKv, spec: &ImageSpec, id: &str, host: &str) -> Result<()> {
        if lock(&self.0).get(spec).is_some_and(|locked| locked == id) {
            return Ok(());
        }
        if !kv.lock_image(spec, id, host)? {
            // Perhaps of an earlier life of this plugin, or of the old one on this host.
            break_own(kv, spec, spec.image(), id, host)?;
            if !kv.lock_image(spec, id, host)? {
                return Err(locked(spec, &kv.image_lockers(spec, id)?));
            }
        }
        lock(&self.0).insert(spec.clone(), id.to_owned());
        Ok(())
    }

    /// Gives it back. `name` is the image's by now: it may have been renamed since.
    pub(super) fn unlock(&self, kv: &dyn ClusterKv, spec: &ImageSpec, name: &str, host: &str) -> Result<()> {
        let Some(id) = lock(&self.0).get(spec).cloned() else { return Ok(()) };
        if !kv.unlock_image(spec, &id, host)? {
            // It went with the image, or a client of ours holds it that is no more.
            break_own(kv, spec, name, &id, host)?;
        }
        lock(&self.0).remove(spec);
        Ok(())
    }
}

/// Ends every lock that bears this host's name, of other clients than ours: breaking one shuts its holder out of the cluster.
pub(super) fn break_own(
    kv: &dyn ClusterKv,
    spec: &ImageSpec,
    name: &str,
    id: &str,
    host: &str,
) -> Result<()> {
    let own = kv.locker_name();
    for locker in kv.image_lockers(spec, id)?.lockers {
        if locker.cookie == host && locker.client != own {
            tracing::warn!(image = %spec, client = locker.client, "breaking a lock that bears this host's name");
            kv.break_image_lock(spec, name, &locker)?;
        }
    }
    Ok(())
}

/// An error when somebody has locked an image by hand that has the exclusive-lock feature: its lock and the feature's are one, and neither
/// librbd nor the kernel ever gets it. librbd waits for it without end, also to remove the image.
pub(super) fn refuse_if_locked(kv: &dyn ClusterKv, spec: &ImageSpec, id: &str) -> Result<()> {
    let held = by_hand(kv, spec, id)?;
    // Without the feature it is asked for when the lock is taken.
    if held.lockers.is_empty() || !kv.has_exclusive_lock(spec, id)? {
        return Ok(());
    }
    Err(locked(spec, &held))
}

/// The locks of an image that other plugins, or people, have taken.
pub fn by_hand(kv: &dyn ClusterKv, spec: &ImageSpec, id: &str) -> Result<Lockers> {
    let mut held = kv.image_lockers(spec, id)?;
    held.lockers.retain(|locker| !locker.cookie.starts_with(EXCLUSIVE));
    Ok(held)
}

/// Ends the lock that an owner took here which is shut out by now: nobody else could take it otherwise.
pub fn end_lock_of(kv: &dyn ClusterKv, spec: &ImageSpec, id: &str, host: &str) -> Result<()> {
    for locker in kv.image_lockers(spec, id)?.lockers.iter().filter(|locker| locker.cookie == host) {
        kv.break_image_lock(spec, spec.image(), locker)?;
    }
    Ok(())
}

/// Who has it locked, and how to end that.
pub fn locked(spec: &ImageSpec, held: &Lockers) -> DriverError {
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

//! Mount: one more use of the mount that is there, or claim → attach → remember.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use super::api::Client;
use super::kind::Attach;
use super::read::missing;
use super::refs::Refs;
use super::table::MountedVolume;
use super::undo::Undo;
use super::uses::Arrival;
use super::{Driver, LONG};
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::image::ImageInfo;
use crate::model::name::{ImageSpec, VolumeName};
use crate::model::stored::{self, Unknown};
use crate::model::time::now;

const CREATE_IT: &str = "create it with docker volume create";

/// How often to look whether an owner on another host has gone.
const OWNER_POLL: Duration = Duration::from_millis(500);

impl Driver {
    /// See [`VolumeDriver::mount`](super::api::VolumeDriver::mount).
    pub(super) fn mount(
        &self,
        name: &str,
        id: &str,
        client: Option<Client>,
        waits: &dyn Fn() -> bool,
    ) -> Result<PathBuf> {
        let (until, deadline) = self.deadlines(LONG);
        let volume: VolumeName = name.parse()?;
        let spec = self.resolve(&volume)?;
        Self::is_about(&spec);
        let arrival = Arrival::begin(self, &spec, id, client, waits);
        if let Some(mountpoint) = self.join(&arrival)? {
            return Ok(mountpoint);
        }
        let mut guard = self.guards.lock(&spec, until)?;
        if self.is_in_use(&spec) {
            // It was mounted while this one waited, as others may still: they need not wait for it.
            drop(guard);
            if let Some(mountpoint) = self.join(&arrival)? {
                return Ok(mountpoint);
            }
            guard = self.guards.lock(&spec, until)?;
        }
        let mountpoint = self.mount_guarded(name, &arrival, deadline)?;
        // Its Unmount may have come already.
        if let Err(e) = self.end_if_unused(&spec) {
            tracing::error!(image = %spec, error = %e, "is not used any more, and could not be taken down");
        }
        drop(guard);
        Ok(mountpoint)
    }

    fn mount_guarded(&self, name: &str, arrival: &Arrival<'_>, deadline: Deadline) -> Result<PathBuf> {
        let spec = arrival.spec();
        match self.restore_if_unsettled(spec) {
            // Whatever is in the way shows below, or is no hindrance to mounting.
            Err(e) if e.kind != ErrorKind::InUse => return Err(e),
            _ => {}
        }
        if let Some(mounted) = self.table.get(spec) {
            self.refuse_lost(spec)?;
            if self.is_still_mounted(&mounted)? {
                return self.use_again(arrival);
            }
            tracing::warn!(image = %spec, "was unmounted behind our back, mounting it again");
            match self.restore(spec) {
                Err(e) if e.kind != ErrorKind::InUse => return Err(e),
                _ => {}
            }
            if let Some(mounted) = self.table.get(spec)
                && self.is_still_mounted(&mounted)?
            {
                return self.use_again(arrival);
            }
        }
        if !self.kind.may_exist(spec)? {
            let hint = self.kind.whereabouts(spec).unwrap_or_else(|| CREATE_IT.to_owned());
            return Err(missing(name).hint(hint));
        }
        self.mount_fresh(name, arrival, deadline)
    }

    fn mountable(&self, name: &str, spec: &ImageSpec) -> Result<ImageInfo> {
        let info = self.existing(name, spec).map_err(|e| match e.kind {
            ErrorKind::NotFound => e.hint(CREATE_IT),
            _ => e,
        })?;
        match info.trouble {
            Some(trouble) => Err(trouble.why),
            None => Ok(info),
        }
    }

    /// The kernel's word on a mount that we remember.
    pub(super) fn is_still_mounted(&self, mounted: &MountedVolume) -> Result<bool> {
        let there = self.host.mounted_at(&mounted.refs.mountpoint)?;
        Ok(there.is_some_and(|mount| mounted.attached.is_at(&mount)))
    }

    /// One more use of a mount that is there. The caller holds the guard.
    fn use_again(&self, arrival: &Arrival<'_>) -> Result<PathBuf> {
        let spec = arrival.spec();
        loop {
            let Some(seen) = self.table.get(spec) else {
                return Err(DriverError::new(ErrorKind::Busy, format!("{spec} was unmounted meanwhile")));
            };
            let is_stale =
                self.has_stale(&seen.refs, arrival) && !self.kind.held_elsewhere(&seen.attached)?;
            let _short = self.lock_uses(spec);
            let Some(now) = self.table.get(spec) else { continue };
            if is_stale && !Arc::ptr_eq(&seen, &now) {
                // What was seen of containers is not true of uses that have come since.
                continue;
            }
            let mut refs = now.refs.clone();
            if is_stale {
                refs.drop_orphans(|client| self.host.is_alive(client));
                if arrival.client.is_some() {
                    refs.uses.retain(|one_use| one_use.id != arrival.id());
                }
                let dropped = now.refs.total() - refs.total();
                self.hurry_orphans(spec);
                tracing::warn!(image = %spec, dropped, "dropped uses that Docker has forgotten");
            }
            return self.add_use(&now, refs, arrival);
        }
    }

    /// Whether there are uses that nobody will ever give back, if no container has the device: Docker comes with an ID that it has
    /// mounted already, or after an engine that died. `docker cp` does the former too, but then the container has it. Only an engine
    /// that we know keeps to these rules.
    pub(super) fn has_stale(&self, refs: &Refs, arrival: &Arrival<'_>) -> bool {
        (arrival.client.is_some() && refs.uses.iter().any(|one_use| one_use.id == arrival.id()))
            || refs.clients().collect::<BTreeSet<_>>().into_iter().any(|client| !self.host.is_alive(client))
    }

    fn mount_fresh(&self, name: &str, arrival: &Arrival<'_>, deadline: Deadline) -> Result<PathBuf> {
        let spec = arrival.spec();
        let mountpoint = self.mountpoint(spec);
        let refs_file = self.refs_file(spec);
        let mut undo = Undo::default();
        let result = (|| {
            undo.push("release the image", || self.kind.release(spec));
            let unable = |e: DriverError| e.context("Unable to get Exclusive Lock");
            self.claim_in_time(spec, deadline).map_err(unable)?;
            // Only now nobody else changes it.
            let info = self.mountable(name, spec)?;
            let job = Attach { spec, mountpoint: &mountpoint, volumes: self, deadline };
            let attached = self.kind.attach(job, info, &mut undo)?;
            let mut refs = Refs {
                boot_id: self.settings.boot_id.clone(),
                spec: spec.clone(),
                mountpoint: mountpoint.clone(),
                since: now(),
                uses: Vec::new(),
                unknown: Unknown::default(),
            };
            undo.push("forget the mount", || self.host.forget(&refs_file));
            let _short = self.lock_uses(spec);
            arrival.add_to(&mut refs)?;
            self.save_refs(&refs)?;
            self.table.put(MountedVolume { refs, attached });
            self.entries.change(spec, |entry| {
                entry.unsettled = false;
                entry.lost = None;
            });
            Ok(())
        })();
        match result {
            Ok(()) => Ok(self.mountpoint(spec)),
            // A check of it goes on, and with it all that was done here.
            Err(e) if self.guards.is_reserved(spec) => Err(e),
            Err(e) => Err(self.undo(spec, undo, e)),
        }
    }

    /// Claims the image; while another host has it, waits for that host to give it back, or to turn out to be dead.
    fn claim_in_time(&self, spec: &ImageSpec, deadline: Deadline) -> Result<()> {
        let until = deadline.at_most(self.settings.owner_wait);
        loop {
            match self.kind.claim(spec) {
                Err(e) if e.kind == ErrorKind::InUse && !until.left().is_zero() => {
                    tracing::debug!(image = %spec, error = %e, "waiting for its owner");
                    sleep(OWNER_POLL.min(until.left()));
                }
                answer => return answer,
            }
        }
    }

    pub(super) fn save_refs(&self, refs: &Refs) -> Result<()> {
        self.host.save(&self.refs_file(&refs.spec), &stored::write(refs))
    }

    /// Brings a volume to rest first, when an earlier operation could not.
    pub(super) fn restore_if_unsettled(&self, spec: &ImageSpec) -> Result<()> {
        if self.is_unsettled(spec) {
            self.restore(spec)?;
        }
        Ok(())
    }
}

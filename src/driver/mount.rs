//! Mount: one more use of the mount that is there, or claim → map → check → mount → remember.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use super::api::Client;
use super::read::missing;
use super::refs::Refs;
use super::table::MountedVolume;
use super::undo::Undo;
use super::uses::Arrival;
use super::{Driver, LONG};
use crate::backend::Device;
use crate::linux::mount;
use crate::lock;
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::{Content, Filesystem, FsKind, MountFlags};
use crate::model::image::ImageInfo;
use crate::model::mount::{Attached, Place};
use crate::model::name::{ImageSpec, VolumeName};
use crate::model::options::ImageOptions;
use crate::model::record::{Record, Stage};
use crate::model::stored::{self, Unknown};
use crate::model::time::{now, seconds};

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
        if !self.backend.may_exist(spec)? {
            let hint = self.backend.whereabouts(spec).unwrap_or_else(|| CREATE_IT.to_owned());
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
            let is_stale = self.has_stale(&seen.refs, arrival) && !self.held_elsewhere(&seen.attached)?;
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
            undo.push("release the image", || self.backend.release(spec));
            let unable = |e: DriverError| e.context("Unable to get Exclusive Lock");
            self.claim_in_time(spec, deadline).map_err(unable)?;
            // Only now nobody else changes it.
            let info = self.mountable(name, spec)?;
            let mapped = self.backend.mapping(spec)?;
            let ours = mapped.is_none() || lock(&self.unsettled).contains(spec);
            if ours {
                undo.push("unmap the image", || self.unmap_whatever(spec));
            }
            let device = match mapped {
                None => self.backend.map(spec)?,
                // Something still holds the device that we could not unmap: on one host, one device is one filesystem.
                Some(device) if ours => device,
                Some(device) => {
                    let device = device.path.display();
                    return Err(DriverError::new(
                        ErrorKind::InUse,
                        format!("{spec} is mapped to {device}, not by this plugin"),
                    )
                    .hint("unmap it"));
                }
            };
            // From here on `device` must be gone before anything is undone: it would hold itself.
            let attached = self.mount_device(spec, info, device, &mountpoint, &mut undo, deadline)?;
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
            lock(&self.unsettled).remove(spec);
            lock(&self.fenced).remove(spec);
            Ok(())
        })();
        match result {
            Ok(()) => Ok(self.mountpoint(spec)),
            // The check of its filesystem goes on, and with it all that was done here.
            Err(e) if self.guards.is_reserved(spec) => Err(e),
            Err(e) => Err(self.undo(spec, undo, e)),
        }
    }

    /// Claims the image; while another host has it, waits for that host to give it back, or to turn out to be dead.
    fn claim_in_time(&self, spec: &ImageSpec, deadline: Deadline) -> Result<()> {
        let until = deadline.at_most(self.settings.owner_wait);
        loop {
            match self.backend.claim(spec) {
                Err(e) if e.kind == ErrorKind::InUse && !until.left().is_zero() => {
                    tracing::debug!(image = %spec, error = %e, "waiting for its owner");
                    sleep(OWNER_POLL.min(until.left()));
                }
                answer => return answer,
            }
        }
    }

    fn mount_device<'a>(
        &'a self,
        spec: &ImageSpec,
        info: ImageInfo,
        device: Device,
        mountpoint: &'a Path,
        undo: &mut Undo<'a>,
        deadline: Deadline,
    ) -> Result<Attached> {
        let (device, filesystem, options) = self.ensure_filesystem(spec, info, device, deadline)?;
        let checked = self.check(spec, &device, &filesystem, deadline)?;
        deadline.check("checking the filesystem took too long")?;
        let flags = MountFlags { options: options.0.unwrap_or_default(), read_only: options.1 };
        let read_only = flags.read_only || mount::parse(&flags.options)?.read_only();
        if let Some(other) = self.host.mounted_at(mountpoint)? {
            return Err(DriverError::new(
                ErrorKind::InUse,
                format!("{} is mounted at {} already", other.source, mountpoint.display()),
            )
            .hint("unmount it; this plugin did not mount it"));
        }
        undo.push("remove the mountpoint", || self.host.remove_dir(mountpoint));
        self.host.make_dir(mountpoint)?;
        undo.push("unmount the volume", || self.host.unmount(mountpoint));
        let place = self.mount_filesystem(spec, &device, &filesystem, mountpoint, flags)?;
        if let Some(begun) = checked {
            self.disks.tidy(mountpoint, begun)?;
        }
        let source = device.path.display().to_string();
        Ok(Attached { place, source, fstype: filesystem.type_name, read_only })
    }

    /// Mounts what is on a volume's device. Of XFS the kernel mounts no second filesystem with one UUID, unless it is told `nouuid`: that is
    /// done for images that are known to be copies, and for no others, because one image under two devices looks the same.
    pub(super) fn mount_filesystem(
        &self,
        spec: &ImageSpec,
        device: &Device,
        filesystem: &Filesystem,
        target: &Path,
        mut flags: MountFlags,
    ) -> Result<Place> {
        let failed = match self.disks.mount(device, filesystem, target, &flags) {
            Err(e) if e.kind == ErrorKind::InUse && filesystem.kind != FsKind::Ext4 => e,
            done => return done,
        };
        let Some(twin) = self.disks.twin(device, filesystem)? else { return Err(failed) };
        let volumes = self.table.all();
        let of = volumes.iter().find(|volume| volume.refs.mountpoint == twin.target);
        let of = of.map_or_else(|| twin.source.clone(), |volume| volume.refs.spec.to_string());
        let failed = DriverError {
            message: format!("{of}, mounted at {}, has the same UUID as {spec}", twin.target.display()),
            ..failed
        };
        if filesystem.kind != FsKind::Xfs {
            return Err(failed);
        }
        match self.backend.is_copy(
            spec,
            &Device { path: PathBuf::from(&twin.source), number: twin.place.number, hold: None },
        ) {
            Ok(true) => {}
            Ok(false) => {
                return Err(failed.hint(
                    "unmount the other first: this cluster does not know the two as a clone and its origin, and one \
                     filesystem that is mounted twice destroys itself",
                ));
            }
            Err(e) => return Err(failed.also(e.context("whether it is a copy cannot be seen"))),
        }
        tracing::info!(image = %spec, %of, "is a copy with the same UUID: mounted with nouuid");
        flags.options = [flags.options.as_str(), "nouuid"].join(",").trim_start_matches(',').to_owned();
        self.disks.mount(device, filesystem, target, &flags)
    }

    /// The filesystem of an image that may be used; makes one on an image of somebody else that was never written to, if this
    /// plugin may create.
    fn ensure_filesystem(
        &self,
        spec: &ImageSpec,
        info: ImageInfo,
        device: Device,
        deadline: Deadline,
    ) -> Result<(Device, Filesystem, (Option<String>, bool))> {
        let created = seconds(info.created);
        let mut record = info.record.clone().unwrap_or_else(|| {
            let mount_options = self.settings.mount_options.clone();
            let options = ImageOptions { mount_options, ..ImageOptions::default() };
            Record::new(Stage::Creating, true, created, options)
        });
        let kept = (record.options.mount_options.clone(), record.options.read_only.unwrap_or(false));
        let expected = record.options.fstype.filter(|_| record.stage == Stage::Ready);
        let blank = match self.disks.probe(&device, expected)? {
            Content::Filesystem(found) => match &record.stage {
                // The mkfs of an adoption that died: never given out, so made anew.
                Stage::Formatting { uuid } if found.uuid.as_ref() == Some(uuid) => false,
                _ => {
                    if let Some(record) = &info.record {
                        self.correct_claimed(spec, record, &info, &found);
                    }
                    return Ok((device, found, kept));
                }
            },
            Content::Foreign(what) => {
                return Err(DriverError::new(
                    ErrorKind::ForeignData,
                    format!("{spec} holds {what}, which is no filesystem that this plugin mounts"),
                )
                .hint("it mounts ext2, ext3, ext4, xfs and btrfs"));
            }
            Content::Nothing => true,
        };
        if record.stage == Stage::Ready {
            return Err(DriverError::new(
                ErrorKind::NeedsRepair,
                format!("{spec} was formatted, but no filesystem is found on it"),
            )
            .hint("its data may be damaged: look at it with the filesystem's own tools; it is not formatted again"));
        }
        if !self.settings.create {
            return Err(DriverError::new(ErrorKind::NotAllowed, format!("{spec} has no filesystem"))
                .hint("format it yourself, or start the plugin with --create"));
        }
        record.options.size = info.size;
        record.options.mkfs_options = self.mkfs_options(&record.options);
        self.check_format(&record)?;
        let device = if matches!(record.stage, Stage::Formatting { .. }) {
            let unheld = device.unheld();
            drop(device);
            self.backend.unmap(spec, unheld)?;
            self.clear_half_made(spec, &mut record, true)?;
            self.backend.map(spec)?
        } else {
            device
        };
        if blank && !self.backend.is_untouched(spec)? {
            return Err(DriverError::new(
                ErrorKind::ForeignData,
                format!("{spec} has no filesystem, but was written to"),
            )
            .hint("format it yourself if that data is not needed"));
        }
        self.backend.write_record(spec, &record)?;
        let filesystem = self.provision(spec, &mut record, &device, deadline)?;
        Ok((device, filesystem, kept))
    }

    /// The device of a mounted volume. Only btrfs shows another number than its own.
    pub(super) fn device_of(&self, attached: &Attached) -> Result<Device> {
        let path = PathBuf::from(&attached.source);
        let number = match attached.fstype.as_str() {
            "btrfs" => self.disks.number(&path)?.unwrap_or_default(),
            _ => attached.place.number,
        };
        Ok(Device { path, number, hold: None })
    }

    /// Whether any other mount namespace of this host (a container) has the volume mounted.
    pub(super) fn held_elsewhere(&self, attached: &Attached) -> Result<bool> {
        Ok(self.disks.which_held(std::slice::from_ref(attached))?.contains(&true))
    }

    pub(super) fn save_refs(&self, refs: &Refs) -> Result<()> {
        self.host.save(&self.refs_file(&refs.spec), &stored::write(refs))
    }

    /// Brings a volume to rest first, when an earlier operation could not.
    pub(super) fn restore_if_unsettled(&self, spec: &ImageSpec) -> Result<()> {
        if lock(&self.unsettled).contains(spec) {
            self.restore(spec)?;
        }
        Ok(())
    }
}

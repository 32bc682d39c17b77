//! From an image to a mount: map → make a filesystem, if there never was one → check → mount; and what of it is left here afterwards.

use std::path::PathBuf;

use super::Block;
use crate::backend::Device;
use crate::driver::kind::{Attach, Undo};
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::{Content, Filesystem, FsKind, MountFlags};
use crate::model::image::ImageInfo;
use crate::model::mount::{Attached, Mounted, Place};
use crate::model::mount_options;
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::record::{Record, Stage};
use crate::model::time::seconds;

impl Block {
    /// See [`Kind::attach`](crate::driver::kind::Kind::attach).
    pub(super) fn attach<'a>(
        &'a self,
        job: Attach<'a>,
        info: ImageInfo,
        undo: &mut Undo<'a>,
    ) -> Result<Attached> {
        let Attach { spec, mountpoint, volumes, deadline } = job;
        let mapped = self.store.mapping(spec)?;
        let ours = mapped.is_none() || volumes.is_unsettled(spec);
        if ours {
            undo.push("unmap the image", move || self.unmap_whatever(spec));
        }
        let device = match mapped {
            None => self.store.map(spec)?,
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
        // It must be gone before anything is undone: it would hold itself. So nothing here keeps it.
        let (device, filesystem, options) = self.ensure_filesystem(spec, info, device, deadline)?;
        let checked = self.check(job, &device, &filesystem)?;
        deadline.check("checking the filesystem took too long")?;
        let flags = MountFlags { options: options.0.unwrap_or_default(), read_only: options.1 };
        let read_only = flags.read_only || mount_options::parse(&flags.options)?.read_only();
        if let Some(other) = self.host.mounted_at(mountpoint)? {
            return Err(DriverError::new(
                ErrorKind::InUse,
                format!("{} is mounted at {} already", other.source, mountpoint.display()),
            )
            .hint("unmount it; this plugin did not mount it"));
        }
        undo.push("remove the mountpoint", move || self.host.remove_dir(mountpoint));
        self.host.make_dir(mountpoint)?;
        undo.push("unmount the volume", move || self.host.unmount(mountpoint));
        let place = self.mount_filesystem(job, &device, &filesystem, flags)?;
        if let Some(begun) = checked {
            self.disks.tidy(mountpoint, begun)?;
        }
        let source = device.path.display().to_string();
        Ok(Attached { place, source, fstype: filesystem.type_name, read_only })
    }

    /// See [`Kind::attach_again`](crate::driver::kind::Kind::attach_again). The kernel gives containers and us the filesystem that they have:
    /// it is neither checked nor made.
    pub(super) fn attach_again(
        &self,
        job: Attach<'_>,
        before: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Option<Attached>> {
        let Attach { spec, mountpoint, .. } = job;
        let Some(device) = self.store.mapping(spec)? else { return Ok(None) };
        let unmounted = Attached {
            place: Place::whole(device.number),
            source: device.path.display().to_string(),
            fstype: String::new(),
            read_only: false,
        };
        if !self.disks.which_held(&[unmounted])?.contains(&true) {
            return Ok(None);
        }
        let options = self.store.info(spec)?.and_then(|info| info.record).map(|record| record.options);
        // An image of somebody else has no record.
        let options = options.unwrap_or_else(|| ImageOptions {
            mount_options: self.settings.mount_options.clone(),
            ..ImageOptions::default()
        });
        let Content::Filesystem(found) = self.disks.probe(&device, options.fstype)? else { return Ok(None) };
        let flags = MountFlags {
            options: options.mount_options.unwrap_or_default(),
            read_only: options.read_only.unwrap_or(false),
        };
        before()?;
        self.host.make_dir(mountpoint)?;
        self.mount_filesystem(job, &device, &found, flags)?;
        Ok(self.host.mounted_at(mountpoint)?.as_ref().map(Attached::from))
    }

    /// See [`Kind::sweep`](crate::driver::kind::Kind::sweep).
    pub(super) fn sweep(&self, spec: &ImageSpec, mounts: &[Mounted]) -> Result<()> {
        let staging = self.staging(spec);
        if mounts.iter().any(|mount| mount.target == staging) {
            self.host.unmount(&staging)?;
        }
        self.host.remove_dir(&staging)?;
        let Some(device) = self.store.mapping(spec)? else { return Ok(()) };
        if let Some(other) = self.host.mounts()?.iter().find(|mount| device.is_at(mount)) {
            return Err(DriverError::new(
                ErrorKind::InUse,
                format!("{spec} is mounted at {}, not by this plugin", other.target.display()),
            )
            .hint("unmount it"));
        }
        self.store.unmap(spec, device)
    }

    /// Unmaps the image from whatever device it is mapped to; the caller has claimed it, or could not.
    pub(super) fn unmap_whatever(&self, spec: &ImageSpec) -> Result<()> {
        match self.store.mapping(spec)? {
            Some(device) => self.store.unmap(spec, device),
            None => Ok(()),
        }
    }

    /// Mounts what is on a volume's device. Of XFS the kernel mounts no second filesystem with one UUID, unless it is told `nouuid`: that is
    /// done for images that are known to be copies, and for no others, because one image under two devices looks the same.
    fn mount_filesystem(
        &self,
        job: Attach<'_>,
        device: &Device,
        filesystem: &Filesystem,
        mut flags: MountFlags,
    ) -> Result<Place> {
        let Attach { spec, mountpoint: target, volumes, .. } = job;
        let failed = match self.disks.mount(device, filesystem, target, &flags) {
            Err(e) if e.kind == ErrorKind::InUse && filesystem.kind != FsKind::Ext4 => e,
            done => return done,
        };
        let Some(twin) = self.disks.twin(device, filesystem)? else { return Err(failed) };
        let of = volumes.mounted_at(&twin.target);
        let of = of.map_or_else(|| twin.source.clone(), |volume| volume.to_string());
        let failed = DriverError {
            message: format!("{of}, mounted at {}, has the same UUID as {spec}", twin.target.display()),
            ..failed
        };
        if filesystem.kind != FsKind::Xfs {
            return Err(failed);
        }
        match self.store.is_copy(
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
            self.store.unmap(spec, unheld)?;
            self.clear_half_made(spec, &mut record, true)?;
            self.store.map(spec)?
        } else {
            device
        };
        if blank && !self.store.is_untouched(spec)? {
            return Err(DriverError::new(
                ErrorKind::ForeignData,
                format!("{spec} has no filesystem, but was written to"),
            )
            .hint("format it yourself if that data is not needed"));
        }
        self.store.write_record(spec, &record)?;
        let filesystem = self.make_filesystem(spec, &mut record, &device, deadline)?;
        Ok((device, filesystem, kept))
    }
}

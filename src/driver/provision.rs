//! From a blank image to a filesystem that is ready for use, and the law that nothing else is ever formatted.
//!
//! ```text
//! (no image) ──create──▶ Creating ──mkfs starts──▶ Formatting{uuid} ──set up──▶ Ready
//! (foreign, untouched) ──adopt──▶ Creating
//! ```
//!
//! mkfs runs only from `Creating`, on a device without any signature whose first and last MiB read as zeros. An image that
//! died in `Formatting` is made blank again only if it holds no signature, or the very filesystem UUID that we gave to mkfs and no
//! file. One that cannot be looked into is left alone.

use nix::errno::Errno;

use super::Driver;
use super::undo::Undo;
use crate::backend::Device;
use crate::linux::{boot, fs, mount};
use crate::model::deadline::Deadline;
use crate::model::error::{CallError, DriverError, ErrorKind, Result};
use crate::model::filesystem::{Content, Filesystem, Format, MountFlags, Settle};
use crate::model::image::ImageInfo;
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::record::{Record, Stage};
use crate::model::size::Size;

impl ImageInfo {
    /// Whether this is what a Create left that died: then there is no volume yet. An image that was there before us always is
    /// a volume.
    pub fn is_half_made(&self) -> bool {
        match &self.record {
            Some(record) => self.size.is_none() || (record.stage != Stage::Ready && !record.adopted),
            None => false,
        }
    }

    /// Whether a Create has begun it, and has not ended yet.
    pub fn is_being_made(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.stage != Stage::Ready && !record.adopted)
    }
}

impl Driver {
    /// Formats the blank device of an image in stage `Creating` and sets the filesystem up.
    pub(super) fn provision(
        &self,
        spec: &ImageSpec,
        record: &mut Record,
        device: &Device,
        deadline: Deadline,
    ) -> Result<Filesystem> {
        let kind = record.options.fstype.unwrap_or(self.settings.fs);
        self.refuse_unless_blank(spec, device)?;
        let uuid = boot::random_uuid()?;
        record.stage = Stage::Formatting { uuid: uuid.clone() };
        self.backend.write_record(spec, record)?;
        let format = Format { kind, uuid: uuid.clone(), options: record.options.mkfs_options.clone() };
        self.disks.format(device, &format, deadline)?;
        let filesystem = match self.disks.probe(device, None)? {
            Content::Filesystem(found) if found.kind == kind && found.uuid.as_ref() == Some(&uuid) => found,
            found => {
                return Err(DriverError::new(
                    ErrorKind::Failed,
                    format!(
                        "mkfs.{kind} succeeded, but {spec} holds {found} instead of its filesystem {uuid}"
                    ),
                ));
            }
        };
        self.set_up(spec, record, device, &filesystem)?;
        record.stage = Stage::Ready;
        self.backend.write_record(spec, record)?;
        Ok(filesystem)
    }

    /// Law 5, on the device itself.
    fn refuse_unless_blank(&self, spec: &ImageSpec, device: &Device) -> Result<()> {
        // First, because the probe then finds in memory what it reads of them, piece by piece.
        let zero = self.disks.ends_are_zero(device)?;
        let content = self.disks.probe(device, None)?;
        if content == Content::Nothing && zero {
            return Ok(());
        }
        let found = match content {
            Content::Nothing => "data at its beginning or end".to_owned(),
            other => other.to_string(),
        };
        Err(DriverError::new(ErrorKind::ForeignData, format!("{spec} holds {found}: it is not formatted"))
            .hint("format it yourself, or remove it, if that data is not needed"))
    }

    /// Mounts the fresh filesystem out of sight, with the volume's own mount options, so that a wrong one shows now; but writable,
    /// whatever they say.
    fn set_up(
        &self,
        spec: &ImageSpec,
        record: &Record,
        device: &Device,
        filesystem: &Filesystem,
    ) -> Result<()> {
        let options = &record.options;
        let staging = self.staging(spec);
        let mut undo = Undo::default();
        let result = (|| {
            undo.push("remove the staging folder", || self.host.remove_dir(&staging));
            self.host.make_dir(&staging)?;
            let words: Vec<&str> = options.mount_options.as_deref().into_iter().chain(["rw"]).collect();
            let flags = MountFlags { options: words.join(","), read_only: false };
            undo.push("unmount the staging folder", || self.host.unmount(&staging));
            self.disks.mount(device, filesystem, &staging, &flags)?;
            self.disks
                .settle(&staging, &Settle { uid: options.uid, gid: options.gid, mode: options.mode })?;
            self.host.unmount(&staging)?;
            self.host.remove_dir(&staging)
        })();
        result.map_err(|e| undo.run(e).error)
    }

    /// Makes a half-made image blank again, or takes it away when it is ours, provided that nobody else's data can be on it.
    /// The caller has claimed it.
    pub(super) fn clear_half_made(
        &self,
        spec: &ImageSpec,
        record: &mut Record,
        has_image: bool,
    ) -> Result<()> {
        let refuse = |found: &str| {
            Err(DriverError::new(
                ErrorKind::ForeignData,
                format!("{spec} was left half made, and holds {found} that this plugin did not write"),
            )
            .hint("look at it, then format or remove it yourself"))
        };
        match &record.stage {
            _ if !has_image => {}
            // Being deleted: only the image itself can be missing, see ImageStore::remove.
            Stage::Ready => {}
            Stage::Creating if self.backend.is_untouched(spec)? => {}
            Stage::Creating => return refuse("data"),
            Stage::Formatting { uuid } => {
                let device = self.backend.map(spec)?;
                let found = self.look_for_data(spec, &device, uuid);
                self.backend.unmap(spec, device)?;
                if let Some(what) = found? {
                    return refuse(&what);
                }
            }
        }
        // Whatever was being deleted is deleted.
        if !record.adopted || !has_image {
            return self.backend.remove(spec);
        }
        self.backend.discard(spec)?;
        record.stage = Stage::Creating;
        self.backend.write_record(spec, record)
    }

    /// What an image that died while it was formatted holds beyond what mkfs wrote: another filesystem, or files.
    fn look_for_data(&self, spec: &ImageSpec, device: &Device, uuid: &String) -> Result<Option<String>> {
        let filesystem = match self.disks.probe(device, None)? {
            Content::Nothing => return Ok(None),
            Content::Filesystem(found) if found.uuid.as_ref() == Some(uuid) => found,
            other => return Ok(Some(other.to_string())),
        };
        let staging = self.staging(spec);
        let flags = MountFlags { options: String::new(), read_only: true };
        self.host.make_dir(&staging)?;
        let empty = match self.disks.mount(device, &filesystem, &staging, &flags) {
            Ok(_) => self.disks.is_empty(&staging),
            // mkfs did not get far enough for anybody to have used it.
            Err(e) if is_damage(&e) => Ok(true),
            Err(e) => Err(e),
        };
        let empty = empty.map_err(|e| {
            e.context(format_args!("it cannot be seen whether {spec}, left half made, holds files"))
        });
        self.host.unmount(&staging)?;
        self.host.remove_dir(&staging)?;
        Ok((!empty?).then(|| "files".to_owned()))
    }

    /// Unmaps the image from whatever device it is mapped to; the caller has claimed it, or could not.
    pub(super) fn unmap_whatever(&self, spec: &ImageSpec) -> Result<()> {
        match self.backend.mapping(spec)? {
            Some(device) => self.backend.unmap(spec, device),
            None => Ok(()),
        }
    }

    /// The mount options of an image, when these were given for it.
    pub(super) fn mount_options(&self, given: &ImageOptions) -> Option<String> {
        given.mount_options.clone().or_else(|| self.settings.mount_options.clone())
    }

    /// Its further options for mkfs: those of the settings are for one filesystem.
    pub(super) fn mkfs_options(&self, given: &ImageOptions) -> Vec<String> {
        let fits = given.fstype.is_none_or(|fstype| fstype == self.settings.fs);
        if given.mkfs_options.is_empty() && fits {
            self.settings.mkfs_options.clone()
        } else {
            given.mkfs_options.clone()
        }
    }

    /// Everything about a format that can be refused before anything is made.
    pub(super) fn check_format(&self, record: &Record) -> Result<()> {
        let kind = record.options.fstype.unwrap_or(self.settings.fs);
        let size = record.options.size.unwrap_or(self.settings.size);
        let words = &record.options.mkfs_options;
        fs::check_options(kind, words)?;
        let minimum = Size::bytes(fs::minimum(kind, words));
        if size < minimum {
            return Err(DriverError::invalid(format!(
                "{size} is too small for {kind}, which needs {minimum}"
            ))
            .hint("give a larger size, or another fstype"));
        }
        if let Some(options) = &record.options.mount_options {
            mount::parse(options)?;
        }
        Ok(())
    }
}

/// Whether a filesystem was not mounted because the kernel or its checker has found it incomplete or damaged. Any other failure (no memory,
/// no answer of the storage, a kernel that does not know it) says nothing about what it holds.
fn is_damage(e: &DriverError) -> bool {
    let refused = |call: &CallError| matches!(call.errno, Errno::EINVAL | Errno::EUCLEAN | Errno::EBADMSG);
    e.kind == ErrorKind::NeedsRepair && e.source.as_ref().is_some_and(refused)
}

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

use super::Block;
use crate::backend::Device;
use crate::driver::kind::Undo;
use crate::linux::{boot, fs};
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::{Content, Filesystem, Format, MountFlags, Settle};
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::record::{Record, Stage};
use crate::model::size::Size;
use crate::model::time::now;
use crate::model::{mkfs_options, mount_options};

impl Block {
    /// See [`Kind::plan`](crate::driver::kind::Kind::plan).
    pub(super) fn plan(&self, asked: &ImageOptions, size: Option<Size>) -> Result<Record> {
        let options = ImageOptions {
            size: Some(asked.size.or(size).unwrap_or(self.settings.size)),
            fstype: Some(asked.fstype.unwrap_or(self.settings.fs)),
            mount_options: self.mount_options(asked),
            mkfs_options: self.mkfs_options(asked),
            ..asked.clone()
        };
        let record = Record::new(Stage::Creating, false, now(), options);
        self.check_format(&record)?;
        Ok(record)
    }

    /// See [`Kind::provision`](crate::driver::kind::Kind::provision).
    pub(super) fn provision<'a>(
        &'a self,
        spec: &'a ImageSpec,
        mut record: Record,
        undo: &mut Undo<'a>,
        deadline: Deadline,
    ) -> Result<()> {
        let size = record.options.size.unwrap_or(self.settings.size);
        let created = self.store.create(spec, size, &record);
        // Whatever exists already is not ours to remove.
        if !created.as_ref().is_err_and(|e| e.kind == ErrorKind::AlreadyExists) {
            undo.push("remove the image", move || self.store.remove(spec));
        }
        created?;
        undo.push("unmap the image", move || self.unmap_whatever(spec));
        let device = self.store.map(spec)?;
        let made = self.make_filesystem(spec, &mut record, &device, deadline);
        // The rollback must find the device without our own hold on it.
        let unheld = device.unheld();
        drop(device);
        made?;
        self.store.unmap(spec, unheld)
    }

    /// Formats the blank device of an image in stage `Creating` and sets the filesystem up.
    pub(super) fn make_filesystem(
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
        self.store.write_record(spec, record)?;
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
        self.store.write_record(spec, record)?;
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
        mkfs_options::check_options(kind, words)?;
        let minimum = Size::bytes(fs::minimum(kind, words));
        if size < minimum {
            return Err(DriverError::invalid(format!(
                "{size} is too small for {kind}, which needs {minimum}"
            ))
            .hint("give a larger size, or another fstype"));
        }
        if let Some(options) = &record.options.mount_options {
            mount_options::parse(options)?;
        }
        Ok(())
    }
}

//! Image files and their records.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::{Whence, lseek64};

use super::{LocalBackend, owner};
use crate::backend::ImageStore;
use crate::linux::{files, probe};
use crate::model::bindings::Bindings;
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};
use crate::model::filesystem::Content;
use crate::model::image::{ImageInfo, Listing, Trouble};
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::owner::Owner;
use crate::model::record::{Record, Stage};
use crate::model::size::Size;
use crate::model::stored;

impl LocalBackend {
    fn record(&self, spec: &ImageSpec) -> Result<Option<Record>> {
        let path = self.paths.record(spec);
        let Some(content) = files::load(&path)? else { return Ok(None) };
        stored::read(&content).map(Some).map_err(|e| {
            e.of(&format!("the record {}", path.display()), || {
                "repair it, or move it away to use the image as one that somebody else made".to_owned()
            })
        })
    }

    fn open_image(&self, spec: &ImageSpec) -> Result<File> {
        let path = self.paths.image(spec);
        Ok(OpenOptions::new().read(true).write(true).open(&path).or_call("open", path.display())?)
    }
}

/// What keeps a file from being an image.
fn trouble(spec: &ImageSpec, path: &Path, file: &Metadata) -> Option<Trouble> {
    let kind = file.file_type();
    let what = match kind {
        _ if kind.is_file() && file.len() > 0 => return None,
        _ if kind.is_file() => {
            let why = DriverError::new(ErrorKind::Failed, format!("{spec} has no size"))
                .hint(format!("give it one: truncate -s 1G {}", path.display()));
            return Some(Trouble { why, removable: true });
        }
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_char_device() => "a character device",
        _ if kind.is_block_device() => "a block device",
        _ => "a socket",
    };
    let message = format!("{} is {what}, not a regular file", path.display());
    let why = DriverError::new(ErrorKind::Failed, message)
        .hint("images of the local backend are regular files; move it away");
    Some(Trouble { why, removable: false })
}

impl ImageStore for LocalBackend {
    fn info(&self, spec: &ImageSpec) -> Result<Option<ImageInfo>> {
        let path = self.paths.image(spec);
        let image = match fs::metadata(&path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                if fs::symlink_metadata(&path).is_ok() {
                    return Err(DriverError::new(
                        ErrorKind::Unreachable,
                        format!("{} is a link to something that is not there", path.display()),
                    )
                    .hint("is its filesystem mounted?"));
                }
                None
            }
            image => Some(image.or_call("stat", path.display())?),
        };
        let record = self.record(spec)?;
        if image.is_none() && record.is_none() {
            return self.paths.is_there().map(|()| None);
        }
        // A Create that was killed leaves an empty file, and is no trouble.
        let is_made = record.as_ref().is_none_or(|record| record.stage == Stage::Ready || record.adopted);
        let trouble = image.as_ref().filter(|_| is_made).and_then(|image| trouble(spec, &path, image));
        Ok(Some(ImageInfo {
            size: image.as_ref().map(|image| Size::bytes(image.len())),
            record,
            created: image.as_ref().and_then(|image| image.modified().ok()).unwrap_or(SystemTime::UNIX_EPOCH),
            allocated: image.as_ref().map(|image| Size::bytes(image.blocks() * 512)),
            id: None,
            is: ImageOptions {
                size: image.as_ref().map(|image| Size::bytes(image.len())),
                ..ImageOptions::default()
            },
            trouble,
            details: BTreeMap::new(),
        }))
    }

    fn may_exist(&self, spec: &ImageSpec) -> Result<bool> {
        Ok(self.backing(spec)?.is_some())
    }

    fn content(&self, spec: &ImageSpec) -> Result<Content> {
        let path = self.paths.image(spec);
        Ok(probe::content_of(&self.open_image(spec)?, &path.display().to_string())?)
    }

    fn list(&self) -> Result<Listing> {
        let mut whole = Vec::new();
        for spec in self.paths.specs("img")? {
            // A record that cannot be read is Get's to tell.
            let record = self.record(&spec).unwrap_or_default();
            if record.is_none_or(|record| record.stage == Stage::Ready || record.adopted) {
                whole.push(spec);
            }
        }
        Ok(whole.into())
    }

    fn create(&self, spec: &ImageSpec, size: Size, record: &Record) -> Result<()> {
        let path = self.paths.image(spec);
        // Before the record is written: that of an image that is there must stay.
        match fs::symlink_metadata(&path) {
            Ok(_) => return Err(DriverError::new(ErrorKind::AlreadyExists, format!("{spec} exists"))),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => Err(e).or_call("lstat", path.display())?,
        }
        self.paths.make_folder(spec)?;
        self.write_record(spec, record)?;
        let image = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            // Somebody copied an image there this moment: it is theirs.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                files::forget(&self.paths.record(spec))?;
                return Err(DriverError::new(ErrorKind::AlreadyExists, format!("{spec} exists")));
            }
            image => image.or_call("open", path.display())?,
        };
        image.set_len(size.as_bytes()).or_call("ftruncate", path.display())?;
        // Its name becomes durable with the next record, at the latest with the one that says `Ready`.
        Ok(image.sync_all().or_call("fsync", path.display())?)
    }

    fn write_record(&self, spec: &ImageSpec, record: &Record) -> Result<()> {
        Ok(files::save(&self.paths.record(spec), &stored::write_pretty(record))?)
    }

    fn is_untouched(&self, spec: &ImageSpec) -> Result<bool> {
        let image = self.open_image(spec)?;
        match lseek64(&image, 0, Whence::SeekData) {
            Err(Errno::ENXIO) => Ok(true),
            answer => Ok(answer.or_call("lseek", self.paths.image(spec).display()).map(|_| false)?),
        }
    }

    fn discard(&self, spec: &ImageSpec) -> Result<()> {
        let path = self.paths.image(spec);
        let image = self.open_image(spec)?;
        let size = image.metadata().or_call("fstat", path.display())?.len();
        image.set_len(0).or_call("ftruncate", path.display())?;
        image.set_len(size).or_call("ftruncate", path.display())?;
        Ok(image.sync_all().or_call("fsync", path.display())?)
    }

    fn remove(&self, spec: &ImageSpec) -> Result<()> {
        files::forget(&self.paths.image(spec))?;
        Ok(files::forget(&self.paths.record(spec))?)
    }

    fn rename(&self, from: &ImageSpec, to: &ImageSpec) -> Result<()> {
        let (old, new) = (self.paths.image(from), self.paths.image(to));
        // One step for the image: at no time has it two names, under which it could be mounted twice. Killed before the record
        // follows, it is an image without one.
        match renameat2(AT_FDCWD, &old, AT_FDCWD, &new, RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EEXIST) => {
                return Err(DriverError::new(ErrorKind::AlreadyExists, format!("{to} exists")));
            }
            // A filesystem that cannot: the caller has claimed the new name, so no plugin makes it meanwhile.
            Err(Errno::EINVAL) if fs::symlink_metadata(&new).is_err() => {
                fs::rename(&old, &new).or_call("rename", old.display())?;
            }
            renamed => renamed.or_call("rename", old.display())?,
        }
        if let Some(record) = self.record(from)? {
            self.write_record(to, &record)?;
        }
        Ok(files::forget(&self.paths.record(from))?)
    }

    fn claim(&self, spec: &ImageSpec) -> Result<()> {
        self.take(spec)
    }

    fn release(&self, spec: &ImageSpec) -> Result<()> {
        self.give_back(spec)
    }

    fn owner(&self, spec: &ImageSpec, _id: Option<&str>) -> Result<Option<Owner>> {
        let path = self.paths.owner(spec);
        // Nothing is in it yet where somebody is just claiming the image.
        let Some(content) = files::load(&path)? else { return Ok(None) };
        owner::understood(&content, &path)
    }

    fn owned(&self) -> Result<Listing> {
        let mut owned = Vec::new();
        for spec in self.paths.specs("owner")? {
            let owner = match self.owner(&spec, None) {
                // What else there is of it, such as a mount, tells whether it was ours.
                Err(e) if e.source.is_none() => {
                    tracing::warn!("{e}");
                    continue;
                }
                owner => owner?,
            };
            // Free files lie beside every image that was ever mounted.
            if owner.is_some_and(|owner| owner.same_plugin(&self.identity)) {
                owned.push(spec);
            }
        }
        Ok(owned.into())
    }

    fn bindings(&self) -> Result<Arc<Bindings>> {
        self.names.all()
    }

    fn bind(&self, name: &str, spec: &ImageSpec) -> Result<()> {
        self.names.bind(name, spec)
    }

    fn unbind(&self, name: &str, spec: &ImageSpec) -> Result<()> {
        self.names.unbind(name, spec)
    }
}

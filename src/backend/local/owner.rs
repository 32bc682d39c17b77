//! Ownership: a record and a lock in one file.
//!
//! The file is locked by flock(2) for as long as its plugin lives and owns the image, so of two plugins on one host (or on one
//! network filesystem) only one can pass. A lock ends with its process and a mount does not: therefore the record stays when a plugin
//! dies or stops, and whoever finds it unlocked decides by what the kernel says of the image.
//!
//! The record need not survive a power failure: after one the boot id differs and nothing is mapped. An empty record, and one that ends
//! too soon, was being written by somebody who died before mapping anything. One that begins with a zero byte was given back. Any other
//! that is not understood may be of a newer version of the plugin, or damaged, and its image may be in use: nobody follows it.
//!
//! The file stays for the next Mount for as long as there is its image. A loop device writes its superblock through the filesystem
//! below, which commits its journal then, and with it whatever was created or removed there meanwhile.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::LocalBackend;
use nix::errno::Errno;

use crate::backend::Mapper;
use crate::linux::files;
use crate::lock;
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};
use crate::model::name::ImageSpec;
use crate::model::owner::Owner;
use crate::model::stored::{self, NotUnderstood};
use crate::model::time;

/// How often the file may be replaced under us while we lock it.
const ATTEMPTS: u32 = 100;

/// How long its holder may take to write who it is.
const WRITES: Duration = Duration::from_millis(200);

/// Room for any record, so that one read tells all of it.
const ROOM: usize = 4096;

impl LocalBackend {
    pub(super) fn take(&self, spec: &ImageSpec) -> Result<()> {
        if lock(&self.held).contains_key(spec) {
            return Ok(());
        }
        if let Some(backing) = self.backing(spec)? {
            let other = lock(&self.files).entry(backing).or_insert_with(|| spec.clone()).clone();
            if other != *spec {
                return Err(DriverError::new(
                    ErrorKind::Failed,
                    format!("{spec} and {other} are one image under two names, and it is used as {other}"),
                )
                .hint("use one name for it: one filesystem that is mounted twice destroys itself"));
            }
        }
        self.take_named(spec).inspect_err(|_| self.forget_file(spec))
    }

    fn forget_file(&self, spec: &ImageSpec) {
        lock(&self.files).retain(|_, named| named != spec);
    }

    fn take_named(&self, spec: &ImageSpec) -> Result<()> {
        let path = self.paths.owner(spec);
        let file = match lock_file(&path) {
            Err(e) if e.source.as_ref().is_some_and(|call| call.errno == Errno::ENOENT) => {
                self.paths.is_there()?;
                self.paths.make_folder(spec)?;
                lock_file(&path)?
            }
            file => file?,
        };
        let content = read(&file, &path)?;
        let before = understood(&content, &path)?;
        if let Some(owner) = &before {
            self.may_follow(spec, owner, &path)?;
        }
        // A record of ours of this boot is right as it is, and may speak of a mount: it is not touched.
        if !before
            .is_some_and(|owner| owner.same_plugin(&self.identity) && owner.boot_id == self.identity.boot_id)
        {
            let owner = Owner { since: time::now(), ..self.identity.clone() };
            let record = stored::write(&owner);
            file.write_all_at(&record, 0).or_call("write", path.display())?;
            // The end of a longer one. Both are short, and to cut nothing off is a change less for the filesystem.
            if content.len() > record.len() {
                file.set_len(record.len() as u64).or_call("ftruncate", path.display())?;
            }
        }
        lock(&self.held).insert(spec.clone(), file);
        Ok(())
    }

    /// Whether we may follow an owner whose lock is free, which means that its plugin is not running.
    fn may_follow(&self, spec: &ImageSpec, owner: &Owner, path: &Path) -> Result<()> {
        if owner.same_plugin(&self.identity) {
            return Ok(());
        }
        if !owner.same_host(&self.identity) {
            return Err(
                in_use(spec, owner).hint(format!("if that host is gone for good, remove {}", path.display()))
            );
        }
        if owner.boot_id == self.identity.boot_id
            && let Some(device) = self.mapping(spec)?
        {
            return Err(in_use(spec, owner).hint(format!(
                "that plugin is not running, but the image is on {}: start it",
                device.path.display()
            )));
        }
        tracing::warn!(image = %spec, %owner, "taking over from an owner that is gone");
        Ok(())
    }

    pub(super) fn give_back(&self, spec: &ImageSpec) -> Result<()> {
        // Out of the map before the call, which may take its time: others must not wait for it.
        let Some(file) = lock(&self.held).remove(spec) else { return Ok(()) };
        if let Err(e) = self.end_record(spec, &file) {
            lock(&self.held).insert(spec.clone(), file);
            return Err(e);
        }
        self.forget_file(spec);
        // Unlocked only now: nobody can lock a file that is about to lose its name.
        drop(file);
        Ok(())
    }

    /// Nobody owns the image from here on. The file goes with its image.
    fn end_record(&self, spec: &ImageSpec, file: &File) -> Result<()> {
        let path = self.paths.owner(spec);
        let stays = fs::symlink_metadata(self.paths.image(spec)).is_ok();
        // A filesystem that is full and writes nothing in place can still remove it.
        if !stays || blank(file).is_err() {
            files::remove(&path)?;
        }
        Ok(())
    }
}

/// Overwrites a record with zeros: all of them, because earlier versions take only such a file for a free one.
fn blank(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    file.write_all_at(&vec![0; usize::try_from(length).unwrap_or_default()], 0)
}

fn in_use(spec: &ImageSpec, owner: &Owner) -> DriverError {
    DriverError::new(ErrorKind::InUse, format!("{spec} is in use by {owner}"))
}

/// Who is on record; nothing when the record was given back, or never written to its end.
pub(super) fn understood(content: &[u8], path: &Path) -> Result<Option<Owner>> {
    // Given back; and a power failure may leave a file whose bytes were never written.
    if content.first().is_none_or(|&first| first == 0) {
        return Ok(None);
    }
    // What is behind it is the end of a longer record: its writer died before it could cut that off.
    let owner = match serde_json::Deserializer::from_slice(content).into_iter().next().transpose() {
        Err(e) if e.is_eof() => return Ok(None),
        Err(e) => Err(NotUnderstood::Damaged(e)),
        Ok(None) => return Ok(None),
        Ok(Some(value)) => stored::from_value(value),
    };
    owner.map(Some).map_err(|e| {
        e.of(&format!("the owner record {}", path.display()), || {
            format!("remove it when no host has {} in use", path.with_extension("img").display())
        })
    })
}

/// The file, locked, and still the one of this name.
fn lock_file(path: &Path) -> Result<File> {
    for _ in 0..ATTEMPTS {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).or_call("open", path.display())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let who = holder(&file, path)?;
                let what = path.with_extension("img");
                return Err(DriverError::new(
                    ErrorKind::InUse,
                    format!("{} is in use by {who}", what.display()),
                )
                .hint("unmount the volume there"));
            }
            Err(TryLockError::Error(e)) => Err(e).or_call("flock", path.display())?,
        }
        let ours = file.metadata().or_call("fstat", path.display())?;
        match fs::metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
            _ => {}
        }
    }
    Err(DriverError::new(ErrorKind::Busy, format!("{} keeps being replaced", path.display())))
}

/// Who has it locked, for people. Whoever has only just locked it writes its record next.
fn holder(file: &File, path: &Path) -> Result<String> {
    let until = Deadline::after(WRITES);
    loop {
        let content = read(file, path)?;
        if let Ok(Some(owner)) = understood(&content, path) {
            return Ok(owner.to_string());
        }
        if until.left().is_zero() {
            return Ok("somebody".to_owned());
        }
        sleep(Duration::from_millis(1));
    }
}

fn read(file: &File, path: &Path) -> Result<Vec<u8>> {
    let mut content = vec![0; ROOM];
    let mut length = 0;
    loop {
        let read = file.read_at(&mut content[length..], length as u64).or_call("read", path.display())?;
        length += read;
        if read == 0 || length < content.len() {
            content.truncate(length);
            return Ok(content);
        }
        content.resize(2 * length, 0);
    }
}

//! The registry of bare names, one for each default pool and namespace: a small file, changed under a lock, read through a cache that stat(2) keeps honest.

use std::collections::BTreeMap;
use std::fs::{self, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use super::Paths;
use crate::linux::files;
use crate::lock;
use crate::model::bindings::{Bindings, Bound};
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};
use crate::model::name::ImageSpec;

/// How long another plugin may keep the registry locked: it changes one small file meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(5);

/// As they are stored.
type Stored = BTreeMap<String, ImageSpec>;
/// What tells one version of the file from another.
type Version = (u64, i64, i64, u64);

#[derive(Debug)]
pub(super) struct Names {
    paths: Paths,
    file: PathBuf,
    cached: Mutex<(Option<Version>, Arc<Bindings>)>,
}

impl Names {
    pub(super) fn new(paths: &Paths, (pool, namespace): (&str, Option<&str>)) -> Self {
        let namespace = namespace.map(|namespace| format!("@{namespace}")).unwrap_or_default();
        Self {
            file: paths.dir.join(format!(".names-{pool}{namespace}")),
            paths: paths.clone(),
            cached: Mutex::default(),
        }
    }

    pub(super) fn all(&self) -> Result<Arc<Bindings>> {
        let version = match fs::metadata(&self.file) {
            Ok(found) => Some(version(&found)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.paths.is_there()?;
                None
            }
            failed => failed.or_call("stat", self.file.display()).map(|found| Some(version(&found)))?,
        };
        {
            let cached = lock(&self.cached);
            if cached.0 == version {
                return Ok(Arc::clone(&cached.1));
            }
        }
        // Read outside the lock, which others must not wait for.
        let stored = if version.is_some() { self.read()? } else { Stored::new() };
        let bindings: Bindings = stored.into_iter().map(|(name, spec)| (name, Bound::To(spec))).collect();
        let bindings = Arc::new(bindings);
        *lock(&self.cached) = (version, Arc::clone(&bindings));
        Ok(bindings)
    }

    fn read(&self) -> Result<Stored> {
        let Some(content) = files::load(&self.file)? else { return Ok(Stored::new()) };
        serde_json::from_slice(&content).map_err(|e| {
            DriverError::new(ErrorKind::Failed, format!("{} is damaged: {e}", self.file.display()))
        })
    }

    pub(super) fn bind(&self, name: &str, spec: &ImageSpec) -> Result<()> {
        self.change(|bindings| match bindings.get(name) {
            Some(bound) if bound != spec => Err(DriverError::new(
                ErrorKind::AlreadyExists,
                format!("{name:?} is the volume {bound} already"),
            )),
            Some(_) => Ok(false),
            None => {
                bindings.insert(name.to_owned(), spec.clone());
                Ok(true)
            }
        })
    }

    pub(super) fn unbind(&self, name: &str, spec: &ImageSpec) -> Result<()> {
        self.change(|bindings| {
            let bound = bindings.get(name) == Some(spec);
            if bound {
                bindings.remove(name);
            }
            Ok(bound)
        })
    }

    fn change(&self, change: impl FnOnce(&mut Stored) -> Result<bool>) -> Result<()> {
        let path = self.paths.dir.join(".names.lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(&path).or_call("open", path.display())?;
        let until = Deadline::after(PATIENCE);
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if !until.left().is_zero() => sleep(STEP),
                Err(TryLockError::WouldBlock) => {
                    return Err(DriverError::new(
                        ErrorKind::Busy,
                        format!("{} stays locked", path.display()),
                    )
                    .hint("another plugin that uses this folder hangs"));
                }
                Err(TryLockError::Error(e)) => Err(e).or_call("flock", path.display())?,
            }
        }
        let mut bindings = self.read()?;
        if change(&mut bindings)? {
            let content = serde_json::to_vec_pretty(&bindings).unwrap_or_default();
            files::save(&self.file, &content)?;
        }
        Ok(())
    }
}

fn version(found: &Metadata) -> Version {
    (found.ino(), found.mtime(), found.mtime_nsec(), found.len())
}

//! What long checks of filesystems have come to, on disk: a check that took hours is not begun anew because the plugin was restarted.
//!
//! A verdict is tied to the checksum of the superblock that the checker has left. Whatever mends or changes the filesystem afterwards, on
//! any host, writes its superblock; so does a new filesystem in an image of the same name, which has another UUID too. Then the verdict
//! counts no more. It is forgotten when its volume is next mounted or removed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::lock;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::Filesystem;
use crate::model::name::ImageSpec;
use crate::model::stored::{self, Document};

/// What a check that went on behind its Mount has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// It ended well.
    Mended {
        /// The UUID of the filesystem.
        uuid: Option<String>,
        /// When it was begun, seconds since the epoch.
        begun: u64,
    },
    /// It could not mend what it has found.
    Damaged {
        /// Of the superblock that it has left.
        print: u32,
        /// The error.
        message: String,
        /// And its hint.
        hint: Option<String>,
    },
}

impl Verdict {
    pub(super) fn damaged(print: u32, found: DriverError) -> Self {
        Self::Damaged { print, message: found.message, hint: found.hint }
    }

    /// The error of a filesystem that is still as the checker has left it.
    fn error(&self, now: u32) -> Option<DriverError> {
        match self {
            Self::Damaged { print, message, hint } if *print == now => {
                let error = DriverError::new(ErrorKind::NeedsRepair, message.clone());
                Some(DriverError { hint: hint.clone(), ..error })
            }
            _ => None,
        }
    }
}

/// The file of a volume.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    verdict: Verdict,
}

impl Document for Stored {}

/// See the module. Who changes the verdict of a volume holds its guard, so no two write one file at once; no lock is held meanwhile.
#[derive(Debug)]
pub(super) struct Verdicts {
    folder: PathBuf,
    host: Arc<dyn Host>,
    known: Mutex<BTreeMap<ImageSpec, Verdict>>,
}

impl Verdicts {
    pub(super) fn open(folder: PathBuf, host: Arc<dyn Host>) -> Result<Self> {
        host.make_dir(&folder)?;
        let mut known = BTreeMap::new();
        for name in host.files(&folder)? {
            let Some(spec) = name.strip_suffix(".json").and_then(ImageSpec::from_file_name) else { continue };
            let file = folder.join(&name);
            // Without it the check is made again, which takes time and harms nothing.
            match host.load(&file) {
                Ok(None) => {}
                Ok(Some(raw)) => match stored::read::<Stored>(&raw) {
                    Ok(stored) => drop(known.insert(spec, stored.verdict)),
                    Err(e) => tracing::warn!("{} {e}; the check of {spec} is made anew", file.display()),
                },
                Err(e) => tracing::warn!("{}: {e}; the check of {spec} is made anew", file.display()),
            }
        }
        Ok(Self { folder, host, known: Mutex::new(known) })
    }

    /// The error that a check has found, if the filesystem is still as it was left.
    pub(super) fn found(&self, spec: &ImageSpec, print: u32) -> Option<DriverError> {
        lock(&self.known).get(spec).and_then(|verdict| verdict.error(print))
    }

    pub(super) fn put(&self, spec: ImageSpec, verdict: Verdict) {
        let file = self.file(&spec);
        let content = stored::write(&Stored { verdict: verdict.clone() });
        lock(&self.known).insert(spec, verdict);
        self.told(self.host.save(&file, &content));
    }

    /// Of a filesystem that needs no check any more; when the check was begun that has mended it.
    pub(super) fn take_mended(&self, spec: &ImageSpec, filesystem: &Filesystem) -> Option<u64> {
        match self.forget(spec)? {
            Verdict::Mended { uuid, begun } => (uuid == filesystem.uuid).then_some(begun),
            Verdict::Damaged { .. } => None,
        }
    }

    /// The volume is removed, or its filesystem needs no check any more.
    pub(super) fn forget(&self, spec: &ImageSpec) -> Option<Verdict> {
        let verdict = lock(&self.known).remove(spec)?;
        self.told(self.host.forget(&self.file(spec)));
        Some(verdict)
    }

    fn file(&self, spec: &ImageSpec) -> PathBuf {
        self.folder.join(format!("{}.json", spec.file_name()))
    }

    fn told(&self, done: Result<()>) {
        if let Err(e) = done {
            tracing::warn!("cannot keep what a check has found over a restart: {e}");
        }
    }
}

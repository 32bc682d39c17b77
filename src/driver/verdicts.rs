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
use crate::model::error::{DriverError, ErrorKind};
use crate::model::filesystem::Filesystem;
use crate::model::name::ImageSpec;

/// The version of the file.
const VERSION: u32 = 1;

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

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    v: u32,
    verdicts: BTreeMap<ImageSpec, Verdict>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Verdicts {
    file: PathBuf,
    host: Arc<dyn Host>,
    known: Mutex<BTreeMap<ImageSpec, Verdict>>,
}

impl Verdicts {
    pub(super) fn open(file: PathBuf, host: Arc<dyn Host>) -> Self {
        // Without them a check is made again, which takes time and harms nothing.
        let unread =
            |e: &dyn std::fmt::Display| tracing::warn!("{}: {e}; checks are made anew", file.display());
        let content = host.load(&file).inspect_err(|e| unread(e)).ok().flatten();
        let stored = content.and_then(|content| match serde_json::from_slice::<Stored>(&content) {
            Ok(stored) if stored.v == VERSION => Some(stored.verdicts),
            Ok(stored) => {
                unread(&format!("is of version {}, this plugin reads {VERSION}", stored.v));
                None
            }
            Err(e) => {
                unread(&format!("is damaged: {e}"));
                None
            }
        });
        Self { known: Mutex::new(stored.unwrap_or_default()), file, host }
    }

    /// The error that a check has found, if the filesystem is still as it was left.
    pub(super) fn found(&self, spec: &ImageSpec, print: u32) -> Option<DriverError> {
        lock(&self.known).get(spec).and_then(|verdict| verdict.error(print))
    }

    pub(super) fn put(&self, spec: ImageSpec, verdict: Verdict) {
        let mut known = lock(&self.known);
        known.insert(spec, verdict);
        self.save(&known);
    }

    /// Of a filesystem that needs no check any more; when the check was begun that has mended it.
    pub(super) fn take_mended(&self, spec: &ImageSpec, filesystem: &Filesystem) -> Option<u64> {
        let mut known = lock(&self.known);
        let verdict = known.remove(spec)?;
        self.save(&known);
        match verdict {
            Verdict::Mended { uuid, begun } => (uuid == filesystem.uuid).then_some(begun),
            Verdict::Damaged { .. } => None,
        }
    }

    /// The volume is removed.
    pub(super) fn forget(&self, spec: &ImageSpec) {
        let mut known = lock(&self.known);
        if known.remove(spec).is_some() {
            self.save(&known);
        }
    }

    /// Under the lock, which nobody else needs for long: a small file, and seldom.
    fn save(&self, known: &BTreeMap<ImageSpec, Verdict>) {
        let content = serde_json::to_vec(&Stored { v: VERSION, verdicts: known.clone() }).unwrap_or_default();
        if let Err(e) = self.host.save(&self.file, &content) {
            tracing::warn!("{} cannot be written: {e}", self.file.display());
        }
    }
}

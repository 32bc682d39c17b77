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

/// The version of the files, of which each volume has one.
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
    verdict: Verdict,
}

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
            match host.load(&file).and_then(|content| content.map(|raw| understood(&raw)).transpose()) {
                Ok(verdict) => known.extend(verdict.map(|verdict| (spec, verdict))),
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
        let content =
            serde_json::to_vec(&Stored { v: VERSION, verdict: verdict.clone() }).unwrap_or_default();
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

fn understood(raw: &[u8]) -> Result<Verdict> {
    let bad = |why: String| DriverError::new(ErrorKind::Failed, why);
    // The version first: of a newer one the rest may look otherwise.
    let version = serde_json::from_slice::<Version>(raw).map_err(|e| bad(format!("it is damaged: {e}")))?.v;
    if version != VERSION {
        return Err(bad(format!("it is of version {version}, this plugin reads {VERSION}")));
    }
    let stored = serde_json::from_slice::<Stored>(raw).map_err(|e| bad(format!("it is damaged: {e}")))?;
    Ok(stored.verdict)
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_says_whether_it_is_newer_or_damaged() {
        let verdict = Verdict::Damaged { print: 7, message: "m".to_owned(), hint: None };
        let stored = serde_json::to_vec(&Stored { v: VERSION, verdict: verdict.clone() }).unwrap();
        assert_eq!(understood(&stored).unwrap(), verdict);
        for (raw, why) in [
            (r#"{"v":2,"verdict":{"undecided":{}}}"#, "it is of version 2, this plugin reads 1"),
            (r#"{"v":1,"verdict":{"undecided":{}}}"#, "it is damaged"),
            (r#"{"v":1"#, "it is damaged"),
        ] {
            let e = understood(raw.as_bytes()).unwrap_err().to_string();
            assert!(e.contains(why), "{raw}: {e}");
        }
    }
}

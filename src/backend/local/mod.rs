//! Images as sparse files, mapped through loop devices. No cluster is needed.
//!
//! ```text
//! DIR/.rbd-docker-plugin          says that DIR is ours, and that it is there (see `Paths::is_there`)
//! DIR/.names-<pool>[@<namespace>] bare names bound with `-o pool=`, by the default pool and namespace of who bound them
//! DIR/<pool>/<image>.img          the image
//! DIR/<pool>/<image>.json         our record of it
//! DIR/<pool>/<image>.owner        who may use it; locked by flock(2) while its plugin lives
//! DIR/<pool>/@<namespace>/…       the same for a namespace
//! ```

mod map;
mod names;
mod owner;
mod store;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, ImageStore, Pulse, Source};
use crate::linux::loopdev::{self, Backing};
use crate::linux::{boot, files};
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};
use crate::model::name::ImageSpec;
use crate::model::owner::Owner;
use crate::model::stored::{self, Document};
use names::Names;

/// The version of the layout above.
const FORMAT: u32 = 1;

/// The local backend.
#[derive(Debug)]
pub struct LocalBackend {
    paths: Paths,
    identity: Owner,
    /// Owner files that we hold locked.
    held: Mutex<HashMap<ImageSpec, File>>,
    /// The files of the images that we hold: a link gives one file two names.
    files: Mutex<HashMap<Backing, ImageSpec>>,
    names: Names,
}

/// What marks the folder, and what is remembered of it elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    format: u32,
    id: String,
}

impl LocalBackend {
    /// Opens the folder. `known` is a file on this host that remembers the folder: one that was ours before and bears no mark now is
    /// taken to be away (its filesystem is not mounted), not to be new. A folder that is new is marked. `home` are the default pool and
    /// namespace, whose registry of names counts.
    pub fn open(dir: &Path, known: &Path, identity: Owner, home: (&str, Option<&str>)) -> Result<Self> {
        fs::create_dir_all(dir).or_call("mkdir", dir.display())?;
        let dir = dir.canonicalize().or_call("realpath", dir.display())?;
        let paths = Paths { dir, known: known.to_owned() };
        match (paths.read_marker(&paths.marker())?, paths.remembered()) {
            // The folder says itself which one it is.
            (Some(marker), remembered) => {
                if let Err(e) = &remembered {
                    tracing::warn!("{e}; it is written anew");
                }
                if remembered.ok().flatten().as_ref() != Some(&marker) {
                    paths.remember(&marker)?;
                }
            }
            // A new folder and one whose filesystem is not mounted look the same.
            (None, Err(e)) => return Err(e),
            (None, Ok(Some(_))) => {
                let e = paths.away();
                tracing::error!("{e}");
            }
            (None, Ok(None)) => {
                let marker = Marker { format: FORMAT, id: boot::random_uuid()? };
                let content = serde_json::to_vec(&marker).unwrap_or_default();
                files::make(&paths.marker(), &marker.id, &content)?;
                // Plugins that start at the same moment mark it at the same moment: what counts is what is there.
                match paths.read_marker(&paths.marker())? {
                    Some(marker) => paths.remember(&marker)?,
                    None => return Err(paths.away()),
                }
            }
        }
        Ok(Self {
            names: Names::new(&paths, home),
            paths,
            identity,
            held: Mutex::default(),
            files: Mutex::default(),
        })
    }
}

impl Backend for LocalBackend {
    fn name(&self) -> &'static str {
        "local"
    }

    fn source(&self) -> Source {
        Source { address: Some(self.paths.dir.display().to_string()), ..Source::default() }
    }

    fn pulse(&self) -> Result<Pulse> {
        self.paths.is_there()?;
        let devices = loopdev::below(&self.paths.dir)?.len();
        Ok(Pulse { devices, bindings: self.bindings()? })
    }
}

/// Where everything is.
#[derive(Debug, Clone)]
struct Paths {
    dir: PathBuf,
    /// Where the folder's mark is remembered, with the folder's path.
    known: PathBuf,
}

/// The file `known`.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    dir: PathBuf,
    marker: Marker,
}

impl Document for Remembered {}

impl Paths {
    fn marker(&self) -> PathBuf {
        self.dir.join(".rbd-docker-plugin")
    }

    fn folder(&self, spec: &ImageSpec) -> PathBuf {
        self.dir.join(spec.folder())
    }

    fn image(&self, spec: &ImageSpec) -> PathBuf {
        self.file(spec, "img")
    }

    fn record(&self, spec: &ImageSpec) -> PathBuf {
        self.file(spec, "json")
    }

    fn owner(&self, spec: &ImageSpec) -> PathBuf {
        self.file(spec, "owner")
    }

    fn file(&self, spec: &ImageSpec, kind: &str) -> PathBuf {
        self.folder(spec).join(format!("{}.{kind}", spec.image()))
    }

    fn make_folder(&self, spec: &ImageSpec) -> Result<()> {
        let folder = self.folder(spec);
        Ok(fs::create_dir_all(&folder).or_call("mkdir", folder.display())?)
    }

    fn read_marker(&self, path: &Path) -> Result<Option<Marker>> {
        let Some(content) = files::load(path)? else { return Ok(None) };
        let wrong = |what: String| DriverError::new(ErrorKind::Config, format!("{}: {what}", path.display()));
        match serde_json::from_slice::<Marker>(&content) {
            Ok(marker) if marker.format == FORMAT => Ok(Some(marker)),
            Ok(marker) => Err(wrong(format!("format {}, this version reads {FORMAT}", marker.format))
                .hint("use the version of the plugin that made it, or a newer one")),
            Err(e) => Err(wrong(format!("damaged: {e}")).hint("remove it if the folder is the right one")),
        }
    }

    fn remembered(&self) -> Result<Option<Marker>> {
        let Some(content) = files::load(&self.known)? else { return Ok(None) };
        let known = self.known.display();
        let remembered: Remembered = stored::read(&content).map_err(|e| {
            let dir = self.dir.display();
            let error = e.of(&format!("{known}, which says what folder the store is,"), || {
                format!("remove it, when {dir} is the right folder and its filesystem is mounted")
            });
            DriverError { kind: ErrorKind::Config, ..error }
        })?;
        Ok(Some(remembered)
            .filter(|remembered| remembered.dir == self.dir)
            .map(|remembered| remembered.marker))
    }

    fn remember(&self, marker: &Marker) -> Result<()> {
        if let Some(folder) = self.known.parent() {
            fs::create_dir_all(folder).or_call("mkdir", folder.display())?;
        }
        let remembered = Remembered { dir: self.dir.clone(), marker: marker.clone() };
        Ok(files::save(&self.known, &stored::write(&remembered))?)
    }

    /// An error when the folder is not what it was, such as a network filesystem that is not mounted any more: then a missing
    /// file means nothing. Asked whenever a file is not found.
    fn is_there(&self) -> Result<()> {
        let marker = self.marker();
        fs::metadata(&marker)
            .map(drop)
            .or_call("stat", marker.display())
            .map_err(|e| self.away().caused_by(e))
    }

    fn away(&self) -> DriverError {
        DriverError::new(ErrorKind::Unreachable, format!("the store {} is not there", self.dir.display()))
            .hint(format!(
                "is its filesystem mounted? If it was emptied on purpose, remove {}",
                self.known.display()
            ))
    }

    /// All specs that have a file of this kind.
    fn specs(&self, kind: &str) -> Result<Vec<ImageSpec>> {
        self.is_there()?;
        let mut found = Vec::new();
        let suffix = format!(".{kind}");
        for pool in folders(&self.dir)? {
            let folder = self.dir.join(&pool);
            collect(&folder, &suffix, &pool, None, &mut found)?;
            for namespace in folders(&folder)? {
                if let Some(name) = namespace.strip_prefix('@') {
                    collect(&folder.join(&namespace), &suffix, &pool, Some(name), &mut found)?;
                }
            }
        }
        Ok(found)
    }
}

fn folders(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in entries(dir)? {
        let is_folder = match entry.file_type() {
            // Removed since it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            kind => kind.or_call("stat", entry.path().display())?.is_dir(),
        };
        if is_folder && let Ok(name) = entry.file_name().into_string() {
            found.push(name);
        }
    }
    Ok(found)
}

fn collect(dir: &Path, suffix: &str, pool: &str, ns: Option<&str>, found: &mut Vec<ImageSpec>) -> Result<()> {
    found.extend(entries(dir)?.iter().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        ImageSpec::new(pool, ns, name.strip_suffix(suffix)?).ok()
    }));
    Ok(())
}

/// What is in a folder; nothing when it is gone.
fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>> {
    let read = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.or_call("readdir", dir.display())?,
    };
    Ok(read.collect::<io::Result<Vec<_>>>().or_call("readdir", dir.display())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(store: &Path, known: &Path) -> Result<LocalBackend> {
        let owner =
            serde_json::json!({"host": "h", "boot_id": "b", "plugin": "rbd", "root": "/mnt/0", "since": 0});
        LocalBackend::open(store, known, serde_json::from_value(owner).unwrap(), ("rbd", None))
    }

    #[test]
    fn a_memory_that_is_damaged_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let (store, known) = (dir.path().join("store"), dir.path().join("known"));
        opened(&store, &known).unwrap();
        let whole = fs::read(&known).unwrap();
        fs::write(&known, "{\"dir\":").unwrap();
        opened(&store, &known).unwrap();
        assert_eq!(fs::read(&known).unwrap(), whole, "the folder bears its mark: it is remembered anew");
        fs::write(&known, "{\"dir\":").unwrap();
        let mark = store.join(".rbd-docker-plugin");
        fs::remove_file(&mark).unwrap();
        let e = opened(&store, &known).unwrap_err();
        assert!(e.kind == ErrorKind::Config && e.to_string().contains("is damaged"), "{e}");
        assert!(e.to_string().contains(&format!("when {} is the right folder", store.display())), "{e}");
        assert!(!mark.exists(), "a folder whose filesystem may be away is not marked as a new one");
    }

    #[test]
    fn plugins_that_start_at_once_agree_on_a_new_folder() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let store = dir.path().join(format!("store{round}"));
            let known = |n: u32| dir.path().join(format!("known{round}-{n}"));
            let together = std::sync::Barrier::new(6);
            std::thread::scope(|scope| {
                for n in 0..6 {
                    let (store, together) = (&store, &together);
                    scope.spawn(move || {
                        together.wait();
                        opened(store, &known(n)).unwrap();
                    });
                }
            });
            let paths = |n| Paths { dir: store.canonicalize().unwrap(), known: known(n) };
            let marker = paths(0).read_marker(&paths(0).marker()).unwrap();
            assert!(marker.is_some());
            assert!((0..6).all(|n| paths(n).remembered().unwrap() == marker), "all remember its mark");
        }
    }
}

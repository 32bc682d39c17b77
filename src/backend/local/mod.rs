//! Images as sparse files, mapped through loop devices. No cluster is needed.
//!
//! ```text
//! DIR/.rbd-docker-plugin          says that DIR is ours, and that it is there (see `Paths::is_there`)
//! DIR/.names                      bare names bound with `-o pool=`
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

use super::{Backend, Owner};
use crate::error::{DriverError, ErrorKind, OrCall, Result};
use crate::linux::files;
use crate::name::ImageSpec;
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
    names: Names,
}

/// What marks the folder.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format: u32,
}

impl LocalBackend {
    /// Opens the folder, and makes it when it is not there.
    pub fn open(dir: &Path, identity: Owner) -> Result<Self> {
        fs::create_dir_all(dir).or_call("mkdir", dir.display())?;
        let dir = dir.canonicalize().or_call("realpath", dir.display())?;
        let paths = Paths { dir };
        let marker = paths.marker();
        match files::load(&marker)? {
            Some(content) => match serde_json::from_slice::<Marker>(&content) {
                Ok(Marker { format: FORMAT }) => {}
                Ok(Marker { format }) => {
                    return Err(DriverError::new(
                        ErrorKind::Config,
                        format!("{} has format {format}, this version reads {FORMAT}", paths.dir.display()),
                    )
                    .hint("use the version of the plugin that made it, or a newer one"));
                }
                Err(e) => {
                    return Err(DriverError::new(
                        ErrorKind::Config,
                        format!("{} is damaged: {e}", marker.display()),
                    )
                    .hint(format!("write {{\"format\":{FORMAT}}} to it if the folder is the right one")));
                }
            },
            None => {
                let content = serde_json::to_vec(&Marker { format: FORMAT }).unwrap_or_default();
                files::save(&marker, &content)?;
            }
        }
        Ok(Self { names: Names::new(&paths), paths, identity, held: Mutex::default() })
    }
}

impl Backend for LocalBackend {
    fn name(&self) -> &'static str {
        "local"
    }
}

/// Where everything is.
#[derive(Debug, Clone)]
struct Paths {
    dir: PathBuf,
}

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

    /// An error when the folder is not what it was, such as a network filesystem that is not mounted any more: then a missing
    /// file means nothing. Asked whenever a file is not found.
    fn is_there(&self) -> Result<()> {
        let marker = self.marker();
        fs::metadata(&marker).map(drop).or_call("stat", marker.display()).map_err(|e| {
            DriverError::new(ErrorKind::Unreachable, format!("{} is not there", self.dir.display()))
                .caused_by(e)
                .hint("is its filesystem mounted?")
        })
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
    let entries = entries(dir)?;
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    Ok(entries.iter().filter(|e| is_folder(e)).filter_map(|e| e.file_name().into_string().ok()).collect())
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

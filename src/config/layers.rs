//! The layers of the settings: flag over environment over file over default.
//!
//! An empty value says nothing, wherever it stands, and the next layer decides: the wrapper script of the old plugin
//! passed `-cluster=` for every key that was left empty in its file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::keys::{self, CONF_FILE, ENV_PREFIX, KEYS, Key, VOLROOT};
use super::{env_wetopi, file};
use crate::model::error::{DriverError, ErrorKind, Result};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag(&'static str),
    /// An environment variable.
    Variable(String),
    /// A line of the configuration file.
    File(PathBuf, usize),
    /// No layer sets it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "the flag --{name}"),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("the default"),
        }
    }
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The key it belongs to.
    pub key: &'static str,
    /// As it was written; empty only when the default is.
    pub text: String,
    /// By whom.
    pub origin: Origin,
}

impl Value {
    /// The error for a value that is not what is accepted.
    pub fn refused(&self, why: impl fmt::Display) -> Refused {
        let Self { key, text, origin } = self;
        let error = DriverError::new(ErrorKind::Config, format!("{key} = {text:?} (from {origin}): {why}"));
        Refused { key, error }
    }
}

/// A wrong value.
#[derive(Debug)]
pub struct Refused {
    /// Of this key.
    pub key: &'static str,
    /// For a person.
    pub error: DriverError,
}

/// All values, one for each key, and what is to be said of where they came from.
#[derive(Debug, Clone)]
pub struct Layers {
    values: BTreeMap<&'static str, Value>,
    warnings: Vec<String>,
    errors: Vec<DriverError>,
}

impl Layers {
    /// Puts flags (by canonical name) over the environment over the file that they name over the defaults.
    pub fn gather(flags: &BTreeMap<&'static str, String>, environment: &BTreeMap<String, String>) -> Self {
        let mut layers = Self { values: BTreeMap::new(), warnings: Vec::new(), errors: Vec::new() };
        for (name, text) in flags {
            layers.set(name, text, Origin::Flag(name));
        }
        layers.environment(environment);
        layers.wetopi(environment);
        let named = layers.values.get(CONF_FILE).map(|v| v.text.as_str());
        let default = keys::find(CONF_FILE).map_or("", |key| key.default);
        if let Some((path, optional)) = file::choose(named, default) {
            match file::read(&path, optional) {
                Ok(text) => layers.file(&text.unwrap_or_default(), &path),
                Err(e) => layers.errors.push(e),
            }
        }
        layers.volroot();
        for key in KEYS {
            layers.set_default(key);
        }
        layers
    }

    /// The value of a key of the table.
    pub fn get(&self, key: &'static str) -> Result<&Value, Refused> {
        self.values.get(key).ok_or_else(|| Refused {
            key,
            error: DriverError::new(ErrorKind::Config, format!("no such key: {key}")),
        })
    }

    /// Deprecated spellings, and keys without a meaning.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The errors of reading the layers.
    pub fn errors(&self) -> &[DriverError] {
        &self.errors
    }

    /// Resets a key to its default; whether it had another value.
    pub fn reset(&mut self, key: &str) -> bool {
        let said = self.values.get(key).is_some_and(|value| value.origin != Origin::Default);
        if let Some(key) = keys::find(key).filter(|_| said) {
            self.values.remove(key.name);
            self.set_default(key);
        }
        said
    }

    /// Sets a key that no layer sets.
    pub fn fall_back(&mut self, key: &'static str, text: &str, origin: Origin) {
        if self.values.get(key).is_none_or(|value| value.origin == Origin::Default) {
            self.values.remove(key);
            self.set(key, text, origin);
        }
        if let Some(key) = keys::find(key) {
            self.set_default(key);
        }
    }

    fn set_default(&mut self, key: &'static Key) {
        self.values.entry(key.name).or_insert_with(|| Value {
            key: key.name,
            text: key.default.to_owned(),
            origin: Origin::Default,
        });
    }

    /// Sets a key that no higher layer has set.
    fn set(&mut self, key: &'static str, text: &str, origin: Origin) {
        if !text.is_empty() {
            self.values.entry(key).or_insert_with(|| Value { key, text: text.to_owned(), origin });
        }
    }

    fn environment(&mut self, environment: &BTreeMap<String, String>) {
        let spelled_exactly = |key: &Key, variable: &str| key.variable() == variable;
        let mut twins = Vec::new();
        for (variable, text) in environment {
            match variable.strip_prefix(ENV_PREFIX).map(keys::find) {
                Some(Some(key)) => twins.push((key, variable, text)),
                Some(None) => self.warnings.push(unknown(variable)),
                None => {}
            }
        }
        twins.sort_by_key(|(key, variable, _)| !spelled_exactly(key, variable));
        for (key, variable, text) in twins {
            self.set(key.name, text, Origin::Variable(variable.clone()));
        }
    }

    /// What wetopi/docker-volume-rbd understands, where ours say nothing.
    fn wetopi(&mut self, environment: &BTreeMap<String, String>) {
        let theirs = env_wetopi::read(environment);
        for twin in theirs.twins {
            let origin = Origin::Variable(twin.variable.to_owned());
            self.warnings.push(match self.values.get(twin.key.name) {
                Some(value) => {
                    format!("{} is ignored: {} comes from {}", twin.variable, twin.key.name, value.origin)
                }
                None => format!(
                    "{} is wetopi/docker-volume-rbd's: say {ours}={text} here, or {}={text} in the configuration file",
                    twin.variable,
                    twin.key.name,
                    ours = twin.key.variable(),
                    text = twin.text
                ),
            });
            self.set(twin.key.name, &twin.text, origin);
        }
        self.warnings.extend(theirs.warnings);
        self.errors.extend(theirs.errors);
    }

    fn file(&mut self, text: &str, path: &Path) {
        let (lines, errors) = file::parse(text, path);
        self.errors.extend(errors);
        // The last of two lines for one key wins, as the last of two flags does.
        for line in lines.into_iter().rev() {
            self.set(line.key.name, line.value, Origin::File(path.to_owned(), line.number));
        }
    }

    /// tobilg/docker-volume-rbd was told the folder of the pools: our mount root and the driver's name.
    fn volroot(&mut self) {
        let Some(said) = self.values.remove(VOLROOT) else { return };
        let name = self.values.get("name").map_or("rbd", |name| name.text.as_str());
        let path = Path::new(&said.text);
        let fits = path.file_name().is_some_and(|last| last == name);
        let root = path.parent().filter(|root| fits && root.is_absolute()).and_then(Path::to_str);
        let refused = match (root, self.values.get("mount")) {
            (Some(root), None) => {
                self.warnings
                    .push(format!("volroot (from {}) is the old way to say mount = {root}", said.origin));
                let mount = Value { key: "mount", text: root.to_owned(), origin: said.origin };
                self.values.insert("mount", mount);
                return;
            }
            (_, Some(mount)) => said.refused(format!("mount (from {}) says it too", mount.origin)),
            (None, None) => said.refused(format!(
                "volumes are mounted at <mount>/<name>/<pool>/<image>, and the name is {name:?}"
            )),
        };
        self.errors
            .push(refused.error.hint("say --mount DIR instead, for volumes at DIR/<name>/<pool>/<image>"));
    }
}

fn unknown(variable: &str) -> String {
    let near = variable.strip_prefix(ENV_PREFIX).and_then(keys::nearest).and_then(keys::find);
    let near = near.map_or_else(String::new, |key| format!(": did you mean {}?", key.variable()));
    format!("unknown environment variable {variable}{near}")
}

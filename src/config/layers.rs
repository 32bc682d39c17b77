//! Who said what: flag over environment over file over default.
//!
//! An empty value says nothing, wherever it stands, and the next layer decides: the wrapper script of the old plugin
//! passed `-cluster=` for every key that was left empty in its file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::file;
use super::keys::{self, CONF_FILE, ENV_PREFIX, KEYS, Key};
use crate::error::{DriverError, ErrorKind, Result};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag(&'static str),
    /// An environment variable.
    Variable(String),
    /// A line of the configuration file.
    File(PathBuf, usize),
    /// Nobody said anything.
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
    pub fn refused(&self, why: impl fmt::Display) -> DriverError {
        let Self { key, text, origin } = self;
        DriverError::new(ErrorKind::Config, format!("{key} = {text:?} (from {origin}): {why}"))
    }
}

/// All values, one for each key.
#[derive(Debug, Clone)]
pub struct Layers {
    values: BTreeMap<&'static str, Value>,
    unknown: Vec<String>,
}

impl Layers {
    /// Puts flags (by canonical name) over the environment over the file that they name over the defaults.
    pub fn gather(
        flags: &BTreeMap<&'static str, String>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut layers = Self { values: BTreeMap::new(), unknown: Vec::new() };
        for (name, text) in flags {
            layers.set(name, text, Origin::Flag(name));
        }
        layers.environment(environment);
        let named = layers.values.get(CONF_FILE).map(|v| v.text.as_str());
        let default = keys::find(CONF_FILE).map_or("", |key| key.default);
        if let Some((path, optional)) = file::choose(named, default)
            && let Some(text) = file::read(&path, optional)?
        {
            layers.file(&text, &path)?;
        }
        for key in KEYS {
            layers.values.entry(key.name).or_insert_with(|| Value {
                key: key.name,
                text: key.default.to_owned(),
                origin: Origin::Default,
            });
        }
        Ok(layers)
    }

    /// The value of a key of the table.
    pub fn get(&self, key: &str) -> Result<&Value> {
        self.values.get(key).ok_or_else(|| DriverError::new(ErrorKind::Config, format!("no such key: {key}")))
    }

    /// Environment variables that look like ours and are not.
    pub fn unknown_variables(&self) -> &[String] {
        &self.unknown
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
                Some(None) => self.unknown.push(variable.clone()),
                None => {}
            }
        }
        twins.sort_by_key(|(key, variable, _)| !spelled_exactly(key, variable));
        for (key, variable, text) in twins {
            self.set(key.name, text, Origin::Variable(variable.clone()));
        }
    }

    fn file(&mut self, text: &str, path: &Path) -> Result<()> {
        // The last of two lines for one key wins, as the last of two flags does.
        for line in file::parse(text, path)?.into_iter().rev() {
            self.set(line.key.name, line.value, Origin::File(path.to_owned(), line.number));
        }
        Ok(())
    }
}

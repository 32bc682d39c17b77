//! Settings whose values are words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What Remove does to the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Nothing: the volume stays.
    Ignore,
    /// Deletes it.
    Delete,
    /// Renames it to `zz_<image>`.
    Rename,
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignore => "ignore",
            Self::Delete => "delete",
            Self::Rename => "rename",
        })
    }
}

/// What the Capabilities request answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One volume for all hosts.
    Global,
    /// One per host.
    Local,
}

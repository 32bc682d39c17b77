//! Settings that several rooms read: made from what the operator wrote by `config`, obeyed by the driver and the backends.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::size::Size;

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

/// What is special to images in a Ceph cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceph {
    /// Ceph user, without `client.`.
    pub user: String,
    /// Ceph configuration.
    pub conf: PathBuf,
    /// Keyring of the user, where it is not left to the configuration.
    pub keyring: Option<PathBuf>,
    /// Ceph cluster name, often empty.
    pub cluster: String,
    /// Pools whose images are volumes, the default one first.
    pub pools: Vec<String>,
    /// Namespace of a volume whose name does not say a pool.
    pub namespace: Option<String>,
    /// Features of new images, where they are not left to the cluster.
    pub features: Option<String>,
    /// Size of the objects of new images, where it is not left to the cluster.
    pub object_size: Option<Size>,
    /// Options of every mapping.
    pub map_options: Option<String>,
    /// Whether the images of a dead host are taken over.
    pub takeover: bool,
    /// How long a host must show no sign of life before its images are taken over; its own heartbeat lasts as long.
    pub dead_after: Duration,
    /// How long Mount waits for an owner on another host.
    pub owner_wait: Duration,
    /// How long a fence lasts.
    pub fence: Duration,
    /// How long one request to the cluster may take.
    pub timeout: Duration,
}

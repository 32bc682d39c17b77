//! What a store says of itself, and of the images that this plugin has mounted.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::bindings::Bindings;
use crate::model::name::ImageSpec;

/// What was found of mounted images that are not as they should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Those that this plugin may not use any more, and why: another owner has taken them over, or their device was fenced.
    pub lost: Vec<(ImageSpec, String)>,
    /// Those whose owner record is gone or wrong.
    pub amiss: Vec<ImageSpec>,
    /// Those whose owner record is not understood, and why: whose they are is not known.
    pub unread: Vec<(ImageSpec, String)>,
}

/// Where images are, and who looks at them: what one has seen may be hidden from another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// The user at the store.
    pub user: String,
    /// The store's own id, once it is known.
    pub cluster: Option<String>,
    /// Where the store is looked for, which stands for its id as long as that is not known.
    pub address: Option<String>,
}

impl Source {
    /// Whether both show the same.
    pub fn shows(&self, other: &Self) -> bool {
        let same = match (&self.cluster, &other.cluster) {
            (Some(one), Some(other)) => one == other,
            _ => self.address == other.address,
        };
        same && self.user == other.user
    }
}

/// What a store that answers says of itself.
#[derive(Debug, Clone)]
pub struct Pulse {
    /// How many devices of this host have images of this backend behind them.
    pub devices: usize,
    /// The bare names that are bound to an image.
    pub bindings: Arc<Bindings>,
}

//! What is kept with an image.

use serde::{Deserialize, Serialize};

use crate::model::options::ImageOptions;
use crate::model::stored::{Document, Unknown};

/// How far the making of an image has come. Only `Creating` may be formatted, see DESIGN.md "Never format".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Stage {
    /// Made or adopted by us and never formatted.
    Creating,
    /// mkfs was started on the blank image; what it writes carries this filesystem UUID.
    Formatting {
        /// The UUID given to mkfs.
        uuid: String,
    },
    /// Formatted and set up, ready for use.
    Ready,
}

/// What we keep with an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// How far its making has come.
    #[serde(flatten)]
    pub stage: Stage,
    /// Whether the image was there before us: then it is never removed when its making fails.
    #[serde(default)]
    pub adopted: bool,
    /// When we made it, seconds since the epoch.
    pub created: u64,
    /// What it was created with, honoured by every mount.
    #[serde(default)]
    pub options: ImageOptions,
    /// What a newer version has written beside.
    #[serde(skip)]
    pub unknown: Unknown,
}

impl Record {
    /// The first record of an image.
    pub fn new(stage: Stage, adopted: bool, created: u64, options: ImageOptions) -> Self {
        Self { stage, adopted, created, options, unknown: Unknown::default() }
    }
}

impl Document for Record {
    fn unknown(&self) -> Option<&Unknown> {
        Some(&self.unknown)
    }

    fn keep(&mut self, unknown: Unknown) {
        self.unknown = unknown;
    }
}

//! What shells may offer for the value of a flag. What is accepted is said in `config::values`, with its tolerances.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command, ValueHint};

use crate::config::keys::Key;

/// Takes any text, and tells completions the words of an enumeration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hinted(pub(super) &'static Key);

impl TypedValueParser for Hinted {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let words = match self.0.value {
            "BOOL" => "true|false",
            words if words.contains('|') => words,
            _ => return None,
        };
        Some(Box::new(words.split('|').map(PossibleValue::new)))
    }
}

/// Whether the value is a path.
pub(super) fn hint(key: &Key) -> ValueHint {
    match key.value {
        "DIR" => ValueHint::DirPath,
        "FILE" => ValueHint::FilePath,
        _ => ValueHint::Other,
    }
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Human-readable.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Format {
    /// The form of this name; text when there is none of it.
    pub fn named(name: &str) -> Self {
        if name == "json" { Self::Json } else { Self::Text }
    }
}

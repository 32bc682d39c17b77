//! Which words a user may give to mkfs.
//!
//! What is not listed here is refused, because mkfs options can hit another device (a second device for btrfs, an external
//! journal or log, a file to be written), make no filesystem at all (dry runs), take the UUID away by which we recognise what
//! we began, or answer for us the question whether data may be overwritten. A word that is not an option's value would be
//! taken for a device, so there is no such word.

use crate::model::error::{DriverError, Result};
use crate::model::filesystem::FsKind;

/// The options of one mkfs.
struct Allowed {
    /// Short options without a value.
    flags: &'static str,
    /// Short options with a value.
    valued: &'static str,
    /// Long options without a value.
    long_flags: &'static [&'static str],
    /// Long options with a value.
    long_valued: &'static [&'static str],
}

const EXT4: Allowed =
    Allowed { flags: "DKjqv", valued: "CEGIJLNObegimTt", long_flags: &[], long_valued: &[] };

const XFS: Allowed = Allowed { flags: "Kq", valued: "Lbdilmns", long_flags: &[], long_valued: &[] };

const BTRFS: Allowed = Allowed {
    flags: "KMqv",
    valued: "LORbdmns",
    long_flags: &["mixed", "nodiscard", "quiet", "verbose"],
    long_valued: &[
        "byte-count",
        "checksum",
        "csum",
        "data",
        "features",
        "label",
        "metadata",
        "nodesize",
        "runtime-features",
        "sectorsize",
    ],
};

/// Keys within a value (`-m uuid=…`, `-J device=…`, `-E offset=…`) that are never allowed.
const FORBIDDEN_KEYS: [&str; 11] = [
    "android_sparse",
    "device",
    "file",
    "journal_dev",
    "logdev",
    "name",
    "offset",
    "options",
    "protofile",
    "rtdev",
    "uuid",
];

/// One option with its value, taken apart: `-qL data` is `-q` and `-L` with `data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// With its dashes.
    pub option: String,
    /// Of an option that has one.
    pub value: Option<String>,
}

impl Given {
    /// As mkfs wants it: one word for a long option, so that its value is never taken for another option.
    #[must_use]
    pub fn argv(self) -> Vec<String> {
        match self.value {
            Some(value) if self.option.starts_with("--") => vec![format!("{}={value}", self.option)],
            value => std::iter::once(self.option).chain(value).collect(),
        }
    }
}

/// Refuses what must not reach mkfs, naming the word.
pub fn check_options(kind: FsKind, words: &[String]) -> Result<()> {
    parse(kind, words).map(drop)
}

/// The options in these words, each of them allowed.
pub fn parse(kind: FsKind, words: &[String]) -> Result<Vec<Given>> {
    let allowed = match kind {
        FsKind::Ext4 => &EXT4,
        FsKind::Xfs => &XFS,
        FsKind::Btrfs => &BTRFS,
    };
    let mut given = Vec::new();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let refuse = |why: &str| refused(kind, word, why);
        plain(word).map_err(refuse)?;
        let wants_value = allowed.read(word, &mut given).map_err(refuse)?;
        let Some(last) = given.last_mut() else { continue };
        if wants_value {
            let value = words.next().ok_or_else(|| refuse("its value is missing"))?;
            plain(value).map_err(|why| refused(kind, &format!("{word} {value}"), why))?;
            last.value = Some(value.to_owned());
        }
        if let Some(value) = &last.value {
            check_value(kind, &last.option, value)
                .map_err(|why| refused(kind, &format!("{} {value}", last.option), why))?;
        }
    }
    Ok(given)
}

impl Allowed {
    /// Takes one word apart; whether the value of its last option is the next word.
    fn read(&self, word: &str, given: &mut Vec<Given>) -> std::result::Result<bool, &'static str> {
        const UNKNOWN: &str = "it is not among the options that are safe here";
        let mut add = |option: String, value: Option<&str>| {
            given.push(Given { option, value: value.map(str::to_owned) });
        };
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            let has_value = self.long_valued.contains(&name);
            if !has_value && (value.is_some() || !self.long_flags.contains(&name)) {
                return Err(UNKNOWN);
            }
            add(format!("--{name}"), value);
            return Ok(has_value && value.is_none());
        }
        let letters = word.strip_prefix('-').filter(|letters| !letters.is_empty());
        let letters = letters.ok_or("only options are possible, no device and no size")?;
        for (at, letter) in letters.char_indices() {
            let option = format!("-{letter}");
            if self.valued.contains(letter) {
                let value = letters.split_at(at + letter.len_utf8()).1;
                add(option, Some(value).filter(|value| !value.is_empty()));
                return Ok(value.is_empty());
            }
            if !self.flags.contains(letter) {
                return Err(UNKNOWN);
            }
            add(option, None);
        }
        Ok(false)
    }
}

fn plain(word: &str) -> std::result::Result<(), &'static str> {
    if word.is_empty() {
        return Err("it is empty");
    }
    if word.contains('/') {
        return Err("it contains a path, and mkfs must not touch anything but the image");
    }
    if word.contains(char::is_control) {
        return Err("it contains control characters");
    }
    Ok(())
}

fn check_value(kind: FsKind, option: &str, value: &str) -> std::result::Result<(), &'static str> {
    if matches!(option, "-L" | "--label") {
        return Ok(());
    }
    let keys = value.split(',').map(|part| part.split_once('=').map_or(part, |(key, _)| key).trim());
    for key in keys {
        if FORBIDDEN_KEYS.contains(&key) {
            return Err("it would involve something else than the image, or replace its UUID");
        }
    }
    // An XFS log that is not internal lies on another device.
    if kind == FsKind::Xfs && option == "-l" && value.split(',').any(|part| part.trim() == "internal=0") {
        return Err("the log must be inside the image");
    }
    // The kind of ext decides what the driver calls the filesystem; only ext4 is made here.
    if kind == FsKind::Ext4 && option == "-t" && value != "ext4" {
        return Err("only ext4 is made here");
    }
    Ok(())
}

fn refused(kind: FsKind, word: &str, why: &str) -> DriverError {
    DriverError::invalid(format!("mkfs option {word:?} is refused for {kind}: {why}"))
        .hint("give only options that shape the filesystem, such as -L, -O or block sizes")
}

#[cfg(test)]
mod tests;

//! Which words a user may give to mkfs.
//!
//! What is not listed here is refused, because mkfs options can hit another device (a second device for btrfs, an external
//! journal or log, a file to be written), make no filesystem at all (dry runs), take the UUID away by which we recognise what
//! we began, or answer for us the question whether data may be overwritten. A word that is not an option's value would be
//! taken for a device, so there is no such word.

use crate::error::{DriverError, Result};
use crate::host::FsKind;

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
    Allowed { flags: "DKjqv", valued: "CEGIJLNObegimorTt", long_flags: &[], long_valued: &[] };

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

/// Refuses what must not reach mkfs, naming the word.
pub fn check_options(kind: FsKind, words: &[String]) -> Result<()> {
    let allowed = match kind {
        FsKind::Ext4 => &EXT4,
        FsKind::Xfs => &XFS,
        FsKind::Btrfs => &BTRFS,
    };
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let refuse = |why: &str| refused(kind, word, why);
        plain(word).map_err(refuse)?;
        match allowed.read(word).map_err(refuse)? {
            Read::Complete => {}
            Read::Value(option, value) => check_value(kind, option, value).map_err(refuse)?,
            Read::NeedsValue(option) => {
                let value = words.next().ok_or_else(|| refuse("its value is missing"))?;
                plain(value)
                    .and_then(|()| check_value(kind, option, value))
                    .map_err(|why| refused(kind, &format!("{word} {value}"), why))?;
            }
        }
    }
    Ok(())
}

/// What one word is.
enum Read<'a> {
    /// One flag, or several.
    Complete,
    /// An option with its value.
    Value(&'a str, &'a str),
    /// An option whose value is the next word.
    NeedsValue(&'a str),
}

impl Allowed {
    fn read<'a>(&self, word: &'a str) -> std::result::Result<Read<'a>, &'static str> {
        const UNKNOWN: &str = "it is not among the options that are safe here";
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            return match value {
                None if self.long_flags.contains(&name) => Ok(Read::Complete),
                None if self.long_valued.contains(&name) => Ok(Read::NeedsValue(name)),
                Some(value) if self.long_valued.contains(&name) => Ok(Read::Value(name, value)),
                _ => Err(UNKNOWN),
            };
        }
        let letters = word.strip_prefix('-').filter(|letters| !letters.is_empty());
        let letters = letters.ok_or("only options are possible, no device and no size")?;
        for (at, letter) in letters.char_indices() {
            if self.valued.contains(letter) {
                let (before, value) = letters.split_at(at + letter.len_utf8());
                let option = before.split_at(at).1;
                return Ok(if value.is_empty() {
                    Read::NeedsValue(option)
                } else {
                    Read::Value(option, value)
                });
            }
            if !self.flags.contains(letter) {
                return Err(UNKNOWN);
            }
        }
        Ok(Read::Complete)
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
    if matches!(option, "L" | "label") {
        return Ok(());
    }
    let keys = value.split(',').map(|part| part.split_once('=').map_or(part, |(key, _)| key).trim());
    for key in keys {
        if FORBIDDEN_KEYS.contains(&key) {
            return Err("it would involve something else than the image, or replace its UUID");
        }
    }
    // An XFS log that is not internal lies on another device.
    if kind == FsKind::Xfs && option == "l" && value.split(',').any(|part| part.trim() == "internal=0") {
        return Err("the log must be inside the image");
    }
    // The kind of ext decides what the driver calls the filesystem; only ext4 is made here.
    if kind == FsKind::Ext4 && option == "t" && value != "ext4" {
        return Err("only ext4 is made here");
    }
    Ok(())
}

fn refused(kind: FsKind, word: &str, why: &str) -> DriverError {
    DriverError::invalid(format!("mkfs option {word:?} is refused for {kind}: {why}"))
        .hint("give only options that shape the filesystem, such as -L, -O or block sizes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(kind: FsKind, line: &str) -> Result<()> {
        check_options(kind, &line.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_shapes_the_filesystem_is_allowed() {
        for (kind, lines) in [
            (
                FsKind::Ext4,
                &[
                    "",
                    "-b 4096 -O ^has_journal",
                    "-qLdata",
                    "-E stride=8,stripe_width=16",
                    "-J size=16",
                    "-t ext4",
                    "-i 8192 -N 5000",
                    "-L name",
                ][..],
            ),
            (
                FsKind::Xfs,
                &[
                    "-b size=4096",
                    "-m crc=1,reflink=0",
                    "-n size=8192 -L data",
                    "-l size=64m,internal=1",
                    "-d agcount=4",
                    "-ssize=4096",
                ],
            ),
            (
                FsKind::Btrfs,
                &[
                    "-M",
                    "--label data --nodesize=16384",
                    "-m single -d single",
                    "--csum xxhash",
                    "-O ^no-holes",
                    "-qKL data",
                ],
            ),
        ] {
            for line in lines {
                check(kind, line).unwrap();
            }
        }
    }

    #[test]
    fn what_could_do_harm_is_refused() {
        for (kind, lines) in [
            (
                FsKind::Ext4,
                &[
                    "-n",
                    "-F",
                    "-qF",
                    "-S",
                    "-U random",
                    "-d data",
                    "-d /root",
                    "-J device=UUID=1",
                    "-Jdevice=x",
                    "-O journal_dev",
                    "-O extent,journal_dev",
                    "-E offset=512",
                    "-l bad",
                    "-z undo",
                    "-M x",
                    "-c",
                    "LABEL=other",
                    "sdb",
                    "-b",
                    "--",
                    "-",
                    "-t ext3",
                    "-L /x",
                    "-E",
                    "--help",
                    "-V",
                ][..],
            ),
            (
                FsKind::Xfs,
                &[
                    "-N",
                    "-f",
                    "-m uuid=x",
                    "-m crc=1,uuid=x",
                    "-l logdev=sdb",
                    "-l internal=0",
                    "-r rtdev=x",
                    "-r x",
                    "-p proto",
                    "-c options=x",
                    "-d name=x",
                    "-d file",
                    "-d file=1,name=x",
                    "--label=x",
                    "x",
                ],
            ),
            (
                FsKind::Btrfs,
                &[
                    "-f",
                    "--force",
                    "-U x",
                    "--uuid=x",
                    "-r dir",
                    "--rootdir=x",
                    "--shrink",
                    "loop0",
                    "--lab x",
                    "--label",
                    "-V",
                    "-qf",
                    "--label=/x",
                ],
            ),
        ] {
            for line in lines {
                let e = check(kind, line).expect_err(line);
                assert_eq!(e.kind, crate::error::ErrorKind::Invalid, "{kind} {line}: {e}");
            }
        }
        assert!(check_options(FsKind::Ext4, &[String::new()]).is_err());
        assert!(check_options(FsKind::Ext4, &["-L".to_owned(), "a\nb".to_owned()]).is_err());
    }

    proptest! {
        #[test]
        fn a_path_never_gets_through(
            kind in prop_oneof![Just(FsKind::Ext4), Just(FsKind::Xfs), Just(FsKind::Btrfs)],
            words in proptest::collection::vec("[-a-zA-Z0-9=,]{0,6}", 0..4),
            at in 0_usize..4,
        ) {
            let mut words = words;
            words.insert(at.min(words.len()), "/dev/sda".to_owned());
            prop_assert!(check_options(kind, &words).is_err());
        }

        #[test]
        fn the_first_word_is_always_an_option(words in proptest::collection::vec("\\PC{0,8}", 1..4)) {
            for kind in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs] {
                if check_options(kind, &words).is_ok() {
                    prop_assert!(words[0].starts_with('-'));
                }
            }
        }
    }
}

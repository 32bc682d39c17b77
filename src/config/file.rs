//! The configuration file: `key=value` lines.
//!
//! `#` begins a comment at the start of a line and after a blank. What the old wrapper script read, this reads too.

use std::path::{Path, PathBuf};

use super::keys::{self, CONF_FILE, Key};
use crate::error::{DriverError, ErrorKind, OrCall, Result};

/// One line that sets something.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// What it sets.
    pub key: &'static Key,
    /// To what; may be empty.
    pub value: &'a str,
    /// Where, counted from 1.
    pub number: usize,
}

/// Reads the text of a configuration file; `path` is for the errors.
pub fn parse<'a>(text: &'a str, path: &Path) -> Result<Vec<Line<'a>>> {
    let mut lines = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let number = index + 1;
        let bad = |why: String| {
            DriverError::new(ErrorKind::Config, format!("{}:{number}: {why}", path.display()))
                .hint("a line is key=value, where key is a flag without its dashes; # begins a comment")
        };
        let line = without_comment(raw).trim();
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| bad(format!("{line:?} has no '='")))?;
        let (name, value) = (name.trim(), value.trim());
        let key = keys::find(name).ok_or_else(|| bad(format!("unknown key {name:?}")))?;
        if key.name == CONF_FILE {
            return Err(bad(format!("{CONF_FILE} cannot be set in the file itself")));
        }
        if value.starts_with(['"', '\'']) {
            return Err(bad(format!("{name} = {value}: write the value without quotes")));
        }
        lines.push(Line { key, value, number });
    }
    Ok(lines)
}

/// The line up to a `#` that starts it or follows a blank.
fn without_comment(line: &str) -> &str {
    let begins = |(at, _): &(usize, &str)| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    line.match_indices('#').find(begins).map_or(line, |(at, _)| &line[..at])
}

/// Reads a configuration file; `None` when it is not there and `optional`.
pub fn read(path: &Path, optional: bool) -> Result<Option<String>> {
    let fail = |e: DriverError| {
        DriverError { kind: ErrorKind::Config, ..e }.context(format!("configuration file {}", path.display()))
    };
    let read = std::fs::read(path);
    if optional && matches!(&read, Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let bytes = read.or_call("read", path.display()).map_err(|e| fail(e.into()))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(fail(DriverError::invalid("it is not UTF-8 text"))),
    }
}

/// The file to read, and whether it may be missing: only the default one may. `None` when it was set to `none`.
pub fn choose(named: Option<&str>, default: &str) -> Option<(PathBuf, bool)> {
    match named {
        Some("none") => None,
        Some(path) => Some((path.into(), false)),
        None => Some((default.into(), true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::proptest;

    fn set(text: &str) -> Vec<(&'static str, &str, usize)> {
        parse(text, Path::new("/c")).unwrap().iter().map(|l| (l.key.name, l.value, l.number)).collect()
    }

    #[test]
    fn what_is_read() {
        let text = "# a comment\n\n  create = true # why not\r\nplugin_dir=/run/a#b\nfsType=ext4\t# x\nuser=\n#pool=x\nname=a=b";
        assert_eq!(
            set(text),
            [
                ("create", "true", 3),
                ("plugins", "/run/a#b", 4),
                ("fs", "ext4", 5),
                ("user", "", 6),
                ("name", "a=b", 8)
            ]
        );
        assert_eq!(set(""), []);
    }

    #[test]
    fn what_is_refused_names_file_and_line() {
        for (text, why) in [
            ("create=true\ncolour=red", "/c:2: unknown key \"colour\""),
            ("\n\ncreate", "/c:3: \"create\" has no '='"),
            ("=x", "/c:1: unknown key \"\""),
            ("conf-file=/x", "/c:1: conf-file cannot be set in the file itself"),
            ("mount=\"/x\"", "/c:1: mount = \"/x\": write the value without quotes"),
        ] {
            let e = parse(text, Path::new("/c")).unwrap_err();
            assert_eq!(e.kind, ErrorKind::Config);
            assert_eq!(e.message, why);
        }
    }

    #[test]
    fn a_missing_file() {
        let path = Path::new("/nonexistent/conf");
        assert!(read(path, true).unwrap().is_none());
        let e = read(path, false).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Config);
        assert!(e.to_string().starts_with("configuration file /nonexistent/conf: "), "{e}");
        assert!(e.to_string().contains("ENOENT"), "{e}");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "(?s).*") {
            let _ = parse(&text, Path::new("/c"));
        }
    }
}

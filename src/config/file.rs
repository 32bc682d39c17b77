//! The configuration file: `key=value` lines.
//!
//! `#` begins a comment at the start of a line and after a blank. What the old wrapper script read, this reads too.

use std::path::{Path, PathBuf};

use super::keys::{self, CONF_FILE, Key};
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};

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

/// Reads the text of a configuration file: what it sets, and what is wrong with it. `path` is for the errors.
pub fn parse<'a>(text: &'a str, path: &Path) -> (Vec<Line<'a>>, Vec<DriverError>) {
    let (mut lines, mut errors) = (Vec::new(), Vec::new());
    for (index, raw) in text.lines().enumerate() {
        let line = without_comment(raw).trim();
        match line_of(line, index + 1) {
            _ if line.is_empty() => {}
            Ok(line) => lines.push(line),
            Err((why, hint)) => errors.push(
                DriverError::new(ErrorKind::Config, format!("{}:{}: {why}", path.display(), index + 1))
                    .hint(hint),
            ),
        }
    }
    (lines, errors)
}

/// One line, or why it is none and what to do about it.
fn line_of(line: &str, number: usize) -> Result<Line<'_>, (String, String)> {
    let form =
        || "a line is key=value, where key is a flag without its dashes; # begins a comment".to_owned();
    let (name, value) = line.split_once('=').ok_or_else(|| (format!("{line:?} has no '='"), form()))?;
    let (name, value) = (name.trim(), value.trim());
    let Some(key) = keys::find(name) else {
        let hint = keys::nearest(name).map_or_else(
            || "rbd-docker-plugin --help lists the flags; a key is a flag without its dashes".to_owned(),
            |near| format!("did you mean {near}?"),
        );
        return Err((format!("unknown key {name:?}"), hint));
    };
    if key.name == CONF_FILE {
        return Err((
            format!("{CONF_FILE} cannot be set in the file itself"),
            "give it as a flag".to_owned(),
        ));
    }
    if value.starts_with(['"', '\'']) {
        return Err((format!("{name} = {value}: write the value without quotes"), form()));
    }
    Ok(Line { key, value, number })
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
        let (lines, errors) = parse(text, Path::new("/c"));
        assert!(errors.is_empty(), "{errors:?}");
        lines.iter().map(|l| (l.key.name, l.value, l.number)).collect()
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
            let (_, errors) = parse(text, Path::new("/c"));
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!((errors[0].kind, errors[0].message.as_str()), (ErrorKind::Config, why));
        }
    }

    #[test]
    fn a_wrong_line_hides_no_other_and_a_near_miss_is_told() {
        let (lines, errors) = parse("poll=x\nsize=1\nfoolish\nmout=/m\nzzzzzz=1", Path::new("/c"));
        assert_eq!(lines.iter().map(|line| line.key.name).collect::<Vec<_>>(), ["size"]);
        let hints: Vec<String> = errors.iter().filter_map(|e| e.hint.clone()).collect();
        assert_eq!(errors.len(), 4);
        assert_eq!([hints[0].as_str(), hints[2].as_str()], ["did you mean pool?", "did you mean mount?"]);
        assert!(hints[3].contains("--help"), "{hints:?}");
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

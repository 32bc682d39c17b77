//! From text to values: each function takes what was written and says what is accepted when it is not that.

use std::path::PathBuf;

use nix::unistd::Group;

use crate::model::filesystem::FsKind;
use crate::model::settings::{Removal, Scope};
use crate::model::size::Size;
use crate::telemetry::log::Format;

/// The group of the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketGroup {
    /// As it was written: a name or a number.
    pub name: String,
    /// Its number.
    pub gid: u32,
}

type Parsed<T> = Result<T, String>;

/// What Go's flag package took for a boolean.
pub(super) fn boolean(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Ok(true),
        "0" | "f" | "false" => Ok(false),
        _ => Err("accepted are true and false (also t, f, 1, 0)".to_owned()),
    }
}

/// The action and, when it was said in the words of an old README, a warning.
pub(super) fn remove_action(text: &str) -> Parsed<(Removal, Option<String>)> {
    let action = match text {
        "ignore" => Removal::Ignore,
        "delete" => Removal::Delete,
        "rename" => Removal::Rename,
        _ => {
            let (action, word) = match boolean(text) {
                Ok(true) => (Removal::Delete, "delete"),
                Ok(false) => (Removal::Rename, "rename"),
                // The text of rbd-docker-plugin 2.0.1.
                Err(_) => {
                    return Err(format!(
                        r#"Invalid value: {text}, valid values are: ["ignore" "delete" "rename"]"#
                    ));
                }
            };
            let warning =
                format!("remove = {text:?} is the old way to say it, and deprecated: say remove = {word}");
            return Ok((action, Some(warning)));
        }
    };
    Ok((action, None))
}

/// The name of the driver becomes file names.
pub(super) fn name(text: &str) -> Parsed<String> {
    let fits = text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if fits {
        Ok(text.to_owned())
    } else {
        Err("accepted are up to 64 letters, digits, '-', '_' and '.', beginning with a letter or digit"
            .to_owned())
    }
}

/// A Ceph user, without its `client.`.
pub(super) fn user(text: &str) -> Parsed<String> {
    word(text.strip_prefix("client.").unwrap_or(text))
}

/// A Ceph user or cluster: one word.
pub(super) fn word(text: &str) -> Parsed<String> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
        return Err("accepted is one word without '/'".to_owned());
    }
    Ok(text.to_owned())
}

/// The name of a pool.
pub(super) fn pool(text: &str) -> Parsed<String> {
    crate::model::name::check_part("pool name", text).map(|()| text.to_owned()).map_err(|e| e.to_string())
}

/// The name of a namespace.
pub(super) fn namespace(text: &str) -> Parsed<String> {
    crate::model::name::check_part("namespace name", text)
        .map(|()| text.to_owned())
        .map_err(|e| e.to_string())
}

/// Further options for the mkfs of a filesystem.
pub(super) fn mkfs_options(text: &str, fs: FsKind) -> Parsed<Vec<String>> {
    let words = shell_words::split(text).map_err(|e| e.to_string())?;
    crate::model::mkfs_options::check_options(fs, &words).map(|()| words).map_err(|e| e.to_string())
}

/// Mount options.
pub(super) fn mount_options(text: &str) -> Parsed<String> {
    crate::model::mount_options::parse(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// The size of an image's objects: a bare number is bytes.
pub(super) fn object_size(text: &str) -> Parsed<Size> {
    crate::model::create_options::bytes(text).map_err(|e| e.to_string())
}

/// Words with commas between them; none for an empty text.
pub(super) fn list<T>(text: &str, word: impl Fn(&str) -> Parsed<T>) -> Parsed<Vec<T>> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(word).collect()
}

/// Whether volumes of dead hosts are taken over.
pub(super) fn takeover(text: &str) -> Parsed<bool> {
    match text {
        "auto" => Ok(true),
        "never" => Ok(false),
        _ => Err("accepted are auto and never".to_owned()),
    }
}

/// A number of days, from 1 to ten years.
pub(super) fn days(text: &str) -> Parsed<std::time::Duration> {
    match text.parse::<u64>() {
        Ok(n) if (1..=3650).contains(&n) => Ok(std::time::Duration::from_secs(n * 86_400)),
        _ => Err("accepted is a whole number of days from 1 to 3650".to_owned()),
    }
}

/// A path; a relative one is taken from where the plugin was started.
pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    if text.contains('\0') {
        return Err("a path has no NUL byte".to_owned());
    }
    std::path::absolute(text).map_err(|e| format!("cannot be made an absolute path: {e}"))
}

/// A folder, or none.
pub(super) fn folder_or_none(text: &str) -> Parsed<Option<PathBuf>> {
    if text == "none" { Ok(None) } else { path(text).map(Some) }
}

/// An address and a port to listen on.
pub(super) fn address(text: &str) -> Parsed<std::net::SocketAddr> {
    text.parse().map_err(|_| {
        "accepted is ADDRESS:PORT, such as 127.0.0.1:9639, [::1]:9639 or 0.0.0.0:9639".to_owned()
    })
}

/// A number of seconds up to `most`.
pub(super) fn seconds(text: &str, most: u64) -> Parsed<std::time::Duration> {
    match text.parse::<u64>() {
        Ok(n) if n <= most && text.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(std::time::Duration::from_secs(n))
        }
        _ => Err(format!("accepted is a whole number of seconds from 0 to {most}")),
    }
}

/// A group of this host by name, or any group by number.
pub(super) fn group(text: &str) -> Parsed<SocketGroup> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let gid = text.parse().map_err(|_| "accepted is a group number below 4294967296".to_owned())?;
        return Ok(SocketGroup { name: text.to_owned(), gid });
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(SocketGroup { name: text.to_owned(), gid: group.gid.as_raw() }),
        Ok(None) => {
            Err("this host has no such group; accepted are the name of a group and a group number".to_owned())
        }
        Err(errno) => Err(format!("the groups of this host cannot be read: {}", errno.desc())),
    }
}

/// Who sees a volume.
pub(super) fn scope(text: &str) -> Parsed<Scope> {
    match text {
        "global" => Ok(Scope::Global),
        "local" => Ok(Scope::Local),
        _ => Err("accepted are global and local".to_owned()),
    }
}

/// The form of the log.
pub(super) fn log_format(text: &str) -> Parsed<Format> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("accepted are text and json".to_owned()),
    }
}

/// A level of the log.
pub(super) fn log_level(text: &str) -> Parsed<tracing::Level> {
    match text {
        "error" => Ok(tracing::Level::ERROR),
        "warn" => Ok(tracing::Level::WARN),
        "info" => Ok(tracing::Level::INFO),
        "debug" => Ok(tracing::Level::DEBUG),
        "trace" => Ok(tracing::Level::TRACE),
        _ => Err("accepted are error, warn, info, debug and trace".to_owned()),
    }
}

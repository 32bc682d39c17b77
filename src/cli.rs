//! The command line: clap definitions made from the table of [`keys`], the commands, and the tolerance of old spellings.

mod commands;
mod generate;
pub mod man;
#[cfg(test)]
mod tests;
mod texts;
pub mod values;

pub use commands::command;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgMatches, Command};
use clap_complete::Shell;

use crate::cli::values::Format;
use crate::config::keys::{self, CONF_FILE, KEYS, WORDS};
use commands::{FORMAT, TOP_INTERVAL};
use generate::{DIR, SHELL};

/// What the program was told to do, and with which settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub action: Action,
    /// The flags that were given, by the names of the table.
    pub flags: BTreeMap<&'static str, String>,
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// No command: run the daemon.
    Serve,
    /// `doctor`
    Doctor(Format),
    /// `lock ls`
    Locks(Format),
    /// `lock break`
    BreakLock {
        /// The volume, as its user writes it.
        volume: String,
        /// Whether it may be alive.
        force: bool,
        /// How to answer.
        format: Format,
    },
    /// `fence HOST`
    Fence {
        /// The host.
        host: String,
        /// How to answer.
        format: Format,
    },
    /// `fence ls`
    Fences(Format),
    /// `unmount --all`
    UnmountAll {
        /// How long it may take.
        timeout: Duration,
        /// How to answer.
        format: Format,
    },
    /// `check`
    Check,
    /// `config check`
    CheckConfig(Format),
    /// `ls`
    Volumes(Format),
    /// `inspect`
    Inspect {
        /// The volumes, as Docker has them.
        volumes: Vec<String>,
        /// How to answer.
        format: Format,
    },
    /// `df`
    Usage(Format),
    /// `top`
    Top {
        /// Seconds between two looks.
        interval: u64,
        /// Whether one table is enough.
        once: bool,
        /// How to answer.
        format: Format,
    },
    /// `plugin-config`, for whoever builds the managed plugin.
    PluginConfig,
    /// `completions`
    Completions(Shell),
    /// `man`, into a folder or to stdout
    Man(Option<PathBuf>),
}

/// What was asked for. The error prints itself: help and version are errors too.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let mut words: Vec<OsString> = arguments.into_iter().collect();
    accept_wrapper_arguments(&mut words);
    let mut is_value = false;
    for word in words.iter_mut().skip(1) {
        if !std::mem::take(&mut is_value) {
            *word = normalise_flag(std::mem::take(word));
            is_value = KEYS.iter().any(|key| key.value == WORDS && *word == *format!("--{}", key.name));
        }
    }
    let command = command();
    detach_switches(&mut words, &command);
    let matches = command.try_get_matches_from(words)?;
    let mut flags = BTreeMap::new();
    let mut path = Vec::new();
    let mut level = &matches;
    loop {
        // What is said after a command counts more than what is said before it, as the last of two flags does.
        flags.extend(KEYS.iter().filter_map(|key| Some((key.name, setting(level, key.name)?.clone()))));
        let Some((name, below)) = level.subcommand() else { break };
        path.push((name, level));
        level = below;
    }
    Ok(Invocation { action: action(&path, level)?, flags })
}

/// A setting as this level has it; not every command takes settings.
fn setting<'a>(level: &'a ArgMatches, name: &str) -> Option<&'a String> {
    level.try_get_one(name).ok().flatten()
}

fn action(path: &[(&str, &ArgMatches)], of: &ArgMatches) -> Result<Action, clap::Error> {
    let text = |name: &str| of.get_one::<String>(name).cloned().unwrap_or_default();
    // Only a command has the argument.
    let format = || of.get_one::<Format>(FORMAT).copied().unwrap_or_default();
    Ok(match path {
        [] => Action::Serve,
        [("plugin-config", _)] => Action::PluginConfig,
        [("doctor", _)] => Action::Doctor(format()),
        [("unmount", _)] => {
            let seconds = of.get_one::<u64>("timeout").copied().unwrap_or_default();
            let timeout = Duration::from_secs(seconds);
            Action::UnmountAll { timeout, format: format() }
        }
        [("ls", _)] => Action::Volumes(format()),
        [("inspect", _)] => Action::Inspect {
            volumes: of.get_many::<String>("VOLUME").unwrap_or_default().cloned().collect(),
            format: format(),
        },
        [("df", _)] => Action::Usage(format()),
        [("top", _)] => Action::Top {
            interval: of.get_one("interval").copied().unwrap_or(TOP_INTERVAL),
            once: of.get_flag("once"),
            format: format(),
        },
        [("completions", _)] => Action::Completions(of.get_one(SHELL).copied().unwrap_or(Shell::Bash)),
        [("man", _)] => Action::Man(of.get_one(DIR).cloned()),
        [("lock", _), ("break", _)] => {
            Action::BreakLock { volume: text("IMAGE"), force: of.get_flag("force"), format: format() }
        }
        [("lock", _), ..] => Action::Locks(format()),
        [("check", _)] => Action::Check,
        [("config", _), ..] => Action::CheckConfig(format()),
        [("fence", _), (_, fence)] if fence.contains_id("HOST") => {
            return Err(command().error(ErrorKind::ArgumentConflict, "give a host to fence, or ls, not both"));
        }
        [("fence", _), ..] if path.len() > 1 => Action::Fences(format()),
        [..] => Action::Fence { host: text("HOST"), format: format() },
    })
}

/// The wrapper script of rbd-docker-plugin 2.0.1 made `-key=value` of each line of its conf file, `-=` of a blank one, and passed the
/// name of a file that it was given on as well.
fn accept_wrapper_arguments(words: &mut Vec<OsString>) {
    words.retain(|word| word != "-=");
    let is_flag =
        |word: &OsString| word.to_str().is_some_and(|text| text.starts_with('-') && text.contains('='));
    if let [_, flags @ .., path] = words.as_mut_slice()
        && flags.iter().all(is_flag)
        && path.to_str().is_some_and(|text| text.starts_with('/'))
    {
        *path = format!("--{CONF_FILE}={}", path.display()).into();
    }
}

/// Go's flag package took `-x` for `--x`; we also take aliases, underscores and any case. What is no flag of ours stays as it
/// is, for clap to complain about.
fn normalise_flag(argument: OsString) -> OsString {
    let Some(text) = argument.to_str() else { return argument };
    let Some(bare) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else { return argument };
    let (name, value) = match bare.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (bare, None),
    };
    let name = match keys::find(name) {
        Some(key) => key.name,
        // Two letters at least: -h and -V are clap's own.
        None if name.len() > 1 && !text.starts_with("--") => name,
        None => return argument,
    };
    match value {
        Some(value) => format!("--{name}={value}").into(),
        None => format!("--{name}").into(),
    }
}

/// A switch before a command stands alone: `--create doctor` does not mean `--create=doctor`.
fn detach_switches(words: &mut [OsString], command: &Command) {
    let is_command = |word: &str| command.get_subcommands().any(|below| below.get_name() == word);
    for at in 1..words.len().saturating_sub(1) {
        let switch =
            |text: &str| KEYS.iter().any(|key| key.switch && text.strip_prefix("--") == Some(key.name));
        let (this, next) = (words[at].to_str(), words[at + 1].to_str());
        if let Some(flag) = this.filter(|text| switch(text))
            && next.is_some_and(is_command)
        {
            words[at] = format!("{flag}=true").into();
        }
    }
}

//! What the program does, one file for each thing.

pub mod admin_client;
#[cfg(feature = "ceph")]
mod check;
#[cfg(feature = "ceph")]
mod cluster;
mod config_check;
mod df;
mod doctor;
#[cfg(feature = "ceph")]
mod fence;
mod generate;
mod inspect;
#[cfg(feature = "ceph")]
mod lock;
mod ls;
pub mod output;
mod parts;
pub mod plugin_config;
pub mod top;
mod unmount;

pub use parts::{Parts, Tell};

use std::time::Duration;

use crate::cli::{Action, Invocation};
use crate::config::{self, Config};
use crate::model::error::{DriverError, ErrorKind, Result};

/// Says on stderr why something failed; the exit status for it.
#[must_use]
pub fn failed(why: &DriverError) -> u8 {
    eprintln!("rbd-docker-plugin: {why}");
    if why.kind == ErrorKind::Config { 2 } else { 1 }
}

/// Does what was asked for; the exit status. To serve is the daemon's.
pub fn run(invocation: &Invocation, parts: &Parts) -> Result<u8> {
    let flags = &invocation.flags;
    if let Action::Doctor(format) = invocation.action {
        return doctor::run(flags, format);
    }
    if invocation.action == Action::PluginConfig {
        plugin_config::run()?;
        return Ok(0);
    }
    match &invocation.action {
        Action::Completions(shell) => return generate::completions(*shell).map(|()| 0),
        Action::Man(dir) => return generate::man(dir.as_deref()).map(|()| 0),
        _ => {}
    }
    if let Action::CheckConfig(format) = invocation.action {
        return config_check::run(parts, flags, format);
    }
    #[cfg(feature = "ceph")]
    if invocation.action == Action::Check {
        return check::run(flags);
    }
    let config = Config::load(flags, &config::environment()?)?;
    output::log_if_told(&config)?;
    if let Action::UnmountAll { timeout, format } = invocation.action {
        return unmount::all(parts, &config, timeout, format);
    }
    match &invocation.action {
        Action::Volumes(format) => ls::run(&config, *format)?,
        Action::Inspect { volumes, format } => return inspect::run(&config, volumes, *format),
        Action::Usage(format) => df::run(&config, *format)?,
        Action::Top { interval, once, format } => {
            top::run(&config, Duration::from_secs(*interval), *once, *format)?;
        }
        other => administer(parts, other, &config)?,
    }
    Ok(0)
}

#[cfg(feature = "ceph")]
fn administer(parts: &Parts, action: &Action, config: &Config) -> Result<()> {
    match action {
        Action::Locks(format) => lock::ls(parts, config, *format),
        Action::BreakLock { volume, force, format } => {
            lock::break_one(parts, config, volume, *force, *format)
        }
        Action::Fence { host, format } => fence::host(parts, config, host, *format),
        Action::Fences(format) => fence::ls(parts, config, *format),
        // The others are done already.
        _ => Ok(()),
    }
}

#[cfg(not(feature = "ceph"))]
fn administer(_: &Parts, _: &Action, _: &Config) -> Result<()> {
    Err(DriverError::new(
        ErrorKind::Config,
        "check, lock and fence are for images in a Ceph cluster: this build has no Ceph support",
    ))
}

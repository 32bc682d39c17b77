//! What the program does, one file for each thing.

pub mod admin_client;
#[cfg(feature = "ceph")]
mod check;
#[cfg(feature = "ceph")]
mod cluster;
mod config_check;
mod df;
pub mod doctor;
#[cfg(feature = "ceph")]
mod fence;
mod inspect;
#[cfg(feature = "ceph")]
mod lock;
mod ls;
pub mod output;
mod papers;
pub mod plugin_config;
pub mod top;
mod unmount;

use std::io::{self, Write};
use std::time::Duration;

use crate::cli::{Action, Invocation};
use crate::config::{self, Config};
use crate::linux::fork;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::telemetry::log::{self, Target};

/// Says on stderr why something failed; the exit status for it.
#[must_use]
pub fn failed(why: &DriverError) -> u8 {
    eprintln!("rbd-docker-plugin: {why}");
    if why.kind == ErrorKind::Config { 2 } else { 1 }
}

/// Ends the program: the one way out of every command. Threads may still ask the cluster something that nobody waits for.
pub fn end(status: u8) -> ! {
    // What is printed is flushed already; this is for what a library has printed.
    let _ = io::stdout().flush();
    fork::end(status)
}

/// Does what was asked for; the exit status.
pub fn run(invocation: &Invocation) -> Result<u8> {
    let flags = &invocation.flags;
    if let Action::Doctor(format) = invocation.action {
        return doctor::run(flags, format);
    }
    if invocation.action == Action::PluginConfig {
        plugin_config::run()?;
        return Ok(0);
    }
    match &invocation.action {
        Action::Completions(shell) => return papers::completions(*shell).map(|()| 0),
        Action::Man(dir) => return papers::man(dir.as_deref()).map(|()| 0),
        _ => {}
    }
    if let Action::CheckConfig(format) = invocation.action {
        return config_check::run(flags, format);
    }
    #[cfg(feature = "ceph")]
    if invocation.action == Action::Check {
        return check::run(flags);
    }
    let config = Config::load(flags, &config::environment()?)?;
    if invocation.action == Action::Serve {
        crate::daemon::serve::run(&config)?;
        return Ok(0);
    }
    explain(&config)?;
    if let Action::UnmountAll { timeout, format } = invocation.action {
        return unmount::all(&config, timeout, format);
    }
    match &invocation.action {
        Action::Volumes(format) => ls::run(&config, *format)?,
        Action::Inspect { volumes, format } => return inspect::run(&config, volumes, *format),
        Action::Usage(format) => df::run(&config, *format)?,
        Action::Top { interval, once, format } => {
            top::run(&config, Duration::from_secs(*interval), *once, *format)?;
        }
        other => administer(other, &config)?,
    }
    Ok(0)
}

/// A command logs nothing, unless it was told to log to stderr.
fn explain(config: &Config) -> Result<()> {
    if config.log.target == Target::Stderr {
        log::start(&config.log)?;
    }
    Ok(())
}

#[cfg(feature = "ceph")]
fn administer(action: &Action, config: &Config) -> Result<()> {
    match action {
        Action::Locks(format) => lock::ls(config, *format),
        Action::BreakLock { volume, force, format } => lock::break_one(config, volume, *force, *format),
        Action::Fence { host, format } => fence::host(config, host, *format),
        Action::Fences(format) => fence::ls(config, *format),
        // The others are done already.
        _ => Ok(()),
    }
}

#[cfg(not(feature = "ceph"))]
fn administer(_: &Action, _: &Config) -> Result<()> {
    use crate::model::error::{DriverError, ErrorKind};
    Err(DriverError::new(
        ErrorKind::Config,
        "check, lock and fence are for images in a Ceph cluster: this build has no Ceph support",
    ))
}

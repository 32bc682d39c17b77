//! What the program does, one file for each thing.

#[cfg(feature = "ceph")]
mod check;
#[cfg(feature = "ceph")]
mod cluster;
mod config_check;
pub mod doctor;
#[cfg(feature = "ceph")]
mod fence;
#[cfg(feature = "ceph")]
mod lock;
pub mod output;
pub mod serve;
pub(crate) mod unmount;

use std::process::ExitCode;

use crate::cli::{Action, Invocation};
use crate::config::{self, Config};
use crate::error::Result;
use crate::telemetry::log::{self, Target};

/// Does what was asked for.
pub fn run(invocation: &Invocation) -> Result<ExitCode> {
    let flags = &invocation.flags;
    if let Action::Doctor(format) = invocation.action {
        return doctor::run(flags, format);
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
        serve::run(&config)?;
        return Ok(ExitCode::SUCCESS);
    }
    explain(&config)?;
    if let Action::UnmountAll { timeout, format, worker } = invocation.action {
        return if worker { unmount::work(&config, timeout, format) } else { unmount::all(timeout) };
    }
    administer(&invocation.action, &config)?;
    Ok(ExitCode::SUCCESS)
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
        Action::Serve
        | Action::Doctor(_)
        | Action::UnmountAll { .. }
        | Action::Check
        | Action::CheckConfig(_) => Ok(()),
        Action::Locks(format) => lock::ls(config, *format),
        Action::BreakLock { volume, force, format } => lock::break_one(config, volume, *force, *format),
        Action::Fence { host, format } => fence::host(config, host, *format),
        Action::Fences(format) => fence::ls(config, *format),
    }
}

#[cfg(not(feature = "ceph"))]
fn administer(_: &Action, _: &Config) -> Result<()> {
    use crate::error::{DriverError, ErrorKind};
    Err(DriverError::new(
        ErrorKind::Config,
        "check, lock and fence are for images in a Ceph cluster: this build has no Ceph support",
    ))
}

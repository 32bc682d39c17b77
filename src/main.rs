//! Parses the command line and the settings, and runs the daemon. Exit status: 0 stopped as told, 1 failed, 2 wrong usage.

use std::process::ExitCode;

use rbd_docker_plugin::config::{self, Config};
use rbd_docker_plugin::error::{ErrorKind, Result};
use rbd_docker_plugin::{cli, cmd};

fn main() -> ExitCode {
    let flags = match cli::parse(std::env::args_os()) {
        Ok(flags) => flags,
        Err(told) => {
            // Help and version go to stdout with status 0, wrong usage to stderr with 2. With nobody to read, the status remains.
            let _ = told.print();
            return ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(2));
        }
    };
    let run = || -> Result<()> { cmd::serve::run(&Config::load(&flags, &config::environment()?)?) };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("rbd-docker-plugin: {e}");
            ExitCode::from(if e.kind == ErrorKind::Config { 2 } else { 1 })
        }
    }
}

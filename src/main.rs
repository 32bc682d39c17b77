//! Parses the command line, and does what was asked for. Exit status: 0 done, or stopped as told; 1 failed; 2 wrong usage.

use rbd_docker_plugin::{cli, cmd};

fn main() {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(told) => {
            // Help and version go to stdout with status 0, wrong usage to stderr with 2. With nobody to read, the status remains.
            let _ = told.print();
            cmd::end(u8::try_from(told.exit_code()).unwrap_or(2));
        }
    };
    cmd::end(cmd::run(&invocation).unwrap_or_else(|e| cmd::failed(&e)))
}

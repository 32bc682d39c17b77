//! Parses the command line, and does what was asked for. Exit status: 0 done, or stopped as told; 1 failed; 2 wrong usage.

use rbd_docker_plugin::cli::{self, Action};
use rbd_docker_plugin::cmd::{self, Parts};
use rbd_docker_plugin::daemon::{self, assemble, release, serve};

fn main() {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(told) => {
            // Help and version go to stdout with status 0, wrong usage to stderr with 2. With nobody to read, the status remains.
            let _ = told.print();
            daemon::end(u8::try_from(told.exit_code()).unwrap_or(2));
        }
    };
    let parts = Parts {
        check: assemble::check,
        release_all: release::all,
        #[cfg(feature = "ceph")]
        owner_admin: assemble::owner_admin,
    };
    let done = match invocation.action {
        Action::Serve => serve::run(&invocation.flags).map(|()| 0),
        _ => cmd::run(&invocation, &parts),
    };
    daemon::end(done.unwrap_or_else(|e| cmd::failed(&e)))
}

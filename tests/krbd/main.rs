//! The kernel layer of RBD on a real kernel and a real cluster: `linux/krbd`, alone.
//!
//! Needs root, the module `rbd`, and `KRBD_TEST_CONF`: the ceph.conf of a cluster that is there for tests, with the pool `rbd`
//! and the keys of `client.admin` and `client.docker` (`tools/ceph-cluster` makes one, `tools/vm` a machine with such a kernel).
//! The cluster is paused in the course of it. Without these, every test is skipped with the reason.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod busy;
mod maps;
mod outage;
mod rig;
mod speed;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    if let Ok(image) = std::env::var(outage::MAPPER) {
        outage::mapper(&image);
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // One after the other, so that each can be checked for what it left mapped.
    arguments.test_threads = Some(1);
    let trials = [maps::trials(), busy::trials(), outage::trials(), speed::trials()];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit_code()
}

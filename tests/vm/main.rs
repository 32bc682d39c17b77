//! The vm tier: what needs a kernel with rbd, a cluster, or a second host.
//!
//! A cluster in a network namespace and up to two virtual machines in it, started when the first test asks for them and used by
//! all, one test after the other. Each test must leave hosts and cluster as it found them; a test that fails, or leaves something
//! behind, takes the lab with it, and the next one gets a new lab. Needs root, qemu and a Debian to take the kernel from;
//! without them every test is skipped with the reason. What the machine's own kernel can do makes no difference.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
#[path = "../common/console.rs"]
mod console;
mod crash;
#[path = "../common/daemon.rs"]
mod daemon;
mod docker;
mod guide;
mod host;
mod images;
mod kernel;
mod outage;
mod ownership;
mod plugin;
mod rig;
mod secrets;
mod trouble;
mod volumes;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    if let Some(code) = plugin::asked() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let mut trials = Vec::new();
    for more in [
        kernel::trials,
        trouble::trials,
        docker::trials,
        volumes::trials,
        ownership::trials,
        images::trials,
        outage::trials,
        crash::trials,
        secrets::trials,
        guide::trials,
    ] {
        trials.extend(more());
    }
    trials.push(rig::last());
    let conclusion = libtest_mimic::run(&arguments, trials);
    rig::end();
    conclusion.exit_code()
}

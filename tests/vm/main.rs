//! The vm tier: what needs a kernel with rbd, a cluster, or a second host.
//!
//! A lab is a cluster in a network namespace and two virtual machines in it, started when a test asks for one and used by the tests
//! after it. Where there is memory for it, two tests run at a time, each in a lab of its own: most of their time is waiting. Each test
//! must leave hosts and cluster as it found them; a test that fails, or leaves something behind, takes its lab with it, and the next
//! one gets a new lab. Needs root, qemu and a Debian to take the kernel from; without them every test is skipped with the reason.
//! What the machine's own kernel can do makes no difference.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
mod clusters;
#[path = "../common/console.rs"]
mod console;
mod crash;
#[path = "../common/daemon.rs"]
mod daemon;
mod guide;
mod host;
mod images;
mod kernel;
mod outage;
mod ownership;
mod plugin;
mod rig;
mod secrets;
#[path = "../common/trace.rs"]
mod trace;
mod versions;
mod volumes;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    if let Some(code) = plugin::asked() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or_else(|| Some(rig::at_once()));
    let mut trials = Vec::new();
    for more in [
        // The longest first: others run beside it.
        guide::trials,
        kernel::trials,
        clusters::trials,
        versions::trials,
        ownership::trials,
        images::trials,
        outage::trials,
        crash::trials,
        secrets::trials,
    ] {
        trials.extend(more());
    }
    trials.push(rig::last());
    let conclusion = libtest_mimic::run(&arguments, trials);
    rig::end();
    rig::print_times();
    conclusion.exit_code()
}

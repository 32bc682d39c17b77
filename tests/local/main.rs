//! The local tier: everything that the real kernel does, on loop devices over sparse files.
//!
//! It needs root and loop devices; without them every test is skipped with the reason. It runs in a mount namespace of its own,
//! so that no mount of it is ever seen outside, and one test after the other, so that each can be checked for leaks.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checking;
mod child;
mod closed;
mod crash;
#[path = "../common/daemon.rs"]
mod daemon;
mod driver;
mod filesystems;
mod images;
mod kernel;
mod options;
mod orphans;
mod races;
#[path = "../common/reads.rs"]
mod reads;
mod refused;
mod release;
mod rig;
mod seeing;
mod sharing;
mod strace;
mod systemd;
#[path = "../common/trace.rs"]
mod trace;
mod trouble;
mod volumes;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    if let Some(code) = child::run() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // Before any thread is started: unshare(2) moves only the calling one.
    let ready = rig::enter();
    arguments.test_threads = Some(1);
    let mut trials = kernel::trials(&ready);
    trials.extend(filesystems::trials(&ready));
    trials.extend(crash::trials(&ready));
    for more in [
        driver::trials,
        options::trials,
        images::trials,
        sharing::trials,
        closed::trials,
        orphans::trials,
        races::trials,
        refused::trials,
        checking::trials,
        trouble::trials,
        release::trials,
        systemd::trials,
        seeing::trials,
    ] {
        trials.extend(more(&ready));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

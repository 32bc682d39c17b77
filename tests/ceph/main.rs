//! The ceph tier: what needs a real Ceph cluster.
//!
//! It starts one of its own with `tools/ceph-cluster`, on the loopback device and with its data in memory, and ends it; without the
//! daemons every test is skipped with the reason. With `RBD_TEST_CLUSTER=<ceph.conf>` it uses that cluster as
//! client.admin instead: it works in pools of its own, which it removes again (the monitors must allow that), and skips what would stop
//! a daemon. One test after the other: some of them stop an OSD.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod addresses;
mod backend;
mod clients;
mod commands;
mod corpus;
mod crash;
#[path = "../common/daemon.rs"]
mod daemon;
#[path = "../common/fake_kernel.rs"]
mod fake_kernel;
mod features;
mod hosts;
mod kernel;
mod kinds;
mod layer;
mod link;
mod marred;
mod migration;
mod options;
mod owners;
mod plugin;
mod pools;
mod rig;
mod silent;
mod takeover;
mod tenants;
mod trouble;
mod versions;
mod wire;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    takeover::watch_if_told();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    // Before any thread is started: unshare(2) moves only the calling one.
    rig::set_mounts_apart();
    let lab = if arguments.list { Err("only listed".to_owned()) } else { rig::Lab::start() };
    let mut trials = layer::trials(&lab);
    trials.extend(backend::trials(&lab));
    trials.extend(owners::trials(&lab));
    trials.extend(takeover::trials(&lab));
    trials.extend(kernel::trials(&lab));
    trials.extend(features::trials(&lab));
    trials.extend(commands::trials(&lab));
    trials.extend(migration::trials(&lab));
    trials.extend(tenants::trials(&lab));
    trials.extend(pools::trials(&lab));
    trials.extend(silent::trials(&lab));
    trials.extend(corpus::trials(&lab));
    trials.extend(link::trials(&lab));
    trials.extend(clients::trials(&lab));
    trials.extend(wire::trials(&lab));
    trials.extend(addresses::trials(&lab));
    trials.extend(trouble::trials(&lab));
    trials.extend(kinds::trials(&lab));
    trials.extend(marred::trials(&lab));
    trials.extend(options::trials(&lab));
    trials.extend(versions::trials(&lab));
    trials.extend(crash::trials(&lab));
    let conclusion = libtest_mimic::run(&arguments, trials);
    // By hand: what exits with a code drops nothing.
    drop(lab);
    conclusion.exit_code()
}

//! The real server over a real unix socket, in front of a fake driver. Needs no privilege.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    unreachable_pub,
    reason = "this whole crate is tests"
)]

mod admin;
mod console;
mod docs;
mod fake;
mod formats;
mod generated;
mod hostile;
mod house;
mod migration;
mod monitoring;
#[path = "../common/console.rs"]
mod pages;
mod program;
mod replies;
mod rig;
mod stopping;
mod systemd;
#[path = "../common/trace.rs"]
mod trace;

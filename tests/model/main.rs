//! The driver against a model, on the simulator: random histories of create, mount, unmount and remove, with a failure or a crash
//! injected at any call to the backend or the kernel. After every step, nothing may be left that no volume accounts for.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    reason = "all of this is tests"
)]

mod cases;
mod defaults;
mod machine;
mod places;
mod release;
mod rig;
mod stress;
mod takeover;
mod unseen;

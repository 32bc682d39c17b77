//! A keyring, in any state.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbd_docker_plugin::backend::rbd::fuzz;

fuzz_target!(|bytes: &[u8]| {
    fuzz::keyring(bytes);
});

//! Mount options as people write them in fstab.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbd_docker_plugin::linux::mount;

fuzz_target!(|text: &str| {
    let _ = mount::parse(text);
});

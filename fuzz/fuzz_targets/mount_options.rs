//! Mount options as people write them in fstab.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbd_docker_plugin::model::mount_options;

fuzz_target!(|text: &str| {
    let _ = mount_options::parse(text);
});

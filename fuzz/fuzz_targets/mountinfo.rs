//! What the kernel prints holds whatever bytes people put into the names of folders.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbd_docker_plugin::linux::mountinfo;

fuzz_target!(|text: &[u8]| {
    let lines = text.split(|byte| *byte == b'\n').count();
    assert!(mountinfo::parse(text).len() <= lines);
});

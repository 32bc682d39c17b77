//! The body of any request, from any client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbd_docker_plugin::plugin::proto;

fuzz_target!(|body: &[u8]| {
    let _ = proto::parse_create(body);
    let _ = proto::parse_mount(body);
    let _ = proto::parse_name(body);
});

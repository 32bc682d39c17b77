//! The body of any request, from any client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbd_docker_plugin::frontend::docker::protocol;

fuzz_target!(|body: &[u8]| {
    let _ = protocol::parse_create(body);
    let _ = protocol::parse_mount(body);
    let _ = protocol::parse_name(body);
});

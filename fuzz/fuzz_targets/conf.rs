//! The configuration file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rbd_docker_plugin::config::file;

fuzz_target!(|text: &str| {
    let (lines, errors) = file::parse(text, Path::new("/etc/docker/rbd-docker-plugin.conf"));
    assert!(lines.len() + errors.len() <= text.lines().count());
    for error in errors {
        assert!(error.to_string().contains(".conf:"), "it names the line: {error}");
    }
});

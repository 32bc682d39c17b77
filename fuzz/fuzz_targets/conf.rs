//! The configuration file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rbd_docker_plugin::config::file;

fuzz_target!(|text: &str| {
    match file::parse(text, Path::new("/etc/docker/rbd-docker-plugin.conf")) {
        Ok(lines) => assert!(lines.len() <= text.lines().count()),
        Err(error) => assert!(error.to_string().contains(".conf:"), "it names the line: {error}"),
    }
});

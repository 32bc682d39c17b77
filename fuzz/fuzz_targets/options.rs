//! `docker volume create -o`: any map of options is parsed or answered with an error, in a line.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use rbd_docker_plugin::model::create_options::Options;

fuzz_target!(|options: BTreeMap<String, String>| {
    if let Err(error) = Options::parse(&options) {
        assert!(!error.to_string().contains('\n'), "one line: {error}");
    }
});

//! A size that is accepted survives being printed and parsed again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbd_docker_plugin::model::size::Size;

fuzz_target!(|text: &str| {
    if let Ok(size) = text.parse::<Size>() {
        assert_eq!(size.to_string().parse::<Size>().expect("what is printed can be parsed"), size);
    }
});

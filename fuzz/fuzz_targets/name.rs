//! A volume name that is accepted stays inside its folder, survives being printed and parsed again, and means one image.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbd_docker_plugin::name::{ImageSpec, VolumeName};

fuzz_target!(|text: &str| {
    let Ok(name) = text.parse::<VolumeName>() else { return };
    let spec = name.in_pool("rbd");
    for part in [Some(spec.pool()), spec.namespace(), Some(spec.image())].into_iter().flatten() {
        assert!(
            !part.is_empty()
                && part.len() <= 200
                && part != "."
                && part != ".."
                && !part.contains(['/', '\0'])
        );
    }
    let again = ImageSpec::try_from(spec.to_string()).expect("what is printed can be parsed");
    assert_eq!(again, spec);
});

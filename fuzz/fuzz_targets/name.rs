//! A volume name that is accepted stays inside its folder, survives being printed and parsed again, and means one image.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbd_docker_plugin::model::name::{ImageSpec, VolumeName};

fuzz_target!(|text: &str| {
    let Ok(name) = text.parse::<VolumeName>() else { return };
    // A name that is only just short enough may not be with the pool in front.
    let Ok(spec) = name.in_pool("rbd") else { return };
    for part in [Some(spec.pool()), spec.namespace(), Some(spec.image())].into_iter().flatten() {
        assert!(
            !part.is_empty()
                && part.len() <= 240
                && part != "."
                && part != ".."
                && !part.contains(['/', '\0'])
        );
    }
    let again = ImageSpec::try_from(spec.to_string()).expect("what is printed can be parsed");
    assert_eq!(again, spec);
});

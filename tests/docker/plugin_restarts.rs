//! The plugin goes and comes back under a running container.

use crate::Case;
use crate::plugin::Plugin;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("plugin-stopped", |case| comes_back(case, Plugin::stop)),
    ("plugin-killed", |case| comes_back(case, Plugin::kill)),
    ("plugin-killed-often", killed_often),
];

/// What is mounted stays mounted while the plugin is away, and is the new plugin's afterwards.
fn comes_back(case: &str, end: fn(&mut Plugin)) {
    let mut w = World::new(case);
    w.start_writer("main", "data");
    end(&mut w.plugin);
    w.still_writes("main");
    w.assert_mounted(&["data"]);

    w.plugin.up();
    w.still_writes("main");
    w.assert_mounted(&["data"]);
    assert_eq!(w.inspect("data")["Mountpoint"], w.plugin.mountpoint("data").to_str().expect("a UTF-8 path"));
    let (status, answer) = w.plugin.call("/VolumeDriver.Remove", &serde_json::json!({"Name": "data"}));
    assert_eq!(status, 500, "still in use after the restart: {answer}");

    // A second use comes and goes on the adopted mount.
    assert_ne!(w.run(&["-v", "data:/vol", "bb"], "wc -l < /vol/log"), "0\n");
    w.still_writes("main");
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted(&[]);
    w.engine.ok(&["start", "main"]);
    w.still_writes("main");
    w.finish();
}

/// kill -9 again and again, with containers that come and go between.
fn killed_often(case: &str) {
    let mut w = World::new(case);
    w.start_writer("left", "data");
    for round in 0..5 {
        let other = format!("other{round}");
        w.start_writer(&other, "data");
        w.plugin.kill();
        w.plugin.up();
        w.still_writes(&other);
        w.engine.ok(&["rm", "-f", &other]);
        w.assert_mounted(&["data"]);
        w.still_writes("left");
    }
    w.engine.ok(&["stop", "left"]);
    w.wait_mounted(&[]);
    w.finish();
}

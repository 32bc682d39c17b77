//! What goes wrong around a volume, and leaves nothing behind.

use crate::Case;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("bad-entrypoint", bad_entrypoint),
    ("plugin-down", plugin_down),
    ("full-volume", full_volume),
    ("image-gone", image_gone),
];

/// The container does not start after its volume was mounted.
fn bad_entrypoint(case: &str) {
    let w = World::new(case);
    let run =
        ["run", "--network", "none", "--volume-driver", &w.plugin.name, "-v", "data:/vol", "bb", "/missing"];
    for _ in 0..3 {
        let error = w.engine.fails(&run);
        assert!(error.contains("/missing"), "{error}");
        w.wait_mounted(&[]);
    }
    assert_eq!(w.run(&["-v", "data:/vol", "bb"], "ls -A /vol"), "");
    w.finish();
}

/// Docker says that it cannot reach the plugin; with the plugin back, the same command works.
fn plugin_down(case: &str) {
    let mut w = World::new(case);
    w.run(&["-v", "data:/vol", "bb"], "echo kept > /vol/file");
    w.plugin.stop();
    let error = w.run_fails(&["-v", "data:/vol", "bb"], "cat /vol/file");
    assert!(error.contains(&w.plugin.name), "the error names the plugin: {error}");
    w.plugin.up();
    assert_eq!(w.run(&["-v", "data:/vol", "bb"], "cat /vol/file"), "kept\n");
    w.finish();
}

/// A full filesystem refuses writes and nothing else: it stops, starts, empties and goes.
fn full_volume(case: &str) {
    let w = World::new(case);
    w.create("data", &["size=24M"]);
    w.start("main", &["-v", "data:/vol", "bb"], "sleep 1000");
    let refused =
        w.engine.fails(&["exec", "main", "dd", "if=/dev/zero", "of=/vol/fill", "bs=1M", "count=100"]);
    assert!(refused.contains("No space left on device"), "{refused}");
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted(&[]);

    w.engine.ok(&["start", "main"]);
    w.assert_mounted(&["data"]);
    w.exec("main", "rm /vol/fill && echo room > /vol/file && sync");
    assert_eq!(w.exec("main", "cat /vol/file"), "room\n");
    w.engine.fails(&["exec", "main", "dd", "if=/dev/zero", "of=/vol/fill", "bs=1M", "count=100"]);
    w.engine.ok(&["rm", "-f", "main"]);
    w.engine.ok(&["volume", "rm", "data"]);
    assert!(!w.plugin.image("data").exists());
    w.finish();
}

/// Somebody took the image away: the container does not start, the error says which, and the volume can be removed.
fn image_gone(case: &str) {
    let w = World::new(case);
    w.create("data", &[]);
    w.start("main", &["-v", "data:/vol", "bb"], "sleep 1000");
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted(&[]);
    std::fs::remove_file(w.plugin.image("data")).expect("the image can be deleted");
    let error = w.engine.fails(&["start", "main"]);
    assert!(error.contains("data"), "{error}");
    w.wait_mounted(&[]);
    w.finish();
}

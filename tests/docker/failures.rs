//! What goes wrong around a volume, and leaves nothing behind.

use crate::Case;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("bad-entrypoint", bad_entrypoint),
    ("plugin-down", plugin_down),
    ("full-volume", full_volume),
    ("image-gone", image_gone),
    ("store-away", store_away),
    ("stopped-while-plugin-is-down", stopped_while_plugin_is_down),
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
    // The name can be used again.
    w.engine.ok(&["rm", "main"]);
    w.create("data", &[]);
    w.finish();
}

/// Docker keeps a volume's labels while the store is away, and the plugin says what is wrong.
fn store_away(case: &str) {
    let mut w = World::new(case);
    w.engine.ok(&["volume", "create", "-d", &w.plugin.name, "--label", "team=db", "data"]);
    let (here, away) = (w.plugin.images(), w.dir.join("away"));
    std::fs::rename(&here, &away).expect("the store can be taken away");
    let labels = ["volume", "inspect", "-f", "{{.Labels.team}} {{.Status.health}}", "data"];
    assert_eq!(w.engine.ok(&labels), "db degraded\n");
    assert_eq!(w.engine.ok(&["volume", "ls", "-q"]), "data\n");
    let error = w.run_fails(&["-v", "data:/vol", "bb"], "true");
    assert!(error.contains("is not there"), "{error}");
    // An engine that is started meanwhile asks for all volumes that it knows, and forgets those that are not found.
    w.engine.end_with(nix::sys::signal::Signal::SIGTERM);
    w.engine.up();
    std::fs::rename(&away, &here).expect("the store can be brought back");
    assert_eq!(w.engine.ok(&labels), "db ok\n");
    w.run(&["-v", "data:/vol", "bb"], "echo there > /vol/file");
    w.finish();
}

/// Docker cannot unmount while the plugin is away, and mounts the same ID again later: that is one use, not two.
fn stopped_while_plugin_is_down(case: &str) {
    let mut w = World::new(case);
    w.start_writer("main", "data");
    w.plugin.stop();
    // Docker gives up on the plugin after some seconds of trying, and says that all is well.
    w.engine.ok(&["stop", "main"]);
    w.plugin.up();
    w.engine.ok(&["start", "main"]);
    w.still_writes("main");
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted(&[]);
    w.finish();
}

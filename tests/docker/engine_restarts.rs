//! The Docker engine goes, and comes back or not, under a running container.
//!
//! An engine that was killed never unmounts; the plugin drops the uses of a dead engine that no container holds after
//! `--orphan-grace`.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::Case;
use crate::daemon::wait;
use crate::leaks;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("engine-stopped", |case| without_live_restore(case, Signal::SIGTERM)),
    ("engine-killed", |case| without_live_restore(case, Signal::SIGKILL)),
    ("engine-stopped-live-restore", |case| with_live_restore(case, Signal::SIGTERM)),
    ("engine-killed-live-restore", |case| with_live_restore(case, Signal::SIGKILL)),
    ("engine-gone-for-good", engine_gone_for_good),
    ("engine-and-plugin-killed", engine_and_plugin_killed),
];

const GRACE: &[&str] = &["--orphan-grace", "1"];

/// The container ends with its engine, at the latest when that is back. The data are there and nothing stays mounted.
fn without_live_restore(case: &str, signal: Signal) {
    let mut w = World::with(case, &[], GRACE);
    w.start_writer("main", "data");
    w.exec("main", "echo kept > /vol/file && sync");
    w.engine.end_with(signal);
    w.engine.up();
    wait("the container to be ended", || {
        w.engine.ok(&["inspect", "-f", "{{.State.Running}}", "main"]) == "false\n"
    });
    w.wait_mounted(&[]);

    w.engine.ok(&["start", "main"]);
    w.still_writes("main");
    assert_eq!(w.exec("main", "cat /vol/file"), "kept\n");
    w.assert_mounted(&["data"]);
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted(&[]);
    w.finish();
}

/// The container lives on without an engine, however long, and unmounts when it is stopped in the end.
fn with_live_restore(case: &str, signal: Signal) {
    let mut w = World::with(case, &["--live-restore"], GRACE);
    w.start_writer("main", "data");
    w.engine.end_with(signal);
    let log = w.plugin.mountpoint("data").join("log");
    let size = || std::fs::metadata(&log).map_or(0, |log| log.len());
    let before = size();
    wait("the container to go on writing without an engine", || size() > before);
    // Longer than the grace: held by a container, so not an orphan.
    std::thread::sleep(Duration::from_secs(4));
    w.assert_mounted(&["data"]);
    let before = size();
    wait("the container to go on writing after the grace", || size() > before);

    w.engine.up();
    w.still_writes("main");
    std::thread::sleep(Duration::from_secs(4));
    w.assert_mounted(&["data"]);
    w.still_writes("main");
    w.engine.ok(&["stop", "main"]);
    w.wait_mounted(&[]);
    w.engine.ok(&["start", "main"]);
    w.still_writes("main");
    w.finish();
}

/// Engine and containers are killed and nobody ever unmounts: the plugin does, by itself.
fn engine_gone_for_good(case: &str) {
    let mut w = World::with(case, &[], GRACE);
    w.start_writer("main", "data");
    w.engine.end_with(Signal::SIGKILL);
    kill_containers(&w);
    w.wait_mounted(&[]);
    // Back after all, so that the case can end as the others do.
    w.engine.up();
    w.finish();
}

/// A power cut without the reboot: both are killed, the container as well. The plugin comes back first.
fn engine_and_plugin_killed(case: &str) {
    let mut w = World::with(case, &[], GRACE);
    w.start_writer("main", "data");
    w.plugin.kill();
    w.engine.end_with(Signal::SIGKILL);
    kill_containers(&w);
    w.plugin.up();
    w.wait_mounted(&[]);
    w.engine.up();
    w.engine.ok(&["start", "main"]);
    w.still_writes("main");
    w.finish();
}

/// kill -9 of the containers of this case and of the shims between them and their engine.
fn kill_containers(w: &World) {
    let plugin = w.plugin.pid();
    wait("containers and shims to be gone", || {
        let others =
            leaks::processes_of(Some(&w.plugin.name)).into_iter().filter(|(pid, _)| Some(*pid) != plugin);
        let others: Vec<_> = others.collect();
        for (pid, _) in &others {
            let _ = nix::sys::signal::kill(*pid, Signal::SIGKILL);
        }
        others.is_empty()
    });
}

//! Volumes whose Docker engine is gone and which containers still hold.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::child::Part;
use crate::cost::at_rest;
use crate::daemon::{Daemon, wait};
use crate::table::{at_most, told};

const VOLUMES: usize = 40;
const NAMESPACES: usize = 150;
/// The first looks come soon after the grace, the later ones ever less often: this is the worst of it.
const WINDOW: Duration = Duration::from_secs(30);
/// So many they are in this time: after the grace, and 5 s and 15 s later.
const LOOKS: f64 = 3.0;
/// How long it is seen what the plugin reads without them.
const BEFORE: Duration = Duration::from_secs(10);

pub(crate) fn measure(dir: &Path) {
    let mut daemon = Daemon::new("orphaned", dir, &["--size", "16", "--orphan-grace", "1"]);
    daemon.start();
    for n in 0..VOLUMES {
        daemon.ok("Create", &json!({"Name": format!("v{n}")}));
    }
    let engine = Part::engine(&daemon.socket(), VOLUMES);
    // Containers: copies of all mounts, each in a namespace of its own.
    let containers: Vec<Part> = (0..NAMESPACES).map(|_| Part::play("namespace", Path::new(""))).collect();
    let before = at_rest(daemon.pid(), BEFORE);
    drop(engine);
    let cost = at_rest(daemon.pid(), WINDOW);
    let what = format!(
        "{VOLUMES} volumes of an engine that is gone, held in {NAMESPACES} mount namespaces: the first {} s",
        WINDOW.as_secs()
    );
    at_most(&what, cost.busy, 1.0, "% of a core");
    told("Calls of read(2) meanwhile", &format!("{:.1} a second", cost.reads));
    let looks = (cost.reads - before.reads) * WINDOW.as_secs_f64();
    told("Of them for each look at all of these volumes", &format!("{:.0}", looks / LOOKS));
    let mounts =
        |n: usize| daemon.ok("Get", &json!({"Name": format!("v{n}")}))["Volume"]["Status"]["mounts"].as_u64();
    assert!((0..VOLUMES).all(|n| mounts(n) == Some(1)), "containers have them");
    drop(containers);
    for n in 0..VOLUMES {
        // A use that comes and goes makes it look soon.
        daemon.mount(&format!("v{n}"), "b");
        daemon.unmount(&format!("v{n}"), "b");
    }
    wait("the uses of the engine to be dropped", || (0..VOLUMES).all(|n| mounts(n).is_none()));
    daemon.stop();
}

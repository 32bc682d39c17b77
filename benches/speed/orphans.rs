//! Volumes whose Docker engine is gone and which containers still hold.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use libc::{major, minor};
use rbd_docker_plugin::backend::Disks;
use rbd_docker_plugin::block::kernel::KernelDisks;
use rbd_docker_plugin::linux::exec::Programs;
use rbd_docker_plugin::model::mount::{Attached, Place};
use serde_json::json;

use crate::child::Part;
use crate::cost::at_rest;
use crate::daemon::{Daemon, wait};
use crate::reads::reads;
use crate::table::{at_most, told};

const VOLUMES: usize = 40;
const NAMESPACES: usize = 150;
/// The first looks come soon after the grace, the later ones ever less often: this is the worst of it.
const WINDOW: Duration = Duration::from_secs(30);

pub(crate) fn measure(dir: &Path) {
    let mut daemon = Daemon::new("orphaned", dir, &["--size", "16", "--orphan-grace", "1"]);
    daemon.start();
    for n in 0..VOLUMES {
        daemon.ok("Create", &json!({"Name": format!("v{n}")}));
    }
    let engine = Part::engine(&daemon.socket(), VOLUMES);
    // Containers: copies of all mounts, each in a namespace of its own.
    let containers: Vec<Part> = (0..NAMESPACES).map(|_| Part::play("namespace", Path::new(""))).collect();
    drop(engine);
    let cost = at_rest(daemon.pid(), WINDOW);
    let what = format!(
        "{VOLUMES} volumes of an engine that is gone, held in {NAMESPACES} mount namespaces: the first {} s",
        WINDOW.as_secs()
    );
    at_most(&what, cost.busy, 1.0, "% of a core");
    told("Calls of read(2) meanwhile", &format!("{:.1} a second", cost.reads));
    looks(&daemon);
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

/// What the plugin does for a look, done in this process: the first time, and when it is known where they were found.
fn looks(daemon: &Daemon) {
    let attached: Vec<Attached> = (0..VOLUMES)
        .map(|n| {
            let volume = &daemon.ok("Get", &json!({"Name": format!("v{n}")}))["Volume"];
            let source = volume["Status"]["device"].as_str().unwrap().to_owned();
            let number = fs::metadata(&source).unwrap().rdev();
            let place = Place::whole((major(number), minor(number)));
            Attached { place, source, fstype: "ext4".to_owned(), read_only: false }
        })
        .collect();
    let disks = KernelDisks::new(Programs::find());
    for which in ["first", "next"] {
        let reads = reads(|| assert!(disks.which_held(&attached).unwrap().iter().all(|held| *held)));
        told(&format!("Calls of read(2) for the {which} look at all of them"), &reads.to_string());
    }
}

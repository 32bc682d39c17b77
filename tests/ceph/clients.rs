//! A plugin whose own client is exchanged for another while it owns images: what is on record is what can write.

use std::fs;
use std::path::Path;
use std::time::Duration;

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::rbd::RbdBackend;
use rbd_docker_plugin::backend::rbd::admin::Admin;
use rbd_docker_plugin::backend::{ImageStore, Look, Mapper};
use rbd_docker_plugin::ceph::Image;
use rbd_docker_plugin::config;
use rbd_docker_plugin::model::record::Stage;
use rbd_docker_plugin::telemetry::count::{Count, counted};
use serde_json::Value;

use crate::fake_kernel::FakeKernel;
use crate::hosts::{identity, options, record, spec, volume, with_user};
use crate::rig::{Lab, Ready, trial, wait_until};

const OWNERS: &str = "rbd_docker_plugin.owners";
const CAPS: [&str; 6] = ["mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd"];
/// Ten times what it takes.
const LONG: Duration = Duration::from_secs(120);

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("clients::{name}"), ready, test);
    vec![t("an_exchanged_client_is_on_record_before_it_changes_anything", exchanged)]
}

/// The owner record of an image.
fn recorded(lab: &Lab, image: &str) -> Value {
    let key = format!("image.{}", Image::open_read_only(&lab.io, image).unwrap().id().unwrap());
    serde_json::from_slice(&lab.io.omap_get(OWNERS, &[&key]).unwrap()[&key]).unwrap()
}

/// Makes a plugin take another client: its ceph.conf is another text.
fn exchange(conf: &Path) {
    let before = counted(Count::Reconnect);
    let text = fs::read_to_string(conf).unwrap();
    fs::write(conf, format!("{text}\n# changed\n")).unwrap();
    wait_until("another client is used", LONG, || counted(Count::Reconnect) > before);
}

fn exchanged(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let kernel = FakeKernel::new(dir.path());
    kernel.knows(&lab.conf);
    let conf = with_user(lab, dir.path(), "exchanged", &CAPS);
    let settings = config::Ceph { conf: conf.clone(), user: "exchanged".to_owned(), ..options(lab) };
    let own = identity("exchanged", "boot of exchanged");
    let backend = RbdBackend::open_on(kernel.kernel(), &settings, own).unwrap();
    let (written, mounted) = (spec(lab, "exchanged"), spec(lab, "exchanged-mounted"));
    for spec in [&written, &mounted] {
        volume(&backend, spec);
        backend.claim(spec).unwrap();
    }
    let device = backend.map(&mounted).unwrap();
    let before = recorded(lab, "exchanged")["plugin_addr"].clone();
    let kernel_client = recorded(lab, "exchanged-mounted")["client_addr"].clone();
    exchange(&conf);
    backend.write_record(&written, &record(Stage::Ready)).unwrap();
    let now = recorded(lab, "exchanged");
    assert_ne!(now["plugin_addr"], before, "the client that has written");
    // The old one has asked who watches, and keeps the image open for that.
    assert_eq!(now["earlier_plugin_addrs"], Value::Array(vec![before.clone()]), "it may write still: {now}");
    let look = backend.look(std::slice::from_ref(&written)).unwrap();
    assert_eq!(look, Look::default(), "what was written is known, and not mended once more");
    // What is only mounted is seen to by the next look.
    let look = backend.look(std::slice::from_ref(&mounted)).unwrap();
    assert_eq!((look.lost.len(), look.amiss.len()), (0, 1));
    assert_eq!(backend.mend(&mounted).unwrap(), None);
    let held = recorded(lab, "exchanged-mounted");
    assert_eq!((&held["plugin_addr"], &held["client_addr"]), (&now["plugin_addr"], &kernel_client));
    let look = backend.look(std::slice::from_ref(&mounted)).unwrap();
    assert_eq!((look.lost.len(), look.amiss.len()), (0, 0));
    backend.unmap(&mounted, device).unwrap();
    // Whoever shuts the host out, shuts out both.
    let admin = Admin::connect(&options(lab)).unwrap();
    admin.fence_host("exchanged").unwrap();
    let fences: Vec<String> = admin.fences().unwrap().into_iter().map(|fence| fence.address).collect();
    for address in [&before, &now["plugin_addr"]] {
        let address = address.as_str().unwrap();
        assert!(fences.iter().any(|fence| fence == address), "{address} is not in {fences:?}");
    }
    drop(backend);
    for spec in ["exchanged", "exchanged-mounted"] {
        lab.run(&["rbd", "rm", "--no-progress", &lab.spec(spec)]);
    }
    lab.run(&["ceph", "auth", "rm", "client.exchanged"]);
}

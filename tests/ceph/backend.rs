//! The Ceph backend without a kernel: images, records, names, outages, capabilities.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::rbd::RbdBackend;
use rbd_docker_plugin::backend::rbd::admin::{Admin, Watched};
use rbd_docker_plugin::backend::{Backend, ImageStore};
use rbd_docker_plugin::ceph::CreateOptions;
use rbd_docker_plugin::config;
use rbd_docker_plugin::model::bindings::Bound;
use rbd_docker_plugin::model::error::ErrorKind;
use rbd_docker_plugin::model::name::ImageSpec;
use rbd_docker_plugin::model::options::{ImageOptions, LockMode};
use rbd_docker_plugin::model::record::{Record, Stage};
use rbd_docker_plugin::model::size::Size;
use rbd_docker_plugin::telemetry::count::{Count, counted};

use crate::rig::{Lab, Ready, fresh, trial, trial_if, wait_until};

use crate::hosts::{host, identity, in_use, options, rbd, record, spec, volume, with_user};

/// A heartbeat is renewed so often.
const EVERY: Duration = Duration::from_secs(5);

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("backend::{name}"), ready, test);
    vec![
        t("life_of_an_image", life_of_an_image),
        t("options_become_the_image", options_become_the_image),
        t("an_image_of_somebody_else", an_image_of_somebody_else),
        t("a_first_list_asks_each_image_once", a_first_list_asks_each_image_once),
        t("names_are_shared", names_are_shared),
        t("snapshots_keep_an_image", snapshots_keep_an_image),
        t("clones_inherit_options_only", clones_inherit_options_only),
        t("removing_from_a_full_pool", removing_from_a_full_pool),
        t("namespaces_and_pools", namespaces_and_pools),
        trial_if("backend::the_cluster_away_and_back", ready, Lab::is_ours, the_cluster_away_and_back),
        t("profile_rbd_is_enough", profile_rbd_is_enough),
        t("what_a_wrong_user_is_told", what_a_wrong_user_is_told),
        t("a_name_without_an_image", a_name_without_an_image),
        t("without_the_default_pool", without_the_default_pool),
    ]
}

fn life_of_an_image(lab: &Lab) {
    let backend = host(lab, "alone");
    let (a, b) = (spec(lab, "life-a"), spec(lab, "life-b"));
    assert!(backend.info(&a).unwrap().is_none());
    backend.claim(&a).unwrap();
    assert!(backend.info(&a).unwrap().is_none(), "a claim is no image");
    backend.create(&a, Size::mib(16), &record(Stage::Creating)).unwrap();
    assert_eq!(
        backend.create(&a, Size::mib(16), &record(Stage::Creating)).unwrap_err().kind,
        ErrorKind::AlreadyExists
    );
    let info = backend.info(&a).unwrap().unwrap();
    assert_eq!((info.size, info.record), (Some(Size::mib(16)), Some(record(Stage::Creating))));
    assert!(info.created.elapsed().unwrap() < Duration::from_secs(3600));
    assert!(backend.is_untouched(&a).unwrap());
    let formatting = record(Stage::Formatting { uuid: "u".to_owned() });
    backend.write_record(&a, &formatting).unwrap();
    assert_eq!(backend.info(&a).unwrap().unwrap().record, Some(formatting));
    rbd(lab, &["bench", "--io-type", "write", "--io-total", "1M", "rbd/life-a"]);
    assert!(!backend.is_untouched(&a).unwrap());
    backend.discard(&a).unwrap();
    assert!(backend.is_untouched(&a).unwrap());
    let listed = || backend.list().unwrap().specs.iter().filter(|found| **found == a).count();
    assert_eq!(listed(), 0, "what is half made is no volume: Get does not answer it either");
    backend.write_record(&a, &record(Stage::Ready)).unwrap();
    assert_eq!(listed(), 1);
    assert!(rbd(lab, &["image-meta", "list", "rbd/life-a"]).contains("rbd-docker-plugin.record"));
    assert_eq!(backend.owner(&a, None).unwrap().unwrap().host, "alone");
    volume(&backend, &b);
    assert_eq!(backend.rename(&a, &b).unwrap_err().kind, ErrorKind::AlreadyExists);
    assert_eq!(backend.remove(&b).unwrap_err().kind, ErrorKind::InUse, "it is not claimed");
    backend.claim(&b).unwrap();
    backend.remove(&b).unwrap();
    backend.rename(&a, &b).unwrap();
    backend.release(&a).unwrap();
    assert!(backend.info(&a).unwrap().is_none());
    assert!(backend.info(&b).unwrap().is_some());
    assert_eq!(backend.owner(&b, None).unwrap(), None);
    backend.claim(&b).unwrap();
    backend.remove(&b).unwrap();
    backend.remove(&b).expect("removing what is gone is success");
    backend.release(&b).unwrap();
    backend.release(&b).expect("releasing what is free is success");
    assert!(backend.info(&b).unwrap().is_none());
    assert_eq!(backend.owned().unwrap().specs, []);
}

fn a_first_list_asks_each_image_once(lab: &Lab) {
    // So many that what others ask meanwhile (a manager reads each pool and namespace now and then) makes no difference.
    const MANY: u64 = 600;
    const OTHERS: u64 = 250;
    for _ in 0..MANY {
        lab.io.create_image(&fresh("many"), 1 << 20, &CreateOptions::default()).unwrap();
    }
    let backend = host(lab, "lists");
    let count = || backend.list().unwrap().specs.iter().filter(|spec| spec.image().contains("many")).count();
    let before = lab.requests();
    assert_eq!(count() as u64, MANY);
    let (first, before) = (lab.requests() - before, lab.requests());
    assert_eq!(count() as u64, MANY);
    let later = lab.requests() - before;
    println!("lists of {MANY} images: {first} requests, then {later}, with those of all other clients");
    assert!(first <= MANY + OTHERS, "{first}");
    assert!(later <= OTHERS, "{later}");
}

fn options_become_the_image(lab: &Lab) {
    let backend = host(lab, "h1");
    let a = spec(lab, "options");
    let asked = ImageOptions {
        features: Some("exclusive-lock,layering".to_owned()),
        object_size: Some(Size::mib(1)),
        stripe_unit: Some(Size::bytes(65536)),
        stripe_count: Some(4),
        lock: Some(LockMode::Exclusive),
        ..ImageOptions::default()
    };
    backend.check_options(&asked).unwrap();
    backend.claim(&a).unwrap();
    let record = Record { options: asked.clone(), ..record(Stage::Ready) };
    backend.create(&a, Size::mib(32), &record).unwrap();
    assert_eq!(backend.info(&a).unwrap().unwrap().record.unwrap().options, asked);
    let info = rbd(lab, &["info", "rbd/options"]);
    for part in ["order 20", "stripe unit: 64 KiB", "stripe count: 4", "exclusive-lock"] {
        assert!(info.contains(part), "{part}: {info}");
    }
    assert!(!info.contains("object-map"), "{info}");
    let wrong = ImageOptions { data_pool: Some("no-such-pool".to_owned()), ..ImageOptions::default() };
    let b = spec(lab, "options-b");
    backend.claim(&b).unwrap();
    let e = backend.create(&b, Size::mib(32), &Record { options: wrong, ..record.clone() }).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Invalid, "{e}");
    for spec in [a, b] {
        backend.remove(&spec).unwrap();
        backend.release(&spec).unwrap();
    }
}

fn an_image_of_somebody_else(lab: &Lab) {
    let backend = host(lab, "h1");
    rbd(lab, &["create", "--size", "16M", "rbd/theirs"]);
    let info = backend.info(&spec(lab, "theirs")).unwrap().unwrap();
    assert_eq!((info.size, info.record), (Some(Size::mib(16)), None));
    assert!(info.details["features"].contains("exclusive-lock"));
    backend.claim(&spec(lab, "theirs")).unwrap();
    assert!(
        backend.info(&spec(lab, "theirs")).unwrap().unwrap().record.is_none(),
        "a claim does not make it ours"
    );
    backend.remove(&spec(lab, "theirs")).unwrap();
    backend.release(&spec(lab, "theirs")).unwrap();
}

fn names_are_shared(lab: &Lab) {
    let (one, two) = (host(lab, "h1"), host(lab, "h2"));
    let there = ImageSpec::new("elsewhere", None, "named").unwrap();
    // What is not understood hides no other name, and is not free.
    lab.run(&["rados", "-p", &lab.pool, "setomapval", "rbd_docker_plugin.names", "odd", "{"]);
    one.bind("named", &there).unwrap();
    one.bind("named", &there).expect("again is success");
    assert_eq!(two.bindings().unwrap().get("named").and_then(Bound::image), Some(&there));
    assert_eq!(two.bind("named", &spec(lab, "named")).unwrap_err().kind, ErrorKind::AlreadyExists);
    two.unbind("named", &spec(lab, "named")).unwrap();
    assert!(one.bindings().unwrap().contains_key("named"), "bound to another image, it stays");
    two.unbind("named", &there).unwrap();
    assert_eq!(one.bindings().unwrap().get("odd"), Some(&Bound::Unread));
    assert!(one.binding("odd").unwrap_err().to_string().contains("not understood"));
    lab.run(&["rados", "-p", &lab.pool, "rmomapkey", "rbd_docker_plugin.names", "odd"]);
    assert!(!one.bindings().unwrap().contains_key("named"));
}

fn snapshots_keep_an_image(lab: &Lab) {
    let backend = host(lab, "h1");
    let a = spec(lab, "snapped");
    volume(&backend, &a);
    rbd(lab, &["snap", "create", "rbd/snapped@monday"]);
    backend.claim(&a).unwrap();
    let said = in_use(backend.remove(&a));
    assert!(said.contains("1 snapshot(s): monday") && said.contains("rbd snap purge"), "{said}");
    assert!(backend.info(&a).unwrap().unwrap().size.is_some(), "it is whole, and a volume still");
    rbd(lab, &["snap", "purge", "rbd/snapped"]);
    backend.remove(&a).unwrap();
    backend.release(&a).unwrap();
}

fn clones_inherit_options_only(lab: &Lab) {
    let backend = host(lab, "h1");
    let a = spec(lab, "parent");
    volume(&backend, &a);
    rbd(lab, &["snap", "create", "rbd/parent@s"]);
    rbd(lab, &["clone", "--rbd-default-clone-format", "2", "rbd/parent@s", "rbd/child"]);
    let record = backend.info(&spec(lab, "child")).unwrap().unwrap().record;
    assert!(record.is_none_or(|record| record.adopted), "a clone is not of our making");
    for image in ["child", "parent"] {
        rbd(lab, &["snap", "purge", &format!("rbd/{image}")]);
        backend.claim(&spec(lab, image)).unwrap();
        backend.remove(&spec(lab, image)).unwrap();
        backend.release(&spec(lab, image)).unwrap();
    }
}

fn namespaces_and_pools(lab: &Lab) {
    lab.run(&["ceph", "osd", "pool", "create", "second", "8"]);
    rbd(lab, &["pool", "init", "second"]);
    rbd(lab, &["namespace", "create", "second/tenant"]);
    let both =
        config::Ceph { pools: vec![lab.pool.clone(), "second".into(), "missing".into()], ..options(lab) };
    let backend = RbdBackend::open(&both, identity("places", "b")).unwrap();
    let places = [
        ImageSpec::new("second", None, "same").unwrap(),
        ImageSpec::new("second", Some("tenant"), "same").unwrap(),
        spec(lab, "same"),
    ];
    for spec in &places {
        volume(&backend, spec);
    }
    for spec in &places {
        backend.claim(spec).expect("three images, three owners");
    }
    let listed = backend.list().unwrap().specs;
    assert!(places.iter().all(|spec| listed.contains(spec)), "{listed:?}");
    let mut owned = backend.owned().unwrap().specs;
    owned.sort();
    let mut sorted = places.to_vec();
    sorted.sort();
    assert_eq!(owned, sorted);
    for spec in &places {
        backend.remove(spec).unwrap();
        backend.release(spec).unwrap();
    }
    let nowhere = ImageSpec::new("no-such-pool", None, "x").unwrap();
    assert!(backend.info(&nowhere).unwrap().is_none());
    assert_eq!(backend.claim(&nowhere).unwrap_err().kind, ErrorKind::NotFound);
    let missing = ImageSpec::new("missing", None, "x").unwrap();
    assert_eq!(
        backend.info(&missing).unwrap_err().kind,
        ErrorKind::Config,
        "a pool of ours is not just gone"
    );
}

fn the_cluster_away_and_back(lab: &Lab) {
    let quick = config::Ceph { timeout: Duration::from_secs(2), ..options(lab) };
    let backend = RbdBackend::open(&quick, identity("h1", "b")).unwrap();
    let a = spec(lab, "away");
    volume(&backend, &a);
    backend.bindings().unwrap();
    backend.pulse().unwrap();
    let beats = backend.heartbeats();
    assert!(beats.len() == 1 && beats[0].0 == lab.pool, "{beats:?}");
    let reconnects = counted(Count::Reconnect);
    {
        let _frozen = lab.freeze("osd");
        let start = Instant::now();
        // A stop takes its time to reach all of a daemon's threads.
        let silence = (0..100).find_map(|_| backend.info(&a).err()).expect("an OSD that is frozen answers");
        assert_eq!(silence.kind, ErrorKind::Unreachable);
        wait_until("requests not to wait any more", Duration::from_secs(60), || {
            let start = Instant::now();
            backend.info(&a).is_err() && start.elapsed() < Duration::from_secs(1)
        });
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
        let start = Instant::now();
        for _ in 0..20 {
            assert_eq!(backend.info(&a).unwrap_err().kind, ErrorKind::Unreachable);
            assert_eq!(backend.claim(&a).unwrap_err().kind, ErrorKind::Unreachable);
        }
        assert!(start.elapsed() < Duration::from_secs(2), "the next ones do not wait: {:?}", start.elapsed());
        assert!(backend.bindings().is_ok(), "names are remembered");
        assert_eq!(backend.pulse().unwrap_err().kind, ErrorKind::Unreachable);
        let age = backend.heartbeats()[0].1;
        wait_until("the heartbeat to be missed", Duration::from_secs(60), || {
            backend.heartbeats()[0].1 > age.max(EVERY * 2)
        });
    }
    let start = Instant::now();
    while backend.info(&a).is_err() {
        assert!(start.elapsed() < Duration::from_secs(100), "it does not come back");
        thread::sleep(Duration::from_millis(100));
    }
    backend.pulse().unwrap();
    assert!(counted(Count::Reconnect) > reconnects);
    wait_until("the heartbeat to go on", Duration::from_secs(60), || backend.heartbeats()[0].1 < EVERY);
    backend.claim(&a).unwrap();
    backend.remove(&a).unwrap();
    backend.release(&a).unwrap();
}

fn profile_rbd_is_enough(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let caps = ["mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd"];
    let conf = with_user(lab, dir.path(), "plain", &caps);
    let plain = config::Ceph { user: "plain".to_owned(), conf, ..options(lab) };
    let backend = RbdBackend::open(&plain, identity("h1", "b")).unwrap();
    let a = spec(lab, "plain");
    volume(&backend, &a);
    backend.claim(&a).unwrap();
    assert!(backend.list().unwrap().specs.contains(&a));
    backend.bind("plain-name", &a).unwrap();
    backend.unbind("plain-name", &a).unwrap();
    assert_eq!(backend.look(std::slice::from_ref(&a)).unwrap().lost, []);
    let admin = Admin::connect(&plain).unwrap();
    assert_eq!(
        admin
            .locks(Watched::Asked)
            .unwrap()
            .found
            .iter()
            .filter(|lock| lock.image == a && lock.alive)
            .count(),
        1
    );
    // What only a takeover needs: to shut somebody out.
    admin.cluster().blocklist("127.0.0.1:0/4711", Duration::from_secs(60)).unwrap();
    assert!(admin.fences().unwrap().iter().any(|fence| fence.address == "127.0.0.1:0/4711"));
    backend.remove(&a).unwrap();
    backend.release(&a).unwrap();
}

fn what_a_wrong_user_is_told(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let conf = with_user(lab, dir.path(), "reader", &["mon", "allow r", "osd", "allow r"]);
    let reader = config::Ceph { user: "reader".to_owned(), conf, ..options(lab) };
    let backend = RbdBackend::open(&reader, identity("h1", "b")).unwrap();
    let e = backend.claim(&spec(lab, "denied")).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Denied, "{e}");
    assert!(e.to_string().contains("profile rbd"), "{e}");
    let nobody = config::Ceph { user: "nobody".to_owned(), ..options(lab) };
    let backend = RbdBackend::open(&nobody, identity("h1", "b")).unwrap();
    let e = backend.info(&spec(lab, "denied")).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unreachable, "Get must not say not found: {e}");
    assert!(e.to_string().contains("keyring"), "{e}");
    let missing = config::Ceph { conf: PathBuf::from("/no/such/ceph.conf"), ..options(lab) };
    let e = RbdBackend::open(&missing, identity("h1", "b")).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Config);
    assert!(e.to_string().contains("Unable to find ceph config"), "{e}");
}

/// What a Create or a removal leaves that dies inside librbd.
fn a_name_without_an_image(lab: &Lab) {
    let backend = host(lab, "nameless");
    let a = spec(lab, "nameless");
    volume(&backend, &a);
    let id = backend.info(&a).unwrap().unwrap().id.unwrap();
    lab.run(&["rados", "-p", &lab.pool, "rm", &format!("rbd_header.{id}")]);
    let info = backend.info(&a).unwrap().expect("something is left");
    assert_eq!(info.size, None, "and it is no volume");
    assert!(info.is_half_made());
    backend.claim(&a).unwrap();
    backend.remove(&a).unwrap();
    assert!(backend.info(&a).unwrap().is_none());
    backend.create(&a, Size::mib(16), &record(Stage::Creating)).expect("the name can be used again");
    backend.remove(&a).unwrap();
    backend.release(&a).unwrap();
}

fn without_the_default_pool(lab: &Lab) {
    let wrong = config::Ceph { pools: vec!["no-such-pool".to_owned()], ..options(lab) };
    let backend = RbdBackend::open(&wrong, identity("lost", "b")).unwrap();
    // Docker would forget every volume if this were "not found".
    assert_eq!(backend.bindings().unwrap_err().kind, ErrorKind::Config);
    let a = ImageSpec::new("no-such-pool", None, "a").unwrap();
    assert_eq!(backend.info(&a).unwrap_err().kind, ErrorKind::Config);
    assert_eq!(backend.may_exist(&a).unwrap_err().kind, ErrorKind::Config);
    let elsewhere = ImageSpec::new("no-such-pool-either", None, "a").unwrap();
    assert!(!backend.may_exist(&elsewhere).unwrap());
    assert_eq!(backend.claim(&elsewhere).unwrap_err().kind, ErrorKind::NotFound);
    // Otherwise a Create in a pool that is not there would be tried to be undone for ever.
    backend.release(&elsewhere).unwrap();
}

fn removing_from_a_full_pool(lab: &Lab) {
    let backend = host(lab, "full");
    let a = spec(lab, "full");
    volume(&backend, &a);
    rbd(lab, &["bench", "--io-type", "write", "--io-total", "1M", "rbd/full"]);
    lab.run(&["ceph", "osd", "pool", "set-quota", &lab.pool, "max_bytes", "1"]);
    wait_until("the pool to be full", Duration::from_secs(100), || {
        lab.run(&["ceph", "health", "detail"]).contains(&lab.pool)
    });
    backend.claim(&a).unwrap();
    backend.remove(&a).unwrap();
    let left = backend.info(&a).unwrap();
    let listed = rbd(lab, &["ls", &lab.pool]);
    backend.release(&a).unwrap();
    lab.run(&["ceph", "osd", "pool", "set-quota", &lab.pool, "max_bytes", "0"]);
    wait_until("the pool to have room", Duration::from_secs(100), || {
        !lab.run(&["ceph", "health", "detail"]).contains(&lab.pool)
    });
    assert!(left.is_none(), "{left:?}");
    assert!(!listed.lines().any(|image| image == "full"), "{listed}");
}

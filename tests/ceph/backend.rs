//! The Ceph backend without a kernel: records, ownership, takeover, names, outage. Several hosts are several backends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::rbd::RbdBackend;
use rbd_docker_plugin::backend::rbd::admin::Admin;
use rbd_docker_plugin::backend::{ImageOptions, ImageStore, LockMode, Owner, Record, Stage};
use rbd_docker_plugin::ceph::Image;
use rbd_docker_plugin::config;
use rbd_docker_plugin::error::{ErrorKind, Result};
use rbd_docker_plugin::name::ImageSpec;
use rbd_docker_plugin::size::Size;

use crate::rig::{Lab, Ready, trial, trial_if, wait_until};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("backend::{name}"), ready, test);
    vec![
        t("life_of_an_image", life_of_an_image),
        t("options_become_the_image", options_become_the_image),
        t("an_image_of_somebody_else", an_image_of_somebody_else),
        t("one_of_many_hosts_wins", one_of_many_hosts_wins),
        t("ownership_follows_the_image_not_the_name", ownership_follows_the_image_not_the_name),
        t("killed_while_creating", killed_while_creating),
        t("a_dead_owner_is_followed", a_dead_owner_is_followed),
        t("takeover_never", takeover_never),
        t("own_leftovers_after_a_reboot", own_leftovers_after_a_reboot),
        t("mapped_by_hand_elsewhere", mapped_by_hand_elsewhere),
        t("old_plugin_and_this_one", old_plugin_and_this_one),
        t("names_are_shared", names_are_shared),
        t("snapshots_keep_an_image", snapshots_keep_an_image),
        t("clones_inherit_options_only", clones_inherit_options_only),
        t("namespaces_and_pools", namespaces_and_pools),
        trial_if("backend::the_cluster_away_and_back", ready, Lab::is_ours, the_cluster_away_and_back),
        t("profile_rbd_is_enough", profile_rbd_is_enough),
        t("what_a_wrong_user_is_told", what_a_wrong_user_is_told),
        t("administration", administration),
    ]
}

fn options(lab: &Lab) -> config::Ceph {
    config::Ceph {
        user: "admin".to_owned(),
        conf: lab.conf.clone(),
        cluster: String::new(),
        pools: vec![lab.pool.clone()],
        features: None,
        map_options: None,
        takeover: true,
        owner_wait: Duration::ZERO,
        fence: Duration::from_secs(3600),
        timeout: Duration::from_secs(5),
    }
}

fn identity(host: &str, boot: &str) -> Owner {
    Owner {
        host: host.to_owned(),
        machine_id: format!("machine of {host}"),
        boot_id: boot.to_owned(),
        plugin: "rbd".to_owned(),
        root: PathBuf::from("/var/lib/docker-volumes/rbd"),
        since: 0,
        client_addr: None,
        mount_ids: Vec::new(),
    }
}

/// A plugin on a host of this name, in its first boot.
pub(crate) fn host(lab: &Lab, name: &str) -> RbdBackend {
    RbdBackend::open(&options(lab), identity(name, &format!("boot of {name}"))).unwrap()
}

pub(crate) fn spec(lab: &Lab, image: &str) -> ImageSpec {
    ImageSpec::new(&lab.pool, None, image).unwrap()
}

/// The `rbd` command; `rbd/IMAGE` is the image in the pool of the tests.
fn rbd(lab: &Lab, words: &[&str]) -> String {
    let words: Vec<String> = words
        .iter()
        .map(|word| word.strip_prefix("rbd/").map_or_else(|| (*word).to_owned(), |image| lab.spec(image)))
        .collect();
    let mut line = vec!["rbd"];
    line.extend(words.iter().map(String::as_str));
    lab.run(&line)
}

fn record(stage: Stage) -> Record {
    Record { stage, adopted: false, created: 1_700_000_000, options: ImageOptions::default() }
}

/// Makes a volume that is ready, and frees it.
pub(crate) fn volume(backend: &RbdBackend, spec: &ImageSpec) {
    backend.claim(spec).unwrap();
    backend.create(spec, Size::mib(16), &record(Stage::Creating)).unwrap();
    backend.write_record(spec, &record(Stage::Ready)).unwrap();
    backend.release(spec).unwrap();
}

fn in_use(answer: Result<()>) -> String {
    let e = answer.unwrap_err();
    assert_eq!(e.kind, ErrorKind::InUse, "{e}");
    e.to_string()
}

/// Claims again and again, as a Mount that waits does.
fn claim_in_time(backend: &RbdBackend, spec: &ImageSpec, most: Duration) -> Duration {
    let start = Instant::now();
    loop {
        match backend.claim(spec) {
            Ok(()) => return start.elapsed(),
            Err(e) => {
                assert_eq!(e.kind, ErrorKind::InUse, "{e}");
                assert!(start.elapsed() < most, "{e}");
                thread::sleep(Duration::from_millis(300));
            }
        }
    }
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
    assert_eq!(backend.list().unwrap().iter().filter(|found| **found == a).count(), 1);
    assert!(rbd(lab, &["image-meta", "list", "rbd/life-a"]).contains("rbd-docker-plugin.record"));
    assert_eq!(backend.owner(&a).unwrap().unwrap().host, "alone");
    volume(&backend, &b);
    assert_eq!(backend.rename(&a, &b).unwrap_err().kind, ErrorKind::AlreadyExists);
    backend.remove(&b).unwrap();
    backend.rename(&a, &b).unwrap();
    backend.release(&a).unwrap();
    assert!(backend.info(&a).unwrap().is_none());
    assert!(backend.info(&b).unwrap().is_some());
    assert_eq!(backend.owner(&b).unwrap(), None);
    backend.claim(&b).unwrap();
    backend.remove(&b).unwrap();
    backend.remove(&b).expect("removing what is gone is success");
    backend.release(&b).unwrap();
    backend.release(&b).expect("releasing what is free is success");
    assert!(backend.info(&b).unwrap().is_none());
    assert_eq!(backend.owned().unwrap(), []);
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

fn one_of_many_hosts_wins(lab: &Lab) {
    let setup = host(lab, "h0");
    let specs: Vec<ImageSpec> = (0..15).map(|n| spec(lab, &format!("race-{n}"))).collect();
    specs.iter().for_each(|spec| volume(&setup, spec));
    let hosts: Vec<RbdBackend> = (1..=4).map(|n| host(lab, &format!("h{n}"))).collect();
    let won: Vec<Vec<bool>> = thread::scope(|scope| {
        let racers: Vec<_> = hosts
            .iter()
            .map(|host| scope.spawn(|| specs.iter().map(|spec| host.claim(spec).is_ok()).collect::<Vec<_>>()))
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    for (at, spec) in specs.iter().enumerate() {
        let winners: Vec<usize> = (0..hosts.len()).filter(|host| won[*host][at]).collect();
        assert_eq!(winners.len(), 1, "{spec}: {winners:?}");
        let winner = &hosts[winners[0]];
        assert_eq!(setup.owner(spec).unwrap().unwrap().host, format!("h{}", winners[0] + 1));
        let said = in_use(hosts[(winners[0] + 1) % hosts.len()].claim(spec));
        assert!(said.contains(&format!("on host h{}", winners[0] + 1)), "{said}");
        winner.remove(spec).unwrap();
        winner.release(spec).unwrap();
    }
}

fn ownership_follows_the_image_not_the_name(lab: &Lab) {
    let (one, two) = (host(lab, "h1"), host(lab, "h2"));
    volume(&one, &spec(lab, "before"));
    one.claim(&spec(lab, "before")).unwrap();
    rbd(lab, &["rename", "rbd/before", "rbd/after"]);
    in_use(two.claim(&spec(lab, "after")));
    rbd(lab, &["create", "--size", "16M", "rbd/before"]);
    two.claim(&spec(lab, "before")).expect("another image under the old name is free");
    two.remove(&spec(lab, "before")).unwrap();
    two.release(&spec(lab, "before")).unwrap();
    one.release(&spec(lab, "before")).unwrap();
    two.claim(&spec(lab, "after")).unwrap();
    two.remove(&spec(lab, "after")).unwrap();
    two.release(&spec(lab, "after")).unwrap();
}

/// The states that a Create leaves which dies between its requests.
fn killed_while_creating(lab: &Lab) {
    let (one, two) = (host(lab, "creator"), host(lab, "h2"));
    let a = spec(lab, "half");
    one.claim(&a).unwrap();
    one.write_record(&a, &record(Stage::Creating)).unwrap();
    let info = two.info(&a).unwrap().expect("its name is taken");
    assert_eq!((info.size, info.record.clone()), (None, Some(record(Stage::Creating))));
    rbd(lab, &["create", "--size", "16M", "rbd/half"]);
    let info = two.info(&a).unwrap().unwrap();
    assert_eq!(info.record, Some(record(Stage::Creating)), "the image is there, its record is not yet");
    in_use(two.claim(&a));
    drop(one);
    // The same plugin, restarted.
    let one = host(lab, "creator");
    assert_eq!(one.owned().unwrap(), std::slice::from_ref(&a));
    one.claim(&a).unwrap();
    assert_eq!(one.info(&a).unwrap().unwrap().record, Some(record(Stage::Creating)));
    one.remove(&a).unwrap();
    assert!(one.info(&a).unwrap().is_none());
    one.release(&a).unwrap();
    assert_eq!(one.owned().unwrap(), []);
}

fn a_dead_owner_is_followed(lab: &Lab) {
    let (one, two) = (host(lab, "h1"), host(lab, "h2"));
    let (a, half) = (spec(lab, "dead"), spec(lab, "dead-half"));
    volume(&one, &a);
    one.claim(&a).unwrap();
    one.claim(&half).unwrap();
    one.create(&half, Size::mib(16), &record(Stage::Creating)).unwrap();
    let said = in_use(two.claim(&a));
    assert!(said.contains("unmount the volume there"), "{said}");
    // Dropping a backend ends its heartbeat, as a plugin that stops does; nothing watches the images.
    drop(one);
    let said = in_use(two.claim(&a));
    assert!(said.contains("no sign of life"), "{said}");
    let took = claim_in_time(&two, &a, Duration::from_secs(100));
    assert!(took >= Duration::from_secs(9), "two signs have to last: {took:?}");
    claim_in_time(&two, &half, Duration::from_secs(100));
    assert_eq!(two.info(&half).unwrap().unwrap().record, Some(record(Stage::Creating)));
    // The one that was followed comes back.
    let one = host(lab, "h1");
    in_use(one.claim(&a));
    assert_eq!(one.lost(std::slice::from_ref(&a)).unwrap().len(), 1);
    one.release(&a).unwrap();
    assert_eq!(two.owner(&a).unwrap().unwrap().host, "h2", "what is not ours is not released");
    for spec in [a, half] {
        two.remove(&spec).unwrap();
        two.release(&spec).unwrap();
    }
}

fn takeover_never(lab: &Lab) {
    let one = host(lab, "h1");
    let a = spec(lab, "never");
    volume(&one, &a);
    one.claim(&a).unwrap();
    drop(one);
    let careful = config::Ceph { takeover: false, ..options(lab) };
    let two = RbdBackend::open(&careful, identity("h2", "boot of h2")).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(12) {
        let said = in_use(two.claim(&a));
        assert!(said.contains("lock break"), "{said}");
        thread::sleep(Duration::from_millis(500));
    }
    Admin::connect(&careful).unwrap().break_lock(&a, false).unwrap();
    two.claim(&a).unwrap();
    two.remove(&a).unwrap();
    two.release(&a).unwrap();
}

fn own_leftovers_after_a_reboot(lab: &Lab) {
    let before = host(lab, "rebooted");
    let a = spec(lab, "reboot");
    volume(&before, &a);
    before.claim(&a).unwrap();
    drop(before);
    let after = RbdBackend::open(&options(lab), identity("rebooted", "the next boot")).unwrap();
    assert_eq!(after.owned().unwrap(), std::slice::from_ref(&a));
    after.claim(&a).expect("an earlier boot of this host is not waited for");
    after.remove(&a).unwrap();
    after.release(&a).unwrap();
}

fn mapped_by_hand_elsewhere(lab: &Lab) {
    let backend = host(lab, "h1");
    let a = spec(lab, "by-hand");
    volume(&backend, &a);
    // As the kernel of another host watches what it has mapped.
    let watching = Image::open(&lab.another(), "by-hand").unwrap();
    let said = in_use(backend.claim(&a));
    assert!(said.contains("not by a plugin of this kind") && said.contains("rbd status"), "{said}");
    watching.close().unwrap();
    claim_in_time(&backend, &a, Duration::from_secs(100));
    backend.remove(&a).unwrap();
    backend.release(&a).unwrap();
}

fn old_plugin_and_this_one(lab: &Lab) {
    let backend = host(lab, "h1");
    let a = spec(lab, "old");
    rbd(lab, &["create", "--size", "16M", "--image-feature", "layering", "rbd/old"]);
    rbd(lab, &["lock", "add", "rbd/old", "other-host"]);
    let said = in_use(backend.claim(&a));
    assert!(said.contains("other-host") && said.contains("rbd lock remove"), "{said}");
    backend.release(&a).unwrap();
    let locks = rbd(lab, &["lock", "ls", "rbd/old"]);
    let client = locks.split_whitespace().find(|word| word.starts_with("client.")).unwrap();
    rbd(lab, &["lock", "rm", "rbd/old", "other-host", client]);
    // Left by the old plugin on this host: its cookie is the host's bare name.
    rbd(lab, &["lock", "add", "rbd/old", "h1"]);
    backend.claim(&a).unwrap();
    let locks = rbd(lab, &["lock", "ls", "rbd/old"]);
    assert!(locks.contains("h1"), "the old plugin elsewhere must see a lock: {locks}");
    backend.release(&a).unwrap();
    assert_eq!(rbd(lab, &["lock", "ls", "rbd/old"]).trim(), "");
    // With the feature there is no such lock: it would keep the kernel from mapping.
    volume(&backend, &spec(lab, "new"));
    backend.claim(&spec(lab, "new")).unwrap();
    assert_eq!(rbd(lab, &["lock", "ls", "rbd/new"]).trim(), "");
    for spec in [a, spec(lab, "new")] {
        backend.claim(&spec).unwrap();
        backend.remove(&spec).unwrap();
        backend.release(&spec).unwrap();
    }
}

fn names_are_shared(lab: &Lab) {
    let (one, two) = (host(lab, "h1"), host(lab, "h2"));
    let there = ImageSpec::new("elsewhere", None, "named").unwrap();
    one.bind("named", &there).unwrap();
    one.bind("named", &there).expect("again is success");
    assert_eq!(two.bindings().unwrap().get("named"), Some(&there));
    assert_eq!(two.bind("named", &spec(lab, "named")).unwrap_err().kind, ErrorKind::AlreadyExists);
    two.unbind("named", &spec(lab, "named")).unwrap();
    assert!(one.bindings().unwrap().contains_key("named"), "bound to another image, it stays");
    two.unbind("named", &there).unwrap();
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
    let listed = backend.list().unwrap();
    assert!(places.iter().all(|spec| listed.contains(spec)), "{listed:?}");
    let mut owned = backend.owned().unwrap();
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
    }
    let start = Instant::now();
    while backend.info(&a).is_err() {
        assert!(start.elapsed() < Duration::from_secs(100), "it does not come back");
        thread::sleep(Duration::from_millis(100));
    }
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
    assert!(backend.list().unwrap().contains(&a));
    backend.bind("plain-name", &a).unwrap();
    backend.unbind("plain-name", &a).unwrap();
    assert_eq!(backend.lost(std::slice::from_ref(&a)).unwrap(), []);
    let admin = Admin::connect(&plain).unwrap();
    assert_eq!(admin.locks().unwrap().found.iter().filter(|lock| lock.image == a && lock.alive).count(), 1);
    // What only a takeover needs: to shut somebody out.
    admin.cluster().blocklist("127.0.0.1:0/4711", Duration::from_secs(60)).unwrap();
    assert!(admin.fences().unwrap().iter().any(|fence| fence.address == "127.0.0.1:0/4711"));
    backend.remove(&a).unwrap();
    backend.release(&a).unwrap();
}

/// A user of these capabilities, and a configuration that has its key.
pub(crate) fn with_user(lab: &Lab, dir: &Path, user: &str, caps: &[&str]) -> PathBuf {
    let keyring = dir.join("keyring");
    let entity = format!("client.{user}");
    let mut line = vec!["ceph", "auth", "get-or-create", &entity];
    line.extend(caps);
    line.extend(["-o", keyring.to_str().unwrap()]);
    lab.run(&line);
    let own = std::fs::read_to_string(&lab.conf).unwrap();
    let conf = dir.join("ceph.conf");
    std::fs::write(&conf, format!("{own}\n[{entity}]\nkeyring = {}\n", keyring.display())).unwrap();
    conf
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

fn administration(lab: &Lab) {
    let (one, two) = (host(lab, "administered"), host(lab, "h2"));
    let admin = Admin::connect(&options(lab)).unwrap();
    let (a, b) = (spec(lab, "admin-a"), spec(lab, "admin-b"));
    for spec in [&a, &b] {
        volume(&one, spec);
        one.claim(spec).unwrap();
    }
    one.note_uses(&a, &["4f1c".to_owned()]).unwrap();
    let locks: BTreeMap<ImageSpec, _> =
        admin.locks().unwrap().found.into_iter().map(|lock| (lock.image.clone(), lock)).collect();
    let lock = &locks[&a];
    assert_eq!(
        (lock.host.as_str(), lock.alive, lock.watching, lock.making),
        ("administered", true, false, false)
    );
    assert_eq!(lock.mount_ids, ["4f1c"]);
    assert!(in_use(two.claim(&a)).contains("mount ID 4f1c"));
    let e = admin.break_lock(&a, false).unwrap_err();
    assert_eq!(e.kind, ErrorKind::InUse, "{e}");
    assert!(e.to_string().contains("--force"), "{e}");
    admin.break_lock(&a, true).unwrap();
    two.claim(&a).unwrap();
    assert_eq!(one.lost(std::slice::from_ref(&a)).unwrap().len(), 1);
    assert_eq!(admin.fence_host("administered").unwrap().len(), 1);
    two.claim(&b).unwrap();
    assert_eq!(admin.fence_host("administered").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(admin.break_lock(&spec(lab, "admin-none"), false).unwrap_err().kind, ErrorKind::NotFound);
    for spec in [a, b] {
        two.remove(&spec).unwrap();
        two.release(&spec).unwrap();
    }
}

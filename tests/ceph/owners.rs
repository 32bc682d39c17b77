//! Who may use an image, without a kernel: races, deaths, takeovers, copies of hosts, the old plugin, administrators.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::rbd::RbdBackend;
use rbd_docker_plugin::backend::rbd::admin::{Admin, Watched};
use rbd_docker_plugin::backend::{ImageStore, Look};
use rbd_docker_plugin::ceph::Image;
use rbd_docker_plugin::config;
use rbd_docker_plugin::model::error::ErrorKind;
use rbd_docker_plugin::model::name::ImageSpec;
use rbd_docker_plugin::model::owner::Owner;
use rbd_docker_plugin::model::record::Stage;
use rbd_docker_plugin::model::size::Size;
use rbd_docker_plugin::telemetry::count::{Count, counted};

use crate::rig::{Lab, Ready, trial, wait_until};

use crate::hosts::{claim_in_time, host, identity, in_use, options, rbd, record, spec, volume};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("owners::{name}"), ready, test);
    vec![
        t("one_of_many_hosts_wins", one_of_many_hosts_wins),
        t("ownership_follows_the_image_not_the_name", ownership_follows_the_image_not_the_name),
        t("killed_while_creating", killed_while_creating),
        t("a_dead_owner_is_followed", a_dead_owner_is_followed),
        t("takeover_never", takeover_never),
        t("a_read_only_volume_is_for_one_host_too", a_read_only_volume_is_for_one_host_too),
        t("own_leftovers_after_a_reboot", own_leftovers_after_a_reboot),
        t("without_firmware_an_earlier_boot_may_be_a_copy", without_firmware_an_earlier_boot_may_be_a_copy),
        t("mapped_by_hand_elsewhere", mapped_by_hand_elsewhere),
        t("old_plugin_and_this_one", old_plugin_and_this_one),
        t("a_record_that_is_not_understood_is_not_well", a_record_that_is_not_understood_is_not_well),
        t("administration", administration),
        t("who_was_followed_changes_nothing_any_more", who_was_followed_changes_nothing_any_more),
        t("the_advisory_lock_of_a_dead_owner", the_advisory_lock_of_a_dead_owner),
        t("a_copy_of_a_host_takes_nothing_from_it", a_copy_of_a_host_takes_nothing_from_it),
    ]
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
        assert_eq!(setup.owner(spec, None).unwrap().unwrap().host, format!("h{}", winners[0] + 1));
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
    assert_eq!(one.owned().unwrap().specs, std::slice::from_ref(&a));
    one.claim(&a).unwrap();
    assert_eq!(one.info(&a).unwrap().unwrap().record, Some(record(Stage::Creating)));
    one.remove(&a).unwrap();
    assert!(one.info(&a).unwrap().is_none());
    one.release(&a).unwrap();
    assert_eq!(one.owned().unwrap().specs, []);
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
    let before = (counted(Count::Fence), counted(Count::Takeover));
    let took = claim_in_time(&two, &a, Duration::from_secs(100));
    assert!(counted(Count::Fence) > before.0 && counted(Count::Takeover) > before.1, "{before:?}");
    assert!(took >= Duration::from_secs(9), "two signs have to last: {took:?}");
    claim_in_time(&two, &half, Duration::from_secs(100));
    assert_eq!(two.info(&half).unwrap().unwrap().record, Some(record(Stage::Creating)));
    // The one that was followed comes back.
    let one = host(lab, "h1");
    in_use(one.claim(&a));
    assert_eq!(one.look(std::slice::from_ref(&a)).unwrap().lost.len(), 1);
    one.release(&a).unwrap();
    assert_eq!(two.owner(&a, None).unwrap().unwrap().host, "h2", "what is not ours is not released");
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

fn a_read_only_volume_is_for_one_host_too(lab: &Lab) {
    let (one, two) = (host(lab, "h1"), host(lab, "h2"));
    let a = spec(lab, "read-only");
    one.claim(&a).unwrap();
    one.create(&a, Size::mib(16), &record(Stage::Creating)).unwrap();
    let mut ready = record(Stage::Ready);
    ready.options.read_only = Some(true);
    one.write_record(&a, &ready).unwrap();
    let said = in_use(two.claim(&a));
    assert!(said.contains("a read-only volume, too, is for one host at a time"), "{said}");
    one.remove(&a).unwrap();
    one.release(&a).unwrap();
}

fn own_leftovers_after_a_reboot(lab: &Lab) {
    let before = host(lab, "rebooted");
    let a = spec(lab, "reboot");
    volume(&before, &a);
    before.claim(&a).unwrap();
    drop(before);
    let after = RbdBackend::open(&options(lab), identity("rebooted", "the next boot")).unwrap();
    assert_eq!(after.owned().unwrap().specs, std::slice::from_ref(&a));
    after.claim(&a).expect("an earlier boot of this host is not waited for");
    after.remove(&a).unwrap();
    after.release(&a).unwrap();
}

/// Two boards of one image, with one name: one is not fenced by the other while its kernel watches.
fn without_firmware_an_earlier_boot_may_be_a_copy(lab: &Lab) {
    let board = |boot: &str| Owner { firmware_id: String::new(), ..identity("board", boot) };
    let one = RbdBackend::open(&options(lab), board("boot of one")).unwrap();
    let a = spec(lab, "board");
    volume(&one, &a);
    one.claim(&a).unwrap();
    drop(one);
    let watching = Image::open(&lab.another(), "board").unwrap();
    let two = RbdBackend::open(&options(lab), board("boot of two")).unwrap();
    let said = in_use(two.claim(&a));
    assert!(said.contains("its host still uses the image"), "{said}");
    watching.close().unwrap();
    let took = claim_in_time(&two, &a, Duration::from_secs(100));
    assert!(took >= Duration::from_secs(9), "two signs have to last: {took:?}");
    two.remove(&a).unwrap();
    two.release(&a).unwrap();
}

fn mapped_by_hand_elsewhere(lab: &Lab) {
    let backend = host(lab, "h1");
    let a = spec(lab, "by-hand");
    volume(&backend, &a);
    // As the kernel of another host watches what it has mapped.
    let watching = Image::open(&lab.another(), "by-hand").unwrap();
    let said = in_use(backend.claim(&a));
    assert!(said.contains("not by a plugin of this kind") && said.contains("rbd status"), "{said}");
    assert!(said.contains("it may be (a guess) an rbd-mirror daemon"), "{said}");
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

fn a_record_that_is_not_understood_is_not_well(lab: &Lab) {
    let backend = host(lab, "unread");
    let a = spec(lab, "unread");
    volume(&backend, &a);
    backend.claim(&a).unwrap();
    let look = || backend.look(std::slice::from_ref(&a)).unwrap();
    assert_eq!(look(), Look::default());
    let key = format!("image.{}", Image::open_read_only(&lab.io, "unread").unwrap().id().unwrap());
    let object = "rbd_docker_plugin.owners";
    lab.run(&["rados", "-p", &lab.pool, "setomapval", object, &key, "{"]);
    let Look { lost, amiss, unread } = look();
    assert!(lost.is_empty() && amiss.is_empty(), "{lost:?} {amiss:?}");
    assert!(unread.len() == 1 && unread[0].0 == a && unread[0].1.contains("damaged"), "{unread:?}");
    lab.run(&["rados", "-p", &lab.pool, "rmomapkey", object, &key]);
    drop(backend);
    lab.run(&["rbd", "rm", "--no-progress", &lab.spec("unread")]);
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
    let locks: BTreeMap<ImageSpec, _> = admin
        .locks(Watched::Asked)
        .unwrap()
        .found
        .into_iter()
        .map(|lock| (lock.image.clone(), lock))
        .collect();
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
    assert_eq!(one.look(std::slice::from_ref(&a)).unwrap().lost.len(), 1);
    assert_eq!(admin.fence_host("administered").unwrap().found.len(), 1);
    wait_until("the plugin's own client to be shut out too", Duration::from_secs(60), || {
        one.info(&b).is_err_and(|e| e.kind == ErrorKind::Unreachable)
    });
    two.claim(&b).unwrap();
    assert_eq!(admin.fence_host("administered").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(admin.break_lock(&spec(lab, "admin-none"), false).unwrap_err().kind, ErrorKind::NotFound);
    for spec in [a, b] {
        two.remove(&spec).unwrap();
        two.release(&spec).unwrap();
    }
}

fn who_was_followed_changes_nothing_any_more(lab: &Lab) {
    let (one, two) = (host(lab, "followed"), host(lab, "h2"));
    let a = spec(lab, "followed");
    one.claim(&a).unwrap();
    one.create(&a, Size::mib(16), &record(Stage::Creating)).unwrap();
    // As after a takeover: the image is made anew, and holds another host's data.
    Admin::connect(&options(lab)).unwrap().break_lock(&a, true).unwrap();
    two.claim(&a).unwrap();
    two.remove(&a).unwrap();
    two.create(&a, Size::mib(16), &record(Stage::Ready)).unwrap();
    rbd(lab, &["bench", "--io-type", "write", "--io-total", "1M", "rbd/followed"]);
    for owned in [true, false] {
        if !owned {
            two.release(&a).unwrap();
        }
        for (what, answer) in [
            ("remove", one.remove(&a)),
            ("discard", one.discard(&a)),
            ("write_record", one.write_record(&a, &record(Stage::Creating))),
            ("rename", one.rename(&a, &spec(lab, "followed-away"))),
        ] {
            let e = answer.expect_err(what);
            assert!(matches!(e.kind, ErrorKind::InUse | ErrorKind::Busy), "{what}: {e}");
        }
        assert_eq!(two.info(&a).unwrap().unwrap().record, Some(record(Stage::Ready)));
        assert!(!two.is_untouched(&a).unwrap());
    }
    two.claim(&a).unwrap();
    two.remove(&a).unwrap();
    two.release(&a).unwrap();
}

fn the_advisory_lock_of_a_dead_owner(lab: &Lab) {
    let (one, two) = (host(lab, "dead-locker"), host(lab, "h2"));
    let a = spec(lab, "dead-lock");
    rbd(lab, &["create", "--size", "16M", "--image-feature", "layering", "rbd/dead-lock"]);
    one.claim(&a).unwrap();
    drop(one);
    assert!(rbd(lab, &["lock", "ls", "rbd/dead-lock"]).contains("dead-locker"), "it never runs out");
    claim_in_time(&two, &a, Duration::from_secs(100));
    let locks = rbd(lab, &["lock", "ls", "rbd/dead-lock"]);
    assert!(locks.contains("h2") && !locks.contains("dead-locker"), "{locks}");
    two.remove(&a).unwrap();
    two.release(&a).unwrap();
}

fn a_copy_of_a_host_takes_nothing_from_it(lab: &Lab) {
    let original = host(lab, "cloned");
    let a = spec(lab, "cloned");
    volume(&original, &a);
    original.claim(&a).unwrap();
    let copy = RbdBackend::open(&options(lab), identity("cloned", "boot of the copy")).unwrap();
    in_use(copy.claim(&a));
    copy.release(&a).unwrap();
    copy.note_uses(&a, &[]).unwrap_err();
    assert_eq!(original.owner(&a, None).unwrap().unwrap().boot_id, "boot of cloned");
    assert_eq!(original.look(std::slice::from_ref(&a)).unwrap().lost, []);
    original.remove(&a).unwrap();
    original.release(&a).unwrap();
}

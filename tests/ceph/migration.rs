//! What the plugins that this one replaces have left, and `check`, which replaces a script.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::ImageStore;
use rbd_docker_plugin::ceph::{Image, IoCtx};

use crate::commands::{Answer, run, run_with};
use crate::hosts::{host, in_use, spec, with_user};
use crate::rig::{Lab, Ready, fresh, trial, trial_if};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("migration::{name}"), ready, test);
    vec![
        t("check_on_a_healthy_cluster", check_on_a_healthy_cluster),
        t("check_and_what_the_cluster_does_not_list", check_and_what_the_cluster_does_not_list),
        trial_if("migration::check_and_a_dead_monitor", ready, Lab::is_ours, check_and_a_dead_monitor),
        t("a_lock_of_no_host_in_particular", a_lock_of_no_host_in_particular),
        t("a_lock_of_a_dead_host_with_the_old_plugin", a_lock_of_a_dead_host_with_the_old_plugin),
        t("a_lock_whose_image_is_mapped", a_lock_whose_image_is_mapped),
        t("a_lock_that_is_the_feature_is_left_alone", a_lock_that_is_the_feature_is_left_alone),
        t("what_is_missing_is_told_with_what_mends_it", what_is_missing_is_told_with_what_mends_it),
    ]
}

/// The only line, without the program and the host.
fn line(check: &Answer) -> String {
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert_eq!((check.out.lines().count(), check.err.as_str()), (1, ""), "{check:?}");
    let said = check.out.strip_prefix(&format!("rbd-docker-plugin: {host}: "));
    said.unwrap_or_else(|| panic!("{check:?}")).trim_end().to_owned()
}

fn check_on_a_healthy_cluster(lab: &Lab) {
    let name = fresh("checked");
    let images = || lab.run(&["rbd", "ls", &lab.pool]).lines().count();
    lab.run(&["rbd", "create", "--size", "8M", &lab.spec(&name)]);
    let check = run(lab, &["check"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    let count = images();
    let plural = if count == 1 { "" } else { "s" };
    assert_eq!(line(&check), format!("OK client.admin, {}: {count} image{plural}", lab.pool));
    lab.run(&["rbd", "rm", "--no-progress", &lab.spec(&name)]);
}

fn check_and_what_the_cluster_does_not_list(lab: &Lab) {
    let missing = run(lab, &["check", "--pool", "no-such-pool"]);
    assert_eq!(missing.code, Some(5), "{missing:?}");
    let said = line(&missing);
    assert!(said.starts_with("ERROR ") && said.contains("(pool no-such-pool)"), "{said}");
    let further = run(lab, &["check", "--pools", "no-such-pool"]);
    assert_eq!(further.code, Some(5), "{further:?}");

    let dir = tempfile::tempdir().unwrap();
    let conf = with_user(lab, dir.path(), "sees-nothing", &["mon", "allow r"]);
    let denied = run_with(lab, &conf, &["check", "--user", "sees-nothing"]);
    assert_eq!(denied.code, Some(5), "{denied:?}");
    assert!(line(&denied).contains("ceph auth caps client.sees-nothing"), "{denied:?}");
    lab.run(&["ceph", "auth", "rm", "client.sees-nothing"]);
}

fn check_and_a_dead_monitor(lab: &Lab) {
    let frozen = lab.freeze("mon.");
    let start = Instant::now();
    let check = run(lab, &["check"]);
    let took = start.elapsed();
    drop(frozen);
    assert_eq!(check.code, Some(5), "{check:?}");
    assert!(line(&check).starts_with("ERROR "), "{check:?}");
    // Ten times the --ceph-timeout of these tests.
    assert!(took < Duration::from_secs(50), "{took:?}");
    assert_eq!(run(lab, &["lock", "ls"]).code, Some(0), "the cluster is back");
}

/// An image that rbd-docker-plugin 2.0.1 and docker-volume-rbd can mount, locked as they do it.
fn locked(lab: &Lab, cookie: &str) -> String {
    let name = fresh("locked");
    lab.run(&["rbd", "create", "--size", "8M", "--image-feature", "layering", &lab.spec(&name)]);
    lab.run(&["rbd", "lock", "add", &lab.spec(&name), cookie]);
    name
}

fn a_lock_of_no_host_in_particular(lab: &Lab) {
    let name = locked(lab, "dockerLock");
    let (backend, image) = (host(lab, &fresh("meets-a-lock")), spec(lab, &name));
    let said = in_use(backend.claim(&image));
    assert!(said.contains("cookie \"dockerLock\", which docker-volume-rbd writes on every host"), "{said}");
    // The claim that failed has left a record: it is given back as a Mount does it.
    backend.release(&image).unwrap();
    let command = said.split("rbd-docker-plugin ").nth(1).unwrap().split(',').next().unwrap();
    assert_eq!(command, format!("lock break {image}"));
    let broken = run(lab, &command.split(' ').collect::<Vec<_>>());
    assert_eq!(broken.code, Some(0), "{broken:?}");
    for part in [
        format!("{image} is not locked any more."),
        "dockerLock".to_owned(),
        "nobody was shut out".to_owned(),
    ] {
        assert!(broken.out.contains(&part), "{part}: {broken:?}");
    }
    backend.claim(&image).unwrap();
    backend.remove(&image).unwrap();
    backend.release(&image).unwrap();
}

fn a_lock_of_a_dead_host_with_the_old_plugin(lab: &Lab) {
    let name = locked(lab, "gone-for-ever");
    let broken = run(lab, &["lock", "break", &name, "--format", "json"]);
    assert_eq!(broken.code, Some(0), "{broken:?}");
    let json = broken.json();
    assert_eq!(json["unlocked"][0]["cookie"], "gone-for-ever", "{json}");
    assert_eq!((&json["freed"], &json["fenced"]), (&serde_json::json!([]), &serde_json::json!([])));
    let again = run(lab, &["lock", "break", &name]);
    assert!(again.code == Some(1) && again.err.contains("nobody owns"), "{again:?}");
    lab.run(&["rbd", "rm", "--no-progress", &lab.spec(&name)]);
}

fn lockers(io: &IoCtx, name: &str) -> usize {
    Image::open_read_only(io, name).unwrap().lockers().unwrap().lockers.len()
}

fn a_lock_whose_image_is_mapped(lab: &Lab) {
    let name = locked(lab, "dockerLock");
    let victim = lab.another();
    let open = Image::open(&victim, &name).unwrap();
    let address = victim.cluster().addresses().unwrap();
    let refused = run(lab, &["lock", "break", &name]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains(&address) && refused.err.contains("--force"), "{refused:?}");
    assert_eq!(lockers(&lab.io, &name), 1);
    let forced = run(lab, &["lock", "break", &name, "--force", "--format=json"]);
    assert_eq!(forced.code, Some(0), "{forced:?}");
    assert_eq!(forced.json()["fenced"], serde_json::json!([address]));
    assert_eq!(lockers(&lab.io, &name), 0);
    assert!(run(lab, &["fence", "ls"]).out.contains(&address));
    drop(open);
}

fn a_lock_that_is_the_feature_is_left_alone(lab: &Lab) {
    let name = fresh("feature");
    lab.run(&[
        "rbd",
        "create",
        "--size",
        "8M",
        "--image-feature",
        "layering,exclusive-lock",
        &lab.spec(&name),
    ]);
    let writer = lab.another();
    let open = Image::open(&writer, &name).unwrap();
    // Whoever writes takes it.
    open.discard_all().unwrap();
    assert_eq!(lockers(&lab.io, &name), 1);
    let broken = run(lab, &["lock", "break", &name, "--force"]);
    assert!(broken.code == Some(1) && broken.err.contains("nobody owns"), "{broken:?}");
    assert_eq!(lockers(&lab.io, &name), 1);
    drop(open);
    lab.run(&["rbd", "rm", "--no-progress", &lab.spec(&name)]);
}

fn what_is_missing_is_told_with_what_mends_it(lab: &Lab) {
    for (words, parts) in [
        (
            &["lock", "break", "foo", "--pool", "no-such-pool"][..],
            &["(pool no-such-pool)", "ceph osd pool create"][..],
        ),
        (
            &["lock", "ls", "--user", "nobody"],
            &["no keyring holds the key of client.nobody", "ceph auth get client.nobody -o"],
        ),
    ] {
        let answer = run(lab, words);
        assert_eq!(answer.code, Some(1), "{answer:?}");
        for part in parts {
            assert!(answer.err.contains(part), "{part}: {answer:?}");
        }
    }
}

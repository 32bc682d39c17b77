//! Pools that cannot hold volumes, or cannot be looked at now, beside others that can.

use libtest_mimic::Trial;
use serde_json::json;
use tempfile::TempDir;

use crate::plugin::{Plugin, User};
use crate::rig::{Lab, Ready, fresh, trial};
use crate::tenants::pool;

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("pools::{name}"), ready, test);
    vec![
        t("an_erasure_coded_pool_holds_no_images", an_erasure_coded_pool_holds_no_images),
        t("one_pool_does_not_hide_the_others", one_pool_does_not_hide_the_others),
        t("a_pool_that_was_made_anew", a_pool_that_was_made_anew),
        t("a_pool_of_cephfs", a_pool_of_cephfs),
    ]
}

fn everything(lab: &Lab, what: &str) -> User {
    User::new(lab, what, &["mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd"])
}

/// An erasure-coded pool, until it is dropped: with a single OSD it never becomes active, and whatever asks all pools of the
/// cluster, as librbd does for the clones of an image, waits for it.
struct ErasureCoded<'a> {
    lab: &'a Lab,
    pool: String,
}

impl<'a> ErasureCoded<'a> {
    fn new(lab: &'a Lab) -> Self {
        let pool = fresh("ecp");
        lab.run(&["ceph", "osd", "pool", "create", &pool, "1", "1", "erasure"]);
        lab.run(&["ceph", "osd", "pool", "application", "enable", &pool, "rbd"]);
        Self { lab, pool }
    }
}

impl Drop for ErasureCoded<'_> {
    fn drop(&mut self) {
        let delete =
            ["ceph", "osd", "pool", "delete", &self.pool, &self.pool, "--yes-i-really-really-mean-it"];
        self.lab.command(&delete).status().unwrap();
    }
}

fn an_erasure_coded_pool_holds_no_images(lab: &Lab) {
    let erasure_coded = ErasureCoded::new(lab);
    let ecp = erasure_coded.pool.as_str();
    let user = everything(lab, "ec");
    let home = TempDir::new().unwrap();
    let what = format!("the pool {ecp} is erasure-coded and cannot hold image headers: use it as data-pool");
    {
        let plugin = Plugin::start(&user, home.path(), &["--pool", ecp]);
        for (endpoint, body) in [
            ("List", json!({})),
            ("Get", json!({"Name": "a"})),
            ("Create", json!({"Name": "a", "Opts": {"size": "64M"}})),
            ("Mount", json!({"Name": "a", "ID": "1"})),
        ] {
            let e = plugin.error(endpoint, &body);
            assert!(e.contains(&what), "{endpoint}: {e}");
        }
    }
    let doctor = user.command(lab, &["--pool", ecp, "doctor", "--format", "json"]);
    let (status, found, fix) = doctor.line("pool");
    assert!(status == "fail" && found.contains(&what) && fix.contains("data-pool"), "{found} {fix}");

    let good = pool(lab);
    lab.run(&["rbd", "create", "--size", "8M", &format!("{good}/there")]);
    let plugin = Plugin::start(&user, home.path(), &["--pool", &good, "--pools", ecp]);
    assert_eq!(plugin.names(), ["there"]);
    plugin.create("new");
    let e = plugin.error("Create", &json!({"Name": format!("{ecp}/x"), "Opts": {"size": "64M"}}));
    assert!(e.contains(&what), "{e}");
    assert_eq!(plugin.names(), ["new", "there"]);
    assert_eq!(plugin.log().matches("its volumes are not listed").count(), 1, "{}", plugin.log());
    assert!(plugin.status()["left_out"][0].as_str().unwrap().contains(&what), "{}", plugin.status());
}

fn one_pool_does_not_hide_the_others(lab: &Lab) {
    let (good, gone, denied) = (pool(lab), pool(lab), pool(lab));
    for pool in [&good, &gone, &denied] {
        lab.run(&["rbd", "create", "--size", "8M", &format!("{pool}/there")]);
    }
    let user = everything(lab, "some");
    let home = TempDir::new().unwrap();
    let all = ["there".to_owned(), format!("{gone}/there"), format!("{denied}/there")];
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    let pools = format!("{gone},{denied}");
    let plugin = Plugin::start(&user, home.path(), &["--pool", &good, "--pools", &pools]);
    assert_eq!(plugin.names(), sorted(&all));
    plugin.stop();
    lab.run(&["ceph", "osd", "pool", "delete", &gone, &gone, "--yes-i-really-really-mean-it"]);
    let narrow = format!("profile rbd pool={good}, profile rbd pool={gone}");
    let entity = format!("client.{}", user.name);
    lab.run(&["ceph", "auth", "caps", &entity, "mon", "profile rbd", "osd", &narrow]);
    let plugin = Plugin::start(&user, home.path(), &["--pool", &good, "--pools", &pools]);
    // They are known still: what cannot be seen is not known to be gone.
    assert_eq!(plugin.names(), sorted(&all));
    for name in &all[1..] {
        assert_eq!(plugin.get(name)["Status"]["health"], "degraded", "{name}");
    }
    plugin.create("new");
    assert!(plugin.names().contains(&"new".to_owned()));
    let status = plugin.status();
    let told: Vec<&str> =
        status["left_out"].as_array().unwrap().iter().map(|why| why.as_str().unwrap()).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().any(|why| why.starts_with(&gone) && why.contains("does not exist")), "{told:?}");
    assert!(told.iter().any(|why| why.starts_with(&denied) && why.contains("ceph auth caps")), "{told:?}");
    assert_eq!(plugin.log().matches("its volumes are not listed").count(), 2, "{}", plugin.log());
}

fn a_pool_that_was_made_anew(lab: &Lab) {
    let name = pool(lab);
    let user = everything(lab, "anew");
    let home = TempDir::new().unwrap();
    let plugin = Plugin::start(&user, home.path(), &["--pool", &name]);
    plugin.create("old");
    assert_eq!(plugin.names(), ["old"]);
    lab.run(&["ceph", "osd", "pool", "delete", &name, &name, "--yes-i-really-really-mean-it"]);
    let listed = plugin.ok("List", &json!({}));
    assert_eq!(listed["Volumes"][0]["Name"], "old", "a pool that is gone is a mistake, perhaps: {listed}");
    lab.run(&["ceph", "osd", "pool", "create", &name, "4"]);
    lab.run(&["rbd", "pool", "init", &name]);
    crate::daemon::wait("the new pool to be listed", || plugin.names().is_empty());
    let e = plugin.ask("Get", &json!({"Name": "old"})).unwrap_err();
    assert!(e.contains("does not exist"), "{e}");
    plugin.create("old");
    plugin.remove("old");
}

fn a_pool_of_cephfs(lab: &Lab) {
    let (good, other) = (pool(lab), fresh("files"));
    lab.run(&["ceph", "osd", "pool", "create", &other, "4"]);
    lab.run(&["ceph", "osd", "pool", "application", "enable", &other, "cephfs"]);
    let user = everything(lab, "files");
    let home = TempDir::new().unwrap();
    let plugin = Plugin::start(&user, home.path(), &["--pool", &good, "--pools", &other]);
    plugin.create("a");
    assert_eq!(plugin.names(), ["a"]);
    let doctor = user.command(lab, &["--pool", &good, "--pools", &other, "doctor", "--format", "json"]);
    let lines = doctor.lines("pool");
    let line = lines.iter().find(|(_, found, _)| found.contains(&other)).unwrap();
    assert!(line.0 == "warn" && line.1.contains("is a pool of cephfs"), "{line:?}");
}

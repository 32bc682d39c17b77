//! A pool that does not answer, because no OSD is there for it, beside one that does.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::ImageStore;
use rbd_docker_plugin::model::name::ImageSpec;

use crate::commands::run;
use crate::hosts::{claim_in_time, host, spec, volume};
use crate::rig::{Lab, Ready, fresh, trial};
use crate::tenants::pool;

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("silent::{name}"), ready, test);
    vec![t("commands_tell_what_they_could_not_look_at", commands)]
}

/// A pool that can be made silent, until it is dropped.
struct Moody<'a> {
    lab: &'a Lab,
    pool: String,
}

impl<'a> Moody<'a> {
    fn new(lab: &'a Lab) -> Self {
        Self { lab, pool: pool(lab) }
    }

    /// From now on no OSD is there for it.
    fn hush(&self) {
        // Where they are already, that is said and nothing changes.
        self.lab.run(&["ceph", "osd", "crush", "add-bucket", "nowhere", "root"]);
        self.lab.run(&["ceph", "osd", "crush", "rule", "create-replicated", "nowhere", "nowhere", "osd"]);
        self.rule("nowhere");
    }

    fn wake(&self) {
        self.rule("replicated_rule");
        self.lab.run(&["rados", "-p", &self.pool, "ls"]);
    }

    fn rule(&self, rule: &str) {
        self.lab.run(&["ceph", "osd", "pool", "set", &self.pool, "crush_rule", rule]);
    }
}

impl Drop for Moody<'_> {
    fn drop(&mut self) {
        let delete =
            ["ceph", "osd", "pool", "delete", &self.pool, &self.pool, "--yes-i-really-really-mean-it"];
        self.lab.command(&delete).status().unwrap();
    }
}

fn commands(lab: &Lab) {
    let moody = Moody::new(lab);
    let name = fresh("half-seen");
    let (owner, seen) = (host(lab, &name), spec(lab, &name));
    let unseen = ImageSpec::new(&moody.pool, None, &name).unwrap();
    for spec in [&seen, &unseen] {
        volume(&owner, spec);
        owner.claim(spec).unwrap();
    }
    // Its heart beats no more.
    drop(owner);
    moody.hush();
    for (pool, pools) in [(&lab.pool, &moody.pool), (&moody.pool, &lab.pool)] {
        let ask = |words: &[&str]| {
            let begin = Instant::now();
            let answer =
                run(lab, &[&["--pool", pool, "--pools", pools, "--ceph-timeout", "2"], words].concat());
            assert!(begin.elapsed() < Duration::from_secs(60), "{words:?}: {:?}", begin.elapsed());
            answer
        };
        let listed = ask(&["lock", "ls"]);
        assert_eq!(listed.code, Some(1), "a part is not passed off as all of it: {listed:?}");
        assert!(listed.out.contains(&seen.to_string()) && !listed.out.contains(&moody.pool), "{listed:?}");
        assert!(listed.err.contains("not all") && listed.err.contains(&moody.pool), "{listed:?}");
        let json = ask(&["lock", "ls", "--format", "json"]);
        assert_eq!(json.code, Some(1), "{json:?}");
        assert!(json.json()["unseen"][0].as_str().unwrap().contains(&moody.pool), "{json:?}");
        let nobody = ask(&["fence", "nobody"]);
        assert!(nobody.code == Some(1) && nobody.err.contains(&moody.pool), "{nobody:?}");
        let doctor = ask(&["doctor", "--format", "json"]);
        let told = |check: &str| {
            let lines = doctor.lines(check);
            lines.into_iter().find(|(_, found, _)| found.contains(&moody.pool))
        };
        for check in ["capabilities", "owners", "leftovers"] {
            let (status, ..) = told(check).unwrap_or_else(|| panic!("{check}: {doctor:?}"));
            assert!(status != "ok", "{check}: {doctor:?}");
        }
        assert!(
            doctor.lines("images").iter().any(|(status, ..)| status == "ok"),
            "of the other pool: {doctor:?}"
        );
    }
    let fenced = run(lab, &["--pool", &lab.pool, "--pools", &moody.pool, "fence", &name]);
    assert!(fenced.code == Some(1) && fenced.out.contains("1 image freed"), "{fenced:?}");
    assert!(fenced.err.contains("not all") && fenced.err.contains(&moody.pool), "{fenced:?}");
    moody.wake();
    let fenced = run(lab, &["--pool", &lab.pool, "--pools", &moody.pool, "fence", &name]);
    assert!(fenced.code == Some(0) && fenced.out.contains(&unseen.to_string()), "{fenced:?}");
    let heir = host(lab, &fresh("heir"));
    for spec in [&seen, &unseen] {
        claim_in_time(&heir, spec, Duration::from_secs(60));
        heir.remove(spec).unwrap();
        heir.release(spec).unwrap();
    }
}

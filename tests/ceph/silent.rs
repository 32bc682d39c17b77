//! A pool that does not answer, because no OSD is there for it, beside one that does.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::ImageStore;
use rbd_docker_plugin::model::name::ImageSpec;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::commands::run;
use crate::daemon::Daemon;
use crate::fake_kernel::FakeKernel;
use crate::hosts::{claim_in_time, host, spec, volume};
use crate::plugin::page;
use crate::rig::{Lab, Ready, fresh, mounts_are_apart, trial, trial_if, wait_until};
use crate::tenants::pool;

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, first| {
        let name = format!("silent::{name}_takes_no_other_with_it");
        trial_if(&name, ready, |_| mounts_are_apart(), move |lab| plugin(lab, first))
    };
    vec![
        trial("silent::commands_tell_what_they_could_not_look_at", ready, commands),
        t("the_first_pool", true),
        t("another_pool", false),
    ]
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
        // Whatever the tests before this one have left there.
        let of_the_other =
            |(status, found, _): &(_, String, _)| status != "fail" && !found.contains(&moody.pool);
        assert!(doctor.lines("images").iter().any(of_the_other), "of the other pool: {doctor:?}");
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

/// A whole plugin, and what it says of itself.
struct World {
    kernel: FakeKernel,
    daemon: Daemon,
    admin: PathBuf,
    _dir: TempDir,
}

impl World {
    fn new(lab: &Lab, pool: &str, pools: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = FakeKernel::with_disks(&dir.path().join("sys"));
        kernel.knows(&lab.conf);
        let conf = lab.conf.display().to_string();
        let flags = ["--backend", "rbd", "--config", &conf, "--pool", pool, "--pools", pools];
        let daemon = Daemon::new("silent", dir.path(), &[&flags[..], &["--ceph-timeout", "3"]].concat());
        let admin = dir.path().join("admin/silent.sock");
        let mut world = Self { kernel, daemon, admin, _dir: dir };
        world.start();
        world
    }

    fn start(&mut self) {
        let begin = Instant::now();
        self.daemon.start_with(&[self.kernel.environment()]);
        assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
    }

    fn page(&self, path: &str) -> String {
        page(&self.admin, path)
    }

    fn ready(&self) -> String {
        let answer = self.page("/readyz");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}\n{}", self.daemon.logs());
        body.to_owned()
    }

    fn health(&self, name: &str) -> String {
        match self.daemon.ask("Get", &json!({"Name": name})) {
            Some((200, answer)) => answer["Volume"]["Status"]["health"].as_str().unwrap().to_owned(),
            other => format!("{other:?}"),
        }
    }

    fn names(&self) -> Vec<String> {
        let listed = self.daemon.ok("List", &json!({}));
        let name = |volume: &Value| volume["Name"].as_str().unwrap().to_owned();
        listed["Volumes"].as_array().unwrap().iter().map(name).collect()
    }

    /// All that a volume goes through.
    fn life(&self, name: &str) {
        let begin = Instant::now();
        self.daemon.ok("Create", &json!({"Name": name}));
        self.daemon.mount(name, "1");
        self.daemon.unmount(name, "1");
        self.daemon.ok("Remove", &json!({"Name": name}));
        assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
    }
}

fn plugin(lab: &Lab, first: bool) {
    let (moody, good) = (Moody::new(lab), pool(lab));
    let silent = moody.pool.clone();
    let (pool, pools) = if first { (&silent, &good) } else { (&good, &silent) };
    let mut world = World::new(lab, pool, pools);
    let shown = |of: &String, name: &str| if of == pool { name.to_owned() } else { format!("{of}/{name}") };
    for of in [&good, &silent] {
        world.daemon.ok("Create", &json!({"Name": format!("{of}/v")}));
        world.daemon.mount(&format!("{of}/v"), "1");
        assert_eq!(world.health(&format!("{of}/v")), "ok");
    }
    assert_eq!(world.ready(), "ok\n");
    moody.hush();
    let (there, gone) = (format!("{good}/v"), format!("{silent}/v"));
    let told = format!("the pool {silent} does not answer");
    let check = |world: &World| {
        wait_until(&told, Duration::from_secs(60), || {
            let begin = Instant::now();
            let answer = world.daemon.ask("Get", &json!({"Name": gone}));
            assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
            answer.is_some_and(|(_, answer)| answer.to_string().contains(&told))
        });
        // From now on it is answered at once.
        let begin = Instant::now();
        for _ in 0..10 {
            assert_eq!(world.health(&gone), "degraded");
        }
        let e = world.daemon.error("Create", &json!({"Name": format!("{silent}/new")}));
        assert!(e.contains(&told), "{e}");
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
        assert_eq!(world.health(&there), "ok");
        world.life(&format!("{good}/w"));
        let names = world.names();
        assert!(names.contains(&shown(&good, "v")) && names.contains(&shown(&silent, "v")), "{names:?}");
        assert!(world.ready().contains(&told), "{}", world.ready());
        let metrics = world.page("/metrics");
        for (pool, up) in [(&good, 1), (&silent, 0)] {
            assert!(metrics.contains(&format!("pool_up{{pool=\"{pool}\"}} {up}")), "{metrics}");
        }
        assert!(metrics.contains("backend_up 1"), "{metrics}");
        assert!(world.page("/v1/status").contains(&told) && world.page("/v1/volumes").contains(&told));
    };
    check(&world);
    // Its heart beats in the other pool, and that is looked at.
    sleep(Duration::from_secs(12));
    let metrics = world.page("/metrics");
    let beat = format!("heartbeat_age_seconds{{pool=\"{good}\"}} ");
    let age: f64 = metrics.split_once(&beat).unwrap().1.lines().next().unwrap().parse().unwrap();
    assert!(age < 12.0, "{metrics}");
    world.daemon.kill();
    world.start();
    assert!(world.daemon.mount(&there, "2").exists(), "adopted");
    check(&world);
    world.daemon.unmount(&there, "1");
    world.daemon.unmount(&there, "2");
    world.daemon.ok("Remove", &json!({"Name": there}));
    moody.wake();
    wait_until("the pool to be back", Duration::from_secs(60), || world.health(&gone) == "ok");
    assert_eq!(world.ready(), "ok\n");
    world.life(&format!("{silent}/w"));
    wait_until("it to be listed", Duration::from_secs(60), || {
        world.names() == [shown(&silent, "v")] && !world.page("/v1/status").contains(&silent)
    });
    world.daemon.unmount(&gone, "1");
    world.daemon.ok("Remove", &json!({"Name": gone}));
    assert_eq!(lab.run(&["rados", "-p", &silent, "listomapkeys", "rbd_docker_plugin.owners"]), "");
    let log = fs::read_to_string(world.daemon.log()).unwrap();
    assert_eq!(log.matches("the pool answers again").count(), 1, "{log}");
    world.daemon.stop();
}

//! The way back from any change of the cluster, without a restart of the plugin. Each test changes a cluster of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::ImageStore;
use rbd_docker_plugin::backend::rbd::RbdBackend;
use rbd_docker_plugin::config;
use rbd_docker_plugin::model::error::ErrorKind;
use serde_json::json;

use crate::hosts::{identity, options};
use crate::plugin::Plugin;
use crate::rig::{Lab, Own, Ready, trial_if, wait_until};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name, test: fn(&Lab)| trial_if(&format!("link::{name}"), ready, Lab::is_ours, test);
    vec![
        t("a_new_key_is_taken_as_soon_as_its_file_is_there", a_new_key),
        t("a_key_may_be_in_the_file_before_the_cluster_has_it", a_key_too_early),
        t("monitors_that_have_moved_are_found_by_the_new_ceph_conf", monitors_move),
        t("cephx_may_be_switched_off_and_on_again", cephx_off_and_on),
        t("a_three_line_ceph_conf_is_enough_without_cephx", three_lines),
        t("map_options_of_the_cluster_and_encryption_on_the_wire_are_told", wire),
        t("a_user_of_one_namespace_is_kept_to_it", one_namespace),
        t("a_host_on_the_blocklist_waits_and_says_until_when", blocked_host),
        t("another_cluster_is_refused_until_the_file_is_put_back", another_cluster),
        t("a_client_of_a_frozen_cluster_is_let_go_without_waiting", frozen_client),
        t("a_frozen_cluster_keeps_no_request_waiting_while_clients_are_exchanged", frozen_cluster),
    ]
}

/// Ten times what it takes.
const LONG: Duration = Duration::from_secs(120);
const CAPS: [&str; 6] = ["mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd"];

/// A cluster, a user of it, and a ceph.conf with his keyring.
struct World {
    own: Own,
    dir: PathBuf,
}

impl World {
    fn new() -> Self {
        let own = Own::start();
        let dir = own.dir().join("client");
        fs::create_dir(&dir).unwrap();
        let world = Self { own, dir };
        world.follow_conf();
        world.new_key();
        world.give_key();
        world
    }

    fn conf(&self) -> PathBuf {
        self.dir.join("ceph.conf")
    }

    fn keyring(&self) -> PathBuf {
        self.dir.join("keyring")
    }

    /// The client's ceph.conf is a file of its own.
    fn follow_conf(&self) {
        let text = fs::read_to_string(self.own.conf()).unwrap();
        fs::write(self.conf(), format!("{text}\n[client.roamer]\nkeyring = {}\n", self.keyring().display()))
            .unwrap();
    }

    /// The user gets another key; whoever has the old one is a stranger.
    fn new_key(&self) {
        drop(self.own.command(&["ceph", "auth", "rm", "client.roamer"]).output().unwrap());
        let path = self.dir.join("fresh");
        let mut line = vec!["ceph", "auth", "get-or-create", "client.roamer"];
        line.extend(CAPS);
        line.extend(["-o", path.to_str().unwrap()]);
        self.own.run(&line);
    }

    /// The file is replaced, as configuration management does it.
    fn give_key(&self) {
        fs::rename(self.dir.join("fresh"), self.keyring()).unwrap();
    }

    fn options(&self, lab: &Lab) -> config::Ceph {
        config::Ceph {
            user: "roamer".to_owned(),
            conf: self.conf(),
            pools: vec!["rbd".to_owned()],
            timeout: Duration::from_secs(2),
            ..options(lab)
        }
    }

    fn backend(&self, lab: &Lab) -> RbdBackend {
        let backend = RbdBackend::open(&self.options(lab), identity("roamer", "boot of roamer")).unwrap();
        wait_until("the link is up", LONG, || backend.reachable().is_ok());
        backend
    }
}

fn works(backend: &RbdBackend) -> bool {
    backend.reachable().is_ok() && backend.list().is_ok()
}

/// Waits until the link is down, and for this reason.
fn down(backend: &RbdBackend, why: &str) -> String {
    let told = || backend.reachable().err().map(|e| (e.kind, e.to_string()));
    wait_until(why, LONG, || told().is_some_and(|(_, told)| told.contains(why)));
    let (kind, told) = told().unwrap();
    assert_eq!(kind, ErrorKind::Unreachable, "it may come back by itself");
    told
}

fn a_new_key(lab: &Lab) {
    let world = World::new();
    let backend = world.backend(lab);
    // The old client goes on until the monitor asks it for its key again.
    world.new_key();
    world.own.tool(&["stop-mon"]);
    world.own.tool(&["start-mon"]);
    let told = down(&backend, "rejects the user or its key");
    assert!(told.contains(&world.keyring().display().to_string()), "{told}");
    assert!(told.contains("ceph auth get client.roamer") && !told.contains("caps"), "{told}");
    world.give_key();
    let begin = Instant::now();
    wait_until("the new key is taken", LONG, || works(&backend));
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    // With the file first, and the old client still at work, nothing is interrupted.
    world.new_key();
    world.give_key();
    for _ in 0..40 {
        assert!(works(&backend), "{:?}", backend.reachable());
        std::thread::sleep(Duration::from_millis(100));
    }
    world.own.tool(&["stop-mon"]);
    world.own.tool(&["start-mon"]);
    wait_until("it works with the second key", LONG, || works(&backend));
}

fn a_key_too_early(lab: &Lab) {
    let world = World::new();
    let backend = world.backend(lab);
    let good = fs::read(world.keyring()).unwrap();
    let strange = "[client.roamer]\nkey = AQBmzkBnAAAAABAAAAECAwQFBgcICQoLDA0ODw==\n";
    fs::write(world.keyring(), strange).unwrap();
    for _ in 0..60 {
        assert!(works(&backend), "the old connection is kept: {:?}", backend.reachable());
        std::thread::sleep(Duration::from_millis(100));
    }
    fs::write(world.keyring(), "[client.roamer]\nkey = AQ").unwrap();
    world.own.tool(&["stop-mon"]);
    down(&backend, "does not answer");
    fs::write(world.keyring(), good).unwrap();
    world.own.tool(&["start-mon"]);
    wait_until("it is back", LONG, || works(&backend));
}

fn monitors_move(lab: &Lab) {
    let world = World::new();
    let backend = world.backend(lab);
    world.own.tool(&["move-mon"]);
    down(&backend, "the Ceph cluster");
    world.follow_conf();
    wait_until("the monitors are found", LONG, || works(&backend));
}

fn auth(world: &World, method: &str) {
    let text = fs::read_to_string(world.own.conf()).unwrap();
    let line = |line: &str| {
        let (name, _) = line.split_once(" required = ").unwrap_or((line, ""));
        if name.starts_with("auth ") && name != line {
            format!("{name} required = {method}\n")
        } else {
            format!("{line}\n")
        }
    };
    fs::write(world.own.conf(), text.lines().map(line).collect::<String>()).unwrap();
    world.own.tool(&["restart"]);
}

fn cephx_off_and_on(lab: &Lab) {
    let world = World::new();
    // The client's file says nothing of it.
    let text = fs::read_to_string(world.conf()).unwrap();
    let without: String =
        text.lines().filter(|line| !line.starts_with("auth ")).map(|line| format!("{line}\n")).collect();
    fs::write(world.conf(), without).unwrap();
    let backend = world.backend(lab);
    for method in ["none", "cephx"] {
        auth(&world, method);
        wait_until("it works again", LONG, || works(&backend));
        // Not the answer of a moment before.
        std::thread::sleep(Duration::from_secs(3));
        wait_until("it still works", LONG, || works(&backend));
    }
}

fn three_lines(lab: &Lab) {
    let world = World::new();
    auth(&world, "none");
    let text = fs::read_to_string(world.own.conf()).unwrap();
    let lines: String = text
        .lines()
        .filter(|line| ["fsid", "mon host"].iter().any(|name| line.starts_with(name)))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(world.conf(), format!("[global]\n{lines}")).unwrap();
    let backend = world.backend(lab);
    assert!(works(&backend), "{:?}", backend.reachable());
    let check = crate::commands::run_user(lab, &world.conf(), "roamer", &["-pool", "rbd", "check"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    let doctor =
        crate::commands::run_user(lab, &world.conf(), "roamer", &["-pool", "rbd", "doctor", "--format=json"]);
    let (status, found, _) = doctor.line("key");
    assert!(status == "ok" && found.contains("this cluster asks for none"), "{doctor:?}");
    // With cephx on again it is the key that lacks, and that is said.
    auth(&world, "cephx");
    let told = down(&backend, "no keyring holds the key of client.roamer");
    assert!(told.contains("ceph auth get client.roamer -o"), "{told}");
    let given = Path::new("/etc/ceph/ceph.client.roamer.keyring");
    assert!(!given.exists(), "the test needs a host without one");
    world.follow_conf();
    wait_until("it works with a key", LONG, || works(&backend));
}

fn blocked_host(lab: &Lab) {
    let world = World::new();
    let backend = world.backend(lab);
    // It is on the same host, and would make clients without end.
    let _still = world.own.freeze("mgr");
    world.own.run(&["ceph", "osd", "blocklist", "add", "127.0.0.1:0/0", "3600"]);
    // Whatever is asked for next finds it out.
    let told = || {
        drop(backend.list());
        backend.reachable().err().map(|e| e.to_string())
    };
    wait_until("it is said", LONG, || told().is_some_and(|told| told.contains("this host (127.0.0.1)")));
    let text = told().unwrap();
    assert!(text.contains("ceph osd blocklist rm 127.0.0.1:0/0") && text.contains("until 20"), "{text}");
    // No flapping, and no new client each second: the monitors number them.
    let begin = world.own.connect().instance_id();
    for _ in 0..100 {
        assert_eq!(told().as_deref(), Some(text.as_str()), "it stays down");
        std::thread::sleep(Duration::from_millis(100));
    }
    let made = world.own.connect().instance_id() - begin;
    assert!(made <= 6, "{made} clients were made meanwhile");
    world.own.run(&["ceph", "osd", "blocklist", "rm", "127.0.0.1:0/0"]);
    wait_until("it recovers by itself", LONG, || works(&backend));
}

/// A ceph.conf that leads to another cluster, where the user may do everything as well.
fn another_cluster(lab: &Lab) {
    let (world, other) = (World::new(), Own::start());
    let home = tempfile::tempdir().unwrap();
    let good = fs::read_to_string(world.conf()).unwrap();
    let keyring = other.dir().join("roamer");
    let mut line = vec!["ceph", "auth", "get-or-create", "client.roamer"];
    line.extend(CAPS);
    line.extend(["-o", keyring.to_str().unwrap()]);
    other.run(&line);
    let plugin = Plugin::start_as("roamer", &world.conf(), home.path(), &["--pool", "rbd"]);
    plugin.create("here");
    let backend = world.backend(lab);
    let text = fs::read_to_string(other.conf()).unwrap();
    fs::write(world.conf(), format!("{text}\n[client.roamer]\nkeyring = {}\n", keyring.display())).unwrap();
    let fsid = |own: &Own| own.run(&["ceph", "fsid"]).trim().to_owned();
    let told = format!(
        "ceph.conf leads to the cluster {} now, and the volumes of this plugin are in {}",
        fsid(&other),
        fsid(&world.own)
    );
    wait_until("the log says it", LONG, || plugin.log().contains(&told));
    assert!(plugin.log().contains("the old connection is kept"), "{}", plugin.log());
    // The old session goes on, and all of it is of the old cluster.
    for _ in 0..30 {
        assert!(works(&backend), "{:?}", backend.reachable());
        assert_eq!(plugin.names(), ["here"]);
        std::thread::sleep(Duration::from_millis(200));
    }
    // With the old cluster away, the other one is still none of ours, and every request says so.
    world.own.tool(&["stop-mon"]);
    down(&backend, &told);
    let refused = || plugin.ask("Create", &json!({"Name": "new"})).err().unwrap_or_default();
    wait_until("the plugin says it", LONG, || refused().contains(&told));
    std::thread::sleep(Duration::from_secs(5));
    assert!(refused().contains(&told) && refused().contains("restart the plugin"), "{}", refused());
    assert_eq!(plugin.names(), ["here"], "what was known is answered");
    assert_eq!(
        other.run(&["rbd", "ls", "rbd"])
            + &other.run(&["rados", "-p", "rbd", "ls"]).replace("rbd_info\n", ""),
        ""
    );
    fs::write(world.conf(), good).unwrap();
    world.own.tool(&["start-mon"]);
    wait_until("it is back", LONG, || works(&backend));
    wait_until("the plugin, too", LONG, || plugin.ask("Remove", &json!({"Name": "here"})).is_ok());
    assert_eq!(plugin.names(), [""; 0]);
}

/// Nothing of a client waits for its cluster when it goes: not even when something was asked that was never answered.
fn frozen_client(_: &Lab) {
    let own = Own::start();
    let quick = Duration::from_secs(2);
    for frozen in [&["osd."][..], &["mon."], &["osd.", "mon."]] {
        let io = own.connect().ioctx("rbd", None).unwrap();
        drop(io.read("rbd_directory", 1));
        let life = io.cluster().life();
        let still: Vec<_> = frozen.iter().map(|daemon| own.freeze(daemon)).collect();
        let asking = io.clone();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let e = asking.read("rbd_directory", 1).err();
            let begin = Instant::now();
            drop(asking);
            tell.send((e, begin.elapsed()))
        });
        let begin = Instant::now();
        drop(io);
        assert!(begin.elapsed() < quick, "{frozen:?}: {:?}", begin.elapsed());
        let (answer, took) = told.recv_timeout(LONG).expect("a request ends by its own time-out");
        println!("{frozen:?}: {answer:?}, and gone after {took:?}");
        assert!(took < quick, "{frozen:?}: {took:?}");
        wait_until("it is gone", LONG, || life.strong_count() == 0);
        drop(still);
    }
}

/// While nothing answers, and ceph.conf changes again and again, requests take no longer than one of them may.
fn frozen_cluster(lab: &Lab) {
    let world = World::new();
    let backend = world.backend(lab);
    assert!(works(&backend));
    let good = fs::read_to_string(world.conf()).unwrap();
    let longest = |what: &str, lasts: Duration| {
        let begin = Instant::now();
        let mut slow = Vec::new();
        let mut round = 0;
        while begin.elapsed() < lasts {
            round += 1;
            if round % 10 == 0 {
                fs::write(world.conf(), format!("{good}\n# {round}\n")).unwrap();
            }
            let one = Instant::now();
            drop(backend.list());
            if one.elapsed() > Duration::from_millis(500) {
                slow.push(one.elapsed());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        println!("{what}: {round} requests, those over half a second took {slow:?}");
        slow
    };
    let lasts = Duration::from_secs(20);
    for daemons in [&["osd."][..], &["mon."], &["osd.", "mon."]] {
        let still: Vec<_> = daemons.iter().map(|daemon| world.own.freeze(daemon)).collect();
        let slow = longest(&format!("{daemons:?}"), lasts);
        // The first to find out waits for its timeout, of two seconds, perhaps in two calls.
        assert!(
            slow.len() <= 4 && slow.iter().all(|took| *took < Duration::from_secs(7)),
            "{daemons:?}: {slow:?}"
        );
        drop(still);
        wait_until("it is back", LONG, || works(&backend));
    }
}

fn wire(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let conf = crate::hosts::with_user(lab, dir.path(), "wired", &CAPS);
    let told = |conf: &Path, more: &[&str]| {
        let words = [more, &["doctor", "--format=json"]].concat();
        crate::commands::run_user(lab, conf, "wired", &words).line("ms_mode")
    };
    let text = fs::read_to_string(&conf).unwrap();
    let (status, found, _) = told(&conf, &[]);
    assert!(status == "ok" && found.starts_with("the kernel speaks v1 to "), "{found}");
    lab.run(&["ceph", "config", "set", "client", "rbd_default_map_options", "queue_depth=64"]);
    let (_, found, _) = told(&conf, &[]);
    assert!(found.contains("rbd_default_map_options = queue_depth=64"), "{found}");
    lab.run(&["ceph", "config", "rm", "client", "rbd_default_map_options"]);
    fs::write(&conf, format!("{text}\nms_client_mode = secure\n")).unwrap();
    let (_, found, _) = told(&conf, &[]);
    assert!(found.contains("v2") && found.contains("ms_mode=secure: ms_client_mode is secure"), "{found}");
    let (_, found, _) = told(&conf, &["--map-options", "ms_mode=legacy"]);
    assert!(found.starts_with("the kernel speaks v1 to "), "what is given wins: {found}");
    fs::write(&conf, format!("{text}\nrbd_default_map_options = ms_mode=crc\n")).unwrap();
    let (_, found, _) = told(&conf, &[]);
    assert!(found.contains("v2") && !found.contains("v1 to"), "{found}");
    fs::write(&conf, format!("{text}\nrbd_default_map_options = share\n")).unwrap();
    let (status, found, _) = told(&conf, &[]);
    assert!(status == "fail" && found.contains("rbd_default_map_options"), "{found}");
    lab.run(&["ceph", "auth", "rm", "client.wired"]);
}

/// What docs/keys.md says of a user per namespace.
fn one_namespace(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["team1", "team2"] {
        lab.run(&["rbd", "namespace", "create", &format!("{}/{name}", lab.pool)]);
        lab.run(&["rbd", "create", "--size", "8M", &format!("{}/{name}/image", lab.pool)]);
    }
    let osd = format!("profile rbd pool={} namespace=team1", lab.pool);
    let conf =
        crate::hosts::with_user(lab, dir.path(), "team1", &["mon", "profile rbd", "osd", &osd, "mgr", &osd]);
    let may = |words: &[&str]| {
        let conf = conf.to_str().unwrap();
        let line = [&[words[0], "-c", conf, "--id", "team1"], &words[1..]].concat();
        lab.command(&line).output().unwrap().status.success()
    };
    let at = |name: &str| format!("{}/{name}", lab.pool);
    assert!(may(&["rbd", "ls", &at("team1")]) && may(&["rbd", "info", &at("team1/image")]));
    assert!(!may(&["rbd", "ls", &at("team2")]) && !may(&["rbd", "info", &at("team2/image")]));
    assert!(!may(&["rbd", "ls", &lab.pool]));
    assert!(may(&["ceph", "osd", "blocklist", "add", "192.0.2.7:0/1", "60"]), "as the page says");
    lab.run(&["ceph", "osd", "blocklist", "rm", "192.0.2.7:0/1"]);
    let caps = ["ceph", "auth", "caps", "client.team1", "mon", "allow r", "osd", &osd];
    lab.run(&caps);
    assert!(!may(&["ceph", "osd", "blocklist", "add", "192.0.2.7:0/1", "60"]), "nor that");
    assert!(may(&["rbd", "ls", &at("team1")]));
    lab.run(&["ceph", "auth", "rm", "client.team1"]);
    for name in ["team1", "team2"] {
        lab.run(&["rbd", "rm", "--no-progress", &at(&format!("{name}/image"))]);
        lab.run(&["rbd", "namespace", "rm", &at(name)]);
    }
}

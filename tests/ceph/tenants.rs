//! What users with few capabilities can do: whatever `rbd` can do with a user, the plugin can; what cannot work is told
//! with the capability that is missing and the command that gives it.

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::rbd::RbdBackend;
use rbd_docker_plugin::backend::{Backend, ImageStore};
use rbd_docker_plugin::config;
use rbd_docker_plugin::model::name::ImageSpec;
use serde_json::json;
use tempfile::TempDir;

use crate::hosts::{identity, options, volume};
use crate::plugin::{Plugin, User};
use crate::rig::{Lab, Ready, fresh, trial};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("tenants::{name}"), ready, test);
    vec![
        t("one_pool_is_enough", one_pool_is_enough),
        t("one_namespace_is_enough", one_namespace_is_enough),
        t("records_in_a_namespace_are_found_again", records_in_a_namespace_are_found_again),
        t("without_a_manager_capability", without_a_manager_capability),
        t("who_may_only_read", who_may_only_read),
        t("who_may_only_ask_monitors", who_may_only_ask_monitors),
        t("capabilities_of_before_profiles", capabilities_of_before_profiles),
        t("a_data_pool_out_of_reach", a_data_pool_out_of_reach),
        t("a_namespace_that_is_not_there", a_namespace_that_is_not_there),
        t("what_another_user_saw_is_not_shown", what_another_user_saw_is_not_shown),
    ]
}

/// A pool of its own, which others use as well.
pub(crate) fn pool(lab: &Lab) -> String {
    let pool = fresh("tenants");
    lab.run(&["ceph", "osd", "pool", "create", &pool, "4"]);
    lab.run(&["rbd", "pool", "init", &pool]);
    pool
}

/// All that a volume goes through, short of a kernel.
fn whole_life(plugin: &Plugin, name: &str) {
    plugin.create(name);
    assert!(plugin.names().contains(&name.to_owned()));
    assert_eq!(plugin.get(name)["Status"]["health"], "ok");
    plugin.may_mount(name);
    plugin.remove(name);
    assert!(!plugin.names().contains(&name.to_owned()));
}

fn healthy(lab: &Lab, user: &User, flags: &[&str], place: &str) {
    let doctor = user.command(lab, &[flags, &["doctor", "--format", "json"]].concat());
    for check in ["pool", "capabilities", "fencing"] {
        let (status, found, fix) = doctor.line(check);
        assert_eq!(status, "ok", "{check}: {found} {fix}");
        assert!(check == "fencing" || found.contains(place), "{found}");
    }
    for (status, found, _) in doctor.lines("images") {
        assert_ne!(status, "fail", "{found}");
    }
}

fn one_pool_is_enough(lab: &Lab) {
    let user = User::of(lab, "one-pool", &lab.pool);
    let home = TempDir::new().unwrap();
    let plugin = Plugin::start(&user, home.path(), &["--pool", &lab.pool]);
    whole_life(&plugin, "only");
    healthy(lab, &user, &[], &lab.pool);
    let locks = user.command(lab, &["lock", "ls"]);
    assert_eq!(locks.code, Some(0), "{locks:?}");
}

fn one_namespace_is_enough(lab: &Lab) {
    let pool = pool(lab);
    for team in ["team1", "team2"] {
        lab.run(&["rbd", "namespace", "create", &format!("{pool}/{team}")]);
    }
    for other in ["theirs", "team2/theirs"] {
        lab.run(&["rbd", "create", "--size", "8M", &format!("{pool}/{other}")]);
    }
    let user = User::of(lab, "team1", &format!("{pool} namespace=team1"));
    let (home, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let flags = ["--pool", &pool, "--namespace", "team1"];
    let plugin = Plugin::start(&user, home.path(), &flags);
    assert_eq!(plugin.names(), [""; 0]);
    whole_life(&plugin, "mine");
    plugin.create("kept");
    // Whatever `rbd` shows of the namespace is a volume.
    lab.run(&["rbd", "create", "--size", "8M", &format!("{pool}/team1/by-hand")]);
    let seen = user.rbd(&["ls", &format!("{pool}/team1")]).stdout;
    assert_eq!(String::from_utf8(seen).unwrap(), "by-hand\nkept\n");
    assert_eq!(plugin.names(), ["by-hand", "kept"]);
    for name in ["theirs", "team2/theirs"] {
        let e = plugin.error("Get", &json!({"Name": format!("{pool}/{name}")}));
        assert!(e.contains("may not read"), "what is denied is not known not to be there: {e}");
        assert!(!e.contains("ceph auth caps"), "nobody advises to open what is another tenant's: {e}");
    }
    healthy(lab, &user, &flags, &format!("{pool}/team1"));
    let locks = user.command(lab, &[&flags[..], &["lock", "ls"]].concat());
    assert_eq!((locks.code, locks.err.as_str()), (Some(0), ""), "{locks:?}");
    // Beside it, on the same host, another tenant.
    let user2 = User::of(lab, "team2", &format!("{pool} namespace=team2"));
    let second = Plugin::start(&user2, other.path(), &["--pool", &pool, "--namespace", "team2"]);
    second.create("kept");
    assert_eq!(second.names(), ["kept", "theirs"]);
    plugin.remove("kept");
    assert_eq!(second.names(), ["kept", "theirs"], "the same name in another namespace");
    let objects = lab.run(&["rados", "-p", &pool, "ls"]);
    assert!(!objects.contains("rbd_docker_plugin"), "nothing of it is in the default namespace: {objects}");
}

fn records_in_a_namespace_are_found_again(lab: &Lab) {
    let pool = pool(lab);
    lab.run(&["rbd", "namespace", "create", &format!("{pool}/team1")]);
    let user = User::of(lab, "again", &format!("{pool} namespace=team1"));
    let settings = config::Ceph {
        user: user.name.clone(),
        conf: user.conf(),
        pools: vec![pool.clone()],
        namespace: Some("team1".to_owned()),
        ..options(lab)
    };
    let a = ImageSpec::new(&pool, Some("team1"), "a").unwrap();
    {
        let before = RbdBackend::open(&settings, identity("again", "b")).unwrap();
        volume(&before, &a);
        before.claim(&a).unwrap();
        before.bind("a", &a).unwrap();
        before.unbind("a", &a).unwrap();
    }
    let after = RbdBackend::open(&settings, identity("again", "b")).unwrap();
    assert_eq!(after.owned().unwrap().specs, std::slice::from_ref(&a));
    assert!(after.left_out().is_empty());
    after.remove(&a).unwrap();
    after.release(&a).unwrap();
}

fn without_a_manager_capability(lab: &Lab) {
    let profile = format!("profile rbd pool={}", lab.pool);
    let user = User::new(lab, "no-mgr", &["mon", "profile rbd", "osd", &profile]);
    let home = TempDir::new().unwrap();
    whole_life(&Plugin::start(&user, home.path(), &["--pool", &lab.pool]), "unmanaged");
}

fn who_may_only_read(lab: &Lab) {
    let pool = pool(lab);
    lab.run(&["rbd", "create", "--size", "64M", &format!("{pool}/seen")]);
    let profile = format!("profile rbd-read-only pool={pool}");
    let user = User::new(lab, "reader", &["mon", "profile rbd-read-only", "osd", &profile]);
    let home = TempDir::new().unwrap();
    let plugin = Plugin::start(&user, home.path(), &["--pool", &pool]);
    assert_eq!(plugin.names(), ["seen"]);
    assert_eq!(plugin.get("seen")["Status"]["health"], "ok");
    for (endpoint, body) in [
        ("Mount", json!({"Name": "seen", "ID": "1"})),
        ("Create", json!({"Name": "more", "Opts": {"size": "64M"}})),
        ("Remove", json!({"Name": "seen"})),
    ] {
        let e = plugin.error(endpoint, &body);
        let lacks = format!(
            "client.{} may not write to pool {pool}: it lacks osd 'profile rbd pool={pool}'",
            user.name
        );
        assert!(e.contains(&lacks), "{endpoint}: {e}");
    }
    let doctor = user.command(lab, &["--pool", &pool, "doctor", "--format", "json"]);
    let (status, found, fix) = doctor.line("capabilities");
    assert_eq!(status, "fail");
    assert!(found.contains("may not write to"), "{found}");
    user.obey(lab, &fix);
    drop(plugin);
    whole_life(&Plugin::start(&user, home.path(), &["--pool", &pool]), "writes");
}

fn who_may_only_ask_monitors(lab: &Lab) {
    let pool = pool(lab);
    lab.run(&["rbd", "namespace", "create", &format!("{pool}/ns")]);
    let user = User::new(lab, "mon-only", &["mon", "profile rbd"]);
    let home = TempDir::new().unwrap();
    let flags = ["--pool", &pool, "--namespace", "ns"];
    let plugin = Plugin::start(&user, home.path(), &flags);
    for (endpoint, body) in [("List", json!({})), ("Get", json!({"Name": "a"}))] {
        let e = plugin.error(endpoint, &body);
        let needs = format!("osd 'profile rbd pool={pool} namespace=ns'");
        assert!(e.contains(&format!("may not read namespace ns of pool {pool}: it lacks {needs}")), "{e}");
        assert!(e.contains("ceph auth caps"), "{e}");
    }
    let e = plugin.error("Create", &json!({"Name": "a", "Opts": {"size": "64M"}}));
    drop(plugin);
    // The command in the error is all that is needed.
    user.obey(lab, &e);
    whole_life(&Plugin::start(&user, home.path(), &flags), "a");
}

fn capabilities_of_before_profiles(lab: &Lab) {
    let place = format!("allow rwx pool={}", lab.pool);
    let user = User::new(lab, "old-caps", &["mon", "allow r", "osd", &place]);
    let home = TempDir::new().unwrap();
    whole_life(&Plugin::start(&user, home.path(), &["--pool", &lab.pool]), "old");
    let doctor = user.command(lab, &["doctor", "--format", "json"]);
    let (status, found, fix) = doctor.line("fencing");
    assert_eq!(status, "fail", "{found}");
    assert!(found.contains("mon 'profile rbd'") && fix.contains(&user.name), "{found} {fix}");
    let (status, found, _) = doctor.line("capabilities");
    assert_eq!(status, "ok", "{found}");
}

fn a_data_pool_out_of_reach(lab: &Lab) {
    let (pool, data) = (pool(lab), pool(lab));
    lab.run(&["rbd", "create", "--size", "64M", "--data-pool", &data, &format!("{pool}/parted")]);
    let user = User::of(lab, "no-data", &pool);
    let home = TempDir::new().unwrap();
    let plugin = Plugin::start(&user, home.path(), &["--pool", &pool]);
    assert_eq!(plugin.names(), ["parted"]);
    let mount = plugin.error("Mount", &json!({"Name": "parted", "ID": "1"}));
    let opts = json!({"size": "64M", "data-pool": data});
    let create = plugin.error("Create", &json!({"Name": "new", "Opts": opts}));
    for e in [&mount, &create] {
        assert!(e.contains(&format!("may not read the data pool {data}")), "{e}");
        assert!(e.contains(&format!("osd 'profile rbd pool={data}'")), "{e}");
        assert!(e.contains(&format!("osd 'profile rbd pool={pool}, profile rbd pool={data}'")), "{e}");
    }
    assert_eq!(plugin.names(), ["parted"], "nothing is left of the Create");
    user.obey(lab, &create);
    drop(plugin);
    let plugin = Plugin::start(&user, home.path(), &["--pool", &pool]);
    plugin.may_mount("parted");
    let e = plugin.error("Create", &json!({"Name": "new", "Opts": opts}));
    assert!(e.contains("kernel module rbd"), "all that lacks is a kernel: {e}");
    drop(plugin);

    let conf = std::fs::read_to_string(user.conf()).unwrap();
    std::fs::write(user.conf(), format!("{conf}rbd default data pool = nosuch\n")).unwrap();
    let plugin = Plugin::start(&user, home.path(), &["--pool", &pool]);
    let e = plugin.error("Create", &json!({"Name": "nowhere", "Opts": {"size": "64M"}}));
    assert!(e.contains("it names the pool nosuch, which does not exist"), "{e}");
    let opts = json!({"size": "64M", "data-pool": "nosuch2"});
    let e = plugin.error("Create", &json!({"Name": "nowhere", "Opts": opts}));
    assert!(e.contains("data-pool names the pool nosuch2, which does not exist"), "{e}");
}

fn a_namespace_that_is_not_there(lab: &Lab) {
    let pool = pool(lab);
    let place = format!("{pool}/late");
    let user = User::of(lab, "late", &format!("{pool} namespace=late"));
    let home = TempDir::new().unwrap();
    let flags = ["--pool", &pool, "--namespace", "late"];
    let plugin = Plugin::start(&user, home.path(), &flags);
    let advice = format!("rbd namespace create {place}");
    for (endpoint, body) in [
        ("List", json!({})),
        ("Get", json!({"Name": "a"})),
        ("Create", json!({"Name": "a", "Opts": {"size": "64M"}})),
    ] {
        let e = plugin.error(endpoint, &body);
        assert!(e.contains(&format!("the pool {pool} has no namespace late")), "{endpoint}: {e}");
        assert!(e.contains(&advice), "{endpoint}: {e}");
    }
    let doctor = user.command(lab, &[&flags[..], &["doctor", "--format", "json"]].concat());
    let (status, _, fix) = doctor.line("pool");
    assert_eq!((status.as_str(), fix), ("fail", advice));
    lab.run(&["rbd", "namespace", "create", &place]);
    plugin.create("a");
    plugin.remove("a");
    lab.run(&["rbd", "namespace", "remove", &place]);
    let e = plugin.error("Create", &json!({"Name": "b", "Opts": {"size": "64M"}}));
    assert!(e.contains("has no namespace late"), "removed while the plugin runs: {e}");
}

/// The folder of the state is the same, and the cluster does not answer: there is nothing but the cache.
fn what_another_user_saw_is_not_shown(lab: &Lab) {
    let pool = pool(lab);
    for team in ["team1", "team2"] {
        lab.run(&["rbd", "namespace", "create", &format!("{pool}/{team}")]);
    }
    let first = User::of(lab, "first", &format!("{pool} namespace=team1"));
    let second = User::of(lab, "second", &format!("{pool} namespace=team2"));
    let home = TempDir::new().unwrap();
    let team = |team| ["--pool", pool.as_str(), "--namespace", team];
    {
        let plugin = Plugin::start(&first, home.path(), &team("team1"));
        plugin.create("secret");
        assert_eq!(plugin.names(), ["secret"]);
        plugin.stop();
    }
    // A port where nobody is.
    let away = |user: &User| {
        let conf = std::fs::read_to_string(user.conf()).unwrap();
        let lines = conf.lines().map(|line| match line.starts_with("mon host") {
            true => "mon host = v1:127.0.0.1:1",
            false => line,
        });
        let path = user.dir.path().join("away.conf");
        std::fs::write(&path, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
        path
    };
    for (user, namespace, seen) in [
        (&second, "team2", false),
        (&second, "team1", false),
        (&first, "team2", false),
        (&first, "team1", true),
    ] {
        let plugin = Plugin::start_as(&user.name, &away(user), home.path(), &team(namespace));
        let listed = plugin.ask("List", &json!({})).map(|answer| answer.to_string());
        if seen {
            assert!(listed.unwrap().contains("secret"));
            assert_eq!(plugin.get("secret")["Status"]["health"], "degraded");
        } else {
            let listed = listed.unwrap_or_else(|e| e);
            assert!(!listed.contains("secret"), "{} in {namespace}: {listed}", user.name);
            plugin.silence("Get", &json!({"Name": "secret"}));
        }
    }
}

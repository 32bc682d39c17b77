//! The life of a volume, through the plugin as a process: made, used, removed; its names; what it tells of itself.

use std::fs;
use std::sync::Barrier;
use std::thread;

use libtest_mimic::Trial;
use serde_json::json;

use crate::daemon::Daemon;
use crate::rig::{Ready, Rig, mounts, trial};
use crate::strace::{self, Strace};
use crate::trace::programs;
use crate::volumes::{
    at_rest, create, create_error, devices, get, gone, list, mount_error, mount_line, plugin, remove,
    remove_error,
};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("driver::{name}"), ready, test);
    vec![
        t("a_life_on_each_filesystem", a_life_on_each_filesystem),
        t("names_and_pools", names_and_pools),
        t("a_bare_name_bound_to_a_pool", a_bare_name_bound_to_a_pool),
        t("bare_names_of_two_namespaces", bare_names_of_two_namespaces),
        t("unmounted_though_its_name_means_another_image", unmounted_though_its_name_means_another_image),
        t("removal_by_renaming", removal_by_renaming),
        t("removal_ignored", removal_ignored),
        t("only_what_is_there_without_create", only_what_is_there_without_create),
        t("refused_before_anything_is_made", refused_before_anything_is_made),
        t("what_a_person_needs_is_told", what_a_person_needs_is_told),
        t("sixty_four_at_once", sixty_four_at_once),
        trial("driver::no_program_but_mkfs", &strace::ready(ready), no_program_but_mkfs),
    ]
}

fn a_life_on_each_filesystem(rig: &Rig) {
    let mut daemon = plugin(rig, "life", &[]);
    for (fstype, size) in [("ext4", "16M"), ("xfs", "300M"), ("btrfs", "128M")] {
        let options = json!({"fstype": fstype, "size": size});
        create(&daemon, fstype, &options);
        at_rest(&daemon, fstype);
        create(&daemon, fstype, &options);
        assert_eq!(get(&daemon, fstype)["Mountpoint"], json!(null));
        let at = daemon.mount(fstype, "a");
        assert_eq!(at, daemon.mountpoint(fstype));
        assert_eq!(mount_line(&at).1, fstype);
        assert_eq!(
            fs::read_dir(&at).unwrap().count(),
            0,
            "{fstype}: a volume begins empty, for Docker's copy-up"
        );
        fs::write(at.join("file"), fstype).unwrap();
        daemon.unmount(fstype, "a");
        at_rest(&daemon, fstype);
        assert_eq!(daemon.ok("Path", &json!({"Name": fstype})), json!({"Mountpoint": ""}));
        let at = daemon.mount(fstype, "b");
        assert_eq!(fs::read_to_string(at.join("file")).unwrap(), fstype);
        assert_eq!(fs::read_dir(&at).unwrap().count(), 1);
        assert_eq!(daemon.ok("Path", &json!({"Name": fstype})), json!({"Mountpoint": at}));
        assert_eq!(get(&daemon, fstype)["Mountpoint"], json!(at));
        let e = remove_error(&daemon, fstype);
        assert!(e.contains("is in use: mounted 1 time(s), by mount ID b"), "{e}");
        daemon.unmount(fstype, "b");
        remove(&daemon, fstype);
        gone(&daemon, fstype);
        remove(&daemon, fstype);
    }
    daemon.stop();
    assert_eq!(fs::read_dir(rig.path("life/images/rbd")).unwrap().count(), 0);
}

fn names_and_pools(rig: &Rig) {
    let daemon = plugin(rig, "names", &[]);
    create(&daemon, "sized@16", &json!({}));
    assert_eq!(fs::metadata(daemon.file("sized", "img")).unwrap().len(), 16 << 20);
    let at = daemon.mount("rbd/sized", "a");
    assert_eq!(at, daemon.mountpoint("sized"), "one volume, whatever the spelling");
    daemon.unmount("sized@99", "a");
    at_rest(&daemon, "sized");
    create(&daemon, "p2/ns/img@16", &json!({}));
    let image = rig.path("names/images/p2/@ns/img.img");
    assert_eq!(fs::metadata(&image).unwrap().len(), 16 << 20);
    let at = daemon.mount("p2/ns/img", "a");
    assert_eq!(at, rig.path("names/mnt/names/p2/@ns/img"));
    assert!(mounts().contains(&at));
    assert_eq!(devices(&image).len(), 1);
    assert_eq!(list(&daemon), ["p2/ns/img", "sized"]);
    daemon.unmount("p2/ns/img", "a");
    for volume in ["p2/ns/img", "sized"] {
        remove(&daemon, volume);
    }
    assert!(!image.exists() && list(&daemon).is_empty());
}

fn a_bare_name_bound_to_a_pool(rig: &Rig) {
    let mut daemon = plugin(rig, "bound", &[]);
    create(&daemon, "foo", &json!({"pool": "p2", "size": "16M"}));
    let image = rig.path("bound/images/p2/foo.img");
    assert!(image.exists() && !daemon.file("foo", "img").exists());
    daemon.stop();
    daemon.start();
    assert_eq!(list(&daemon), ["foo"]);
    assert_eq!(daemon.mount("foo", "a"), rig.path("bound/mnt/bound/p2/foo"));
    assert_eq!(get(&daemon, "foo")["Status"]["image"], "p2/foo");
    daemon.unmount("foo", "a");
    remove(&daemon, "foo");
    assert!(!image.exists() && list(&daemon).is_empty());
    create(&daemon, "foo", &json!({"size": "16M"}));
    assert!(daemon.file("foo", "img").exists(), "the name is free again");
}

/// Whoever has other defaults has other bare names, and what is bound to them.
fn bare_names_of_two_namespaces(rig: &Rig) {
    let one = plugin(rig, "one", &["--namespace", "t1"]);
    let images = rig.path("one/images").display().to_string();
    let two = plugin(rig, "two", &["--namespace", "t2", "--local-dir", &images]);
    create(&two, "db", &json!({"size": "16M"}));
    let at = two.mount("db", "b");
    create(&one, "db", &json!({"size": "16M", "pool": "p2"}));
    assert_eq!(get(&one, "db")["Status"]["image"], "p2/db");
    assert_eq!(get(&two, "db")["Status"]["image"], "rbd/t2/db");
    two.unmount("db", "b");
    assert!(!mounts().contains(&at));
    remove(&one, "db");
    assert_eq!(list(&two), ["db"]);
    remove(&two, "db");
}

fn unmounted_though_its_name_means_another_image(rig: &Rig) {
    let mut daemon = plugin(rig, "moved", &[]);
    create(&daemon, "db", &json!({"size": "16M"}));
    let at = daemon.mount("db", "a");
    daemon.stop();
    daemon.start_with(&[("RBD_DOCKER_PLUGIN_POOL", "p2".to_owned())]);
    daemon.unmount("db", "a");
    assert!(!mounts().contains(&at));
    at_rest(&daemon, "db");
    remove(&daemon, "rbd/db");
}

fn removal_by_renaming(rig: &Rig) {
    let daemon = plugin(rig, "rename", &["--remove", "rename", "--size", "16"]);
    for n in 0..3 {
        create(&daemon, "foo", &json!({}));
        fs::write(daemon.mount("foo", "a").join("generation"), n.to_string()).unwrap();
        daemon.unmount("foo", "a");
        remove(&daemon, "foo");
        gone(&daemon, "foo");
    }
    let names = list(&daemon);
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(names[0], "zz_foo");
    for name in &names[1..] {
        let stamp = name.strip_prefix("zz_foo_").unwrap();
        assert!(stamp.starts_with("20") && stamp.contains('T'), "a date: {name}");
    }
    for (n, name) in names.iter().enumerate() {
        let at = daemon.mount(name, "a");
        assert_eq!(fs::read_to_string(at.join("generation")).unwrap(), n.to_string());
        daemon.unmount(name, "a");
        at_rest(&daemon, name);
    }
}

fn removal_ignored(rig: &Rig) {
    let daemon = plugin(rig, "ignore", &["--remove", "ignore", "--size", "16"]);
    create(&daemon, "foo", &json!({}));
    fs::write(daemon.mount("foo", "a").join("kept"), "data").unwrap();
    let e = remove_error(&daemon, "foo");
    assert!(e.contains("in use"), "{e}");
    daemon.unmount("foo", "a");
    remove(&daemon, "foo");
    remove(&daemon, "never-was");
    at_rest(&daemon, "foo");
    assert_eq!(fs::read_to_string(daemon.mount("foo", "a").join("kept")).unwrap(), "data");
    daemon.unmount("foo", "a");
}

fn only_what_is_there_without_create(rig: &Rig) {
    let mut daemon = plugin(rig, "nocreate", &[]);
    create(&daemon, "bar", &json!({"size": "16M"}));
    daemon.stop();
    drop(daemon);
    let daemon = plugin(rig, "nocreate", &["--create=false"]);
    let e = create_error(&daemon, "foo", &json!({}));
    assert!(e.starts_with("Ceph RBD Image not found: foo"), "{e}");
    assert!(e.contains("--create"), "{e}");
    let e = mount_error(&daemon, "foo");
    assert!(e.contains("Image foo does not exist"), "{e}");
    gone(&daemon, "foo");
    create(&daemon, "bar", &json!({}));
    daemon.mount("bar", "a");
    daemon.unmount("bar", "a");
}

fn refused_before_anything_is_made(rig: &Rig) {
    let daemon = plugin(rig, "refused", &[]);
    for (options, part) in [
        (json!({"fstype": "xfs", "size": "64M"}), "64M is too small for xfs, which needs 300M"),
        (json!({"mkfs-options": "/dev/sda"}), "mkfs option \"/dev/sda\" is refused for ext4"),
        (json!({"mount-options": "bind"}), "mount option \"bind\" cannot be used"),
        (json!({"colour": "red"}), "unknown option \"colour\"; valid options: size="),
        (json!({"size": "much"}), "option size=much: invalid size"),
    ] {
        let e = create_error(&daemon, "foo", &options);
        assert!(e.contains(part), "{options}: {e}");
        gone(&daemon, "foo");
    }
    assert!(!rig.path("refused/images/rbd").exists(), "not even the pool's folder is made");
}

fn what_a_person_needs_is_told(rig: &Rig) {
    let daemon = plugin(rig, "told", &[]);
    create(&daemon, "v", &json!({"size": "16M", "uid": "7"}));
    let at = daemon.mount("v", "first");
    daemon.mount("v", "first");
    daemon.mount("v", "second");
    let volume = get(&daemon, "v");
    let status = &volume["Status"];
    let device = devices(&daemon.file("v", "img")).remove(0).path;
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert_eq!(status["device"], json!(device));
    assert!(
        status["owner"].as_str().unwrap().starts_with(&format!("plugin \"told\" on host {host} (since 20")),
        "{status}"
    );
    assert_eq!(status["mount-ids"], json!({"first": 2, "second": 1}));
    assert_eq!(status["mounts"], 3);
    assert_eq!((&status["health"], &status["fstype"]), (&json!("ok"), &json!("ext4")));
    assert_eq!((&status["size"], &status["image"]), (&json!("16M"), &json!("rbd/v")));
    assert_eq!(status["options"]["uid"], "7");
    assert!(status["available"].as_u64().unwrap() > 8 << 20, "{status}");
    assert!(volume["CreatedAt"].as_str().unwrap().ends_with('Z'), "{volume}");
    for id in ["first", "first", "second"] {
        daemon.unmount("v", id);
    }
    let e = mount_error(&daemon, "unknown");
    remove(&daemon, "v");
    let log = fs::read_to_string(rig.path("told/log/told-docker-plugin.log")).unwrap();
    for (operation, words) in [
        ("Create", &["volume=\"v\"", "elapsed_ms="][..]),
        ("Mount", &["volume=\"v\"", "mount_id=\"second\"", "result=\"ok\""]),
        ("Unmount", &["volume=\"v\"", "mount_id=\"first\""]),
        ("Remove", &["volume=\"v\""]),
        ("Mount", &["WARN", "volume=\"unknown\"", &e]),
    ] {
        let told = log.lines().any(|line| {
            line.contains(&format!("operation=\"{operation}\""))
                && words.iter().all(|word| line.contains(word))
        });
        assert!(told, "{operation} {words:?} is in no line of\n{log}");
    }
    assert!(!at.exists());
}

fn sixty_four_at_once(rig: &Rig) {
    const MANY: usize = 64;
    let daemon = plugin(rig, "many", &["--size", "4"]);
    let names: Vec<String> = (0..MANY).map(|n| format!("v{n:02}")).collect();
    let all = |work: fn(&Daemon, &str)| {
        let together = Barrier::new(MANY);
        thread::scope(|scope| {
            for name in &names {
                let (daemon, together) = (&daemon, &together);
                scope.spawn(move || {
                    together.wait();
                    work(daemon, name);
                });
            }
        });
    };
    all(|daemon, name| create(daemon, name, &json!({})));
    assert_eq!(list(&daemon), names);
    names.iter().for_each(|name| at_rest(&daemon, name));
    all(|daemon, name| fs::write(daemon.mount(name, "a").join("name"), name).unwrap());
    let mounted = mounts();
    for name in &names {
        assert!(mounted.contains(&daemon.mountpoint(name)), "{name}");
        assert_eq!(fs::read_to_string(daemon.mountpoint(name).join("name")).unwrap(), *name);
        assert_eq!(devices(&daemon.file(name, "img")).len(), 1, "{name}");
    }
    all(|daemon, name| daemon.unmount(name, "a"));
    names.iter().for_each(|name| at_rest(&daemon, name));
    all(remove);
    assert!(list(&daemon).is_empty());
    assert_eq!(fs::read_dir(rig.path("many/images/rbd")).unwrap().count(), 0);
}

fn no_program_but_mkfs(rig: &Rig) {
    let daemon = plugin(rig, "traced", &["--size", "16"]);
    let strace = Strace::attach(&daemon, &["-e", "trace=execve,execveat"], rig.path("trace"));
    create(&daemon, "v", &json!({}));
    daemon.mount("v", "a");
    daemon.unmount("v", "a");
    daemon.mount("v", "b");
    daemon.unmount("v", "b");
    remove(&daemon, "v");
    let trace = strace.end();
    assert_eq!(programs(&trace), ["/usr/sbin/mkfs.ext4"], "{trace}");
    assert!(!trace.contains("execveat("), "{trace}");
}

//! Every kind of image that a pool can hold, made by Ceph's own commands: List, Get, Create, Mount and Remove tell one story of each.

use std::path::Path;

use libtest_mimic::Trial;
use rbd_docker_plugin::ceph::Swap;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::hosts::rbd;
use crate::rig::{Lab, Ready, fresh, trial};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("kinds::{name}"), ready, test);
    vec![
        t("whatever_is_listed_is_answered", whatever_is_listed_is_answered),
        t("an_image_being_migrated", an_image_being_migrated),
        t("an_image_that_another_site_writes", an_image_that_another_site_writes),
        t("a_mirrored_primary_is_removed", a_mirrored_primary_is_removed),
        t("an_image_in_the_trash", an_image_in_the_trash),
        t("an_image_on_its_way_to_the_trash_is_no_volume", an_image_on_its_way_to_the_trash),
        t("clones_of_either_format_keep_their_parent", clones_of_either_format_keep_their_parent),
        t("groups_keep_their_images", groups_keep_their_images),
        t("what_is_left_of_an_image_is_no_volume", what_is_left_of_an_image_is_no_volume),
        t("images_that_are_odd_but_fine", images_that_are_odd_but_fine),
        t("a_damaged_record_is_not_no_record", a_damaged_record_is_not_no_record),
        t("names_that_no_volume_can_have", names_that_no_volume_can_have),
        t("an_image_open_in_a_librbd_client", an_image_open_in_a_librbd_client),
    ]
}

/// A plugin on the cluster of the tests; what it needs no kernel for is real.
pub(crate) struct Plugin {
    pub(crate) daemon: Daemon,
    _dir: TempDir,
}

impl Plugin {
    pub(crate) fn new(lab: &Lab, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let conf = lab.conf.to_str().unwrap();
        let mut all = vec!["--backend", "rbd", "--config", conf, "--user", "admin", "--pool", &lab.pool];
        all.extend(flags);
        let mut daemon = Daemon::new("kinds", dir.path(), &all);
        daemon.start();
        Self { daemon, _dir: dir }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let answer = self.daemon.ok("List", &json!({}));
        let volumes = answer["Volumes"].as_array().unwrap();
        volumes.iter().map(|volume| volume["Name"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn status(&self, name: &str) -> Value {
        self.daemon.ok("Get", &json!({"Name": name}))["Volume"]["Status"].clone()
    }

    pub(crate) fn create(&self, name: &str, options: &Value) {
        self.daemon.ok("Create", &json!({"Name": name, "Opts": options}));
    }

    pub(crate) fn refused(&self, name: &str, options: &Value) -> String {
        self.daemon.error("Create", &json!({"Name": name, "Opts": options}))
    }

    pub(crate) fn mount_error(&self, name: &str) -> String {
        self.daemon.error("Mount", &json!({"Name": name, "ID": "1"}))
    }

    pub(crate) fn remove_error(&self, name: &str) -> String {
        self.daemon.error("Remove", &json!({"Name": name}))
    }

    pub(crate) fn remove(&self, name: &str) {
        self.daemon.ok("Remove", &json!({"Name": name}));
    }

    /// It is listed, and Get answers for it; or neither.
    pub(crate) fn one_story(&self, name: &str) -> bool {
        let listed = self.names().iter().any(|listed| listed == name);
        let answer = self.daemon.ask("Get", &json!({"Name": name})).unwrap();
        assert_eq!(listed, answer.0 == 200, "{name}: listed {listed}, Get says {answer:?}");
        listed
    }

    pub(crate) fn is_unusable(&self, name: &str, parts: &[&str]) {
        assert!(self.one_story(name), "{name} is not listed");
        let status = self.status(name);
        assert_eq!(status["health"], "unusable", "{status}");
        let (reason, said) = (status["reason"].as_str().unwrap().to_owned(), self.mount_error(name));
        self.create(name, &json!({}));
        for part in parts {
            assert!(reason.contains(part), "{part}: {reason}");
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}

pub(crate) fn has(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part}: {said}");
    }
}

pub(crate) fn make(lab: &Lab, what: &str, words: &[&str]) -> String {
    let name = fresh(what);
    let spec = lab.spec(&name);
    let mut line = vec!["rbd", "create", &spec];
    line.extend(if words.is_empty() { &["--size", "8M"] } else { words });
    lab.run(&line);
    name
}

fn whatever_is_listed_is_answered(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    make(lab, "plain", &[]);
    let names = plugin.names();
    assert!(!names.is_empty());
    for name in names {
        assert!(plugin.one_story(&name), "{name}");
    }
}

fn an_image_being_migrated(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let (from, to) = (make(lab, "moves", &[]), fresh("moved"));
    plugin.status(&from);
    lab.run(&["rbd", "migration", "prepare", &lab.spec(&from), &lab.spec(&to)]);
    assert!(!plugin.one_story(&from));
    has(&plugin.mount_error(&from), &["does not exist", "is being migrated"]);
    let execute = format!("rbd migration execute {}", lab.spec(&to));
    plugin.is_unusable(&to, &["is being migrated", &execute, "commit"]);
    has(&plugin.remove_error(&to), &["is being migrated", &execute]);
    assert!(plugin.one_story(&to));
    lab.run(&["rbd", "migration", "execute", "--no-progress", &lab.spec(&to)]);
    lab.run(&["rbd", "migration", "commit", "--no-progress", &lab.spec(&to)]);
    assert_eq!(plugin.status(&to)["health"], "ok");
    plugin.remove(&to);
    assert!(!plugin.one_story(&to));
}

fn an_image_that_another_site_writes(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    lab.run(&["rbd", "mirror", "pool", "enable", &lab.pool, "image"]);
    let demoted = make(lab, "demoted", &[]);
    lab.run(&["rbd", "mirror", "image", "enable", &lab.spec(&demoted), "snapshot"]);
    lab.run(&["rbd", "mirror", "image", "demote", &lab.spec(&demoted)]);
    let promote = format!("rbd mirror image promote {}", lab.spec(&demoted));
    plugin.is_unusable(&demoted, &["is not primary here", &promote, "its own site"]);
    has(&plugin.remove_error(&demoted), &["is not primary here"]);
    let journaled = make(lab, "demoted", &["--size", "8M", "--image-feature", "exclusive-lock,journaling"]);
    lab.run(&["rbd", "mirror", "image", "enable", &lab.spec(&journaled), "journal"]);
    lab.run(&["rbd", "mirror", "image", "demote", &lab.spec(&journaled)]);
    has(&plugin.remove_error(&journaled), &["is not primary here", "promote"]);
    assert_eq!(plugin.status(&journaled)["size"], "8M", "a refusal leaves it whole");
    for name in [&demoted, &journaled] {
        lab.run(&["rbd", "mirror", "image", "disable", "--force", &lab.spec(name)]);
        lab.run(&["rbd", "rm", "--no-progress", &lab.spec(name)]);
        assert!(!plugin.one_story(name), "gone is gone");
    }
}

fn a_mirrored_primary_is_removed(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    lab.run(&["rbd", "mirror", "pool", "enable", &lab.pool, "image"]);
    for mode in ["snapshot", "journal"] {
        let name = make(lab, "primary", &["--size", "8M", "--image-feature", "exclusive-lock,journaling"]);
        lab.run(&["rbd", "mirror", "image", "enable", &lab.spec(&name), mode]);
        plugin.remove(&name);
        assert!(!plugin.one_story(&name), "{mode}");
    }
}

fn an_image_in_the_trash(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let name = make(lab, "trashed", &[]);
    assert!(plugin.one_story(&name), "known before");
    lab.run(&["rbd", "trash", "mv", &lab.spec(&name)]);
    assert!(!plugin.one_story(&name));
    has(&plugin.mount_error(&name), &["does not exist", "it is in the trash", "rbd trash restore"]);
    plugin.remove(&name);
    // Create over a name in the trash makes another image; without a kernel it ends at the mapping, and leaves nothing.
    has(&plugin.refused(&name, &json!({})), &["module rbd"]);
    assert!(!plugin.one_story(&name));
    let trash = lab.run(&["rbd", "trash", "ls", &lab.pool]);
    assert!(trash.contains(&name), "what is in the trash stays there: {trash}");
    let id = trash.lines().find(|line| line.ends_with(&name)).unwrap().split(' ').next().unwrap();
    lab.run(&["rbd", "trash", "restore", "--pool", &lab.pool, id]);
    assert!(plugin.one_story(&name));
    plugin.remove(&name);
}

/// librbd takes an image to the trash in steps; here it died before the last one, which ends its entry in the directory.
fn an_image_on_its_way_to_the_trash(lab: &Lab) {
    let name = make(lab, "leaving", &[]);
    let keys = [format!("name_{name}"), format!("id_{}", object_of(lab, &name))];
    let keys = keys.each_ref().map(String::as_str);
    let entry = lab.io.omap_get("rbd_directory", &keys).unwrap();
    lab.run(&["rbd", "trash", "mv", &lab.spec(&name)]);
    let entry_is = |there: bool| {
        let change = |key| {
            let value: Option<&[u8]> = Some(&entry[key]);
            let (expected, new) = if there { (None, value) } else { (value, None) };
            Swap { key, expected, new }
        };
        assert!(lab.io.omap_swap("rbd_directory", &keys.map(change)).unwrap());
    };
    entry_is(true);
    assert!(!Plugin::new(lab, &[]).one_story(&name));
    entry_is(false);
}

fn clones_of_either_format_keep_their_parent(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let (old, new, trashed) = (make(lab, "parent", &[]), make(lab, "parent", &[]), make(lab, "parent", &[]));
    let clone = |parent: &str, format: &str| {
        let child = fresh("child");
        lab.run(&["rbd", "snap", "create", "--no-progress", &format!("{}@s", lab.spec(parent))]);
        if format == "1" {
            lab.run(&["rbd", "snap", "protect", &format!("{}@s", lab.spec(parent))]);
        }
        let from = format!("{}@s", lab.spec(parent));
        lab.run(&["rbd", "clone", "--rbd-default-clone-format", format, &from, &lab.spec(&child)]);
        child
    };
    let children = [clone(&old, "1"), clone(&new, "2"), clone(&trashed, "2")];
    lab.run(&["rbd", "snap", "rm", "--no-progress", &format!("{}@s", lab.spec(&trashed))]);
    for (parent, child) in [&old, &new, &trashed].into_iter().zip(&children) {
        let said = plugin.remove_error(parent);
        has(&said, &["1 clone(s)", &lab.spec(child), "rbd flatten"]);
        assert!(plugin.one_story(parent), "a refusal leaves it whole");
        assert_eq!(plugin.status(parent)["size"], "8M");
        plugin.remove(child);
    }
    has(&plugin.remove_error(&old), &["s (protected)", &format!("rbd snap unprotect {}@s", lab.spec(&old))]);
    lab.run(&["rbd", "snap", "unprotect", &format!("{}@s", lab.spec(&old))]);
    has(&plugin.remove_error(&old), &["1 snapshot(s): s", "rbd snap purge"]);
    for parent in [&old, &new] {
        lab.run(&["rbd", "snap", "purge", "--no-progress", &lab.spec(parent)]);
    }
    for parent in [&old, &new, &trashed] {
        plugin.remove(parent);
        assert!(!plugin.one_story(parent));
    }
}

fn groups_keep_their_images(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let (name, group) = (make(lab, "grouped", &[]), fresh("group"));
    let group = lab.spec(&group);
    lab.run(&["rbd", "group", "create", &group]);
    lab.run(&["rbd", "group", "image", "add", &group, &lab.spec(&name)]);
    let command = format!("rbd group image remove {group} {}", lab.spec(&name));
    has(&plugin.remove_error(&name), &["is in the group", &command]);
    lab.run(&["rbd", "group", "snap", "create", &format!("{group}@g")]);
    has(&plugin.remove_error(&name), &["1 snapshot(s) of a group", "rbd group snap remove"]);
    assert!(plugin.one_story(&name));
    lab.run(&["rbd", "group", "snap", "remove", &format!("{group}@g")]);
    lab.run(&command.split(' ').collect::<Vec<_>>());
    plugin.remove(&name);
}

pub(crate) fn object_of(lab: &Lab, name: &str) -> String {
    let info = lab.run(&["rbd", "info", "--format", "json", &lab.spec(name)]);
    let info: Value = serde_json::from_str(&info).unwrap();
    info["id"].as_str().unwrap().to_owned()
}

fn what_is_left_of_an_image_is_no_volume(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let rados = |words: &[&str]| {
        let mut line = vec!["rados", "-p", &lab.pool];
        line.extend(words);
        lab.run(&line)
    };
    // A name and an entry without a header, an entry alone, a name alone.
    let headless = make(lab, "headless", &[]);
    rados(&["rm", &format!("rbd_header.{}", object_of(lab, &headless))]);
    let entry = make(lab, "entry", &[]);
    rados(&["rm", &format!("rbd_header.{}", object_of(lab, &entry))]);
    rados(&["rm", &format!("rbd_id.{entry}")]);
    let name = make(lab, "name-only", &[]);
    let id = object_of(lab, &name);
    for object in [format!("rbd_header.{id}"), format!("rbd_object_map.{id}")] {
        rados(&["rm", &object]);
    }
    for key in [format!("name_{name}"), format!("id_{id}")] {
        rados(&["rmomapkey", "rbd_directory", &key]);
    }
    for left in [&headless, &entry, &name] {
        assert!(!plugin.one_story(left), "{left}");
        has(&plugin.mount_error(left), &["does not exist"]);
        // Create begins, and without a kernel it ends at the mapping: what was left is gone by then.
        has(&plugin.refused(left, &json!({})), &["module rbd"]);
        let listed = lab.run(&["rbd", "ls", &lab.pool]);
        assert!(!listed.lines().any(|line| line == left), "{left} is left");
        plugin.remove(left);
    }
    // What is left out is told, with the way out.
    let again = make(lab, "entry", &[]);
    rados(&["rm", &format!("rbd_header.{}", object_of(lab, &again))]);
    assert!(!plugin.one_story(&again));
    has(&std::fs::read_to_string(plugin.daemon.log()).unwrap(), &[&lab.spec(&again), "rbd rm"]);
    plugin.remove(&again);
    // An image of the old format: nobody can make one with today's rbd.
    let old = fresh("format-1");
    let mut header = vec![0_u8; 112];
    header[..32].copy_from_slice(b"<<< Rados Block Device Image >>>");
    header[64..68].copy_from_slice(b"RBD\0");
    header[68..75].copy_from_slice(b"001.005");
    header[76] = 22;
    header[80..88].copy_from_slice(&(8_u64 << 20).to_le_bytes());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), header).unwrap();
    rados(&["put", &format!("{old}.rbd"), file.path().to_str().unwrap()]);
    // Its entry is in the body of the directory: no header, one key with no value.
    let length = |n: usize| u32::try_from(n).unwrap().to_le_bytes().to_vec();
    let entry = [length(0), length(1), length(old.len()), old.clone().into_bytes(), length(0)].concat();
    std::fs::write(file.path(), entry).unwrap();
    rados(&["put", "rbd_directory", file.path().to_str().unwrap()]);
    assert!(lab.run(&["rbd", "ls", &lab.pool]).lines().any(|line| line == old));
    assert!(plugin.one_story(&old));
    let status = plugin.status(&old);
    assert_eq!((status["health"].as_str(), status["size"].as_str()), (Some("unusable"), Some("8M")));
    has(&plugin.mount_error(&old), &["is an image of format 1", "rbd migration prepare"]);
    has(&plugin.remove_error(&old), &["is an image of format 1"]);
    plugin.create(&old, &json!({}));
    rados(&["rm", &format!("{old}.rbd")]);
    std::fs::write(file.path(), b"").unwrap();
    rados(&["put", "rbd_directory", file.path().to_str().unwrap()]);
}

fn images_that_are_odd_but_fine(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let zero = make(lab, "zero", &["--size", "0"]);
    plugin.is_unusable(&zero, &["has no size", "rbd resize"]);
    let huge = make(lab, "huge", &["--size", "1P", "--image-feature", "layering"]);
    let odd = make(lab, "odd", &["--size", "9000K", "--object-size", "8M"]);
    let unlocked = make(lab, "unlocked", &["--size", "8M", "--image-feature", "layering,deep-flatten"]);
    let striped = make(lab, "striped", &["--size", "8M", "--stripe-unit", "65536", "--stripe-count", "4"]);
    for name in [&huge, &odd, &unlocked, &striped] {
        assert!(plugin.one_story(name), "{name}");
        assert_eq!(plugin.status(name)["health"], "ok", "{name}");
        has(&plugin.mount_error(name), &["module rbd"]);
    }
    let status = plugin.status(&striped);
    assert_eq!((status["stripe-unit"].as_str(), status["stripe-count"].as_str()), (Some("64K"), Some("4")));
    assert_eq!(plugin.status(&huge)["size"], "1024T");
    plugin.create(&huge, &json!({"size": "1024T", "features": "layering"}));
    for name in [&zero, &odd, &unlocked, &striped] {
        plugin.remove(name);
        assert!(!plugin.one_story(name));
    }
    // A petabyte of objects is not removed one by one here.
    lab.run(&["rados", "-p", &lab.pool, "rm", &format!("rbd_header.{}", object_of(lab, &huge))]);
    lab.run(&["rbd", "rm", "--no-progress", &lab.spec(&huge)]);
}

fn a_damaged_record_is_not_no_record(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let name = make(lab, "damaged", &[]);
    lab.run(&["rbd", "image-meta", "set", &lab.spec(&name), "rbd-docker-plugin.record", "{"]);
    plugin.is_unusable(&name, &["damaged", "rbd image-meta remove"]);
    has(&plugin.remove_error(&name), &["damaged"]);
    has(&plugin.refused(&name, &json!({"mount-options": "noatime"})), &["damaged"]);
    // The object of the name itself is damaged: that is not that there is no image.
    let broken = make(lab, "broken", &[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    // The OSD answers it, but it is no name of anything.
    std::fs::write(file.path(), [2, 0, 0, 0, 0xff, 0xfe]).unwrap();
    let object = format!("rbd_id.{broken}");
    lab.run(&["rados", "-p", &lab.pool, "put", &object, file.path().to_str().unwrap()]);
    for (request, body) in [
        ("Mount", json!({"Name": broken, "ID": "1"})),
        ("Create", json!({"Name": broken})),
        ("Remove", json!({"Name": broken})),
    ] {
        let said = plugin.daemon.error(request, &body);
        assert!(!said.contains("does not exist"), "{request}: {said}");
        has(&said, &[&object, "EBADMSG"]);
    }
    assert!(plugin.daemon.ask("Get", &json!({"Name": broken})).is_none(), "Docker keeps what it knows");
    assert!(plugin.names().contains(&broken), "nor does List forget it");
    let status = plugin.status(&broken);
    assert_eq!(status["health"], "degraded", "{status}");
    has(status["reason"].as_str().unwrap(), &["EBADMSG"]);
    lab.run(&["rados", "-p", &lab.pool, "rm", &object]);
    lab.run(&["rbd", "rm", "--no-progress", &lab.spec(&broken)]);
    lab.run(&["rbd", "image-meta", "remove", &lab.spec(&name), "rbd-docker-plugin.record"]);
    plugin.remove(&name);
}

fn names_that_no_volume_can_have(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let long = "l".repeat(250);
    let odd = ["my vol", "Ünal", "..", long.as_str()];
    for name in odd {
        lab.run(&["rbd", "create", "--size", "8M", &lab.spec(name)]);
    }
    let fine = ["-x".to_owned(), "a.b-c_1".to_owned(), "U".repeat(200)];
    for name in &fine {
        lab.run(&["rbd", "create", "--size", "8M", &lab.spec(name)]);
    }
    let names = plugin.names();
    for name in odd {
        assert!(!names.iter().any(|listed| listed == name), "{name}");
    }
    for name in &fine {
        assert!(plugin.one_story(name), "{name}");
        plugin.create(name, &json!({}));
        plugin.remove(name);
    }
    let refused = ["a@", "a@b", "my vol", "Ünal", "..", ".", "vol//a", "a/", "/a", "a/b/c/d", long.as_str()];
    for name in refused {
        for (request, body) in [
            ("Create", json!({"Name": name})),
            ("Get", json!({"Name": name})),
            ("Path", json!({"Name": name})),
            ("Mount", json!({"Name": name, "ID": "1"})),
            ("Remove", json!({"Name": name})),
        ] {
            has(&plugin.daemon.error(request, &body), &["Unable to parse image name", "a volume name is"]);
        }
    }
    let listed = plugin.daemon.ask("List", &json!({})).unwrap().1;
    assert!(listed["Volumes"].as_array().unwrap().iter().all(|volume| volume["Name"] != "my vol"));
    let log = std::fs::read_to_string(plugin.daemon.log()).unwrap();
    has(&log, &["my vol", "no volume", "only letters, digits"]);
    for name in odd {
        lab.run(&["rbd", "rm", "--no-progress", &lab.spec(name)]);
    }
}

fn an_image_open_in_a_librbd_client(lab: &Lab) {
    let plugin = Plugin::new(lab, &[]);
    let name = make(lab, "watched", &[]);
    let client = lab.another();
    let open = rbd_docker_plugin::ceph::Image::open(&client, &name).unwrap();
    let address = client.cluster().addresses().unwrap();
    has(&plugin.remove_error(&name), &["is mapped or open at", &address, "rbd status"]);
    assert!(plugin.one_story(&name), "a refusal leaves it whole");
    drop(open);
    plugin.remove(&name);
}

/// A filesystem in a new image.
pub(crate) fn with_filesystem(lab: &Lab, name: &str, size: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path: &Path = file.path();
    let path = path.to_str().unwrap();
    lab.run(&["truncate", "-s", size, path]);
    lab.run(&["mkfs.ext4", "-q", path]);
    rbd(lab, &["import", "--no-progress", path, &lab.spec(name)]);
}

//! Connections: what a client is told, what ends it, and what is left of it.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::errno::Errno;
use rbd_docker_plugin::ceph::{Cluster, Connect, CreateOptions, Image, Swap, versions};
use serde_json::{Value, json};

use crate::rig::{Lab, Ready, TIMEOUT, connect, fresh, trial, trial_if, wait_until};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    vec![
        trial("connect_without_a_conf_file_says_which", ready, no_conf),
        trial("connect_to_a_dead_monitor_ends_at_the_timeout", ready, dead_monitor),
        trial("connect_with_a_wrong_key_is_refused_and_the_key_not_shown", ready, wrong_key),
        trial("a_client_knows_cluster_user_and_address", ready, identity),
        trial("settings_are_read_and_those_for_daemons_are_not_used", ready, settings),
        trial("monitors_answer_commands_and_refuse_nonsense", ready, commands),
        trial("pools_are_listed_and_a_missing_one_is_enoent", ready, pools),
        trial("a_blocklisted_client_gets_eshutdown", ready, blocklist),
        trial("an_address_may_name_its_protocol", ready, blocklist_with_protocol),
        trial_if("a_user_with_profile_rbd_may_do_all_of_it", ready, Lab::is_ours, profile_rbd),
        trial("a_closed_client_leaves_no_thread_and_no_file_open", ready, nothing_left),
    ]
}

fn no_conf(lab: &Lab) {
    let conf = lab.conf.with_file_name("no such.conf");
    let e = connect(&conf, TIMEOUT).unwrap_err();
    assert_eq!((e.call, e.errno), ("rados_conf_read_file", Errno::ENOENT));
    assert_eq!(e.object, conf.display().to_string());
}

fn dead_monitor(lab: &Lab) {
    // It takes connections, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("ceph.conf");
    let keyring = lab.connect(TIMEOUT).conf("keyring").unwrap();
    fs::write(&conf, format!("[global]\nmon host = v2:{address}\nkeyring = {keyring}\n")).unwrap();
    for seconds in [1, 3] {
        let begin = Instant::now();
        let e = connect(&conf, Duration::from_secs(seconds)).unwrap_err();
        assert_eq!((e.call, e.errno), ("rados_connect", Errno::ETIMEDOUT));
        assert_eq!(e.object, "cluster (client.admin)");
        let took = begin.elapsed().as_secs_f64() - seconds as f64;
        assert!((-0.1..1.0).contains(&took), "{took} s over {seconds} s");
    }
}

fn wrong_key(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let keyring = dir.path().join("keyring");
    let path = keyring.to_str().unwrap();
    lab.run(&["ceph-authtool", path, "--create-keyring", "--gen-key", "-n", "client.admin"]);
    let conf = dir.path().join("ceph.conf");
    let ours: String = fs::read_to_string(&lab.conf)
        .unwrap()
        .lines()
        .filter(|line| !line.trim_start().starts_with("keyring"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&conf, ours.replace("[global]\n", &format!("[global]\nkeyring = {path}\n"))).unwrap();
    let e = connect(&conf, TIMEOUT).unwrap_err();
    assert_eq!((e.call, e.errno), ("rados_connect", Errno::EACCES));
    let text = fs::read_to_string(&keyring).unwrap();
    let key = text.lines().find_map(|line| line.trim().strip_prefix("key = ")).unwrap();
    assert!(key.len() > 30 && !format!("{e} {e:?}").contains(key));
    // And with no key at all.
    fs::remove_file(&keyring).unwrap();
    let e = connect(&conf, TIMEOUT).unwrap_err();
    assert_eq!(e.call, "rados_connect");
    assert!(matches!(e.errno, Errno::ENOENT | Errno::EACCES | Errno::EPERM), "{e}");
}

fn identity(lab: &Lab) {
    let cluster = lab.io.cluster();
    assert_eq!(cluster.fsid(), lab.run(&["ceph", "fsid"]).trim());
    assert_eq!(cluster.user(), "admin");
    let with_prefix = Connect {
        conf: lab.conf.clone(),
        user: "client.admin".to_owned(),
        keyring: None,
        cluster: "ceph".to_owned(),
        timeout: TIMEOUT,
    };
    assert_eq!(Cluster::connect(&with_prefix).unwrap().user(), "admin");
    // A host and a nonce: what tells two clients of one host apart.
    let (address, other) = (cluster.addresses().unwrap(), lab.connect(TIMEOUT).addresses().unwrap());
    assert!(address.contains(":0/") && !address.contains([' ', '[']), "{address}");
    assert_ne!(address, other);
    assert!(cluster.instance_id() > 0);
    // The manager of a new cluster needs a while until it knows.
    wait_until("the OSDs are counted", Duration::from_secs(60), || cluster.usage().unwrap().total > 1 << 20);
    let usage = cluster.usage().unwrap();
    assert!(usage.used + usage.available <= usage.total + usage.total / 10, "{usage:?}");
    let text = versions().to_string();
    assert!(text.starts_with("librados 3.") && text.contains("librbd 1."), "{text}");
}

fn settings(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("ceph.conf");
    let (log, socket) = (dir.path().join("client.log"), dir.path().join("client.asok"));
    let mut text = fs::read_to_string(&lab.conf).unwrap();
    text += &format!("\n[client.admin]\nlog file = {}\nadmin socket = {}\n", log.display(), socket.display());
    text += "rbd default features = 3\ndebug ms = 1\n";
    fs::write(&conf, text).unwrap();
    let cluster = connect(&conf, Duration::from_millis(7200)).unwrap();
    assert_eq!(cluster.conf("rbd_default_features").as_deref(), Some("3"));
    let seconds = |key| cluster.conf(key).unwrap().parse::<f64>().unwrap();
    for key in ["client_mount_timeout", "rados_mon_op_timeout", "rados_osd_op_timeout"] {
        assert!((seconds(key) - 8.0).abs() < 0.01, "{key}");
    }
    assert_eq!(cluster.conf("no_such_setting"), None);
    // Longer than any first guess at a buffer.
    let long = "x".repeat(5000);
    fs::write(&conf, fs::read_to_string(&conf).unwrap() + &format!("crush location = host={long}\n"))
        .unwrap();
    let value = connect(&conf, TIMEOUT).unwrap().conf("crush_location");
    assert_eq!(value, Some(format!("host={long}")));
    cluster.usage().unwrap();
    assert!(!log.exists() && !socket.exists());
}

fn commands(lab: &Lab) {
    let cluster = lab.io.cluster();
    let answer = cluster.mon_command(&json!({ "prefix": "mon dump", "format": "json" })).unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["fsid"], cluster.fsid());
    let e = cluster.mon_command(&json!({ "prefix": "make coffee" })).unwrap_err();
    assert_eq!((e.call, e.object.as_str(), e.errno), ("rados_mon_command", "make coffee", Errno::EINVAL));
    cluster.wait_for_latest_osdmap().unwrap();
}

fn pools(lab: &Lab) {
    let cluster = lab.io.cluster();
    let mut expected: Vec<String> =
        lab.run(&["ceph", "osd", "pool", "ls"]).lines().map(str::to_owned).collect();
    let mut found = cluster.pools().unwrap();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    let e = cluster.ioctx("no-such-pool", None).unwrap_err();
    assert_eq!(
        (e.call, e.object.as_str(), e.errno),
        ("rados_ioctx_create", "pool no-such-pool", Errno::ENOENT)
    );
    assert!(lab.io.pool_id() > 0);
    assert_eq!((lab.io.pool(), lab.io.namespace()), (lab.pool.as_str(), None));
    assert_eq!(cluster.ioctx("a\0b", None).unwrap_err().errno, Errno::EINVAL);
}

fn blocklist(lab: &Lab) {
    let cluster = lab.io.cluster();
    let victim = lab.another();
    victim.create_object("victim").unwrap();
    let address = victim.cluster().addresses().unwrap();
    cluster.blocklist(&address, Duration::from_secs(60)).unwrap();
    let e = victim.create_object("victim").unwrap_err();
    assert_eq!((e.errno, e.errno as i32), (Errno::ESHUTDOWN, 108));
    assert_eq!(victim.read("victim", 1).unwrap_err().errno, Errno::ESHUTDOWN);
    // Only this one client, and it for good; but a new one of the same process works.
    lab.io.create_object("victim").unwrap();
    lab.another().create_object("victim").unwrap();
    assert!(lab.run(&["ceph", "osd", "blocklist", "ls"]).contains(&address));
    for wrong in ["", "10.0.0.1:0/1\", \"x\": \"", "a b"] {
        let e = cluster.blocklist(wrong, Duration::from_secs(1)).unwrap_err();
        assert_eq!((e.call, e.errno), ("rados_blocklist_add", Errno::EINVAL));
    }
    lab.run(&["ceph", "osd", "blocklist", "rm", &address]);
}

fn blocklist_with_protocol(lab: &Lab) {
    let victim = lab.another();
    let address = victim.cluster().addresses().unwrap();
    lab.io.cluster().blocklist(&format!("v1:{address}"), Duration::from_secs(60)).unwrap();
    assert_eq!(victim.create_object("victim").unwrap_err().errno, Errno::ESHUTDOWN);
    lab.run(&["ceph", "osd", "blocklist", "rm", &address]);
}

fn profile_rbd(lab: &Lab) {
    let docker = Connect {
        conf: lab.conf.clone(),
        user: "docker".to_owned(),
        keyring: None,
        cluster: String::new(),
        timeout: TIMEOUT,
    };
    let io = Cluster::connect(&docker).unwrap().ioctx(&lab.pool, None).unwrap();
    let (name, object) = (fresh("docker"), fresh("docker"));
    io.create_image(&name, 4 << 20, &CreateOptions::default()).unwrap();
    let image = Image::open(&io, &name).unwrap();
    image.discard_all().unwrap();
    assert_eq!(image.lockers().unwrap().lockers.len(), 1);
    image.close().unwrap();
    let change = Swap { key: "k", expected: None, new: Some(b"v") };
    assert_eq!(io.omap_swap(&object, &[change]), Ok(true));
    io.lock_shared(&object, "l", "c", "t", "", TIMEOUT).unwrap();
    io.remove_image(&name, &mut |_| ()).unwrap();
    // To fence another client, too; but not to take it off the list again.
    let victim = lab.another();
    let address = victim.cluster().addresses().unwrap();
    io.cluster().blocklist(&address, Duration::from_secs(60)).unwrap();
    assert_eq!(victim.read(&object, 1).unwrap_err().errno, Errno::ESHUTDOWN);
    let undo = json!({ "prefix": "osd blocklist", "blocklistop": "rm", "addr": address });
    assert_eq!(io.cluster().mon_command(&undo).unwrap_err().errno, Errno::EACCES);
    lab.io.cluster().mon_command(&undo).unwrap();
    assert!(io.cluster().usage().is_ok() && !io.cluster().pools().unwrap().is_empty());
    let e = io.cluster().mon_command(&json!({ "prefix": "auth ls" })).unwrap_err();
    assert_eq!(e.errno, Errno::EACCES);
}

fn nothing_left(lab: &Lab) {
    let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    // What the library starts once and keeps is there after the first one.
    drop(lab.another());
    let before = (count("task"), count("fd"));
    for _ in 0..3 {
        let io = lab.another();
        io.create_object("short").unwrap();
        // Some keep the others, so the order here must not matter.
        drop(io.cluster().clone());
        let failed = io.cluster().ioctx("no-such-pool", None);
        assert!(failed.is_err());
    }
    assert!(connect(&lab.conf.with_file_name("none"), TIMEOUT).is_err());
    wait_until("the threads of three clients are gone", Duration::from_secs(5), || {
        count("task") <= before.0 && count("fd") <= before.1
    });
}

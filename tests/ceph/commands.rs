//! The commands of the binary, against owners that are backends in this process.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::ImageStore;
use rbd_docker_plugin::backend::rbd::RbdBackend;
use rbd_docker_plugin::backend::rbd::admin::{Admin, Watched};
use rbd_docker_plugin::ceph::{Image, Swap};
use rbd_docker_plugin::config;
use rbd_docker_plugin::model::error::ErrorKind;
use rbd_docker_plugin::model::name::ImageSpec;
use serde_json::Value;

use crate::hosts::{claim_in_time, host, options, spec, volume, with_user};
use crate::rig::{Lab, Ready, fresh, trial, trial_if};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("commands::{name}"), ready, test);
    vec![
        t("who_owns_what", who_owns_what),
        t("a_live_owner_is_parted_by_force_only", a_live_owner_is_parted_by_force_only),
        t("a_bound_name_and_a_namespace", a_bound_name_and_a_namespace),
        t("a_renamed_image_is_found_by_its_name_of_today", a_renamed_image_is_found_by_its_name_of_today),
        t("the_old_lock_ends_with_the_owner", the_old_lock_ends_with_the_owner),
        t("a_damaged_record_hides_no_other", a_damaged_record_hides_no_other),
        t(
            "who_may_not_list_images_breaks_none_by_an_old_name",
            who_may_not_list_images_breaks_none_by_an_old_name,
        ),
        t("a_host_is_fenced", a_host_is_fenced),
        t("a_host_with_many_images_is_fenced", a_host_with_many_images_is_fenced),
        t("doctor_on_a_healthy_cluster", doctor_on_a_healthy_cluster),
        t("doctor_and_settings", doctor_and_settings),
        t("doctor_and_users", doctor_and_users),
        t("doctor_and_pools", doctor_and_pools),
        t("doctor_and_locks", doctor_and_locks),
        t("doctor_without_a_cluster", doctor_without_a_cluster),
        trial_if("commands::doctor_and_a_dead_monitor", ready, Lab::is_ours, |lab| {
            doctor_and_silence(lab, "mon.", "connection")
        }),
        trial_if("commands::doctor_and_a_dead_osd", ready, Lab::is_ours, |lab| {
            doctor_and_silence(lab, "osd.", "capabilities")
        }),
    ]
}

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The lines of a check, as status, found and fix.
    pub(crate) fn lines(&self, check: &str) -> Vec<(String, String, String)> {
        let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let json = self.json();
        let lines = json["checks"].as_array().unwrap().iter().filter(|line| line["check"] == check);
        lines.map(|line| (text(line, "status"), text(line, "found"), text(line, "fix"))).collect()
    }

    /// Its only line.
    pub(crate) fn line(&self, check: &str) -> (String, String, String) {
        let mut lines = self.lines(check);
        assert_eq!(lines.len(), 1, "{check}: {self:?}");
        lines.remove(0)
    }
}

/// Runs the binary on the cluster of a conf file; nothing that it says may hold the text of a key.
pub(crate) fn run_with(lab: &Lab, conf: &Path, words: &[&str]) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbd-docker-plugin"));
    command.env_clear().env("RBD_DOCKER_PLUGIN_CONF_FILE", "none").stdin(Stdio::null());
    command.arg("--config").arg(conf).args(["-pool", &lab.pool, "--ceph-timeout", "5"]).args(words);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let answer = Answer { code: status.code(), out: text(stdout), err: text(stderr) };
    for key in keys(conf) {
        assert!(!answer.out.contains(&key) && !answer.err.contains(&key), "{words:?} shows a key");
    }
    answer
}

/// The same as a user.
pub(crate) fn run_user(lab: &Lab, conf: &Path, user: &str, words: &[&str]) -> Answer {
    run_with(lab, conf, &[&["--user", user], words].concat())
}

pub(crate) fn run(lab: &Lab, words: &[&str]) -> Answer {
    run_with(lab, &lab.conf, words)
}

/// The keys in the keyrings that a conf file names.
fn keys(conf: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(conf).unwrap_or_default();
    let keyrings = text.lines().filter_map(|line| line.strip_prefix("keyring = "));
    let lines = keyrings.filter_map(|path| std::fs::read_to_string(path.trim()).ok()).collect::<String>();
    lines.lines().filter_map(|line| line.trim().strip_prefix("key = ").map(str::to_owned)).collect()
}

/// An image that a host owns, and the host.
fn owned(lab: &Lab) -> (RbdBackend, ImageSpec, String) {
    let name = fresh("commanded");
    let backend = host(lab, &name);
    let spec = spec(lab, &name);
    volume(&backend, &spec);
    backend.claim(&spec).unwrap();
    (backend, spec, name)
}

/// Writes an address into the owner record, as a mapping does, which needs a kernel with rbd.
fn as_if_mapped(lab: &Lab, name: &str, address: &str) {
    let image = lab.run(&["rbd", "info", &lab.spec(name), "--format", "json"]);
    let image: Value = serde_json::from_str(&image).unwrap();
    let key = format!("image.{}", image["id"].as_str().unwrap());
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let object = "rbd_docker_plugin.owners";
    lab.run(&["rados", "-p", &lab.pool, "getomapval", object, &key, path]);
    let mut record: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    record["client_addr"] = address.into();
    std::fs::write(path, record.to_string()).unwrap();
    let set = format!("rados -p {} setomapval {object} {key} < {path}", lab.pool);
    lab.run(&["sh", "-c", &set]);
}

fn done(backend: &RbdBackend, spec: &ImageSpec) {
    backend.claim(spec).unwrap();
    backend.remove(spec).unwrap();
    backend.release(spec).unwrap();
}

fn who_owns_what(lab: &Lab) {
    let (backend, spec, name) = owned(lab);
    backend.note_uses(&spec, &["0123456789abcdef".to_owned()]).unwrap();
    let text = run(lab, &["lock", "ls"]);
    assert_eq!((text.code, text.err.as_str()), (Some(0), ""), "{text:?}");
    let header = text.out.lines().next().unwrap();
    assert!(header.starts_with("IMAGE ") && header.ends_with("MOUNT IDS"), "{header}");
    let line = text.out.lines().find(|line| line.starts_with(&format!("{spec} "))).unwrap();
    let cells: Vec<&str> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!([cells[0], cells[1], cells[2]], [&spec.to_string(), name.as_str(), "rbd"]);
    assert_eq!(cells[4..], ["plugin", "-", "0123456789ab"]);

    let json = run(lab, &["lock", "--format=json", "ls"]);
    assert_eq!(json.code, Some(2), "--format belongs to ls: {json:?}");
    let json = run(lab, &["lock", "ls", "-format", "json"]).json();
    let lock =
        json["locks"].as_array().unwrap().iter().find(|lock| lock["image"] == spec.to_string()).unwrap();
    assert_eq!(lock["host"], name);
    assert_eq!(lock["alive"], true);
    assert_eq!(lock["client_addr"], Value::Null);
    assert_eq!(lock["mount_ids"], serde_json::json!(["0123456789abcdef"]));
    assert_eq!((&json["damaged"], &json["unseen"]), (&serde_json::json!([]), &serde_json::json!([])));
    done(&backend, &spec);
}

fn a_live_owner_is_parted_by_force_only(lab: &Lab) {
    let (backend, spec, name) = owned(lab);
    as_if_mapped(lab, &name, "127.0.0.9:0/101");
    let refused = run(lab, &["lock", "break", &name]);
    assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.err.contains("its plugin is running") && refused.err.contains("--force"), "{refused:?}");
    let other = host(lab, &fresh("other"));
    assert_eq!(other.claim(&spec).unwrap_err().kind, ErrorKind::InUse);

    let broken = run(lab, &["lock", "break", "--force", &name]);
    assert_eq!(broken.code, Some(0), "{broken:?}");
    for part in [
        format!("{spec} is free."),
        "127.0.0.9:0/101".to_owned(),
        "shut out of the cluster for 30 days".to_owned(),
        format!("Containers on {name} that still use these images get I/O errors"),
    ] {
        assert!(broken.out.contains(&part), "{part}: {broken:?}");
    }
    other.claim(&spec).unwrap();
    assert_eq!(backend.look(std::slice::from_ref(&spec)).unwrap().lost.len(), 1);
    let fences = run(lab, &["fence", "ls"]);
    assert!(fences.out.lines().any(|line| line.starts_with("127.0.0.9:0/101  ")), "{fences:?}");
    done(&other, &spec);
    let nobody = run(lab, &["lock", "break", &name]);
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    assert!(nobody.err.contains("nobody owns"), "{nobody:?}");
}

fn a_bound_name_and_a_namespace(lab: &Lab) {
    let backend = host(lab, &fresh("bound"));
    let (name, namespace) = (fresh("bound-name"), fresh("ns"));
    lab.run(&["rbd", "namespace", "create", &format!("{}/{namespace}", lab.pool)]);
    let spec = ImageSpec::new(&lab.pool, Some(&namespace), &name).unwrap();
    volume(&backend, &spec);
    backend.bind(&name, &spec).unwrap();
    for written in [name.clone(), spec.to_string(), format!("{name}@100")] {
        backend.claim(&spec).unwrap();
        let json = run(lab, &["lock", "break", &written, "--force", "--format", "json"]);
        assert_eq!(json.code, Some(0), "{written}: {json:?}");
        assert_eq!(json.json()["freed"][0]["image"], spec.to_string(), "{written}");
        assert_eq!(json.json()["fenced"], serde_json::json!([]), "nothing was mapped");
    }
    assert_eq!(
        run(lab, &["lock", "break", &lab.spec(&name), "--force"]).code,
        Some(1),
        "not that of the default pool"
    );
    assert_eq!(run(lab, &["lock", "break", "a/b/c/d"]).code, Some(2));
    backend.unbind(&name, &spec).unwrap();
    done(&backend, &spec);
    lab.run(&["rbd", "namespace", "remove", &format!("{}/{namespace}", lab.pool)]);
}

fn a_renamed_image_is_found_by_its_name_of_today(lab: &Lab) {
    let (backend, _, name) = owned(lab);
    let renamed = fresh("renamed");
    lab.run(&["rbd", "rename", &lab.spec(&name), &lab.spec(&renamed)]);
    assert_eq!(run(lab, &["lock", "break", &name, "--force"]).code, Some(1));
    let broken = run(lab, &["lock", "break", &renamed, "--force"]);
    assert_eq!(broken.code, Some(0), "{broken:?}");
    done(&backend, &spec(lab, &renamed));
}

fn the_old_lock_ends_with_the_owner(lab: &Lab) {
    let (backend, name) = (host(lab, "old-style"), fresh("old-style"));
    let spec = spec(lab, &name);
    lab.run(&["rbd", "create", "--size", "8M", "--image-feature", "layering", &lab.spec(&name)]);
    backend.claim(&spec).unwrap();
    let lockers = || Image::open_read_only(&lab.io, &name).unwrap().lockers().unwrap().lockers;
    assert_eq!(lockers().len(), 1);
    let broken = run(lab, &["lock", "break", &name, "--force"]);
    assert_eq!(broken.code, Some(0), "{broken:?}");
    assert_eq!(lockers(), []);
    // And when a dead one is followed.
    let dead = host(lab, &fresh("dies"));
    dead.claim(&spec).unwrap();
    drop(dead);
    let heir = host(lab, "old-heir");
    claim_in_time(&heir, &spec, Duration::from_secs(60));
    let after: Vec<String> = lockers().into_iter().map(|locker| locker.cookie).collect();
    assert_eq!(after, ["old-heir"]);
    done(&heir, &spec);
}

/// The name in an owner record is that of the claim; only the pool's directory tells whose it is today.
fn who_may_not_list_images_breaks_none_by_an_old_name(lab: &Lab) {
    let (backend, _, name) = owned(lab);
    let renamed = fresh("renamed");
    lab.run(&["rbd", "rename", &lab.spec(&name), &lab.spec(&renamed)]);
    let dir = tempfile::tempdir().unwrap();
    let user = fresh("records-only");
    let caps = format!("allow rwx pool={} object_prefix rbd_docker_plugin", lab.pool);
    let conf = with_user(lab, dir.path(), &user, &["mon", "profile rbd", "osd", &caps]);
    let broken = run_user(lab, &conf, &user, &["lock", "break", &name, "--force"]);
    assert_eq!(broken.code, Some(1), "{broken:?}");
    assert!(broken.err.contains("cannot be seen which owner record"), "{broken:?}");
    let locks = Admin::connect(&options(lab)).unwrap().locks(Watched::Left).unwrap().found;
    assert!(locks.iter().any(|lock| lock.host == name), "nothing was freed");
    let restricted = config::Ceph { user: user.clone(), conf, ..options(lab) };
    let locks = Admin::connect(&restricted).unwrap().locks(Watched::Left).unwrap();
    assert!(locks.unseen[0].to_string().contains("may not be theirs any more"), "{locks:?}");
    lab.run(&["ceph", "auth", "rm", &format!("client.{user}")]);
    done(&backend, &spec(lab, &renamed));
}

fn a_damaged_record_hides_no_other(lab: &Lab) {
    let (backend, spec, _) = owned(lab);
    let object = "rbd_docker_plugin.owners";
    lab.run(&["rados", "-p", &lab.pool, "setomapval", object, "image.damaged", "{"]);
    let listed = run(lab, &["lock", "ls"]);
    let json = run(lab, &["lock", "ls", "--format", "json"]).json();
    let doctor = run(lab, &["doctor", "--format", "json"]);
    lab.run(&["rados", "-p", &lab.pool, "rmomapkey", object, "image.damaged"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    assert!(listed.out.contains(&spec.to_string()) && listed.err.contains("image.damaged"), "{listed:?}");
    assert_eq!(json["damaged"].as_array().unwrap().len(), 1);
    let (status, _, fix) = doctor.line("owners");
    assert!(status == "warn" && fix.contains("rmomapkey"), "{doctor:?}");
    done(&backend, &spec);
}

fn a_host_is_fenced(lab: &Lab) {
    let (one, a, name) = owned(lab);
    let b = spec(lab, &fresh("second"));
    volume(&one, &b);
    one.claim(&b).unwrap();
    as_if_mapped(lab, &name, "127.0.0.9:0/202");
    let fenced = run(lab, &["-fence-days=1", "fence", &name, "--format", "json"]);
    assert_eq!(fenced.code, Some(0), "{fenced:?}");
    let json = fenced.json();
    assert_eq!(json["fenced"], serde_json::json!(["127.0.0.9:0/202"]));
    assert_eq!((json["freed"].as_array().unwrap().len(), &json["fence_days"]), (2, &1.into()));
    let list = run(lab, &["fence", "ls", "--format", "json"]).json();
    let entry = list["fences"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["address"] == "127.0.0.9:0/202")
        .unwrap();
    assert!(entry["until"].as_str().unwrap().starts_with("20"), "{entry}");
    let again = run(lab, &["fence", &name]);
    assert!(again.code == Some(1) && again.err.contains("owns no image"), "{again:?}");
    let two = host(lab, &fresh("heir"));
    for spec in [&a, &b] {
        done(&two, spec);
    }
}

/// More clients than may wait for the monitors at a time.
fn a_host_with_many_images_is_fenced(lab: &Lab) {
    let host = fresh("many");
    let images = 100;
    for n in 0..images {
        let record = serde_json::json!({
            "host": host, "boot_id": "b", "plugin": "rbd", "root": "/m/rbd", "since": 1_795_180_063_u64,
            "client_addr": format!("127.0.0.9:0/{}", 5000 + n), "image": format!("{}/{host}-{n}", lab.pool),
        });
        let (key, record) = (format!("image.{host}{n}"), record.to_string());
        let swap = Swap { key: &key, expected: None, new: Some(record.as_bytes()) };
        assert!(lab.io.omap_swap("rbd_docker_plugin.owners", &[swap]).unwrap());
    }
    let fenced = run(lab, &["fence", &host, "--format", "json"]);
    assert_eq!(fenced.code, Some(0), "{fenced:?}");
    assert_eq!(fenced.json()["fenced"].as_array().unwrap().len(), images);
    assert_eq!(fenced.json()["freed"].as_array().unwrap().len(), images);
}

/// Everything that concerns the cluster is well; the kernel may lack rbd.
fn doctor_on_a_healthy_cluster(lab: &Lab) {
    let (backend, spec, _) = owned(lab);
    let doctor = run(lab, &["doctor", "--format", "json", "--map-options", "ms_mode=legacy"]);
    for check in [
        "settings",
        "libraries",
        "ceph.conf",
        "key",
        "connection",
        "monitor",
        "ms_mode",
        "pool",
        "capabilities",
        "fencing",
    ] {
        let (status, found, _) = doctor.line(check);
        assert_eq!(status, "ok", "{check}: {found}");
    }
    assert!(doctor.line("connection").1.contains(lab.io.cluster().fsid()));
    assert!(doctor.line("monitor").1.contains("v1 127.0.0.1:") || lab.is_ours().is_err(), "{doctor:?}");
    if lab.is_ours().is_ok() {
        assert_eq!(doctor.line("health").0, "ok", "{doctor:?}");
    }
    let (status, found, fix) = doctor.line("kernel module");
    if Path::new("/sys/bus/rbd").exists() {
        assert_eq!(status, "ok", "{found}");
    } else {
        // Other tests leave images of unusual kinds.
        assert!(doctor.lines("images").iter().all(|line| line.0 != "fail"), "{doctor:?}");
        assert_eq!((status.as_str(), doctor.code), ("fail", Some(1)), "{doctor:?}");
        assert!(found.starts_with("rbd is not loaded") && fix.contains("modprobe rbd"), "{found}: {fix}");
        assert_eq!(doctor.json()["status"], "fail");
        let text = run(lab, &["doctor"]);
        assert_eq!(text.code, Some(1));
        assert!(text.out.contains("\nFAIL  kernel module  rbd is not loaded"), "{text:?}");
        assert!(text.out.lines().last().unwrap().ends_with(" 1 fail"), "{text:?}");
    }
    let left = lab.run(&["rados", "-p", &lab.pool, "ls"]);
    assert!(!left.contains("rbd_docker_plugin.doctor"), "{left}");
    let fences = run(lab, &["fence", "ls"]).out;
    assert!(!fences.contains("doctor"), "it shuts nobody out: {fences}");
    done(&backend, &spec);
}

fn doctor_and_settings(lab: &Lab) {
    let wrong = run(lab, &["doctor", "--format=json", "--size", "3Q"]);
    let (status, found, _) = wrong.line("settings");
    assert_eq!((status.as_str(), wrong.code), ("fail", Some(1)), "{wrong:?}");
    assert!(found.contains("3Q") && found.contains("the flag --size"), "{found}");
    let missing = run_with(lab, Path::new("/nonexistent/ceph.conf"), &["doctor", "--format=json"]);
    let (status, found, fix) = missing.line("ceph.conf");
    assert!(
        status == "fail" && found.contains("/nonexistent/ceph.conf") && fix.contains("--config"),
        "{missing:?}"
    );
    assert_eq!(missing.lines("connection"), []);
    assert_eq!(missing.lines("docker").len(), 1, "what does not need it is looked at: {missing:?}");
    assert_eq!(run(lab, &["doctor", "--colour", "red"]).code, Some(2));
    assert_eq!(run(lab, &["lock", "ls", "--size", "3Q"]).code, Some(2));
}

fn doctor_and_users(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let caps = ["mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd"];
    let conf = with_user(lab, dir.path(), "looked-after", &caps);
    let plain = run_with(lab, &conf, &["doctor", "--user", "looked-after", "--format=json"]);
    for check in ["key", "connection", "ms_mode", "pool", "capabilities", "fencing"] {
        assert_eq!(plain.line(check).0, "ok", "profile rbd is enough: {check}: {plain:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let conf = with_user(lab, dir.path(), "looker", &["mon", "allow r", "osd", "allow r"]);
    let reader = run_with(lab, &conf, &["doctor", "--user", "looker", "--format=json"]);
    for check in ["capabilities", "fencing"] {
        let (status, _, fix) = reader.line(check);
        assert!(
            status == "fail" && fix.starts_with("ceph auth caps client.looker mon 'profile rbd'"),
            "{reader:?}"
        );
    }
    assert_eq!(reader.line("connection").0, "ok", "{reader:?}");
    assert_eq!(reader.lines("images"), [], "nothing can be said of them: {reader:?}");

    // The key of somebody else.
    let keyring = dir.path().join("keyring");
    lab.run(&["ceph-authtool", "-C", keyring.to_str().unwrap(), "--gen-key", "-n", "client.looker"]);
    let denied = run_with(lab, &conf, &["doctor", "--user", "looker", "--format=json"]);
    assert_eq!(denied.line("key").0, "ok");
    let (status, found, fix) = denied.line("connection");
    assert!(status == "fail" && fix.contains("ceph auth get client.looker"), "{found}: {fix}");

    let nobody = run(lab, &["doctor", "--user", "nobody", "--format=json"]);
    let (status, found, fix) = nobody.line("key");
    assert!(status == "fail" && found.contains("no keyring holds the key of client.nobody"), "{nobody:?}");
    assert!(fix.starts_with("ceph auth get-or-create client.nobody"), "{fix}");
    for user in ["client.looked-after", "client.looker"] {
        lab.run(&["ceph", "auth", "rm", user]);
    }
}

fn doctor_and_pools(lab: &Lab) {
    let bare = fresh("not-for-images");
    lab.run(&["ceph", "osd", "pool", "create", &bare, "1"]);
    let doctor = run(lab, &["doctor", "--pools", &format!("no-such-pool,{bare}"), "--format=json"]);
    lab.run(&["ceph", "osd", "pool", "rm", &bare, &bare, "--yes-i-really-really-mean-it"]);
    let pools = doctor.lines("pool");
    assert_eq!(
        pools.iter().map(|line| line.0.as_str()).collect::<Vec<_>>(),
        ["ok", "fail", "warn"],
        "{pools:?}"
    );
    assert!(pools[1].1.contains("no-such-pool does not exist"), "{pools:?}");
    assert!(pools[1].2.contains("ceph osd pool create no-such-pool"), "{pools:?}");
    assert_eq!(pools[2].2, format!("rbd pool init {bare}"));
    assert_eq!(doctor.lines("capabilities").len(), 2);
}

fn doctor_and_locks(lab: &Lab) {
    let name = fresh("left-locked");
    lab.run(&["rbd", "create", "--size", "8M", "--image-feature", "layering", &lab.spec(&name)]);
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    lab.run(&["rbd", "lock", "add", &lab.spec(&name), &host]);
    let doctor = run(lab, &["doctor", "--format=json"]);
    let (status, found, fix) = doctor.line("locks");
    assert!(status == "warn" && found.contains(&lab.spec(&name)), "{doctor:?}");
    let command = fix.split("rbd lock remove ").nth(1).unwrap();
    let mut words = vec!["rbd", "lock", "remove"];
    words.extend(command.split(' '));
    lab.run(&words);
    assert_eq!(run(lab, &["doctor", "--format=json"]).lines("locks"), []);
    lab.run(&["rbd", "rm", "--no-progress", &lab.spec(&name)]);
}

fn doctor_without_a_cluster(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (images, mount, plugins) = (at("images"), at("mount"), at("plugins"));
    let place = ["--backend", "local", "--local-dir", &images, "--mount", &mount, "--plugins", &plugins];
    let mut words = place.to_vec();
    words.extend(["doctor", "--format=json"]);
    let doctor = run(lab, &words);
    for check in ["settings", "images", "mount root", "state", "socket folder", "plugin"] {
        assert_eq!(doctor.line(check).0, "ok", "{check}: {doctor:?}");
    }
    for check in ["ceph.conf", "connection", "kernel module", "add_key"] {
        assert_eq!(doctor.lines(check), [], "{doctor:?}");
    }
    assert!(!PathBuf::from(images.as_str()).exists() && !Path::new(&mount).exists(), "it makes nothing");
    let lock = run(lab, &["--backend", "sim", "lock", "ls"]);
    assert!(lock.code == Some(2) && lock.err.contains("are for images in a Ceph cluster"), "{lock:?}");
}

/// Whatever does not answer, it ends, and says what it was.
fn doctor_and_silence(lab: &Lab, daemons: &str, check: &str) {
    let frozen = lab.freeze(daemons);
    let start = Instant::now();
    let doctor = run(lab, &["doctor", "--format=json", "--ceph-timeout", "2"]);
    let took = start.elapsed();
    drop(frozen);
    assert!(took < Duration::from_secs(60), "{took:?}: {doctor:?}");
    assert_eq!(doctor.code, Some(1), "{doctor:?}");
    assert!(doctor.lines(check).iter().any(|line| line.0 == "fail"), "{doctor:?}");
    assert_eq!(doctor.lines("docker").len(), 1, "it goes on: {doctor:?}");
    let listed = run(lab, &["lock", "ls"]);
    assert_eq!(listed.code, Some(0), "the cluster is back: {listed:?}");
}

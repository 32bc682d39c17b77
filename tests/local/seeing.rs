//! What the plugin tells of volumes that are really mounted: on its pages, and through `ls`, `inspect`, `df` and `top`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::daemon::{Daemon, wait};
use crate::rig::{Ready, Rig, trial};
use crate::volumes::{create, devices, plugin, remove};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("seeing::{name}"), ready, test);
    vec![
        t("a_mounted_volume", a_mounted_volume),
        t("what_is_written_is_counted", what_is_written_is_counted),
        t("a_live_table_until_it_is_interrupted", a_live_table_until_it_is_interrupted),
        t("a_filesystem_that_has_stopped", a_filesystem_that_has_stopped),
        t("a_store_that_is_away", a_store_that_is_away),
    ]
}

/// A page of the admin socket.
pub(crate) fn page(rig: &Rig, daemon: &Daemon, path: &str) -> String {
    let socket = rig.path(&format!("{0}/admin/{0}.sock", daemon.name));
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn sample(metrics: &str, name: &str) -> Option<f64> {
    let name = format!("rbd_docker_plugin_{name} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

fn command(rig: &Rig, daemon: &Daemon, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbd-docker-plugin"));
    command.args(words).args(["--conf-file", "none", "--name", &daemon.name, "--admin"]);
    command.arg(rig.path(&daemon.name).join("admin")).stdin(Stdio::null());
    command
}

/// What a command says, which must succeed.
fn says(rig: &Rig, daemon: &Daemon, words: &[&str]) -> String {
    let output = command(rig, daemon, words).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {stderr}\n{}", daemon.logs());
    String::from_utf8(output.stdout).unwrap()
}

fn document(rig: &Rig, daemon: &Daemon, words: &[&str]) -> Value {
    let text = says(rig, daemon, &[words, &["--format", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words:?}: {e}: {text}"))
}

fn a_mounted_volume(rig: &Rig) {
    let daemon = plugin(rig, "seen", &[]);
    create(&daemon, "v", &json!({"size": "64M"}));
    create(&daemon, "bound", &json!({"size": "16M", "pool": "p2"}));
    let at = daemon.mount("v", "a");
    daemon.mount("v", "b");
    fs::write(at.join("file"), vec![7; 8 << 20]).unwrap();
    File::open(&at).and_then(|folder| folder.sync_all()).unwrap();
    let device = devices(&daemon.file("v", "img")).remove(0).path;
    let shown = at.display().to_string();

    let listed = document(rig, &daemon, &["ls"]);
    assert_eq!(
        listed["volumes"],
        json!([
            {"name": "bound", "image": "p2/bound", "size": null, "mountpoint": null, "mounts": 0},
            {"name": "v", "image": "rbd/v", "size": "64M", "mountpoint": shown, "mounts": 2},
        ])
    );
    let text = says(rig, &daemon, &["ls"]);
    let line: Vec<&str> = text.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(line, ["v", "rbd/v", "64M", "2", &shown]);

    let mounts: Value = serde_json::from_str(&page(rig, &daemon, "/v1/mounts")).unwrap();
    let mount = &mounts["mounts"][0];
    assert_eq!((&mount["device"], &mount["device_bytes"]), (&json!(device), &json!(64 << 20)));
    assert_eq!((&mount["fstype"], &mount["mount_ids"]), (&json!("ext4"), &json!({"a": 1, "b": 1})));

    wait("the usage to be told", || {
        let usage = document(rig, &daemon, &["df"])["volumes"][0]["used"].as_u64();
        // Asked for every ten seconds.
        usage.is_some_and(|used| used >= 8 << 20)
    });
    let df = document(rig, &daemon, &["df"]);
    let row = &df["volumes"][0];
    assert_eq!(
        (&row["volume"], &row["mountpoint"], &row["failed"]),
        (&json!("v"), &json!(shown), &json!(false))
    );
    assert!((10..=30).contains(&row["used_percent"].as_u64().unwrap()), "{row}");
    assert!((1..10).contains(&row["inodes_used_percent"].as_u64().unwrap()), "{row}");
    let text = says(rig, &daemon, &["df"]);
    assert!(text.lines().nth(1).unwrap().ends_with(&shown), "{text}");

    let inspected = document(rig, &daemon, &["inspect", "v", "bound"]);
    assert_eq!((&inspected[0]["Mountpoint"], &inspected[0]["Status"]["mounts"]), (&json!(shown), &json!(2)));
    assert_eq!(inspected[1]["Status"]["image"], "p2/bound");
    assert_eq!(document(rig, &daemon, &["ls"])["volumes"][0]["size"], "16M", "Get has told it");

    for id in ["a", "b"] {
        daemon.unmount("v", id);
    }
    assert!(!page(rig, &daemon, "/metrics").contains("volume=\""));
    assert_eq!(document(rig, &daemon, &["df"]), json!({"volumes": []}));
    for volume in ["v", "bound"] {
        remove(&daemon, volume);
    }
}

fn what_is_written_is_counted(rig: &Rig) {
    const WRITTEN: usize = 4 << 20;
    let daemon = plugin(rig, "counted", &[]);
    create(&daemon, "v", &json!({"size": "64M"}));
    let at = daemon.mount("v", "a");
    let device = devices(&daemon.file("v", "img")).remove(0).path;
    let name = device.file_name().unwrap().to_str().unwrap();
    let value = |metric: &str| {
        let metrics = page(rig, &daemon, "/metrics");
        sample(&metrics, &format!("device_{metric}{{volume=\"v\",device=\"{name}\"}}"))
            .unwrap_or_else(|| panic!("{metrics}"))
    };
    let (bytes, writes) = (value("written_bytes_total"), value("writes_total"));
    let top = command(rig, &daemon, &["top", "--once", "--interval", "2", "--format", "json"]);
    let top = { top }.stdout(Stdio::piped()).spawn().unwrap();
    // All the time that it looks at.
    let mut top = Some(top);
    let said = loop {
        let mut file = File::create(at.join("file")).unwrap();
        file.write_all(&vec![1; WRITTEN]).unwrap();
        file.sync_all().unwrap();
        if top.as_mut().unwrap().try_wait().unwrap().is_some() {
            break top.take().unwrap().wait_with_output().unwrap();
        }
    };
    assert!(said.status.success());
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    let row = &said["volumes"][0];
    assert_eq!((&row["volume"], &row["device"]), (&json!("v"), &json!(name)));
    assert!(row["written_bytes"].as_f64() > Some(0.0) && row["writes"].as_f64() > Some(0.0), "{said}");
    assert!(value("written_bytes_total") >= bytes + WRITTEN as f64);
    assert!(value("writes_total") > writes);
    daemon.unmount("v", "a");
    remove(&daemon, "v");
}

/// On a terminal.
fn a_live_table_until_it_is_interrupted(rig: &Rig) {
    let daemon = plugin(rig, "live", &[]);
    let pty = nix::pty::openpty(None, None).unwrap();
    let slave = File::from(pty.slave);
    let mut top = command(rig, &daemon, &["top", "--interval", "1"]).stdout(slave).spawn().unwrap();
    let mut master = File::from(pty.master);
    let mut said: Vec<u8> = Vec::new();
    // Two tables: it goes on by itself.
    while said.windows(6).filter(|part| part == b"VOLUME").count() < 2 {
        let mut some = [0; 4096];
        let read = master.read(&mut some).unwrap();
        said.extend(&some[..read]);
    }
    kill(Pid::from_raw(i32::try_from(top.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(top.wait().unwrap().code(), Some(0));
}

fn a_filesystem_that_has_stopped(rig: &Rig) {
    let daemon = plugin(rig, "stopped", &[]);
    create(&daemon, "v", &json!({"size": "64M", "mount-options": "errors=remount-ro"}));
    create(&daemon, "asked", &json!({"size": "16M", "read-only": "true"}));
    daemon.mount("v", "a");
    daemon.mount("asked", "a");
    let device = devices(&daemon.file("v", "img")).remove(0).path;
    let value = |volume: &str| {
        sample(&page(rig, &daemon, "/metrics"), &format!("volume_read_only{{volume=\"{volume}\"}}"))
    };
    wait("both to be looked at", || value("v") == Some(0.0) && value("asked") == Some(0.0));
    let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", device.file_name().unwrap().to_str().unwrap());
    fs::write(trigger, "a test").unwrap();
    wait("it to be seen", || value("v") == Some(1.0));
    assert_eq!(value("asked"), Some(0.0), "what is read-only on purpose has not stopped");
    assert!(says(rig, &daemon, &["df"]).contains("! v: its filesystem has made itself read-only"));
    for volume in ["v", "asked"] {
        daemon.unmount(volume, "a");
        remove(&daemon, volume);
    }
}

fn a_store_that_is_away(rig: &Rig) {
    let daemon = plugin(rig, "away", &[]);
    create(&daemon, "v", &json!({"size": "16M"}));
    let at = daemon.mount("v", "a");
    wait("it to be ready", || page(rig, &daemon, "/readyz") == "ok\n");
    assert_eq!(document(rig, &daemon, &["inspect", "v"])[0]["Status"]["health"], "ok");
    let (images, away) = (rig.path("away/images"), rig.path("away/images.away"));
    fs::rename(&images, &away).unwrap();
    wait("it to be missed", || page(rig, &daemon, "/readyz").contains("is not there"));
    assert_eq!(sample(&page(rig, &daemon, "/metrics"), "backend_up"), Some(0.0));
    let listed = document(rig, &daemon, &["ls"]);
    assert!(listed["degraded"].as_str().unwrap().contains("is not there"), "{listed}");
    assert_eq!(listed["volumes"][0]["mountpoint"], json!(at));
    let inspected = document(rig, &daemon, &["inspect", "v"]);
    assert_eq!(
        (&inspected[0]["Status"]["health"], &inspected[0]["Mountpoint"]),
        (&json!("degraded"), &json!(at))
    );
    fs::rename(&away, &images).unwrap();
    wait("it to be ready again", || page(rig, &daemon, "/readyz") == "ok\n");
    daemon.unmount("v", "a");
    remove(&daemon, "v");
}

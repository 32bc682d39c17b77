//! The admin pages of the real program, on the simulator and with a cluster that is not there.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::{fs, path::Path, path::PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{daemon, program, wait_until};
use crate::rig::{is_closed, post, read_reply};

/// A daemon with its admin socket.
pub struct Seen {
    child: Child,
    folder: TempDir,
}

impl Seen {
    pub fn start(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = daemon(folder.path());
        command.args(flags).envs(environment.iter().copied()).stderr(Stdio::null());
        let mut seen = Self { child: command.spawn().unwrap(), folder };
        wait_until("both sockets are there", || {
            assert_eq!(seen.child.try_wait().unwrap(), None, "{}", seen.log());
            seen.admin().exists() && seen.docker().exists()
        });
        seen
    }

    pub fn admin(&self) -> PathBuf {
        self.folder.path().join("a/n.sock")
    }

    fn docker(&self) -> PathBuf {
        self.folder.path().join("p/n.sock")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("l/n-docker-plugin.log")).unwrap_or_default()
    }

    /// One request as Docker sends it; the reply.
    pub fn docker_asks(&self, operation: &str, body: &Value) -> String {
        let mut stream = UnixStream::connect(self.docker()).unwrap();
        stream.write_all(post(&format!("/VolumeDriver.{operation}"), &body.to_string()).as_bytes()).unwrap();
        read_reply(&mut stream)
    }

    /// Head and body of a page.
    pub fn page(&self, path: &str, more: &str) -> (String, String) {
        let mut stream = UnixStream::connect(self.admin()).unwrap();
        stream.write_all(get("GET", path, more).as_bytes()).unwrap();
        parted(&read_reply(&mut stream))
    }

    fn json(&self, path: &str) -> Value {
        let (head, body) = self.page(path, "");
        assert!(head.starts_with("HTTP/1.1 200 OK\ncontent-type: application/json\n"), "{head}");
        serde_json::from_str(&body).unwrap()
    }

    pub fn metrics(&self) -> String {
        self.page("/metrics", "").1
    }

    /// A command over its socket: exit status, stdout, stderr.
    fn command(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let output =
            program().args(words).args(["--name", "n", "--admin"]).arg(self.folder.path().join("a")).output();
        let output = output.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn mount(&self, volume: &str) {
        self.docker_asks("Create", &json!({"Name": volume}));
        let reply = self.docker_asks("Mount", &json!({"Name": volume, "ID": "id1"}));
        assert!(reply.contains("Mountpoint"), "{reply}");
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
}

fn parted(reply: &str) -> (String, String) {
    let (head, body) = reply.split_once("\n\n").unwrap_or_else(|| panic!("{reply:?}"));
    (head.to_owned(), body.to_owned())
}

/// The value of a sample.
fn sample(metrics: &str, name: &str) -> Option<f64> {
    let name = format!("rbd_docker_plugin_{name} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

#[test]
fn pages_and_modes() {
    let seen = Seen::start(&[], &[]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&seen.admin()), 0o600);
    assert_eq!(mode(seen.admin().parent().unwrap()), 0o755);
    assert_eq!(seen.page("/healthz", "").1, "ok\n");
    wait_until("it is ready", || seen.page("/readyz", "").1 == "ok\n");
    assert!(seen.page("/readyz", "").0.starts_with("HTTP/1.1 200 "));

    seen.mount("v");
    seen.docker_asks("Create", &json!({"Name": "other", "Opts": {"pool": "p2"}}));
    let volumes = seen.json("/v1/volumes");
    let at = format!("{}/m/n/rbd/v", seen.folder.path().display());
    assert_eq!(volumes["degraded"], json!(null));
    let listed = |n: usize, key: &str| &volumes["volumes"][n][key];
    assert_eq!((listed(0, "name"), listed(0, "image")), (&json!("other"), &json!("p2/other")));
    assert_eq!((listed(0, "mountpoint"), listed(0, "mounts")), (&json!(null), &json!(0)));
    assert_eq!(
        (listed(1, "name"), listed(1, "mountpoint"), listed(1, "mounts")),
        (&json!("v"), &json!(at), &json!(1))
    );
    let volume = seen.json("/v1/volumes/p2/other");
    assert_eq!(
        (&volume["Volume"]["Name"], &volume["Volume"]["Status"]["size"]),
        (&json!("p2/other"), &json!("20G"))
    );
    let mounts = seen.json("/v1/mounts");
    let mount = &mounts["mounts"][0];
    assert_eq!(
        (&mount["volume"], &mount["image"], &mount["fstype"]),
        (&json!("v"), &json!("rbd/v"), &json!("xfs"))
    );
    assert_eq!((&mount["mount_ids"], &mount["read_only"]), (&json!({"id1": 1}), &json!(false)));
    wait_until("it is known how full it is", || {
        seen.json("/v1/mounts")["mounts"][0]["usage"]["inodes_used"] == json!(1)
    });
    assert_eq!(seen.json("/v1/operations"), json!({"operations": []}));
    let status = seen.json("/v1/status");
    assert_eq!(
        (&status["name"], &status["backend"], &status["ready"]),
        (&json!("n"), &json!("sim"), &json!(true))
    );
    assert_eq!((&status["pid"], &status["mounted"]), (&json!(seen.child.id()), &json!(1)));

    for (method, path, status, part) in [
        ("GET", "/", "404", "no such page: /"),
        ("GET", "/v1/volumes/nope", "404", "Image nope does not exist"),
        ("GET", "/v1/volumes/a:b", "400", "error"),
        ("POST", "/metrics", "405", "can only be read"),
        ("DELETE", "/v1/volumes/v", "405", "can only be read"),
        ("POST", "/VolumeDriver.List", "404", "no such page"),
    ] {
        let mut stream = UnixStream::connect(seen.admin()).unwrap();
        stream.write_all(get(method, path, "Content-Length: 0\r\n").as_bytes()).unwrap();
        let reply = read_reply(&mut stream);
        assert!(
            reply.starts_with(&format!("HTTP/1.1 {status} ")) && reply.contains(part),
            "{method} {path}: {reply}"
        );
    }
}

#[test]
fn metrics_after_some_operations() {
    let seen = Seen::start(&[], &[]);
    seen.mount("v");
    seen.docker_asks("Mount", &json!({"Name": "v", "ID": "id2"}));
    seen.docker_asks("Mount", &json!({"Name": "nope", "ID": "id2"}));
    let metrics = seen.metrics();
    let of = |operation, result| {
        sample(
            &metrics,
            &format!("operation_duration_seconds_count{{operation=\"{operation}\",result=\"{result}\"}}"),
        )
    };
    assert_eq!(
        (of("Create", "ok"), of("Mount", "ok"), of("Mount", "NotFound")),
        (Some(1.0), Some(2.0), Some(1.0)),
        "{metrics}"
    );
    let all = "operation_duration_seconds_bucket{le=\"+Inf\",operation=\"Mount\",result=\"ok\"}";
    assert_eq!(sample(&metrics, all), Some(2.0), "{metrics}");
    assert_eq!(sample(&metrics, "mounts{volume=\"v\"}"), Some(2.0), "{metrics}");
    assert_eq!(sample(&metrics, "lost_volumes_total"), Some(0.0), "{metrics}");
    let value = |name: &str| sample(&seen.metrics(), name);
    wait_until("the usage is there", || value("volume_size_bytes{volume=\"v\"}") == Some(1_048_576.0));
    wait_until("the storage was asked", || {
        value("backend_up") == Some(1.0) && value("mapped_devices") == Some(1.0)
    });
    assert_eq!(value("volume_read_only{volume=\"v\"}"), Some(0.0));
    for id in ["id1", "id2"] {
        seen.docker_asks("Unmount", &json!({"Name": "v", "ID": id}));
    }
    assert!(!seen.metrics().contains("volume=\"v\""), "what is unmounted disappears:\n{}", seen.metrics());

    let (head, text) = seen.page("/metrics", "");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\n"), "{head}");
    assert!(
        text.contains("# TYPE rbd_docker_plugin_fences_total counter\n") && !text.contains("# EOF"),
        "{text}"
    );
    let (head, text) =
        seen.page("/metrics", "Accept: application/openmetrics-text; version=1.0.0,*/*;q=0.1\r\n");
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\n"),
        "{head}"
    );
    assert!(
        text.contains("# TYPE rbd_docker_plugin_fences counter\n") && text.ends_with("# EOF\n"),
        "{text}"
    );
}

#[test]
fn a_tcp_address_has_no_more_than_prometheus_needs() {
    // Somebody else may take the port in between: then it is another one's turn.
    let (seen, address) = (0..20)
        .find_map(|_| {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
            let seen = Seen::start(&["--metrics-address", &address], &[]);
            let (served, taken) = (format!("metrics and health on {address}"), "cannot serve metrics");
            wait_until("it has tried the address", || {
                let log = seen.log();
                log.contains(&served) || log.contains(taken)
            });
            seen.log().contains(&served).then_some((seen, address))
        })
        .unwrap();
    seen.mount("secret-name");
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(get("GET", path, "").as_bytes()).unwrap();
        read_reply(&mut stream)
    };
    assert!(ask("/healthz").ends_with("\n\nok\n"));
    assert!(ask("/metrics").contains("rbd_docker_plugin_mounts{volume=\"secret-name\"} 1"));
    wait_until("it is ready", || ask("/readyz").starts_with("HTTP/1.1 200 "));
    for path in ["/v1/status", "/v1/volumes", "/v1/volumes/secret-name", "/v1/mounts", "/v1/operations"] {
        let reply = ask(path);
        assert!(reply.starts_with("HTTP/1.1 404 "), "{path}: {reply}");
    }
    // Volumes are served without it, and it is served when it can be.
    let second = Seen::start(&["--metrics-address", &address], &[]);
    let refused = format!("cannot serve metrics on {address}");
    wait_until("the second one has tried", || second.log().contains(&refused));
    second.mount("of-the-second");
    drop(seen);
    wait_until("the second one serves it", || {
        TcpStream::connect(&address).is_ok() && ask("/metrics").contains("of-the-second")
    });
}

#[test]
fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
    let mut seen = Seen::start(&[], &[]);
    let second = tempfile::tempdir().unwrap();
    let admin = seen.admin().parent().unwrap().to_owned();
    let refused = daemon(second.path()).arg("--admin").arg(&admin).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("a/n.sock is served by another rbd-docker-plugin") && said.contains("--admin none"),
        "{said}"
    );
    assert_eq!(seen.page("/healthz", "").1, "ok\n");

    kill(Pid::from_raw(i32::try_from(seen.child.id()).unwrap()), Signal::SIGKILL).unwrap();
    seen.child.wait().unwrap();
    assert!(seen.admin().exists());
    seen.child = daemon(seen.folder.path()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it serves again", || UnixStream::connect(seen.admin()).is_ok());
    assert_eq!(seen.page("/healthz", "").1, "ok\n");
    kill(Pid::from_raw(i32::try_from(seen.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(seen.child.wait().unwrap().code(), Some(0));
    assert!(!seen.admin().exists(), "a stop takes it away");
}

#[test]
fn without_an_admin_socket() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = daemon(folder.path());
    let mut child = command.args(["--admin", "none"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it serves Docker", || UnixStream::connect(folder.path().join("p/n.sock")).is_ok());
    assert!(!folder.path().join("a").exists());
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
#[cfg(feature = "ceph")]
fn a_cluster_that_is_not_there() {
    let conf = tempfile::NamedTempFile::new().unwrap();
    // Nobody listens on port 1.
    fs::write(conf.path(), "[global]\nmon_host = 127.0.0.1:1\nauth_client_required = none\n").unwrap();
    let path = conf.path().to_str().unwrap();
    let seen = Seen::start(&["--backend", "rbd", "--config", path, "--ceph-timeout", "1"], &[]);
    let (head, reasons) = seen.page("/readyz", "");
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("text/plain"), "{head}");
    assert!(reasons.contains("which images this plugin owns"), "{reasons}");
    wait_until("the reason is there", || seen.page("/readyz", "").1.contains("Ceph"));
    assert_eq!(seen.page("/healthz", "").1, "ok\n");
    let metrics = seen.metrics();
    assert_eq!(
        (sample(&metrics, "backend_up"), sample(&metrics, "ready")),
        (Some(0.0), Some(0.0)),
        "{metrics}"
    );
    assert!(seen.json("/v1/volumes")["degraded"].as_str().is_some());
    assert_eq!(seen.json("/v1/mounts"), json!({"mounts": []}));
    let (head, body) = seen.page("/v1/volumes/v", "");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head} {body}");
    let (status, stdout, stderr) = seen.command(&["ls"]);
    assert_eq!((status, stdout.lines().count()), (Some(0), 1), "{stdout}");
    assert!(stderr.contains("this is what was known before"), "{stderr}");
}

/// The storage of every mount hangs, and that of List, Get and the background's question, too.
#[test]
#[cfg(feature = "fault-points")]
fn no_page_waits_for_storage_that_hangs() {
    let seen = Seen::start(&[], &[("RBD_FAULT_HANG", "usage,list,info")]);
    let state = seen.metrics();
    assert_eq!(sample(&state, "operations_in_flight{operation=\"List\"}"), None, "{state}");
    let mut waiting = UnixStream::connect(seen.docker()).unwrap();
    waiting.write_all(post("/VolumeDriver.List", "{}").as_bytes()).unwrap();
    wait_until("what hangs is seen", || {
        let running = seen.json("/v1/operations");
        let first = &running["operations"][0];
        (&first["operation"], &first["number"]) == (&json!("List"), &json!(1))
            && first["seconds"].as_f64() > Some(0.0)
    });
    assert_eq!(sample(&seen.metrics(), "operations_in_flight{operation=\"List\"}"), Some(1.0));
    assert!(sample(&seen.metrics(), "operations_oldest_seconds{operation=\"List\"}") > Some(0.0));
    for _ in 0..8 {
        assert_eq!(
            seen.json("/v1/volumes"),
            json!({"volumes": [], "degraded": "the storage does not answer"})
        );
    }
    let (head, body) = seen.page("/v1/volumes/v", "");
    assert!(head.starts_with("HTTP/1.1 503 ") && body.contains("does not answer"), "{head} {body}");
}

#[test]
#[cfg(feature = "fault-points")]
fn a_mount_that_hangs_shows_as_stale_and_holds_nobody_up() {
    let seen = Seen::start(&[], &[("RBD_FAULT_HANG", "usage")]);
    seen.mount("v");
    let age = "volume_usage_age_seconds{volume=\"v\"}";
    let before = sample(&seen.metrics(), age).unwrap();
    wait_until("it grows old", || sample(&seen.metrics(), age).unwrap() > before + 1.0);
    assert_eq!(sample(&seen.metrics(), "volume_size_bytes{volume=\"v\"}"), None);
    assert_eq!(seen.json("/v1/mounts")["mounts"][0]["usage"], json!(null));
    // Docker's own requests do not wait for it either.
    assert!(seen.docker_asks("Get", &json!({"Name": "v"})).contains("\"health\":\"ok\""));
    let (status, text, _) = seen.command(&["df"]);
    assert_eq!(status, Some(0));
    assert!(text.lines().nth(1).unwrap().starts_with("v "), "{text}");
}

#[test]
#[cfg(feature = "fault-points")]
fn a_backend_that_hangs_is_not_ready() {
    let seen = Seen::start(&[], &[("RBD_FAULT_HANG", "pulse")]);
    // The first question may have been asked before it hung.
    wait_until("it falls silent", || seen.page("/readyz", "").0.starts_with("HTTP/1.1 503 "));
    assert!(seen.page("/readyz", "").1.contains("storage"), "{:?}", seen.page("/readyz", ""));
}

#[test]
fn a_hostile_client_here_is_not_felt_by_docker() {
    let seen = Seen::start(&[], &[]);
    let mut open = Vec::new();
    // More than there is room for.
    for n in 0..200 {
        let mut stream = UnixStream::connect(seen.admin()).unwrap();
        let part = ["", "GET", "GET /metrics HTTP/1.1\r\n", "\0\x16\x03\r\n\r\n"][n % 4];
        let _ = stream.write_all(part.as_bytes());
        open.push(stream);
        if n % 20 == 0 {
            assert!(seen.docker_asks("List", &json!({})).contains("\"Volumes\":[]"));
        }
    }
    assert!(seen.docker_asks("List", &json!({})).contains("\"Volumes\":[]"));
    drop(open);
    assert_eq!(seen.page("/healthz", "").1, "ok\n");
    let mut large = UnixStream::connect(seen.admin()).unwrap();
    let _ = large.write_all(get("GET", "/metrics", &format!("X: {}\r\n", "x".repeat(1 << 20))).as_bytes());
    assert!(read_reply(&mut large).starts_with("HTTP/1.1 431 "));
    assert!(is_closed(&mut large));
}

#[test]
fn commands() {
    let seen = Seen::start(&[], &[]);
    seen.mount("v");
    let at = format!("{}/m/n/rbd/v", seen.folder.path().display());
    let (status, text, _) = seen.command(&["ls"]);
    assert_eq!(status, Some(0));
    let words: Vec<&str> = text.split_whitespace().collect();
    // The size is known when Get has told it.
    assert_eq!(words, ["NAME", "IMAGE", "SIZE", "MOUNTS", "MOUNTED", "ON", "v", "rbd/v", "-", "1", &at]);
    let document = |words: &[&str]| -> Value {
        let (status, text, stderr) = seen.command(words);
        assert_eq!(status, Some(0), "{words:?}: {stderr}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words:?}: {e}: {text}"))
    };
    assert_eq!(document(&["inspect", "v", "rbd/v", "--format", "json"])[1]["Mountpoint"], json!(at));
    assert_eq!(document(&["ls", "--format", "json"])["volumes"][0]["size"], json!("20G"));
    assert_eq!(document(&["df", "--format=json"])["volumes"][0]["mountpoint"], json!(at));
    let top = document(&["top", "--interval", "1", "--format", "json"]);
    assert_eq!(top, json!({"volumes": [], "operations": []}), "the simulator's devices count nothing");
    // No terminal: one table.
    let (status, text, _) = seen.command(&["top", "--interval", "1"]);
    assert_eq!((status, text.lines().count()), (Some(0), 1), "{text}");

    let (status, text, stderr) = seen.command(&["inspect", "nope", "v"]);
    assert_eq!(status, Some(1));
    assert!(text.starts_with("name ") && text.contains("image          rbd/v\n"), "{text}");
    assert!(stderr.contains("nope: Image nope does not exist"), "{stderr}");
}

#[test]
fn a_command_ends_well_when_it_is_interrupted() {
    let seen = Seen::start(&[], &[]);
    let mut command = program();
    command.args(["top", "--interval", "3600", "--name", "n", "--admin"]).arg(seen.admin().parent().unwrap());
    let mut top = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(top.id()).unwrap());
    // It catches the signal when it has begun to look: bit 1 of SigCgt.
    wait_until("it catches SIGINT", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"));
        caught.is_some_and(|mask| u64::from_str_radix(mask, 16).unwrap() & 0b10 != 0)
    });
    kill(pid, Signal::SIGINT).unwrap();
    assert_eq!(top.wait().unwrap().code(), Some(0));
}

#[test]
fn an_operation_is_one_object_in_the_log() {
    let seen = Seen::start(&["--log-format", "json"], &[]);
    seen.mount("v");
    seen.docker_asks("Mount", &json!({"Name": "nope", "ID": "id2"}));
    let log = seen.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ended: Vec<&Value> = lines.iter().filter(|line| line.get("result").is_some()).collect();
    let told = |line: &Value| {
        assert!(line["elapsed_ms"].as_f64() > Some(0.0) && line["timestamp"].is_string(), "{line}");
        let span = &line["span"];
        json!([
            line["level"],
            line["result"],
            span["operation"],
            span["volume"],
            span["image"],
            span["mount_id"]
        ])
    };
    assert_eq!(
        ended.iter().map(|line| told(line)).collect::<Vec<_>>(),
        [
            json!(["INFO", "ok", "Create", "v", "rbd/v", null]),
            json!(["INFO", "ok", "Mount", "v", "rbd/v", "id1"]),
            json!(["WARN", "NotFound", "Mount", "nope", "rbd/nope", "id2"]),
        ],
        "{log}"
    );
    assert!(ended[2]["message"].as_str().unwrap().starts_with("Image nope does not exist"));
}

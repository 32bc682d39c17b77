//! The program itself: exit status, signals, files.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::rig::{post, read_reply};

pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbd-docker-plugin"));
    command.env_clear().env("RBD_DOCKER_PLUGIN_CONF_FILE", "none").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = program().args(args).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

/// Polls until `done`, for a minute.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited in vain until {what}");
}

/// A daemon on the sim backend with all its files in one folder.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) folder: TempDir,
}

pub(crate) fn daemon(folder: &Path) -> Command {
    let mut command = program();
    for (flag, dir) in [("--plugins", "p"), ("--mount", "m"), ("--logdir", "l"), ("--admin", "a")] {
        command.arg(flag).arg(folder.join(dir));
    }
    let gid = nix::unistd::getegid().to_string();
    command.args(["--backend", "sim", "--name", "n", "--create", "--socket-group", &gid]);
    command
}

impl Daemon {
    fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further flags.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = daemon(folder.path()).args(flags).stderr(Stdio::null()).spawn().unwrap();
        let daemon = Self { child, folder };
        wait_until("the socket is there", || daemon.socket().exists());
        daemon
    }

    /// What it answers to a request.
    pub(crate) fn ask(&self, endpoint: &str, body: &str) -> serde_json::Value {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(post(&format!("/VolumeDriver.{endpoint}"), body).as_bytes()).unwrap();
        let reply = read_reply(&mut stream);
        serde_json::from_str(reply.split_once("\n\n").unwrap().1).unwrap_or_else(|e| panic!("{e}: {reply}"))
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("p/n.sock")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("l/n-docker-plugin.log")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_leaves_no_core_file_and_nobody_but_root_reads_its_memory() {
    let daemon = Daemon::start();
    let of = |file: &str| PathBuf::from(format!("/proc/{}/{file}", daemon.child.id()));
    let limits = fs::read_to_string(of("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"], "{core}");
    assert_eq!(fs::metadata(of("mem")).unwrap().uid(), 0);
}

#[test]
fn exit_status_and_text() {
    for (args, status, part) in [
        (&["--version"][..], 0, "rbd-docker-plugin "),
        (&["--help"], 0, "VOLUME OPTIONS"),
        (&["--colour"], 2, "--colour"),
        (&["-config=/nonexistent/c"], 2, "to try the plugin without Ceph: --backend local --local-dir DIR"),
        (&["--help"], 0, "lock break IMAGE"),
        (&["serve"], 2, "serve"),
        (&["--poool", "x"], 2, "a similar argument exists: '--pool'"),
        (&["chekc"], 2, "a similar subcommand exists: 'check'"),
        (&["config"], 2, "Usage: rbd-docker-plugin config check"),
        (&["check", "--help"], 0, "CEPH_CONF"),
        (&["config", "check", "--help"], 0, "Exit status 0 when they are right, 2 when not"),
        (&["-backend=sim", "lock", "ls"], 2, "are for images in a Ceph cluster"),
        (&["fence", "h1", "--backend", "local", "--local-dir=/d"], 2, "/d/POOL/IMAGE.owner"),
        (&["lock", "break", "a/b/c/d"], 2, "more than two '/'"),
        (&["lock", "ls", "-config=/nonexistent/c"], 2, "/nonexistent/c"),
        (&["doctor", "--format", "xml"], 2, "xml"),
        (&["doctor", "-size=3Q"], 1, "FAIL  settings       size = \"3Q\" (from the flag --size): "),
        (
            &["doctor", "--conf-file", "/nonexistent/conf"],
            1,
            "FAIL  settings       configuration file /nonexistent/conf",
        ),
        (&["--size=3Q"], 2, "size = \"3Q\" (from the flag --size): "),
        (&["--conf-file", "/nonexistent/conf"], 2, "/nonexistent/conf"),
        (&["-backend=sim", "-logdir=-", "-plugins=/dev/null/p"], 1, "ENOTDIR"),
        (&["ls", "--admin", "none"], 2, "--admin names the folder"),
        (
            &["df", "-admin=/nonexistent", "-name=n"],
            1,
            "nobody answers on /nonexistent/n.sock; start it: systemctl",
        ),
        (&["inspect", "a b"], 2, "a b"),
        (&["top", "--interval", "0"], 2, "--interval"),
    ] {
        let (code, text) = run(args);
        assert_eq!(code, Some(status), "{args:?}: {text}");
        assert!(text.contains(part), "{args:?}: {text}");
    }
}

#[test]
fn wrong_lines_of_the_file_are_named_with_what_they_may_have_meant() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("conf");
    for (text, part) in [
        ("pool=x\ncreat=true\n", ":2: unknown key \"creat\"; did you mean create?"),
        ("zzz=1\n", ":1: unknown key \"zzz\"; rbd-docker-plugin --help lists the flags"),
        ("fs=zfs\n", ":1): unknown filesystem \"zfs\"; use ext4, xfs or btrfs"),
        ("create\n", ":1: \"create\" has no '='; a line is key=value"),
    ] {
        fs::write(&path, text).unwrap();
        let (code, said) = run(&["--backend=sim", "--conf-file", path.to_str().unwrap()]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(part) && said.contains(path.to_str().unwrap()), "{text}: {said}");
    }
}

#[test]
fn whoever_is_not_root_is_told_so() {
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: it starts the plugin as another user, which root only may do");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = daemon(folder.path());
    let output = match command.uid(65534).gid(65534).output() {
        Err(e) => {
            println!("skipped: nobody cannot run the program: {e}");
            return;
        }
        Ok(output) => output,
    };
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("(EACCES); the plugin needs to run as root"), "{said}");
}

#[test]
fn a_life() {
    let mut daemon = Daemon::start();
    let there = daemon.socket().metadata().unwrap();
    assert_eq!(there.permissions().mode() & 0o777, 0o660);
    assert_eq!(there.gid(), nix::unistd::getegid().as_raw());

    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.write_all(post("/Plugin.Activate", "").as_bytes()).unwrap();
    assert!(read_reply(&mut stream).ends_with("{\"Implements\":[\"VolumeDriver\"]}\n"));

    let second = crate::program::daemon(daemon.folder.path()).output().unwrap();
    let text = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("process {}", daemon.child.id())), "{text}");
    assert!(UnixStream::connect(daemon.socket()).is_ok());

    fs::rename(daemon.log(), daemon.folder.path().join("moved")).unwrap();
    daemon.signal(Signal::SIGHUP);
    wait_until("the log is there again", || daemon.log().exists());

    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
    assert!(!daemon.socket().exists());
    assert!(fs::read_to_string(daemon.log()).unwrap().contains("stopped; volumes stay mounted"));
}

/// Docker gives a managed plugin ten seconds to listen, and then disables it.
#[cfg(feature = "ceph")]
#[test]
fn it_listens_before_it_waits_for_the_cluster_and_answers_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("ceph.conf");
    fs::write(&conf, "[global]\nmon_host = 127.0.0.1:1\nauth_client_required = none\n").unwrap();
    let mut command = crate::program::daemon(folder.path());
    command.args(["--backend", "rbd", "--ceph-timeout", "1", "--config"]).arg(&conf);
    let daemon = Daemon { child: command.stderr(Stdio::null()).spawn().unwrap(), folder };
    wait_until("the socket is there", || daemon.socket().exists());
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.write_all(post("/VolumeDriver.Capabilities", "").as_bytes()).unwrap();
    assert!(read_reply(&mut stream).contains("global"));
    let log = fs::read_to_string(daemon.log()).unwrap();
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("no {what:?} in {log}"));
    assert!(at("listening on") < at("going on without it"), "{log}");
    daemon.signal(Signal::SIGTERM);
}

#[test]
fn a_start_that_fails_leaves_no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let mut command = crate::program::daemon(folder.path());
    command.args(["--backend", "local", "--local-dir"]).arg(folder.path()).arg("--state").arg(&file);
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    assert!(!folder.path().join("p/n.sock").exists());
}

#[test]
fn after_a_kill_the_next_one_takes_the_socket_over() {
    let mut daemon = Daemon::start();
    daemon.signal(Signal::SIGKILL);
    daemon.child.wait().unwrap();
    assert!(daemon.socket().exists());
    let stale = daemon.socket().metadata().unwrap().ino();
    daemon.child = crate::program::daemon(daemon.folder.path()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the socket is another", || daemon.socket().metadata().is_ok_and(|m| m.ino() != stale));
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.write_all(post("/VolumeDriver.List", "").as_bytes()).unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
}

/// What doctor says of the daemon of a folder.
pub(crate) fn doctor(folder: &Path, words: &[&str]) -> String {
    let mut command = program();
    command.args(["doctor", "--backend", "local", "--name", "n"]);
    for (flag, dir) in [("--local-dir", ""), ("--mount", ""), ("--plugins", "p")] {
        command.arg(flag).arg(folder.join(dir));
    }
    String::from_utf8(command.args(words).output().unwrap().stdout).unwrap()
}

#[test]
fn doctor_sees_a_running_plugin_and_answers_in_one_document() {
    let daemon = Daemon::start();
    let running = format!("n is running, process {}", daemon.child.id());
    let text = doctor(daemon.folder.path(), &[]);
    assert!(text.contains(&format!("ok    plugin         {running}\n")), "{text}");
    let json = doctor(daemon.folder.path(), &["--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let checks = json["checks"].as_array().unwrap();
    let plugin = checks.iter().find(|line| line["check"] == "plugin").unwrap();
    assert_eq!(
        *plugin,
        serde_json::json!({"check": "plugin", "status": "ok", "found": running, "fix": null})
    );
}

//! The plugin as a process on the cluster of the tests, asked as Docker asks it, with a user of its own.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::commands::{Answer, run_with};
use crate::daemon::{ask, tail, wait};
use crate::hosts::with_user;
use crate::rig::{Lab, fresh};

/// A user with these capabilities, and the folder of the plugins that use it.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) dir: TempDir,
}

impl User {
    pub(crate) fn new(lab: &Lab, what: &str, caps: &[&str]) -> Self {
        let (name, dir) = (fresh(what), tempfile::tempdir().unwrap());
        with_user(lab, dir.path(), &name, caps);
        Self { name, dir }
    }

    /// A user that may use one pool, or one namespace of it: `vol namespace=team1`.
    pub(crate) fn of(lab: &Lab, what: &str, place: &str) -> Self {
        let profile = format!("profile rbd pool={place}");
        Self::new(lab, what, &["mon", "profile rbd", "osd", &profile, "mgr", &profile])
    }

    pub(crate) fn conf(&self) -> std::path::PathBuf {
        self.dir.path().join("ceph.conf")
    }

    /// What `rbd` answers to this user.
    pub(crate) fn rbd(&self, words: &[&str]) -> std::process::Output {
        let mut command = Command::new("rbd");
        command.arg("--id").arg(&self.name).args(words).env("CEPH_CONF", self.conf());
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// A command of the product for this user.
    pub(crate) fn command(&self, lab: &Lab, words: &[&str]) -> Answer {
        let user = ["--user", &self.name];
        run_with(lab, &self.conf(), &[&user[..], words].concat())
    }

    /// Does what an error advises: replaces the capabilities by those of the command in it.
    pub(crate) fn obey(&self, lab: &Lab, error: &str) {
        let begin = error.find(&format!("ceph auth caps client.{} ", self.name)).expect(error);
        let command = error[begin..].split(" (").next().unwrap();
        lab.run(&["sh", "-c", command]);
    }
}

/// A page of the admin socket, with its head.
pub(crate) fn page(socket: &Path, path: &str) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A running plugin.
#[derive(Debug)]
pub(crate) struct Plugin {
    child: Child,
    user: String,
    conf: std::path::PathBuf,
    /// The pool, or the namespace of it, of bare names.
    place: String,
    socket: std::path::PathBuf,
    log: std::path::PathBuf,
    admin: std::path::PathBuf,
}

impl Plugin {
    /// Starts it with its folders in `home`.
    pub(crate) fn start(user: &User, home: &Path, flags: &[&str]) -> Self {
        Self::start_as(&user.name, &user.conf(), home, flags)
    }

    pub(crate) fn start_as(user: &str, conf: &Path, home: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbd-docker-plugin"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.args(["--conf-file", "none", "--user", user, "--ceph-timeout", "3", "--name", "t"]);
        command
            .args(["--create", "--remove", "delete", "--size", "64", "--fs", "ext4"])
            .arg("--config")
            .arg(conf);
        for (flag, folder) in
            [("--plugins", "s"), ("--mount", "mnt"), ("--logdir", "log"), ("--admin", "admin")]
        {
            std::fs::create_dir_all(home.join(folder)).unwrap();
            command.arg(flag).arg(home.join(folder));
        }
        let socket = home.join("s/t.sock");
        let log = home.join("log/t-docker-plugin.log");
        let quiet = || Stdio::null();
        let child = command.args(flags).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn().unwrap();
        let after = |flag: &str| flags.windows(2).find(|pair| pair[0] == flag).map(|pair| pair[1]);
        let place: Vec<&str> = [after("--pool"), after("--namespace")].into_iter().flatten().collect();
        let mut plugin = Self {
            child,
            user: user.to_owned(),
            conf: conf.to_owned(),
            place: place.join("/"),
            socket,
            log,
            admin: home.join("admin/t.sock"),
        };
        wait("the plugin to serve", || {
            assert!(plugin.child.try_wait().unwrap().is_none(), "it ended: {}", tail(&plugin.log));
            ask(&plugin.socket, "Capabilities", "{}").is_some()
        });
        plugin
    }

    /// What it answers.
    pub(crate) fn ask(&self, endpoint: &str, body: &Value) -> Result<Value, String> {
        match ask(&self.socket, endpoint, &body.to_string()) {
            Some((200, answer)) => Ok(answer),
            Some((_, answer)) => Err(answer["Err"].as_str().unwrap_or_default().to_owned()),
            None => panic!("no answer to {endpoint}\n{}", self.log()),
        }
    }

    pub(crate) fn ok(&self, endpoint: &str, body: &Value) -> Value {
        self.ask(endpoint, body).unwrap_or_else(|e| panic!("{endpoint} {body}: {e}\n{}", self.log()))
    }

    /// Why it did not answer: Docker would take an error of Get for the end of a volume.
    pub(crate) fn silence(&self, endpoint: &str, body: &Value) -> String {
        let before = self.log().len();
        assert_eq!(ask(&self.socket, endpoint, &body.to_string()), None);
        self.log()[before..].to_owned()
    }

    pub(crate) fn error(&self, endpoint: &str, body: &Value) -> String {
        if endpoint == "Get" {
            return self.silence(endpoint, body);
        }
        match self.ask(endpoint, body) {
            Err(e) => e,
            Ok(answer) => panic!("{endpoint} {body}: {answer}\n{}", self.log()),
        }
    }

    /// Makes an image as its user, and a volume of it: without a kernel that maps, the plugin formats none.
    pub(crate) fn create(&self, name: &str) {
        let image = format!("{}/{name}", self.place);
        let mut command = Command::new("rbd");
        command.args(["--id", &self.user, "create", "--size", "64M", &image]);
        let made = command.env("CEPH_CONF", &self.conf).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        self.ok("Create", &json!({"Name": name, "Opts": {"mount-options": "noatime"}}));
    }

    /// The names that List answers.
    pub(crate) fn names(&self) -> Vec<String> {
        let answer = self.ok("List", &json!({}));
        let volumes = answer["Volumes"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> =
            volumes.iter().map(|volume| volume["Name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    pub(crate) fn get(&self, name: &str) -> Value {
        self.ok("Get", &json!({"Name": name}))["Volume"].clone()
    }

    pub(crate) fn remove(&self, name: &str) {
        self.ok("Remove", &json!({"Name": name}));
    }

    /// A Mount that lacks nothing but perhaps a kernel with rbd.
    pub(crate) fn may_mount(&self, name: &str) {
        match self.ask("Mount", &json!({"Name": name, "ID": "1"})) {
            Ok(_) => drop(self.ok("Unmount", &json!({"Name": name, "ID": "1"}))),
            Err(e) => assert!(e.contains("kernel module rbd"), "{e}"),
        }
    }

    /// The admin page `/v1/status`.
    pub(crate) fn status(&self) -> Value {
        let answer = page(&self.admin, "/v1/status");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Plugin {
    /// A graceful stop.
    pub(crate) fn stop(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

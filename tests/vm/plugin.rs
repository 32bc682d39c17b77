//! The plugin under test in a guest: started, asked as Docker asks, stopped, killed, started again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::daemon::{ask, tail, wait};
use crate::host::Host;

/// The flag with which this program, in a guest, asks a plugin: socket, endpoint, body.
const ASK: &str = "--ask-plugin";

/// Plays the part of the client in a guest, if the arguments ask for it. The root folder is the same there, so is this program.
pub(crate) fn asked() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [flag, socket, endpoint, body] = &arguments[..] else { return None };
    if flag != ASK {
        return None;
    }
    let answer = ask(Path::new(socket), endpoint, body);
    if let Some((status, answer)) = &answer {
        println!("{status} {answer}");
    }
    Some(if answer.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A plugin on a host.
#[derive(Debug)]
pub(crate) struct Plugin<'a> {
    /// Its name for Docker.
    pub(crate) name: String,
    pub(crate) host: &'a Host,
    program: String,
    flags: Vec<String>,
    pid: Option<u32>,
}

impl<'a> Plugin<'a> {
    /// Not started yet. Its socket is where the host's engine finds it, its mounts and state are on the host's disk, its log is
    /// in the shared folder. `flags` come after these, and win.
    pub(crate) fn new(host: &'a Host, name: &str, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let program = env!("CARGO_BIN_EXE_rbd-docker-plugin").to_owned();
        Self { name: name.to_owned(), host, program, flags, pid: None }
    }

    /// From its next start on it is this program.
    pub(crate) fn runs(&mut self, program: &str) {
        self.program = program.to_owned();
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.start_with("");
    }

    /// The same with an environment, written as before a command in a shell.
    pub(crate) fn start_with(&mut self, environment: &str) {
        self.spawn(environment);
        // A socket that a killed one has left is no answer yet.
        let (socket, pid) = (self.socket(), self.pid());
        wait("the plugin to answer", || {
            let running = self.host.run(&format!(
                "for i in $(seq 200); do
                     readlink -e /proc/{pid}/exe >/dev/null || exit 1
                     test -S {} && exit 0
                     sleep 0.05
                 done",
                socket.display()
            ));
            assert_eq!(running.status, 0, "the plugin ended\n{}", self.logs());
            self.ask("Capabilities", &json!({})).is_some()
        });
    }

    /// Starts it and does not wait.
    pub(crate) fn spawn(&mut self, environment: &str) {
        let mount = "/disk/volumes";
        let share = self.host.share();
        let fixed = ["--conf-file", "none", "--name", &self.name, "--mount", mount, "--logdir"];
        let flags = fixed.iter().map(|flag| (*flag).to_owned()).chain([share.display().to_string()]);
        let flags = shell_words::join(flags.chain(self.flags.iter().cloned()));
        let program = &self.program;
        let pid = self.host.ok(&format!(
            "{environment} setsid {program} {flags} </dev/null >>{} 2>&1 & echo $!",
            self.stderr().display()
        ));
        self.pid = Some(pid.parse().unwrap());
    }

    /// Its process on the host.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.expect("the plugin was started")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        Path::new("/run/docker/plugins").join(format!("{}.sock", self.name))
    }

    /// Where a volume of the default pool is mounted, on the host.
    pub(crate) fn mountpoint(&self, image: &str) -> PathBuf {
        Path::new("/disk/volumes").join(&self.name).join("rbd").join(image)
    }

    /// Its log file, readable from here.
    pub(crate) fn log(&self) -> PathBuf {
        self.host.share().join(format!("{}-docker-plugin.log", self.name))
    }

    fn stderr(&self) -> PathBuf {
        self.host.share().join(format!("{}-stderr.log", self.name))
    }

    pub(crate) fn logs(&self) -> String {
        format!("{}\n{}", tail(&self.stderr()), tail(&self.log()))
    }

    /// One request as Docker sends it; status and body of the answer, or nothing when the connection ended without one.
    pub(crate) fn ask(&self, endpoint: &str, body: &Value) -> Option<(u16, Value)> {
        let program = std::env::current_exe().unwrap();
        let socket = self.socket();
        let words = [&program.to_string_lossy(), ASK, &socket.to_string_lossy(), endpoint, &body.to_string()];
        let output = self.host.run(&shell_words::join(words));
        let (status, answer) = output.stdout.trim_end().split_once(' ')?;
        Some((status.parse().unwrap(), serde_json::from_str(answer).unwrap()))
    }

    /// A request that must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, endpoint: &str, body: &Value) -> Value {
        match self.ask(endpoint, body) {
            Some((200, answer)) => answer,
            other => panic!("{endpoint} {body}: {other:?}\n{}", self.logs()),
        }
    }

    /// A request that must fail; the error text.
    #[track_caller]
    pub(crate) fn error(&self, endpoint: &str, body: &Value) -> String {
        match self.ask(endpoint, body) {
            Some((500, answer)) => answer["Err"].as_str().unwrap().to_owned(),
            other => panic!("{endpoint} {body}: {other:?}\n{}", self.logs()),
        }
    }

    /// Mounts; the mountpoint on the host.
    #[track_caller]
    pub(crate) fn mount(&self, volume: &str, id: &str) -> PathBuf {
        self.ok("Mount", &json!({"Name": volume, "ID": id}))["Mountpoint"].as_str().unwrap().into()
    }

    #[track_caller]
    pub(crate) fn unmount(&self, volume: &str, id: &str) {
        self.ok("Unmount", &json!({"Name": volume, "ID": id}));
    }

    /// Whether its host has the volume of the default pool mounted where this plugin mounts it.
    pub(crate) fn mounts(&self, image: &str) -> bool {
        let mountpoint = self.mountpoint(image);
        self.host.run(&format!("grep -q ' {} ' /proc/self/mounts", mountpoint.display())).status == 0
    }

    /// A graceful stop and a start with further flags.
    pub(crate) fn restart_with(&mut self, flags: &[&str]) {
        self.stop();
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self.start();
    }

    /// A graceful stop: no socket left.
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
        assert_ne!(
            self.host.run(&format!("test -e {}", self.socket().display())).status,
            0,
            "the socket is left"
        );
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.signal("KILL");
        self.remove_socket();
    }

    /// What a plugin that died leaves, and what would pass for one that answers.
    pub(crate) fn remove_socket(&self) {
        self.host.ok(&format!("rm -f {}", self.socket().display()));
    }

    fn signal(&mut self, signal: &str) {
        self.host.ok(&format!("kill -{signal} {}", self.pid()));
        self.wait_gone();
    }

    /// Waits until it has ended.
    pub(crate) fn wait_gone(&mut self) {
        let pid = self.pid();
        wait("the plugin to end", || {
            let waited = format!(
                "for i in $(seq 200); do readlink -e /proc/{pid}/exe >/dev/null || exit 0; sleep 0.05; done; exit 1"
            );
            self.host.run(&waited).status == 0
        });
        self.pid = None;
    }
}

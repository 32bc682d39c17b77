//! A Docker engine for one case: its own data, sockets and containerd, no network, no bridge.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::daemon::{tail, wait};

/// The cgroup that all containers of this run are in, one below it per case.
pub(crate) fn cgroup() -> String {
    format!("rbd-docker-plugin-tests-{}", crate::run_id())
}

/// Sockets have short paths, to fit 108 bytes. One folder per case in it; its name tells the processes of this run from another's.
pub(crate) fn rig() -> PathBuf {
    PathBuf::from(format!("/run/docker/rig{}", crate::run_id()))
}

/// Starts dockerd in a mount namespace where only this case's plugin is in `/run/docker/plugins`: an engine asks every plugin it
/// finds. What the plugin mounts is propagated there, as on a host whose engine runs with `MountFlags=slave`.
const START: &str = r#"mount --bind "$0" /run/docker/plugins && exec dockerd "$@""#;

/// The same for an engine with a name and a network of its own.
const START_HOST: &str =
    r#"hostname "$HOST" && ip link set lo up && mount --bind "$0" /run/docker/plugins && exec dockerd "$@""#;

/// Why no engine can be started here, or what uses these further programs, if so.
pub(crate) fn missing(further: &[&str]) -> Option<String> {
    if !geteuid().is_root() {
        return Some("needs root: run it as root, or with sudo -E".to_owned());
    }
    let path = search_path();
    let programs =
        ["dockerd", "docker", "containerd", "runc", "busybox", "timeout", "unshare", "losetup", "mkfs.ext4"];
    let absent: Vec<&str> = programs
        .into_iter()
        .chain(further.iter().copied())
        .filter(|program| !std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
        .collect();
    let loops = Path::new("/dev/loop-control").exists();
    match (absent.is_empty(), loops) {
        (true, true) => None,
        (true, false) => Some("needs loop devices: /dev/loop-control is missing (modprobe loop)".to_owned()),
        (false, _) => Some(format!("needs {}: run make setup", absent.join(", "))),
    }
}

/// The engine lives in sbin, which not every root's PATH has.
pub(crate) fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
}

/// A running, stopped or killed engine.
pub(crate) struct Engine {
    case: String,
    dir: PathBuf,
    run: PathBuf,
    flags: Vec<String>,
    host: Option<String>,
    child: Option<Child>,
}

impl Engine {
    /// Starts an engine and gives it the images `bb` (nothing at `/vol`), `bb-seeded` and `bb-empty`.
    pub(crate) fn start(case: &str, dir: &Path, flags: &[&str]) -> Self {
        Self::start_on(case, dir, flags, None)
    }

    /// The same with a host name and a network namespace of its own, which end with it.
    pub(crate) fn start_on(case: &str, dir: &Path, flags: &[&str], host: Option<&str>) -> Self {
        let run = rig().join(case);
        fs::create_dir_all(&run).expect("a folder for the engine's sockets");
        fs::write(dir.join("daemon.json"), "{}").expect("the engine's settings can be written");
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let host = host.map(str::to_owned);
        let mut engine = Self { case: case.to_owned(), dir: dir.to_owned(), run, flags, host, child: None };
        engine.up();
        engine.import();
        engine
    }

    /// Starts the engine, again or for the first time, and waits until it answers.
    pub(crate) fn up(&mut self) {
        let log = File::options().create(true).append(true).open(self.log()).expect("the engine's log opens");
        let mut dockerd = Command::new("unshare");
        dockerd
            .env("PATH", search_path())
            .env("HOST", self.host.as_deref().unwrap_or_default())
            .args(["--mount", "--propagation", "slave"])
            .args(self.host.iter().flat_map(|_| ["--uts", "--net"]))
            .args(["sh", "-c", if self.host.is_some() { START_HOST } else { START }])
            .arg(self.run.join("plugins"))
            .arg("--config-file")
            .arg(self.dir.join("daemon.json"))
            .arg("--data-root")
            .arg(self.dir.join("engine"))
            .arg("--exec-root")
            .arg(self.run.join("exec"))
            .arg("--pidfile")
            .arg(self.run.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .args(["--bridge=none", "--iptables=false", "--ip-masq=false", "--storage-driver=vfs"])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent"])
            .arg(format!("/{}/{}", cgroup(), self.case))
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log);
        self.child = Some(dockerd.spawn().expect("dockerd can be started"));
        wait("dockerd to answer", || {
            let child = self.child.as_mut().expect("it was started");
            if let Some(status) = child.try_wait().expect("its state can be asked") {
                panic!("dockerd ended with {status}\n{}", tail(&self.log()));
            }
            self.docker(&["version", "--format", "{{.Server.Version}}"]).status.success()
        });
    }

    /// Images made from busybox: no registry is asked.
    fn import(&self) {
        let root = self.dir.join("image");
        let bin = root.join("bin");
        fs::create_dir_all(&bin).expect("a folder for the image");
        let path = search_path();
        let busybox = std::env::split_paths(&path).map(|dir| dir.join("busybox")).find(|file| file.is_file());
        fs::copy(busybox.expect("busybox was found before"), bin.join("busybox"))
            .expect("busybox can be copied");
        for applet in [
            "sh", "cat", "dd", "echo", "id", "ls", "mkdir", "rm", "sleep", "stat", "sync", "tail", "touch",
            "wc",
        ] {
            symlink("busybox", bin.join(applet)).expect("an applet can be linked");
        }
        self.import_as(&root, "bb");
        fs::create_dir(root.join("data")).expect("a folder in the image");
        self.import_as(&root, "bb-empty");
        fs::write(root.join("data/one"), "first\n").expect("a file in the image");
        fs::write(root.join("data/two"), "second\n").expect("a file in the image");
        self.import_as(&root, "bb-seeded");
    }

    fn import_as(&self, root: &Path, image: &str) {
        let tar = self.dir.join("image.tar");
        let made = Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&tar).arg(".").status();
        assert!(made.expect("tar runs").success(), "tar of {}", root.display());
        let env = "ENV PATH=/bin";
        self.ok(&["import", "--change", env, tar.to_str().expect("a UTF-8 path"), image]);
    }

    /// The API socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run.join("api")
    }

    /// What dockerd and its containerd log.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("dockerd.log")
    }

    /// The process of dockerd, while it runs.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("dockerd runs").id()
    }

    /// Runs `docker ARGS` against this engine, for five minutes at most.
    pub(crate) fn docker(&self, args: &[&str]) -> Output {
        self.client("docker").args(args).output().expect("docker can be started")
    }

    /// A program that asks this engine, for five minutes at most.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["-k", "10", "300", program])
            .env("PATH", search_path())
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.dir.join("client"))
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_API_VERSION")
            .env_remove("DOCKER_TLS_VERIFY")
            .stdin(Stdio::null());
        command
    }

    /// The same, expecting success; what it wrote to stdout.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.docker(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {args:?}: {}\n{stderr}", output.status);
        String::from_utf8(output.stdout).expect("docker prints UTF-8")
    }

    /// The same, expecting failure; what it wrote to stderr.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let output = self.docker(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "docker {args:?} succeeded\n{stderr}");
        assert_ne!(output.status.code(), Some(124), "docker {args:?} took more than 300 s");
        stderr
    }

    /// Sends dockerd a signal and waits for its end.
    pub(crate) fn end_with(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        let containerd =
            fs::read_to_string(self.run.join("exec/containerd/containerd.pid")).unwrap_or_default();
        let pid = i32::try_from(child.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("dockerd can be signalled");
        let mut status = None;
        wait(&format!("dockerd to end after {signal}"), || {
            status = child.try_wait().expect("its state can be asked");
            status.is_some()
        });
        if signal == Signal::SIGKILL {
            assert_eq!(status.and_then(|s| s.signal()), Some(Signal::SIGKILL as i32));
        }
        // The kernel kills it with its dockerd; a next dockerd that still saw it would wait for it.
        let containerd = Path::new("/proc").join(containerd.trim());
        wait("containerd to end", || containerd == Path::new("/proc") || !containerd.exists());
    }

    /// A graceful stop.
    pub(crate) fn stop(&mut self) {
        self.end_with(Signal::SIGTERM);
    }

    /// After a failure: no asking, no waiting for containers.
    pub(crate) fn force_down(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

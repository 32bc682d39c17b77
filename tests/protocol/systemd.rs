//! What systemd is told, and the socket that it passes.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rbd_docker_plugin::frontend::docker::Docker;
use rbd_docker_plugin::frontend::http::operations::Operations;
use rbd_docker_plugin::frontend::http::server::Limits;
use rbd_docker_plugin::frontend::http::socket::Claim;
use rbd_docker_plugin::linux::process;
use tempfile::TempDir;

use crate::fake::{Fake, LONG};
use crate::program::{daemon, doctor, wait_until};
use crate::rig::{post, read_reply};

/// The program as systemd starts it: with a listening socket as descriptor 3. It is to be closed on exec until then, so it comes as
/// standard input.
fn activated(folder: &Path, passed: impl Into<OwnedFd>) -> Command {
    by_script(folder, passed, "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&0 </dev/null")
}

fn by_script(folder: &Path, passed: impl Into<OwnedFd>, script: &str) -> Command {
    let program = daemon(folder);
    let mut command = Command::new("/bin/sh");
    command.env_clear().env("RBD_DOCKER_PLUGIN_CONF_FILE", "none");
    command.args(["-c", script]).arg(program.get_program()).args(program.get_args());
    command.stdin(Stdio::from(passed.into())).stderr(Stdio::null());
    command
}

/// A folder with the socket where systemd would have made it.
fn bound() -> (TempDir, UnixListener) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("p")).unwrap();
    let listener = UnixListener::bind(folder.path().join("p/n.sock")).unwrap();
    (folder, listener)
}

/// A daemon, killed when the test ends.
struct Running(Child);

impl Running {
    fn signal(&mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects and asks; the answer is read later.
fn asked(socket: &Path, path: &str, body: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(post(path, body).as_bytes()).unwrap();
    stream
}

fn succeeds(mut stream: UnixStream) {
    let reply = read_reply(&mut stream);
    assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
}

/// Reads until a message is or begins as it should; everything that was said until then.
fn said_until(manager: &UnixDatagram, wanted: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = manager.recv(&mut buffer).unwrap_or_else(|e| panic!("{wanted}: {e}, after {lines:?}"));
        lines.extend(str::from_utf8(&buffer[..length]).unwrap().lines().map(str::to_owned));
        if lines.iter().any(|line| line.starts_with(wanted)) {
            return lines;
        }
    }
}

#[test]
fn systemd_hears_of_the_whole_life() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("notify");
    let manager = UnixDatagram::bind(&at).unwrap();
    manager.set_read_timeout(Some(LONG)).unwrap();
    let mut command = daemon(folder.path());
    command.env("NOTIFY_SOCKET", &at).env("WATCHDOG_USEC", "200000").stderr(Stdio::null());
    let mut child = Running(command.spawn().unwrap());
    let socket = folder.path().join("p/n.sock");

    let lines = said_until(&manager, "READY=1");
    assert!(lines[0].starts_with("STATUS=starting"), "{lines:?}");
    succeeds(asked(&socket, "/Plugin.Activate", ""));
    if !lines.iter().any(|line| line == "STATUS=listening; 0 volumes mounted") {
        said_until(&manager, "STATUS=listening; 0 volumes mounted");
    }
    succeeds(asked(&socket, "/VolumeDriver.Create", r#"{"Name":"v"}"#));
    succeeds(asked(&socket, "/VolumeDriver.Mount", r#"{"Name":"v","ID":"1"}"#));
    said_until(&manager, "STATUS=listening; 1 volume mounted");
    for _ in 0..5 {
        said_until(&manager, "WATCHDOG=1");
    }
    assert_eq!(child.signal(Signal::SIGTERM), Some(0));
    let lines = said_until(&manager, "STOPPING=1");
    assert!(lines.contains(&"STATUS=stopping: finishing 0 operations".to_owned()), "{lines:?}");
}

#[test]
fn without_a_watchdog_there_are_no_pings_and_a_manager_that_is_gone_is_no_hindrance() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("notify");
    let manager = UnixDatagram::bind(&at).unwrap();
    manager.set_read_timeout(Some(LONG)).unwrap();
    let mut command = daemon(folder.path());
    let mut child = Running(command.env("NOTIFY_SOCKET", &at).stderr(Stdio::null()).spawn().unwrap());
    let lines = said_until(&manager, "READY=1");
    assert!(!lines.iter().any(|line| line.starts_with("WATCHDOG")), "{lines:?}");
    drop(manager);
    succeeds(asked(&folder.path().join("p/n.sock"), "/VolumeDriver.List", ""));
    assert_eq!(child.signal(Signal::SIGTERM), Some(0));
}

/// Nothing listens where this cluster should be.
#[cfg(feature = "ceph")]
#[test]
fn a_cluster_that_is_away_is_told_and_does_not_keep_the_plugin_from_being_ready() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("notify");
    let manager = UnixDatagram::bind(&at).unwrap();
    manager.set_read_timeout(Some(LONG)).unwrap();
    let (conf, keyring) = (folder.path().join("ceph.conf"), folder.path().join("keyring"));
    fs::write(&keyring, "[client.admin]\nkey = AQBSdFhj9zI9FBAAq3M6r1b0vYJ8Jm6F2Xl8Jg==\n").unwrap();
    fs::write(&conf, format!("[global]\nmon_host = 127.0.0.1:1\nkeyring = {}\n", keyring.display())).unwrap();
    let mut command = daemon(folder.path());
    command.args(["--backend", "rbd", "--ceph-timeout", "3", "--config"]).arg(&conf);
    command.env("NOTIFY_SOCKET", &at).env("WATCHDOG_USEC", "200000").stderr(Stdio::null());
    let _child = Running(command.spawn().unwrap());
    let mut lines = said_until(&manager, "READY=1");
    lines.extend(said_until(&manager, "WATCHDOG=1"));
    let waiting = "STATUS=listening; 0 volumes mounted; waiting for the store: ";
    if !lines.iter().any(|line| line.starts_with(waiting)) {
        said_until(&manager, waiting);
    }
    succeeds(asked(&folder.path().join("p/n.sock"), "/Plugin.Activate", ""));
}

#[test]
fn nobody_is_refused_while_the_plugin_is_restarted() {
    let (folder, listener) = bound();
    let socket = folder.path().join("p/n.sock");
    let inode = socket.metadata().unwrap().ino();
    let start = || Running(activated(folder.path(), listener.try_clone().unwrap()).spawn().unwrap());
    let mut child = start();
    succeeds(asked(&socket, "/Plugin.Activate", ""));
    for (signal, code) in [(Signal::SIGTERM, Some(0)), (Signal::SIGKILL, None), (Signal::SIGTERM, Some(0))] {
        assert_eq!(child.signal(signal), code);
        let between = asked(&socket, "/VolumeDriver.List", "");
        assert_eq!(socket.metadata().unwrap().ino(), inode, "the file is systemd's");
        child = start();
        succeeds(between);
    }
    let doctor = doctor(folder.path(), &[]);
    assert!(doctor.contains(&format!("n is running, process {}\n", child.0.id())), "{doctor}");
    // A plugin that somebody starts by hand meanwhile neither takes the name nor the socket.
    let second = daemon(folder.path()).output().unwrap();
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(text.contains("n.sock is served by another rbd-docker-plugin"), "{text}");
    assert_eq!(child.signal(Signal::SIGTERM), Some(0));
    assert!(socket.exists() && folder.path().join("p/n.lock").exists());
}

#[test]
fn who_waits_in_the_socket_at_a_stop_is_left_to_the_next_process() {
    let (folder, listener) = bound();
    let dir = folder.path().join("p");
    let fake = Arc::new(Fake::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let serve = |stop: tokio::sync::oneshot::Receiver<()>| {
        let claim = Claim::take_passed(&dir, "n", listener.try_clone().unwrap()).unwrap();
        let mut socket = claim.bind(nix::unistd::getegid().as_raw()).unwrap();
        let operations = Arc::new(Operations::new(8));
        let limits = Limits { connections: 1, ..Limits::default() };
        let listener = socket.listener().unwrap();
        let driver = Arc::clone(&fake) as _;
        let served = runtime.spawn(async move {
            Docker { driver, operations, limits, stat: process::stat }
                .serve(listener, async { drop(stop.await) })
                .await
        });
        (served, socket)
    };
    let (stop, told) = tokio::sync::oneshot::channel();
    let (served, socket) = serve(told);
    let mut first = asked(&dir.join("n.sock"), "/VolumeDriver.Mount", r#"{"Name":"slow","ID":"1"}"#);
    fake.wait_for(r#"mount slow "1""#);
    let second = asked(&dir.join("n.sock"), "/VolumeDriver.Mount", r#"{"Name":"b","ID":"2"}"#);
    stop.send(()).unwrap();
    fake.open_gate();
    assert!(read_reply(&mut first).contains("/mnt/slow"));
    assert_eq!(runtime.block_on(served).unwrap().unwrap(), 0);
    socket.remove();
    assert_eq!(fake.calls().iter().filter(|call| call.contains("mount b")).count(), 0);
    let (stop, told) = tokio::sync::oneshot::channel();
    let (served, _socket) = serve(told);
    succeeds(second);
    stop.send(()).unwrap();
    runtime.block_on(served).unwrap().unwrap();
}

#[test]
fn what_is_not_our_socket_is_refused_with_the_fix() {
    let (folder, listener) = bound();
    let socket = folder.path().join("p/n.sock").display().to_string();
    let other = folder.path().join("p/other.sock");
    let datagram = UnixDatagram::unbound().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let twice = "export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$0\" \"$@\" 3<&0 4<&0 </dev/null";
    let closed = "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&- </dev/null";
    let line = format!("ListenStream={socket}");
    let elsewhere = other.display().to_string();
    for (mut command, parts) in [
        (activated(folder.path(), UnixListener::bind(&other).unwrap()), [elsewhere.as_str(), &line]),
        (activated(folder.path(), datagram), ["of another type than stream", &line]),
        (activated(folder.path(), tcp), ["of another family than unix", &line]),
        (activated(folder.path(), fs::File::open("/dev/null").unwrap()), ["no socket", &line]),
        (by_script(folder.path(), listener.try_clone().unwrap(), twice), ["2 descriptors", &line]),
        (by_script(folder.path(), listener.try_clone().unwrap(), closed), ["not open", "(EBADF)"]),
    ] {
        let output = command.stderr(Stdio::piped()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?}: {text}");
    }
    let log = fs::read_to_string(folder.path().join("l/n-docker-plugin.log")).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("ERROR")).count(), 6, "{log}");
}

#[test]
fn what_was_passed_to_another_process_is_not_taken() {
    let (folder, listener) = bound();
    let script = "export LISTEN_PID=1 LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&0 </dev/null";
    fs::remove_file(folder.path().join("p/n.sock")).unwrap();
    let mut child = Running(by_script(folder.path(), listener, script).spawn().unwrap());
    let socket = folder.path().join("p/n.sock");
    wait_until("it has bound a socket of its own", || socket.exists());
    succeeds(asked(&socket, "/Plugin.Activate", ""));
    assert_eq!(child.signal(Signal::SIGTERM), Some(0));
    assert!(!socket.exists());
}

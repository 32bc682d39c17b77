//! Docker: its engine, and the socket where it looks for the plugin.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::finding::Finding;
use super::folder::folder;
use crate::config::Config;
use crate::linux::process;

/// Where the engine listens, unless somebody told it otherwise.
const ENGINE: &str = "/run/docker.sock";

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    vec![
        folder(
            "socket folder",
            &config.plugins,
            "--plugins names another one; Docker looks into /run/docker/plugins",
        ),
        plugin(&config.name, listener(config)),
        docker(engine()),
    ]
}

/// The process that serves the plugin's name, if one does: 0 when the kernel does not tell.
pub(super) fn listener(config: &Config) -> Option<i32> {
    let file = |kind: &str| config.plugins.join(format!("{}.{kind}", config.name));
    // A socket that systemd has opened is systemd's for the kernel, whoever serves it; and to connect to it starts a plugin.
    holder(&file("lock")).or_else(|| listens(&file("sock")))
}

/// The plugin that has left its process id in the lock file of its name, if it is still there.
fn holder(lock: &Path) -> Option<i32> {
    fs::read_to_string(lock).ok()?.trim().parse().ok().filter(|pid| is_plugin(*pid))
}

fn listens(socket: &Path) -> Option<i32> {
    let stream = UnixStream::connect(socket).ok()?;
    Some(getsockopt(&stream, PeerCredentials).map_or(0, |peer| peer.pid()))
}

/// The process of a Docker engine, if there is one.
pub(super) fn engine() -> Option<i32> {
    let pids = || fs::read_dir("/proc").into_iter().flatten().flatten();
    let pid = pids().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    listens(Path::new(ENGINE))
        .filter(|pid| *pid > 0 && is_engine(*pid))
        .or_else(|| pid.into_iter().find(|pid| is_engine(*pid)))
}

fn is_engine(pid: i32) -> bool {
    is(pid, "dockerd")
}

fn is(pid: i32, name: &str) -> bool {
    process::stat(pid).is_some_and(|stat| stat.name == name)
}

/// Whether a process is one of this program.
fn is_plugin(pid: i32) -> bool {
    // The kernel keeps 15 letters of it.
    process::stat(pid)
        .is_some_and(|stat| "rbd-docker-plugin".starts_with(&stat.name) && stat.name.len() == 15)
}

fn plugin(name: &str, listener: Option<i32>) -> Finding {
    match listener {
        None => Finding::ok("plugin", format!("{name} is not running")),
        Some(0) => Finding::ok("plugin", format!("{name} is running, outside of this process namespace")),
        Some(pid) if is_plugin(pid) => Finding::ok("plugin", format!("{name} is running, process {pid}")),
        Some(pid) if is(pid, "systemd") => {
            Finding::ok("plugin", format!("systemd listens for {name}, and starts it when it is asked"))
        }
        Some(pid) => {
            let who = process::stat(pid).map_or_else(|| "?".to_owned(), |stat| stat.name);
            let found = format!("the name {name} is taken by process {pid} ({who})");
            Finding::fail("plugin", found, "stop that one, or give this one another --name")
        }
    }
}

fn docker(engine: Option<i32>) -> Finding {
    match engine {
        Some(pid) => Finding::ok("docker", format!("dockerd is running, process {pid}")),
        None => Finding::warn("docker", "no dockerd is running here", "systemctl start docker"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::super::finding::Status;
    use super::*;

    #[test]
    fn a_name_is_free_or_taken_and_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("n.sock");
        assert_eq!(plugin("n", listens(&socket)).status, Status::Ok);
        let listener = UnixListener::bind(&socket).unwrap();
        let taken = plugin("n", listens(&socket));
        assert_eq!(taken.status, Status::Fail);
        assert!(taken.found.contains(&format!("process {}", std::process::id())), "{}", taken.found);
        drop(listener);
        assert_eq!(listens(&socket), None);
        assert_eq!([docker(None).status, docker(Some(1)).status], [Status::Warn, Status::Ok]);
    }
}

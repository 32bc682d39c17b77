//! Who is at the other end of a connection.

use std::sync::OnceLock;

use crate::driver::api::Client;

/// The other end of one connection, looked up when first asked for.
#[derive(Debug)]
pub(super) struct Peer {
    pid: Option<i32>,
    engine: OnceLock<Option<Client>>,
}

impl Peer {
    /// What SO_PEERCRED says: the process that connected.
    pub(super) fn new(pid: Option<i32>) -> Self {
        Self { pid, engine: OnceLock::new() }
    }

    /// The Docker engine, if it is one. Reads `/proc`.
    pub(super) fn engine(&self) -> Option<Client> {
        // The kernel says 0 for a process of another pid namespace.
        *self.engine.get_or_init(|| self.pid.filter(|pid| *pid > 0).and_then(engine))
    }
}

fn engine(pid: i32) -> Option<Client> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&stat), "dockerd").map(|start| Client { pid, start })
}

/// Field 22 of `/proc/PID/stat` (start time), if the process has this name. The name, in parentheses, may itself
/// hold blanks and parentheses.
fn parse_stat(stat: &str, name: &str) -> Option<u64> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, comm) = before.split_once('(')?;
    // `after` begins with field 3.
    if comm == name { after.split_ascii_whitespace().nth(19)?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_parsed_after_the_last_parenthesis() {
        let tail = "S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 123456 1 2 3";
        assert_eq!(parse_stat(&format!("42 (dockerd) {tail}"), "dockerd"), Some(123_456));
        assert_eq!(parse_stat(&format!("42 (a) (b) {tail}"), "a) (b"), Some(123_456));
        assert_eq!(parse_stat(&format!("42 (docker) {tail}"), "dockerd"), None);
        assert_eq!(parse_stat("42 (dockerd) S 1", "dockerd"), None);
        assert_eq!(parse_stat("", "dockerd"), None);
    }

    #[test]
    fn this_test_is_no_docker_engine_but_has_a_start() {
        let me = std::process::id();
        assert_eq!(Peer::new(i32::try_from(me).ok()).engine(), None);
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        assert!(parse_stat(&stat, name.trim_end()).unwrap() > 0);
        assert_eq!(Peer::new(None).engine(), None);
        assert_eq!(Peer::new(Some(0)).engine(), None);
    }
}

//! Who is at the other end of a connection.

use std::sync::OnceLock;

use crate::driver::api::Client;
use crate::linux::process;

/// The other end of one connection, looked up when first asked for.
#[derive(Debug)]
pub struct Peer {
    pid: Option<i32>,
    engine: OnceLock<Option<Client>>,
}

impl Peer {
    /// What SO_PEERCRED says: the process that connected.
    pub fn new(pid: Option<i32>) -> Self {
        Self { pid, engine: OnceLock::new() }
    }

    /// The Docker engine, if it is one. Reads `/proc`.
    pub fn engine(&self) -> Option<Client> {
        // The kernel says 0 for a process of another pid namespace.
        *self.engine.get_or_init(|| self.pid.filter(|pid| *pid > 0).and_then(engine))
    }
}

fn engine(pid: i32) -> Option<Client> {
    let stat = process::stat(pid)?;
    (stat.name == "dockerd").then_some(Client { pid, start: stat.start })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_no_docker_engine() {
        let me = std::process::id();
        assert_eq!(Peer::new(i32::try_from(me).ok()).engine(), None);
        assert_eq!(Peer::new(None).engine(), None);
        assert_eq!(Peer::new(Some(0)).engine(), None);
    }
}

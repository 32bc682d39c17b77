//! Who is at the other end of a connection.

use std::sync::OnceLock;

use crate::model::process::Process;

/// The other end of one connection, looked at when first asked for.
#[derive(Debug)]
pub struct Peer {
    pid: Option<i32>,
    process: OnceLock<Option<Process>>,
}

impl Peer {
    /// What SO_PEERCRED says: the process that connected.
    pub fn new(pid: Option<i32>) -> Self {
        Self { pid, process: OnceLock::new() }
    }

    /// What `look` makes of the process id, asked once for each connection.
    pub fn process(&self, look: impl FnOnce(i32) -> Option<Process>) -> Option<Process> {
        // The kernel says 0 for a process of another pid namespace.
        *self.process.get_or_init(|| self.pid.filter(|pid| *pid > 0).and_then(look))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_looked_at_once_and_one_that_is_not_told_never() {
        let of = |pid, start| Some(Process { pid, start });
        let peer = Peer::new(Some(7));
        assert_eq!(peer.process(|pid| of(pid, 1)), of(7, 1));
        assert_eq!(peer.process(|pid| of(pid, 2)), of(7, 1));
        for unknown in [None, Some(0), Some(-1)] {
            assert_eq!(Peer::new(unknown).process(|pid| of(pid, 1)), None);
        }
    }
}

//! The Docker engine behind a connection.

use crate::driver::api::Client;
use crate::frontend::http::peer::Peer;
use crate::model::process::Stat;

/// The process that has connected, if it is a Docker engine: anybody else's mount is nobody's.
pub(super) fn engine(peer: &Peer, stat: fn(i32) -> Option<Stat>) -> Option<Client> {
    peer.process(|pid| {
        let stat = stat(pid)?;
        (stat.name == "dockerd").then_some(Client { pid, start: stat.start })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dockerd_is_an_engine() {
        fn named(name: &str) -> Option<Stat> {
            Some(Stat { name: name.to_owned(), start: 42 })
        }
        let of = |stat: fn(i32) -> Option<Stat>| engine(&Peer::new(Some(7)), stat);
        assert_eq!(of(|_| named("dockerd")), Some(Client { pid: 7, start: 42 }));
        assert_eq!(of(|_| named("docker")), None);
        assert_eq!(of(|_| None), None);
    }
}

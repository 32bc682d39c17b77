//! This plugin's own clients of the cluster, and the owner records that name them.
//!
//! A client is exchanged for another one when the key or ceph.conf has changed, when it stays silent, and when it was blocklisted. What the
//! old one has sent, or what an operation that began with it still sends, may reach the storage until it has shut down. So every record
//! that is written names the client that writes it and all others that are not gone: whoever follows shuts out all of them.

use std::collections::BTreeSet;
use std::sync::{Mutex, Weak};

use crate::ceph::Cluster;
use crate::lock;
use crate::model::error::Result;

/// The clients of this life, by address, until they have shut down.
#[derive(Debug, Default)]
pub(super) struct Clients(Mutex<Vec<(String, Weak<()>)>>);

impl Clients {
    /// Before a client is used for anything.
    pub(super) fn note(&self, cluster: &Cluster) -> Result<()> {
        self.add(cluster.addresses()?, cluster.life());
        Ok(())
    }

    fn add(&self, address: String, life: Weak<()>) {
        lock(&self.0).push((address, life));
    }

    /// The addresses of all that are not gone but this one.
    pub(super) fn others(&self, address: &str) -> Vec<String> {
        let mut clients = lock(&self.0);
        clients.retain(|(_, life)| life.strong_count() > 0);
        let others = clients.iter().map(|(other, _)| other.clone()).filter(|other| other != address);
        others.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_client_counts_until_it_has_shut_down() {
        let (clients, one, two) = (Clients::default(), Arc::new(()), Arc::new(()));
        clients.add("10.0.0.7:0/2".to_owned(), Arc::downgrade(&two));
        clients.add("10.0.0.7:0/1".to_owned(), Arc::downgrade(&one));
        assert_eq!(clients.others("10.0.0.7:0/2"), ["10.0.0.7:0/1"]);
        assert_eq!(clients.others("10.0.0.7:0/3"), ["10.0.0.7:0/1", "10.0.0.7:0/2"]);
        drop(one);
        assert_eq!(clients.others("10.0.0.7:0/2"), [""; 0]);
    }
}

//! Which images are this plugin's, and which have ceased to be.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::RbdBackend;
use super::link::{Place, Session};
use super::owner::{self, OwnerRecord};
use crate::ceph::Cluster;
use crate::error::{DriverError, ErrorKind, Result};
use crate::lock;
use crate::name::ImageSpec;

/// How often the cluster's blocklist is read: a fence by a plugin shows in the owner records, one by hand only there.
const BLOCKLIST: Duration = Duration::from_secs(30);

impl RbdBackend {
    /// Every record of this plugin, in any pool.
    pub(super) fn find_own(&self) -> Result<Vec<ImageSpec>> {
        let session = self.link.session()?;
        let mut specs = BTreeSet::new();
        for place in everywhere(&session)? {
            for (key, raw) in owner::all(&session.open(&place)?)? {
                let record = match OwnerRecord::parse(&raw) {
                    Ok(record) => record,
                    Err(e) => {
                        tracing::error!(pool = place.0, key, error = %e, "left alone");
                        continue;
                    }
                };
                if !record.owner.same_plugin(&self.identity) {
                    continue;
                }
                // Only what is of this boot is held; another boot's has to be claimed, which shuts that one out.
                if self.is_own(&record) {
                    lock(&self.held).entry(record.image.clone()).or_default().insert(key, raw);
                }
                specs.insert(record.image);
            }
        }
        Ok(specs.into_iter().collect())
    }

    /// See [`ImageStore::lost`](crate::backend::ImageStore::lost).
    pub(super) fn find_lost(&self, mounted: &[ImageSpec]) -> Result<Vec<(ImageSpec, String)>> {
        let session = self.link.session()?;
        let fenced = self.blocklisted(&session.cluster)?;
        let mut lost = Vec::new();
        for spec in mounted {
            if let Some(why) = self.why_lost(&session, spec, &fenced)? {
                lost.push((spec.clone(), why));
            }
        }
        Ok(lost)
    }

    fn why_lost(
        &self,
        session: &Session,
        spec: &ImageSpec,
        fenced: &BTreeSet<String>,
    ) -> Result<Option<String>> {
        let held = lock(&self.held).get(spec).cloned().unwrap_or_default();
        let Some((key, raw)) = held.iter().find(|(key, _)| key.starts_with("image.")) else {
            // Adopted while the cluster was away, or while another plugin had the record.
            return self.take_again(spec);
        };
        let shut_out = |address: &str| format!("its kernel client {address} is on the cluster's blocklist");
        let found = owner::some(&session.of(spec)?, &[key])?;
        let Some(now) = found.get(key) else {
            let before = OwnerRecord::parse(raw)?;
            let fenced = blocklist(&session.cluster)?;
            if let Some(address) = before.owner.client_addr.filter(|address| fenced.contains(address)) {
                return Ok(Some(shut_out(&address)));
            }
            lock(&self.held).remove(spec);
            return self.take_again(spec);
        };
        let record = OwnerRecord::parse(now)?;
        if !self.is_own(&record) {
            return Ok(Some(format!("taken over by {}", record.owner)));
        }
        Ok(record
            .owner
            .client_addr
            .filter(|address| fenced.contains(address))
            .map(|address| shut_out(&address)))
    }

    /// Claims a mounted image whose record is not known to be ours; why not, if it is not.
    fn take_again(&self, spec: &ImageSpec) -> Result<Option<String>> {
        match self.take(spec) {
            Err(e) if e.kind == ErrorKind::InUse => return Ok(Some(e.message)),
            taken => taken?,
        }
        let Some(mapping) = self.find_mapping(spec)? else { return Ok(None) };
        let io = self.link.session()?.of(spec)?;
        self.change_held(&io, spec, |mut record| {
            record.owner.client_addr = Some(mapping.client_addr.clone());
            record
        })?;
        Ok(None)
    }

    /// The blocklist as it was read last.
    fn blocklisted(&self, cluster: &Cluster) -> Result<BTreeSet<String>> {
        {
            let known = lock(&self.blocklist);
            if known.0.is_some_and(|read| read.elapsed() < BLOCKLIST) {
                return Ok(known.1.clone());
            }
        }
        let read = blocklist(cluster)?;
        *lock(&self.blocklist) = (Some(Instant::now()), read.clone());
        Ok(read)
    }
}

/// An address that is shut out of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// `10.0.0.7:0/3120`, or a range of addresses.
    #[serde(rename(deserialize = "addr"))]
    pub address: String,
    /// Until when, as the monitors write it.
    pub until: String,
}

/// The addresses on the cluster's blocklist.
fn blocklist(cluster: &Cluster) -> Result<BTreeSet<String>> {
    Ok(fences(cluster)?.into_iter().map(|fence| fence.address).collect())
}

/// The cluster's blocklist.
pub(super) fn fences(cluster: &Cluster) -> Result<Vec<Fence>> {
    let answer = cluster.mon_command(&json!({"prefix": "osd blocklist ls", "format": "json"}))?;
    parse_blocklist(&answer)
}

/// One list of addresses; monitors of newer releases send a second list after it, of ranges.
fn parse_blocklist(answer: &[u8]) -> Result<Vec<Fence>> {
    let mut fences = Vec::new();
    for list in serde_json::Deserializer::from_slice(answer).into_iter::<Vec<Fence>>() {
        fences.extend(list.map_err(|e| {
            DriverError::new(ErrorKind::Failed, format!("the cluster's blocklist is not understood: {e}"))
        })?);
    }
    Ok(fences)
}

/// All pools and namespaces that this user may look at.
pub(crate) fn everywhere(session: &Session) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for pool in session.cluster.pools()? {
        let place = (pool.clone(), None);
        let Ok(io) = session.open(&place) else { continue };
        match io.namespaces() {
            Ok(namespaces) => places.extend(namespaces.into_iter().map(|ns| (pool.clone(), Some(ns)))),
            // Not a pool for images, or not one of ours.
            Err(e) if matches!(e.errno, Errno::EPERM | Errno::EACCES | Errno::ENOENT | Errno::EOPNOTSUPP) => {
            }
            Err(e) => return Err(e.into()),
        }
        match owner::all(&io) {
            Err(e) if e.kind == ErrorKind::Denied => {}
            Err(e) => return Err(e),
            Ok(_) => places.push(place),
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocklist_is_one_list_or_two() {
        let one = br#"[{"addr":"10.0.0.1:0/1","until":"2026-11-21T09:53:19"}]"#;
        let fence = Fence { address: "10.0.0.1:0/1".to_owned(), until: "2026-11-21T09:53:19".to_owned() };
        assert_eq!(parse_blocklist(one).unwrap(), [fence]);
        let two = br#"[{"addr":"10.0.0.1:0/1","until":"x"}][{"addr":"10.0.0.0:0/24","until":"x"}]"#;
        assert_eq!(parse_blocklist(two).unwrap().len(), 2);
        assert_eq!(parse_blocklist(b"[][]").unwrap().len(), 0);
        parse_blocklist(b"listed 0 entries").unwrap_err();
    }
}

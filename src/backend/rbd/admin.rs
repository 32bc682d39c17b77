//! What an administrator asks of the cluster's records, without a running plugin.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::link::{Place, Session};
use super::owner::{self, OwnerRecord};
use super::{beats, fence, mine};
use crate::ceph::{Cluster, IoCtx, Swap};
use crate::config;
use crate::error::{DriverError, ErrorKind, Result};
use crate::name::ImageSpec;
use crate::time::rfc3339;

/// A connection for one command.
#[derive(Debug)]
pub struct Admin {
    session: Session,
    fence: Duration,
}

/// An owner record, and what is seen of its owner.
#[derive(Debug, Clone, Serialize)]
pub struct Lock {
    /// The image, by the name under which it was claimed.
    pub image: ImageSpec,
    /// The owner's host.
    pub host: String,
    /// The owner's plugin.
    pub plugin: String,
    /// Since when, as RFC 3339.
    pub since: String,
    /// The address that a fence shuts out; none while nothing is mapped.
    pub client_addr: Option<String>,
    /// The mount IDs that used it last.
    pub mount_ids: Vec<String>,
    /// Whether the plugin's heart beats.
    pub alive: bool,
    /// Whether the recorded client watches the image: its kernel has it mapped.
    pub watching: bool,
    /// Whether the image is only being made.
    pub making: bool,
    #[serde(skip)]
    place: Place,
    #[serde(skip)]
    key: String,
    #[serde(skip)]
    raw: Vec<u8>,
}

impl Admin {
    /// Connects.
    pub fn connect(options: &config::Ceph) -> Result<Self> {
        Ok(Self { session: Session::connect(options)?, fence: options.fence })
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.session.cluster
    }

    /// A pool or a namespace of it.
    pub fn open(&self, pool: &str, namespace: Option<&str>) -> Result<IoCtx> {
        self.session.open(&(pool.to_owned(), namespace.map(str::to_owned)))
    }

    /// All owner records, in all pools that the user may look at.
    pub fn locks(&self) -> Result<Vec<Lock>> {
        let mut locks = Vec::new();
        for place in mine::everywhere(&self.session)? {
            let io = self.session.open(&place)?;
            let records = owner::all(&io)?;
            if records.is_empty() {
                continue;
            }
            let alive = beats::alive(&io)?;
            for (key, raw) in records {
                locks.push(lock(&io, &place, key, raw, &alive)?);
            }
        }
        locks.sort_by(|a, b| a.image.cmp(&b.image));
        Ok(locks)
    }

    /// Frees an image whose owner is gone: shuts the owner out first. One that is alive is only parted from it by `force`.
    pub fn break_lock(&self, spec: &ImageSpec, force: bool) -> Result<Lock> {
        let found = self.locks()?.into_iter().filter(|lock| lock.image == *spec).collect::<Vec<_>>();
        let Some(first) = found.first().cloned() else {
            return Err(DriverError::new(ErrorKind::NotFound, format!("nobody owns {spec}"))
                .hint("rbd-docker-plugin lock ls shows what is owned"));
        };
        if let Some(live) = found.iter().find(|lock| lock.alive || lock.watching)
            && !force
        {
            let how = if live.alive { "its plugin is running" } else { "its kernel has the image mapped" };
            return Err(DriverError::new(
                ErrorKind::InUse,
                format!("{spec} is in use by plugin {:?} on host {}: {how}", live.plugin, live.host),
            )
            .hint("unmount it there; or add --force: its containers then get I/O errors, and what they have not yet written is lost"));
        }
        for lock in &found {
            self.free(lock)?;
        }
        Ok(first)
    }

    /// Shuts a host out: every kernel client that its owner records name, alive or not. Its images are free afterwards.
    pub fn fence_host(&self, host: &str) -> Result<Vec<Lock>> {
        let found: Vec<Lock> = self.locks()?.into_iter().filter(|lock| lock.host == host).collect();
        if found.is_empty() {
            return Err(DriverError::new(ErrorKind::NotFound, format!("host {host} owns no image"))
                .hint("rbd-docker-plugin lock ls shows who owns what"));
        }
        // All of it is shut out before any of it is given to others.
        for address in found.iter().filter_map(|lock| lock.client_addr.as_ref()).collect::<BTreeSet<_>>() {
            fence::shut_out(&self.session.cluster, address, self.fence)?;
        }
        for lock in &found {
            self.remove(lock)?;
        }
        Ok(found)
    }

    /// The addresses that are shut out of the cluster now.
    pub fn fences(&self) -> Result<BTreeSet<String>> {
        mine::blocklist(&self.session.cluster)
    }

    fn free(&self, lock: &Lock) -> Result<()> {
        if let Some(address) = &lock.client_addr {
            fence::shut_out(&self.session.cluster, address, self.fence)?;
        }
        self.remove(lock)
    }

    fn remove(&self, lock: &Lock) -> Result<()> {
        let io = self.session.open(&lock.place)?;
        // A name that somebody is making an image under stays known as half made: whoever claims it next clears it.
        let mut record = OwnerRecord::parse(&lock.raw)?;
        let kept = record.making.is_some().then(|| {
            record.owner.boot_id = String::new();
            record.owner.client_addr = None;
            record.store()
        });
        if io.omap_swap(
            owner::OBJECT,
            &[Swap { key: &lock.key, expected: Some(&lock.raw), new: kept.as_deref() }],
        )? {
            return Ok(());
        }
        Err(DriverError::new(ErrorKind::Busy, format!("the owner of {} has changed meanwhile", lock.image))
            .hint("look at it again with lock ls"))
    }
}

fn lock(io: &IoCtx, place: &Place, key: String, raw: Vec<u8>, alive: &BTreeSet<String>) -> Result<Lock> {
    let OwnerRecord { owner, image, making } = OwnerRecord::parse(&raw)?;
    let watching = match &owner.client_addr {
        Some(address) => fence::watchers(io, &image)?.contains(address),
        None => false,
    };
    Ok(Lock {
        alive: alive.contains(&beats::cookie(&owner)),
        watching,
        making: making.is_some(),
        image,
        host: owner.host,
        plugin: owner.plugin,
        since: rfc3339(owner.since),
        client_addr: owner.client_addr,
        mount_ids: owner.mount_ids,
        place: place.clone(),
        key,
        raw,
    })
}

//! The cluster, as the hosts agree in it: [`ClusterKv`] on RADOS, and what this host's kernel has mapped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::clients::Clients;
use super::fencing::{blocklist, shut_out};
use super::header;
use super::opened::Opened;
use super::session::Session;
use crate::ceph::{self, Image, features, none_if_absent};
use crate::coordination::blocklist::Blocklist;
use crate::coordination::{ClusterKv, HostMapping, Keys, Lease, Mappings, Place, Swap};
use crate::linux::krbd::{Identity, Kernel, Maker, Mapping, Mark};
use crate::model::error::Result;
use crate::model::locker::{Locker, Lockers};
use crate::model::name::ImageSpec;

/// What all holders of a lease agree on.
const TAG: &str = "rbd-docker-plugin";
/// librbd's name for the advisory lock, on the image's header.
const ADVISORY: &str = "rbd_lock";

/// One client of the cluster.
#[derive(Debug, Clone)]
pub(super) struct Rados {
    pub(super) session: Arc<Session>,
    clients: Arc<Clients>,
    opened: Arc<Opened>,
}

impl Rados {
    pub(super) fn new(session: Arc<Session>, clients: Arc<Clients>, opened: Arc<Opened>) -> Self {
        Self { session, clients, opened }
    }

    /// That of a command, which has no other clients.
    pub(super) fn alone(session: Arc<Session>) -> Self {
        Self::new(session, Arc::default(), Arc::default())
    }
}

impl ClusterKv for Rados {
    fn keys(&self, place: &Place, object: &str) -> Result<Keys> {
        Ok(none_if_absent(self.session.open(place)?.omap(object))?)
    }

    fn some_keys(&self, place: &Place, object: &str, keys: &[&str]) -> Result<Keys> {
        Ok(none_if_absent(self.session.open(place)?.omap_get(object, keys))?)
    }

    fn swap(&self, place: &Place, object: &str, changes: &[Swap<'_>]) -> Result<bool> {
        let changes: Vec<ceph::Swap<'_>> =
            changes.iter().map(|&Swap { key, expected, new }| ceph::Swap { key, expected, new }).collect();
        Ok(self.session.open(place)?.omap_swap(object, &changes)?)
    }

    fn renew(&self, place: &Place, lease: Lease<'_>, lasts: Duration) -> Result<()> {
        let Lease { object, name, holder, about } = lease;
        Ok(self.session.open(place)?.lock_shared(object, name, holder, TAG, about, lasts)?)
    }

    fn holders(&self, place: &Place, object: &str, name: &str) -> Result<BTreeSet<String>> {
        let lockers = self.session.open(place)?.lockers(object, name)?;
        Ok(lockers.into_iter().map(|locker| locker.cookie).collect())
    }

    fn give_up(&self, place: &Place, object: &str, name: &str, holder: &str) -> Result<()> {
        Ok(self.session.open(place)?.unlock(object, name, holder).map(drop)?)
    }

    fn address(&self) -> Result<String> {
        Ok(self.session.cluster.addresses()?)
    }

    fn earlier_addresses(&self) -> Result<Vec<String>> {
        Ok(self.clients.others(&self.address()?))
    }

    fn shut_out(&self, addresses: &BTreeSet<String>, lasts: Duration) -> Result<()> {
        shut_out(&self.session.cluster, addresses, lasts)
    }

    fn blocklist(&self) -> Result<Blocklist> {
        blocklist(&self.session.cluster)
    }

    fn image_id(&self, spec: &ImageSpec) -> Result<Option<String>> {
        Ok(header::id(&self.session.of(spec)?, spec.image())?)
    }

    fn pool_id(&self, place: &Place) -> Result<i64> {
        Ok(self.session.open(place)?.pool_id())
    }

    fn require_place(&self, place: &Place) -> Result<()> {
        self.session.still(place, &self.session.open(place)?)
    }

    fn watchers(&self, spec: &ImageSpec, id: &str) -> Result<Vec<String>> {
        let watchers = self.opened.watchers(&self.session.of(spec)?, spec, id)?;
        Ok(watchers.into_iter().map(|watcher| watcher.address).collect())
    }

    fn answering_watchers(&self, spec: &ImageSpec, id: &str, patience: Duration) -> Result<Vec<String>> {
        let io = self.session.of(spec)?;
        let mut watchers = self.opened.watchers(&io, spec, id)?;
        let answering = none_if_absent(io.answering(&header::object(id), patience))?;
        watchers.retain(|watcher| answering.contains(&watcher.id.cast_unsigned()));
        Ok(watchers.into_iter().map(|watcher| watcher.address).collect())
    }

    fn has_exclusive_lock(&self, spec: &ImageSpec, id: &str) -> Result<bool> {
        let header = header::read(&self.session.of(spec)?, id)?;
        Ok(header.is_some_and(|header| header.features & features::EXCLUSIVE_LOCK != 0))
    }

    /// By way of the header's own lock: opening the image for it takes some fifty round trips, this takes one.
    fn lock_image(&self, spec: &ImageSpec, id: &str, cookie: &str) -> Result<bool> {
        match self.session.of(spec)?.lock_exclusive(&header::object(id), ADVISORY, cookie) {
            Err(e) if e.errno == Errno::EBUSY => Ok(false),
            taken => Ok(taken.map(|()| true)?),
        }
    }

    fn unlock_image(&self, spec: &ImageSpec, id: &str, cookie: &str) -> Result<bool> {
        Ok(self.session.of(spec)?.unlock(&header::object(id), ADVISORY, cookie)?)
    }

    fn image_lockers(&self, spec: &ImageSpec, id: &str) -> Result<Lockers> {
        Ok(none_if_absent(self.session.of(spec)?.list_lockers(&header::object(id), ADVISORY))?)
    }

    fn break_image_lock(&self, spec: &ImageSpec, name: &str, locker: &Locker) -> Result<()> {
        match Image::open(&self.session.of(spec)?, name) {
            Err(e) if e.errno == Errno::ENOENT => Ok(()),
            image => Ok(image?.break_lock(&locker.client, &locker.cookie)?),
        }
    }

    fn locker_name(&self) -> String {
        format!("client.{}", self.session.cluster.instance_id())
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// What this host's kernel has mapped of one cluster.
#[derive(Debug)]
pub(super) struct HostKernel<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) maker: &'a Maker,
    pub(super) kv: &'a Rados,
}

impl HostKernel<'_> {
    fn told(&self, mapping: Mapping) -> HostMapping {
        let ours = mapping.mark.as_ref().is_some_and(|mark| mark.may_be_of(self.maker));
        HostMapping {
            pool_id: mapping.pool_id,
            spec: ImageSpec::new(&mapping.pool, mapping.namespace.as_deref(), &mapping.image).ok(),
            namespace: mapping.namespace,
            image_id: mapping.image_id,
            address: mapping.client_addr,
            snapshot: mapping.snapshot.is_some(),
            device: mapping.path.display().to_string(),
            ours,
            made_by: match mapping.mark.as_ref().and_then(Mark::plugin) {
                Some(plugin) if plugin == self.maker.plugin => {
                    format!("by another plugin of the name {plugin:?} on this host")
                }
                Some(plugin) => format!("by the plugin {plugin:?} of this host"),
                None => "not by this plugin".to_owned(),
            },
        }
    }
}

impl Mappings for HostKernel<'_> {
    fn list(&self) -> Result<Vec<HostMapping>> {
        let fsid = self.kv.session.cluster.fsid();
        let ours = self.kernel.list()?.into_iter().filter(|mapping| mapping.fsid == fsid);
        Ok(ours.map(|mapping| self.told(mapping)).collect())
    }

    fn of(&self, place: &Place, id: &str) -> Result<Option<HostMapping>> {
        let identity = Identity {
            fsid: self.kv.session.cluster.fsid(),
            pool_id: self.kv.pool_id(place)?,
            namespace: place.1.as_deref(),
            image_id: id,
        };
        Ok(self.kernel.find(identity)?.map(|mapping| self.told(mapping)))
    }
}

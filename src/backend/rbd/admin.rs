//! What an administrator asks of the cluster's records, without a running plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::fencing::{blocklist, shut_out};
use super::kv::Rados;
use super::link::{Place, Session, place};
use super::places::{self, Configured};
use super::{caps, header, inside};
use crate::ceph::{Cluster, IoCtx};
use crate::coordination::blocklist::Blocklist;
use crate::coordination::record::{self, OwnerRecord};
use crate::coordination::{ClusterKv, Keys, Swap, advisory, heartbeat, names};
use crate::linux::krbd::Kernel;
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};
use crate::model::image::LeftOut;
use crate::model::name::{ImageSpec, VolumeName};
use crate::model::settings;

pub use crate::coordination::admin::{Damaged, Lock, Locks, OwnerAdmin, Unlocked, Watched};
pub use crate::coordination::blocklist::{Fence, Reach};

/// How many images are asked for their watchers at a time.
const AT_ONCE: usize = 8;

/// A connection for one command.
#[derive(Debug)]
pub struct Admin {
    pub(super) session: Arc<Session>,
    pub(super) options: settings::Ceph,
}

impl Locks {
    /// The records of one place.
    fn read(&mut self, kv: &Rados, place: &Place, io: &IoCtx, records: Keys) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let alive = heartbeat::alive(kv, place)?;
        // Who may not list images still sees who owns them, by the names that they had.
        let names = io.images().unwrap_or_else(|e| {
            let what =
                "images go by the names under which they were claimed, which may not be theirs any more";
            self.unseen.push(DriverError::from(e).context(format_args!("{}: {what}", place.0)));
            self.misnamed = true;
            Vec::new()
        });
        let names: BTreeMap<String, String> = names.into_iter().map(|image| (image.id, image.name)).collect();
        for (key, raw) in records {
            match OwnerRecord::parse(&raw) {
                Ok(record) => self.found.push(lock(place, (key, raw), record, &alive, &names)?),
                Err(e) => {
                    let why = e.context(format_args!("{}: {key}", place.0));
                    self.damaged.push(Damaged { place: place.clone(), key, why });
                }
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, out: LeftOut) {
        let what = format_args!("the pool {} could not be looked at", out.name());
        self.unseen.push(out.why.clone().context(what));
        self.left_out.push(out);
    }

    /// Notes which of the owners are shut out.
    fn note_fences(&mut self, fences: Result<Blocklist>) {
        let fences = match fences {
            Ok(fences) => fences,
            // Whoever may not read it still sees who owns what.
            Err(e) => return self.unseen.push(e.context("it is not known which clients are blocklisted")),
        };
        for lock in &mut self.found {
            let fence = lock.client_addr.as_ref().and_then(|address| fences.covers(address));
            lock.fenced_by = fence.map(|fence| fence.address.clone());
        }
    }

    /// An error, with all that may be why nothing was found.
    fn nothing(self, error: DriverError) -> DriverError {
        let damaged = self.damaged.into_iter().map(|damaged| damaged.why);
        damaged.chain(self.unseen).fold(error, DriverError::also)
    }
}

impl Admin {
    /// Connects.
    pub fn connect(options: &settings::Ceph) -> Result<Self> {
        let session = Arc::new(Session::connect(options)?);
        Ok(Self { session, options: options.clone() })
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.session.cluster
    }

    /// The cluster as hosts agree in it.
    pub(super) fn kv(&self) -> Rados {
        Rados::alone(Arc::clone(&self.session))
    }

    /// A pool or a namespace of it.
    pub fn open(&self, pool: &str, namespace: Option<&str>) -> Result<IoCtx> {
        self.session.open(&(pool.to_owned(), namespace.map(str::to_owned)))
    }

    /// How long a fence lasts that is put up here.
    pub fn fence_lasts(&self) -> Duration {
        self.options.fence
    }

    /// The image that a volume's name means: a bare one may be bound to an image elsewhere.
    pub fn resolve(&self, name: &VolumeName) -> Result<ImageSpec> {
        let pool = self.options.pools.first().map_or("", String::as_str);
        let namespace = self.options.namespace.as_deref();
        if name.pool().is_none() {
            let home = (pool.to_owned(), namespace.map(str::to_owned));
            let bound = names::read_one(&self.kv(), &home, name.image());
            if let Some(bound) = bound.map_err(|e| caps::explain(&self.options, e))? {
                return Ok(bound);
            }
        }
        name.in_place(pool, namespace)
    }

    /// All owner records, in all pools that the user may look at. Who watches the images is only asked where it is
    /// shown: each has to be opened for it.
    pub fn locks(&self, watched: Watched) -> Result<Locks> {
        let records = places::records(&self.session, &Configured::new(&self.options), None);
        let records = records.map_err(|e| caps::explain(&self.options, e))?;
        let mut locks = Locks::default();
        records.left_out.into_iter().for_each(|out| locks.leave_out(out));
        for (place, io, records) in records.records {
            match locks.read(&self.kv(), &place, &io, records) {
                Err(why) if why.kind == ErrorKind::Unreachable => {
                    locks.leave_out(LeftOut { pool: place.0, namespace: place.1, why });
                }
                read => read?,
            }
        }
        locks.found.sort_by(|a, b| a.image.cmp(&b.image));
        locks.note_fences(blocklist(&self.session.cluster));
        if watched == Watched::Asked {
            self.watch(&mut locks.found)?;
        }
        Ok(locks)
    }

    /// Asks who watches these images, several at a time.
    fn watch(&self, locks: &mut [Lock]) -> Result<()> {
        for some in locks.chunks_mut(AT_ONCE) {
            std::thread::scope(|scope| {
                let ask = |lock| {
                    let named = std::thread::Builder::new().name("watchers".to_owned());
                    named.spawn_scoped(scope, move || self.watch_one(lock)).or_call("clone", "watchers")
                };
                let threads: Vec<_> = some.iter_mut().map(ask).collect();
                let died =
                    || Err(DriverError::new(ErrorKind::Failed, "a thread that asks for watchers died"));
                threads.into_iter().try_for_each(|thread| thread?.join().unwrap_or_else(|_| died()))
            })?;
        }
        Ok(())
    }

    fn watch_one(&self, lock: &mut Lock) -> Result<()> {
        let watchers = inside::watchers(&self.session.of(&lock.image)?, &lock.image)?;
        lock.watching = match &lock.owner.client_addr {
            Some(address) => watchers.contains(address),
            // It may have mapped the image, and not have written that down.
            None => !watchers.is_empty(),
        };
        Ok(())
    }

    /// Frees an image whose owner is gone: shuts the owner out first. One that is alive is only parted from it by `force`. The
    /// records that are gone now are answered.
    pub fn break_lock(&self, spec: &ImageSpec, force: bool) -> Result<Vec<Lock>> {
        let mut locks = Locks::default();
        let io = self.session.of(spec)?;
        let at = place(spec);
        locks.read(&self.kv(), &at, &io, record::all(&self.kv(), &at)?)?;
        if locks.misnamed {
            let message = format!("it cannot be seen which owner record is that of {spec}");
            return Err(locks.nothing(DriverError::new(ErrorKind::Failed, message)));
        }
        let mut found = Vec::new();
        locks.found.retain(|lock| {
            lock.image != *spec || {
                found.push(lock.clone());
                false
            }
        });
        if found.is_empty() {
            // It may be its record that cannot be read.
            let none = DriverError::new(ErrorKind::NotFound, format!("nobody owns {spec}"));
            return Err(locks.nothing(none.hint("rbd-docker-plugin lock ls shows what is owned")));
        }
        self.watch(&mut found)?;
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
        self.free(&found, false)?;
        Ok(found)
    }

    /// Shuts a host out: every kernel client and plugin that its owner records name, alive or not. Its images are free afterwards. What is
    /// answered beside the records that are gone now was not seen, and may be of this host.
    pub fn fence_host(&self, host: &str) -> Result<Locks> {
        let mut locks = self.locks(Watched::Left)?;
        locks.found.retain(|lock| lock.host == host);
        if locks.found.is_empty() {
            let none = DriverError::new(ErrorKind::NotFound, format!("host {host} owns no image"));
            return Err(locks.nothing(none.hint("rbd-docker-plugin lock ls shows who owns what")));
        }
        self.free(&locks.found, true)?;
        Ok(locks)
    }

    /// Ends the advisory locks that other plugins, or people, have left on an image; nothing when there are none. Nobody keeps a connection
    /// for such a lock, so its holder's address says nothing: the sign of life is that somebody has the image mapped or open, who
    /// is shut out first, by `force` only.
    pub fn break_advisory(&self, spec: &ImageSpec, force: bool) -> Result<Option<Unlocked>> {
        let io = self.open(spec.pool(), spec.namespace())?;
        let Some(id) = header::id(&io, spec.image())? else { return Ok(None) };
        let kv = self.kv();
        let lockers = advisory::by_hand(&kv, spec, &id)?.lockers;
        if lockers.is_empty() {
            return Ok(None);
        }
        let fenced = inside::watchers(&io, spec)?;
        if !fenced.is_empty() && !force {
            let message = format!("{spec} is locked, and mapped or open at {}", fenced.join(", "));
            return Err(DriverError::new(ErrorKind::InUse, message).hint(
                "unmount it there; or add --force: what has it mapped gets I/O errors, and what it has not yet written is lost. Other plugins share one client among all images of a host: then all of them are cut off",
            ));
        }
        shut_out(self.cluster(), &fenced.iter().cloned().collect(), self.fence_lasts())?;
        for locker in &lockers {
            kv.break_image_lock(spec, spec.image(), locker)?;
        }
        Ok(Some(Unlocked { lockers, fenced }))
    }

    /// The addresses that are shut out of the cluster now.
    pub fn fences(&self) -> Result<Vec<Fence>> {
        Ok(blocklist(&self.session.cluster)?.into_fences())
    }

    /// What of this host is shut out: this very client, and the kernel's clients that have images of this cluster mapped.
    pub fn fences_of_this_host(&self) -> Result<Vec<(String, Fence)>> {
        let cluster = &self.session.cluster;
        let list = blocklist(cluster)?;
        let mapped = Kernel::host().list()?.into_iter().filter(|mapping| mapping.fsid == cluster.fsid());
        let clients: BTreeSet<String> = mapped.map(|mapping| mapping.client_addr).collect();
        let own = cluster.addresses()?;
        let all = std::iter::once(own).chain(clients);
        Ok(all.filter_map(|client| Some((client.clone(), list.covers(&client)?.clone()))).collect())
    }

    /// All of them are shut out before any of it is given to others.
    fn free(&self, locks: &[Lock], host: bool) -> Result<()> {
        let clients = locks.iter().filter_map(|lock| lock.client_addr.as_ref());
        let plugins = locks.iter().filter(|lock| lock.takes_plugin(host)).flat_map(Lock::plugin_addrs);
        let addresses = clients.chain(plugins).cloned().collect();
        shut_out(&self.session.cluster, &addresses, self.options.fence)
            .map_err(|e| caps::explain(&self.options, e))?;
        locks.iter().try_for_each(|lock| self.remove(lock))
    }

    fn remove(&self, lock: &Lock) -> Result<()> {
        let kv = self.kv();
        if let Some(id) = &lock.image_id {
            advisory::end_lock_of(&kv, &lock.image, id, &lock.host)?;
        }
        // A name that somebody is making an image under stays known as half made: whoever claims it next clears it.
        let mut record = OwnerRecord::parse(&lock.raw)?;
        let kept = record.making.is_some().then(|| {
            record.owner.boot_id = String::new();
            record.owner.client_addr = None;
            record.store()
        });
        let swap = Swap { key: &lock.key, expected: Some(&lock.raw), new: kept.as_deref() };
        if kv.swap(&place(&lock.image), record::OBJECT, &[swap])? {
            return Ok(());
        }
        Err(DriverError::new(ErrorKind::Busy, format!("the owner of {} has changed meanwhile", lock.image))
            .hint("look at it again with rbd-docker-plugin lock ls"))
    }
}

fn lock(
    place: &Place,
    (key, raw): (String, Vec<u8>),
    record: OwnerRecord,
    alive: &BTreeSet<String>,
    names: &BTreeMap<String, String>,
) -> Result<Lock> {
    let claimed = record.image.image();
    let name = key.strip_prefix("image.").and_then(|id| names.get(id)).map_or(claimed, String::as_str);
    let image = ImageSpec::new(&place.0, place.1.as_deref(), name)?;
    let alive = alive.contains(&heartbeat::cookie(&record.owner));
    Ok(Lock::of((key, raw), image, record, alive))
}

impl OwnerAdmin for Admin {
    fn resolve(&self, name: &VolumeName) -> Result<ImageSpec> {
        Self::resolve(self, name)
    }

    fn locks(&self, watched: Watched) -> Result<Locks> {
        Self::locks(self, watched)
    }

    fn break_lock(&self, spec: &ImageSpec, force: bool) -> Result<Vec<Lock>> {
        Self::break_lock(self, spec, force)
    }

    fn break_advisory(&self, spec: &ImageSpec, force: bool) -> Result<Option<Unlocked>> {
        Self::break_advisory(self, spec, force)
    }

    fn fence_host(&self, host: &str) -> Result<Locks> {
        Self::fence_host(self, host)
    }

    fn fences(&self) -> Result<Vec<Fence>> {
        Self::fences(self)
    }

    fn fence_lasts(&self) -> Duration {
        Self::fence_lasts(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::admin::tests::parsed;

    #[test]
    fn a_blocklist_that_cannot_be_read_is_not_an_empty_one() {
        let raw = serde_json::json!({
            "host": "h", "boot_id": "b", "plugin": "rbd", "root": "/m", "since": 0, "client_addr": "10.0.0.7:0/31",
            "mount_ids": [], "image": "rbd/foo",
        });
        let mut locks = Locks { found: vec![parsed(&raw)], ..Locks::default() };
        locks.note_fences(Blocklist::parse(br#"[{"addr":"10.0.0.7:0/31","until":"x"}]"#));
        assert!(locks.unseen.is_empty() && locks.found[0].fenced_by.is_some());
        let mut locks = Locks { found: vec![parsed(&raw)], ..Locks::default() };
        locks.note_fences(Blocklist::parse(b"nonsense"));
        assert_eq!(locks.found[0].fenced_by, None);
        let told = locks.unseen[0].to_string();
        assert!(
            told.contains("not known which clients are blocklisted") && told.contains("not understood"),
            "{told}"
        );
    }
}

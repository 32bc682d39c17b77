//! A plugin on a host of the model: what the driver and the rbd backend do around the protocol, one call after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rbd_docker_plugin::coordination::memory::{Client, Gate, KernelClient, Memory};
use rbd_docker_plugin::coordination::record::{self, OBJECT};
use rbd_docker_plugin::coordination::{ClusterKv, Keys, Mappings, Owners, Place, Reading, Settings, Swap};
use rbd_docker_plugin::model::error::{DriverError, ErrorKind, Result};
use rbd_docker_plugin::model::name::ImageSpec;
use rbd_docker_plugin::model::owner::Owner;
use rbd_docker_plugin::model::store::Look;
use rbd_docker_plugin::model::stored::Unknown;

use crate::schedule::{Fate, Open, Schedule, Turn};

/// Mistakes of the past that a history may be run with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mistakes {
    /// A recorded address is replaced while its mapping lives.
    pub(crate) replaces_live_addresses: bool,
    /// A look writes records of volumes that were released meanwhile.
    pub(crate) looks_write: bool,
    /// Entries of whole hosts on the blocklist are not seen.
    pub(crate) sees_single_clients_only: bool,
    /// Whoever is followed is shut out for an hour.
    pub(crate) fences_for_an_hour: bool,
}

pub(crate) fn place() -> Place {
    ("rbd".to_owned(), None)
}

/// Who the plugin of a host is in one of its boots.
pub(crate) fn identity(host: usize, boot: usize) -> Owner {
    Owner {
        host: format!("host{host}"),
        machine_id: format!("machine{host}"),
        firmware_id: format!("firmware{host}"),
        boot_id: format!("boot{host}.{boot}"),
        plugin: "rbd".to_owned(),
        root: PathBuf::from("/m"),
        since: 0,
        client_addr: None,
        mount_ids: Vec::new(),
        unknown: Unknown::default(),
    }
}

/// The plugin of one host in one life.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) host: usize,
    memory: Arc<Memory>,
    schedule: Arc<Schedule>,
    pub(crate) owners: Owners,
    /// The client of each of its threads.
    clients: Mutex<BTreeMap<usize, Client>>,
    /// The volumes that the driver has in its table, with the kernel's clients.
    volumes: Mutex<BTreeMap<ImageSpec, String>>,
    /// Volumes with something left to undo.
    unsettled: Mutex<BTreeSet<ImageSpec>>,
    /// Volumes that an operation holds.
    guarded: Mutex<BTreeSet<ImageSpec>>,
    mistakes: Mistakes,
    /// Whether the cluster has said what an earlier life has on record.
    knows_own: Mutex<bool>,
    /// Whether a mapping that is there already is overlooked once.
    pub(crate) overlooks: Mutex<bool>,
}

struct Guard<'a>(&'a Plugin, ImageSpec);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.guarded.lock().unwrap().remove(&self.1);
    }
}

impl Plugin {
    pub(crate) fn new(
        memory: &Arc<Memory>,
        schedule: &Arc<Schedule>,
        host: usize,
        boot: usize,
        settings: Settings,
        mistakes: Mistakes,
    ) -> Arc<Self> {
        Arc::new(Self {
            host,
            memory: Arc::clone(memory),
            schedule: Arc::clone(schedule),
            owners: Owners::new(identity(host, boot), settings),
            clients: Mutex::default(),
            volumes: Mutex::default(),
            unsettled: Mutex::default(),
            guarded: Mutex::default(),
            mistakes,
            knows_own: Mutex::default(),
            overlooks: Mutex::default(),
        })
    }

    /// The client of a thread: another one once it is shut out.
    fn client(&self, worker: usize) -> Client {
        let gate = || Arc::new(Turn(Arc::clone(&self.schedule), worker)) as Arc<dyn Gate>;
        let mut clients = self.clients.lock().unwrap();
        let fresh = || Client::new(&self.memory, self.host, gate());
        let client = clients.entry(worker).or_insert_with(fresh);
        if client.is_shut_out() {
            *client = Client::new(&self.memory, self.host, gate());
        }
        client.clone()
    }

    fn guard(&self, spec: &ImageSpec) -> Option<Guard<'_>> {
        self.guarded.lock().unwrap().insert(spec.clone()).then(|| Guard(self, spec.clone()))
    }

    pub(crate) fn mounted(&self) -> Vec<ImageSpec> {
        self.volumes.lock().unwrap().keys().cloned().collect()
    }

    /// The heart beats wherever it has begun to.
    pub(crate) fn beat(&self) {
        let kv = Client::new(&self.memory, self.host, Arc::new(Open));
        for at in self.owners.heartbeat.places() {
            let _ = self.owners.heartbeat.beat(&kv, &at);
        }
    }

    /// Before the kernel is asked for something: false when the plugin is no more.
    fn goes_on(&self, worker: usize, call: &'static str) -> bool {
        Turn(Arc::clone(&self.schedule), worker).pass(call);
        self.schedule.fate(worker) != Fate::Dead
    }

    /// One that fails leaves its volume to be settled.
    pub(crate) fn mount(&self, worker: usize, spec: &ImageSpec) {
        let Some(_guard) = self.guard(spec) else { return };
        if self.volumes.lock().unwrap().contains_key(spec) {
            return;
        }
        if self.unsettled.lock().unwrap().contains(spec) && self.restore(worker, spec).is_err() {
            return;
        }
        // The rollback of a claim whose answer was lost is a release.
        if let Err(_failed) = self.try_mount(worker, spec)
            && self.release(worker, spec).is_err()
        {
            self.unsettled.lock().unwrap().insert(spec.clone());
        }
    }

    fn try_mount(&self, worker: usize, spec: &ImageSpec) -> Result<()> {
        let kv = self.client(worker);
        let Some(id) = self.owners.claim(&kv, &kv, spec, None)? else { return self.release(worker, spec) };
        self.owners.complete_claim(&kv, &kv, spec, &id, false)?;
        let overlooked = std::mem::take(&mut *self.overlooks.lock().unwrap());
        if !overlooked && kv.of(&place(), &id)?.is_some() {
            // Left by an earlier life, and brought to rest later.
            self.unsettled.lock().unwrap().insert(spec.clone());
            return Ok(());
        }
        if !self.goes_on(worker, "map") {
            return Ok(());
        }
        let Some((address, mapped)) = self.memory.map(self.host, spec) else {
            return self.release(worker, spec);
        };
        let noted = if mapped == id {
            self.owners.note_address(&kv, &kv, spec, &id, &address)
        } else {
            // The name is another image's by now.
            Err(DriverError::new(ErrorKind::Busy, "made anew"))
        };
        if let Err(e) = noted {
            if self.goes_on(worker, "unmap") {
                self.memory.unmap(&address);
            }
            return Err(e);
        }
        if self.goes_on(worker, "mount") {
            self.memory.mount(&address, true);
            self.volumes.lock().unwrap().insert(spec.clone(), address);
        }
        Ok(())
    }

    pub(crate) fn unmount(&self, worker: usize, spec: &ImageSpec) {
        let Some(_guard) = self.guard(spec) else { return };
        self.take_down(worker, spec);
    }

    /// Unmounts, unmaps, and gives back.
    fn take_down(&self, worker: usize, spec: &ImageSpec) {
        if !self.goes_on(worker, "umount") {
            return;
        }
        let Some(address) = self.volumes.lock().unwrap().remove(spec) else { return };
        self.memory.mount(&address, false);
        if !self.goes_on(worker, "unmap") {
            return;
        }
        self.memory.unmap(&address);
        if self.release(worker, spec).is_err() {
            self.unsettled.lock().unwrap().insert(spec.clone());
        }
    }

    fn release(&self, worker: usize, spec: &ImageSpec) -> Result<()> {
        let kv = self.client(worker);
        self.owners.release(&kv, &kv, spec, |_| Ok(false))
    }

    /// Looks at what is mounted, gives up what is lost, and mends what is amiss.
    pub(crate) fn look(&self, worker: usize) {
        let specs = self.mounted();
        let before = if self.mistakes.looks_write {
            self.client(worker).keys(&place(), OBJECT)
        } else {
            Ok(Keys::new())
        };
        let Ok(look) = self.see(worker, &specs) else { return };
        for (spec, _why) in look.lost {
            if let Some(_guard) = self.guard(&spec) {
                self.take_down(worker, &spec);
            }
        }
        for spec in look.amiss {
            let kv = self.client(worker);
            let guard = self.guard(&spec);
            let is_mounted = guard.is_some() && self.volumes.lock().unwrap().contains_key(&spec);
            if is_mounted && let Ok(Some(_lost)) = self.owners.mend(&kv, &kv, &spec, |_| Ok(false)) {
                self.take_down(worker, &spec);
            }
            for (key, raw) in before.iter().flatten().filter(|(_, raw)| is_of(raw, self.host, &spec)) {
                let swap = Swap { key, expected: None, new: Some(raw) };
                let _ = kv.swap(&place(), OBJECT, &[swap]);
            }
        }
    }

    fn see(&self, worker: usize, specs: &[ImageSpec]) -> Result<Look> {
        let kv = self.client(worker);
        let (fenced, mappings) = (kv.blocklist()?, kv.list()?);
        let mut look = Look::default();
        if !specs.is_empty() {
            let reading = Reading { mappings: &mappings, fenced: &fenced };
            let specs: Vec<&ImageSpec> = specs.iter().collect();
            self.owners.look_in(&kv, &place(), &specs, reading, &mut look)?;
        }
        Ok(look)
    }

    /// Brings to rest what an operation, or an earlier life, could not.
    pub(crate) fn settle(&self, worker: usize) {
        self.learn_own(worker);
        let unsettled = self.unsettled.lock().unwrap().clone();
        for spec in unsettled {
            if let Some(_guard) = self.guard(&spec) {
                let _ = self.restore(worker, &spec);
            }
        }
    }

    /// What is mounted for containers is adopted, everything else that is ours is taken down.
    fn restore(&self, worker: usize, spec: &ImageSpec) -> Result<()> {
        let kv = self.client(worker);
        // What is mapped and not mounted, of another image than the name means now.
        if let Ok(now) = kv.image_id(spec) {
            let stale = |(_, kernel): &(String, KernelClient)| {
                kernel.spec == *spec && !kernel.mounted && now.as_ref() != Some(&kernel.image)
            };
            for (address, _) in self.memory.kernels(self.host).into_iter().filter(stale) {
                if self.goes_on(worker, "unmap") {
                    self.memory.unmap(&address);
                }
            }
        }
        let claimed = self.owners.claim(&kv, &kv, spec, None);
        let here = |mounted: bool| {
            let all = self.memory.kernels(self.host).into_iter();
            all.filter(move |(_, kernel)| kernel.mounted == mounted && kernel.spec == *spec)
        };
        if let Some((address, kernel)) = here(true).next() {
            if let Ok(Some(id)) = &claimed
                && *id != kernel.image
            {
                // Another image than the one that has this name now: it is left alone and told of.
                self.release(worker, spec)?;
                return Err(DriverError::new(ErrorKind::InUse, "mounted, and not by this plugin"));
            }
            // Whoever has taken it over shows in the next look.
            self.volumes.lock().unwrap().insert(spec.clone(), address);
            if let Ok(Some(id)) = &claimed {
                self.owners.complete_claim(&kv, &kv, spec, id, false)?;
            }
        } else {
            match claimed {
                Err(e) if e.kind != ErrorKind::InUse => return Err(e),
                _ => {}
            }
            for (address, _) in here(false) {
                if !self.goes_on(worker, "unmap") {
                    return Ok(());
                }
                self.memory.unmap(&address);
            }
            self.release(worker, spec)?;
        }
        self.unsettled.lock().unwrap().remove(spec);
        Ok(())
    }

    /// What a new life of the plugin begins with.
    pub(crate) fn recover(&self, worker: usize) {
        let mapped = self.memory.kernels(self.host).into_iter().map(|(_, kernel)| kernel.spec);
        self.unsettled.lock().unwrap().extend(mapped);
        self.settle(worker);
    }

    /// Asked until the cluster has answered once.
    fn learn_own(&self, worker: usize) {
        if *self.knows_own.lock().unwrap() {
            return;
        }
        let kv = self.client(worker);
        if let Ok(keys) = kv.keys(&place(), OBJECT) {
            self.unsettled.lock().unwrap().extend(self.owners.found(&place(), keys));
            *self.knows_own.lock().unwrap() = true;
        }
    }

    /// Looks for records of its own that it does not use, as the driver does now and then.
    pub(crate) fn search(&self, worker: usize) {
        let kv = self.client(worker);
        let Ok(recorded) = self.owners.recorded(&kv, &place()) else { return };
        let volumes = self.mounted();
        let idle = recorded.into_iter().filter(|spec| !volumes.contains(spec));
        self.unsettled.lock().unwrap().extend(idle);
        self.settle(worker);
    }
}

/// Whether a record is of a host, for the image of a volume.
fn is_of(raw: &[u8], host: usize, spec: &ImageSpec) -> bool {
    let record = record::OwnerRecord::parse(raw).unwrap();
    record.owner.host == format!("host{host}") && record.image == *spec
}

/// The kernel's clients that the records of a host name.
pub(crate) fn recorded_clients(memory: &Arc<Memory>, host: usize) -> Vec<String> {
    let kv = Client::new(memory, usize::MAX - 1, Arc::new(Open));
    let records = record::all(&kv, &place()).unwrap().into_values();
    let records = records.map(|raw| record::OwnerRecord::parse(&raw).unwrap().owner);
    records
        .filter(|owner| owner.host == format!("host{host}"))
        .filter_map(|owner| owner.client_addr)
        .collect()
}

/// What is on record, for people.
pub(crate) fn records(memory: &Arc<Memory>) -> Vec<String> {
    let kv = Client::new(memory, usize::MAX - 1, Arc::new(Open));
    let told = |(key, raw): (String, Vec<u8>)| {
        let record::OwnerRecord { owner, image, .. } = record::OwnerRecord::parse(&raw).unwrap();
        let address = owner.client_addr.unwrap_or_default();
        format!("{key}: {image} of {} in {} at {address}", owner.host, owner.boot_id)
    };
    record::all(&kv, &place()).unwrap().into_iter().map(told).collect()
}

/// An administrator shuts a host out, `fence HOST`: all that its records name, and then the records.
pub(crate) fn fence_host(memory: &Arc<Memory>, host: usize, lasts: std::time::Duration) {
    let kv = Client::new(memory, usize::MAX - 1, Arc::new(Open));
    let name = format!("host{host}");
    for raw in record::all(&kv, &place()).unwrap().into_values() {
        let found = record::OwnerRecord::parse(&raw).unwrap();
        if found.owner.host == name {
            found.addresses().iter().for_each(|address| memory.block(address, lasts));
        }
    }
    forget_host(memory, host);
}

/// The records of a host are removed by hand.
pub(crate) fn forget_host(memory: &Memory, host: usize) {
    let name = format!("host{host}");
    memory.remove_keys(&place(), OBJECT, |_, raw| {
        record::OwnerRecord::parse(raw).is_ok_and(|record| record.owner.host == name)
    });
}

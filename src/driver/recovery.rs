//! From any state that a crash, a failed rollback or somebody's hand can leave to one that is whole.
//!
//! [`restore`](Driver::restore) brings one volume to rest: what is mounted for a container stays and is adopted, everything else
//! that is ours is taken down. It looks only at the kernel, the backend and the mount IDs on disk, and may itself be killed
//! anywhere. It runs at start for every volume that bears a trace of us (before the socket answers), and later, from
//! [`tick`](Driver::tick), for those that an operation could not settle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use super::kind::Attach;
use super::refs::Refs;
use super::table::MountedVolume;
use super::{Driver, SHORT};
use crate::lock;
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::image::{ImageInfo, LeftOut, Listing};
use crate::model::mount::{Attached, Mounted};
use crate::model::name::ImageSpec;
use crate::model::stored::{self, NotUnderstood};

/// How often the background thread looks after unsettled and orphaned volumes.
const TICK: Duration = Duration::from_secs(1);

/// How often to look whether mounted volumes were taken over.
const LOOK: Duration = Duration::from_secs(5);

/// How often to look for images that this plugin owns and does not use.
const SEARCH: Duration = Duration::from_secs(180);

/// What a start asks first.
const OWN: &str = "which images this plugin owns";

/// How long a start waits for the volumes to be restored.
const STARTS: Duration = Duration::from_secs(20);

/// The longest pause between two tries of one volume.
const LONGEST: Duration = Duration::from_secs(30);

impl Driver {
    /// Restores every volume that bears a trace of us, all at once. A volume that cannot be restored is left as it is, told of and
    /// tried again; one that hangs in the kernel is waited for only so long: it must not keep the others from being served.
    pub(super) fn recover(self: &Arc<Self>) -> Result<()> {
        let (specs, unseen) = self.traces()?;
        match unseen {
            Ok(left_out) => {
                for out in &left_out {
                    tracing::error!(place = %out.name(), error = %out.why, "cannot see yet which images this plugin owns there");
                }
                *lock(&self.unseen) = Some(left_out);
            }
            Err(e) => drop(self.told.answer::<()>(OWN, Err(e))),
        }
        // Until it is restored, an operation on a volume restores it first.
        specs.iter().for_each(|spec| self.mark_unsettled(spec));
        let count = specs.len();
        self.restoring.store(count, Ordering::SeqCst);
        self.host.trim_soon();
        let (done, restored) = mpsc::channel();
        for spec in specs {
            let done = done.clone();
            self.in_background(move |driver| {
                let guard = driver.guards.lock(&spec, Deadline::after(SHORT));
                if let Err(e) = guard.and_then(|_guard| driver.restore(&spec)) {
                    tracing::error!(image = %spec, error = %e, "could not be restored, trying again later");
                }
                driver.restoring.fetch_sub(1, Ordering::SeqCst);
                let _ = done.send(());
            });
        }
        drop(done);
        let until = Deadline::after(STARTS);
        for at in 0..count {
            if restored.recv_timeout(until.left()).is_err() {
                tracing::error!("{} volumes are not restored yet; serving the others", count - at);
                break;
            }
        }
        Ok(())
    }

    /// The volumes that bear a trace of us: an owner record, mount IDs, a mount. Also where there may be owner records that are not known.
    pub(super) fn traces(&self) -> Result<(BTreeSet<ImageSpec>, Result<Vec<LeftOut>>)> {
        let mut specs = BTreeSet::new();
        let unseen = self.kind.owned().map(|owned| {
            specs.extend(owned.specs);
            owned.left_out
        });
        let refs = self.host.files(&self.settings.refs)?;
        specs.extend(refs.iter().filter_map(|file| ImageSpec::from_file_name(file.strip_suffix(".json")?)));
        specs.extend(self.host.mounts()?.iter().filter_map(|mount| {
            let place = || ImageSpec::from_place(mount.target.strip_prefix(&self.settings.root).ok()?);
            self.kind.trace(mount).or_else(place)
        }));
        Ok((specs, unseen))
    }

    /// See the module. The caller holds the volume's guard. What fails is tried again.
    pub(super) fn restore(&self, spec: &ImageSpec) -> Result<()> {
        // Again when its last use was dropped meanwhile.
        while !self.restore_once(spec).inspect_err(|_| self.mark_unsettled(spec))? {}
        Ok(())
    }

    fn restore_once(&self, spec: &ImageSpec) -> Result<bool> {
        let mountpoint = self.mountpoint(spec);
        let mounts = self.host.mounts()?;
        let refs = self.refs_of(spec)?;
        // It may be in use, or not to be seen now: the volume that has the name is brought to rest all the same.
        if let Err(e) = self.kind.sweep_renamed(spec, &mounts) {
            tracing::warn!(image = %spec, error = %e, "what was attached under its name and is renamed stays");
        }
        let claimed = self.kind.claim(spec);
        if let Some(here) = mounts.iter().rev().find(|mount| mount.target == mountpoint) {
            let attached = match self.attached_of(spec, here, refs.is_some()) {
                // The claim would keep others from an image that is not what is mounted.
                Err(e) if claimed.is_ok() => {
                    return Err(match self.kind.release(spec) {
                        Ok(()) => e,
                        Err(failure) => e.also(failure),
                    });
                }
                attached => attached?,
            };
            match &refs {
                Some(refs) if !refs.uses.is_empty() => {
                    if !self.adopt(spec, |refs| MountedVolume { refs, attached })? {
                        return Ok(false);
                    }
                    match claimed {
                        Err(e) if e.kind == ErrorKind::InUse => {
                            tracing::error!(image = %spec, error = %e, "is mounted here, but not ours any more");
                        }
                        Err(e) => {
                            tracing::warn!(image = %spec, error = %e, "is mounted here; it is claimed later");
                        }
                        Ok(()) => {}
                    }
                    return Ok(true);
                }
                _ => {
                    claimed.clone()?;
                    tracing::warn!(image = %spec, "unmounting what no container uses");
                    self.host.unmount(&mountpoint)?;
                }
            }
        }
        if let Some(refs) = &refs
            && !refs.uses.is_empty()
            && !mounts.iter().any(|mount| mount.target == mountpoint)
            && self.mount_again(spec, &claimed)?
        {
            return Ok(!self.is_unsettled(spec));
        }
        if refs.is_some() && claimed.as_ref().is_err_and(|e| e.kind == ErrorKind::InUse) {
            self.drop_dead_mapping(spec)?;
        }
        self.forget_uses(spec)?;
        self.host.remove_dir(&mountpoint)?;
        match claimed {
            Ok(()) => self.take_down_unmounted(spec, &mounts)?,
            Err(e) if e.kind == ErrorKind::InUse => {
                tracing::info!(image = %spec, error = %e, "belongs to somebody else now");
            }
            Err(e) => return Err(e),
        }
        self.entries.change(spec, |entry| entry.unsettled = false);
        Ok(true)
    }

    /// What is mounted here, if it is the volume; while the backend is away, the mount IDs on disk are believed.
    fn attached_of(&self, spec: &ImageSpec, here: &Mounted, known: bool) -> Result<Attached> {
        let attached = match self.kind.attached(spec, here) {
            Err(e) if known => {
                tracing::error!(image = %spec, error = %e, "cannot see its device, believing its mount IDs");
                Some(Attached::from(here))
            }
            attached => attached?,
        };
        attached.ok_or_else(|| {
            DriverError::new(
                ErrorKind::InUse,
                format!("{} is mounted at {}, where {spec} belongs", here.source, here.target.display()),
            )
            .hint("unmount it; this plugin did not mount it")
        })
    }

    /// Mounts a volume again that was unmounted behind our back under running containers, as an engine does with all that a managed
    /// plugin has mounted when it is disabled by force. They go on using it, and Docker will unmount it for each of them; the kernel
    /// gives what they have. Containers that ended meanwhile will not be unmounted, and nobody can say which: so the uses
    /// are nobody's. Whether there was one to mount: what nobody holds is taken down instead.
    fn mount_again(&self, spec: &ImageSpec, claimed: &Result<()>) -> Result<bool> {
        match claimed {
            Err(e) if e.kind == ErrorKind::InUse => return Ok(false),
            claimed => claimed.clone()?,
        }
        let mountpoint = self.mountpoint(spec);
        let mut before = || {
            let _short = self.lock_uses(spec);
            // Before the mount: whoever finds that believes these.
            match self.change_uses(spec, |refs| *refs = refs.of_nobody())? {
                Some(((), _, saved)) => saved,
                None => Ok(()),
            }
        };
        let job = Attach { spec, mountpoint: &mountpoint, volumes: self, deadline: Deadline::after(SHORT) };
        let Some(attached) = self.kind.attach_again(job, &mut before)? else { return Ok(false) };
        tracing::warn!(image = %spec, "was unmounted under running containers, mounted again");
        if !self.adopt(spec, |refs| MountedVolume { refs, attached })? {
            self.mark_unsettled(spec);
        }
        Ok(true)
    }

    /// What is ours below the mountpoint: what the kind has left here, a half-made volume, ownership.
    fn take_down_unmounted(&self, spec: &ImageSpec, mounts: &[Mounted]) -> Result<()> {
        self.kind.sweep(spec, mounts)?;
        let info = self.kind.info(spec)?;
        if info.is_none() {
            // A Remove may have died after it; a name that stayed bound would lead the next Create astray.
            self.unbind(spec)?;
        }
        if let Some(half) = info.filter(ImageInfo::is_half_made) {
            match self.kind.clear(spec, &half) {
                Ok(()) => tracing::warn!(image = %spec, "removed what a Create or Remove left half done"),
                // Another host may be able to look into what this one cannot.
                Err(e) if matches!(e.kind, ErrorKind::ForeignData | ErrorKind::MissingTool) => {
                    tracing::error!(error = %e, "left alone");
                }
                Err(e) => return Err(e),
            }
        }
        self.kind.release(spec)
    }

    /// The mount IDs on disk, if they speak of this boot.
    pub(super) fn load_refs(&self, spec: &ImageSpec) -> Result<Option<Refs>> {
        let Some(content) = self.host.load(&self.refs_file(spec))? else { return Ok(None) };
        match stored::read::<Refs>(&content) {
            Ok(refs) if refs.boot_id == self.settings.boot_id && refs.spec == *spec => Ok(Some(refs)),
            Ok(_) => Ok(None),
            // Somebody used it, nobody can say who: until no container holds the device.
            Err(e @ NotUnderstood::Damaged(_)) => {
                tracing::error!(image = %spec, error = %e, "its mount IDs on disk are damaged");
                Ok(Some(Refs::unknown(&self.settings.boot_id, spec, self.mountpoint(spec))))
            }
            Err(newer) => Err(newer.of(&format!("the record of the mount IDs of {spec}"), String::new)),
        }
    }

    /// Does what [`tick`](Self::tick) does in the background for as long as the driver lives, each volume on a thread of its own:
    /// one that hangs in the kernel must not keep the others waiting. A volume that stays unsettled is tried ever less often.
    pub fn look_after(self: &Arc<Self>) -> std::io::Result<()> {
        let driver: Weak<Self> = Arc::downgrade(self);
        std::thread::Builder::new().name("look-after".to_owned()).spawn(move || {
            let mut tries: BTreeMap<ImageSpec, (Instant, Duration)> = BTreeMap::new();
            let mut last_look = Instant::now();
            let mut last_search = Instant::now();
            while let Some(driver) = driver.upgrade() {
                driver.cache.flush();
                let unsettled = driver.entries.those(|entry| entry.unsettled);
                tries.retain(|spec, _| unsettled.contains(spec));
                for spec in unsettled {
                    let (next, pause) = tries.entry(spec.clone()).or_insert_with(|| (Instant::now(), TICK));
                    if *next <= Instant::now() {
                        (*next, *pause) = (Instant::now() + *pause, (*pause * 2).min(LONGEST));
                        driver.in_background(move |driver| driver.settle(&spec));
                    }
                }
                driver.collect_usage();
                if driver.is_pulse_old() {
                    driver.in_background(Self::feel_pulse);
                }
                if driver.has_to_learn() {
                    driver.in_background(Self::learn_own);
                }
                if last_search.elapsed() >= SEARCH {
                    last_search = Instant::now();
                    driver.in_background(Self::look_for_leftovers);
                }
                if last_look.elapsed() >= LOOK {
                    last_look = Instant::now();
                    driver.in_background(|driver| {
                        // One at a time: with a store that hangs they would pile up.
                        let Ok(_alone) = driver.looking.try_lock() else { return };
                        driver.look_for_lost();
                        driver.note_uses();
                    });
                }
                let due = driver.due_orphans();
                if !due.is_empty() {
                    driver.in_background(move |driver| driver.end_orphans(&due));
                }
                driver.host.trim_if_wanted();
                drop(driver);
                std::thread::sleep(TICK);
            }
        })?;
        Ok(())
    }

    /// Runs work on a thread of its own. Whoever is at work on a volume holds its guard, so nobody else begins.
    pub(super) fn in_background(self: &Arc<Self>, work: impl FnOnce(&Self) + Send + 'static) {
        let driver = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("settle".to_owned()).spawn(move || work(&driver));
        if let Err(e) = spawned {
            tracing::error!(error = %e, "no thread for the background work");
        }
    }

    fn has_to_learn(&self) -> bool {
        let silent: BTreeSet<String> =
            self.kind.pools().into_iter().filter_map(|(pool, why)| why.map(|_| pool)).collect();
        let unseen = lock(&self.unseen);
        unseen.as_ref().is_none_or(|unseen| unseen.iter().any(|out| !silent.contains(&out.pool)))
    }

    /// Asks again for the images that this plugin owns, where the backend did not tell at the start; those that are not mounted are
    /// brought to rest.
    fn learn_own(&self) {
        let Ok(_alone) = self.learning.try_lock() else { return };
        if !self.has_to_learn() {
            return;
        }
        let owned = self.told.answer(OWN, self.kind.owned());
        let Some(Listing { specs, mut left_out }) = owned else { return };
        let mut unseen = lock(&self.unseen);
        let is_news =
            |spec: &ImageSpec| unseen.as_ref().is_none_or(|unseen| unseen.iter().any(|out| out.covers(spec)));
        for spec in specs.iter().filter(|spec| is_news(spec) && self.table.get(spec).is_none()) {
            // An operation may be at work on it; then it is settled after that one.
            self.mark_unsettled(spec);
        }
        if let Some(unseen) = &*unseen {
            // What was seen once is known.
            left_out.retain(|out| unseen.iter().any(|before| before.pool == out.pool));
        }
        *unseen = Some(left_out);
    }

    /// Brings images to rest that this plugin owns on record and has nothing to do with: whatever left such a record, other hosts wait for it.
    fn look_for_leftovers(&self) {
        let Ok(_alone) = self.learning.try_lock() else { return };
        let owned =
            self.told.answer("whether this plugin owns images that it does not use", self.kind.leftovers());
        let Some(owned) = owned else { return };
        for spec in owned {
            // Whoever holds the guard is at work on it.
            let Some(_guard) = self.guards.try_lock(&spec) else { continue };
            let is_owned = || self.kind.owner(&spec, None).is_ok_and(|owner| owner.is_some());
            if self.table.get(&spec).is_none() && is_owned() {
                tracing::warn!(image = %spec, "is owned and not used: bringing it to rest");
                self.mark_unsettled(&spec);
            }
        }
    }

    /// Tries unsettled volumes again, and drops the uses of engines that have been gone for the grace period, unless a
    /// container still holds the device. Skips volumes that an operation works on.
    pub fn tick(&self) {
        self.cache.flush();
        self.learn_own();
        self.look_for_leftovers();
        self.look_for_lost();
        self.note_uses();
        let unsettled = self.entries.those(|entry| entry.unsettled);
        unsettled.iter().for_each(|spec| self.settle(spec));
        self.end_orphans(&self.due_orphans());
    }

    /// Tries an unsettled volume again.
    fn settle(&self, spec: &ImageSpec) {
        let Some(_guard) = self.guards.try_lock(spec) else { return };
        match self.restore(spec) {
            Ok(()) => tracing::info!(image = %spec, "settled"),
            Err(e) => tracing::debug!(image = %spec, error = %e, "still unsettled"),
        }
    }
}

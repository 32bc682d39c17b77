//! Images as kernel devices.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::RbdBackend;
use super::link::Session;
use super::monitors::Added;
use super::options::DEFAULTS;
use super::osdmap;
use super::{header, kinds};
use crate::backend::{Device, Mapper};
use crate::ceph::{Image, IoCtx, features};
use crate::coordination::advisory::locked;
use crate::linux::krbd::{Failure, Identity, Mapping, Request, kernel_speaks_msgr2};
use crate::linux::{blkdev, boot};
use crate::lock;
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;

/// How long the kernel may take to map: an exclusive lock is waited for as long as `lock_timeout`, and then some.
/// With the longest `--owner-wait` it is less than Docker gives a Mount.
const MAPS: Duration = Duration::from_secs(45);
/// How long a device may stay open after our unmount: udev and blkid look at it for a moment.
const SETTLES: Duration = Duration::from_secs(10);
/// How long a forced unmap may take: requests in flight are waited for.
const FORCED: Duration = Duration::from_secs(20);

impl RbdBackend {
    fn attach(&self, spec: &ImageSpec) -> Result<Device> {
        let kv = self.cluster()?;
        let session = Arc::clone(&kv.session);
        let io = session.of(spec)?;
        let missing = || DriverError::new(ErrorKind::NotFound, format!("{spec} does not exist"));
        let seen = self.seen.of(spec);
        self.seen.forget(spec);
        let (id, header) = match seen {
            // Should the name be another image's by now, the kernel maps that one, and its id says so.
            Some((id, header)) => (id, Some(header)),
            None => (header::id(&io, spec.image())?.ok_or_else(missing)?, None),
        };
        if !self.owners.holds(spec, &id) {
            // The claim is on an image, and this name is another image's by now.
            return Err(DriverError::new(
                ErrorKind::Busy,
                format!("{spec} was renamed or made anew meanwhile"),
            )
            .hint("try again"));
        }
        let header = match header {
            Some(header) => header,
            None => header::read(&io, &id)?.ok_or_else(missing)?,
        };
        self.check_data_pool(&session, &io, spec, (&id, header.features))?;
        let Some(kernel) = self.kernel.supported_features()? else {
            return Err(DriverError::new(ErrorKind::MissingTool, "the kernel module rbd is not loaded")
                .hint("modprobe rbd; to load it at every start: echo rbd > /etc/modules-load.d/rbd.conf"));
        };
        if let Some(trouble) = kinds::trouble(spec, &header, Some(kernel)) {
            return Err(trouble.why);
        }
        let options = header.record.map_or_else(ImageOptions::default, |stored| stored.record.options);
        let defaults = session.cluster.conf(DEFAULTS).unwrap_or_default();
        let mut words = self.map_options(&options, &defaults, header.features, spec)?;
        let monitors = session.monitors();
        let wire = session.cluster.conf("ms_client_mode").unwrap_or_default();
        let (addresses, added) = monitors.for_options(&words, &wire);
        if let Some(added) = added.filter(|_| addresses.is_empty()) {
            let message = format!("{}, and no monitor has a v2 address for the kernel", added.why);
            return Err(DriverError::new(ErrorKind::Config, message).hint("ceph mon enable-msgr2"));
        }
        words.extend(added.map(|added| added.word.to_owned()));
        let key = session.kernel_key()?;
        let request = Request {
            monitors: addresses,
            user: session.cluster.user(),
            key: key.as_ref(),
            options: &words,
            pool: spec.pool(),
            namespace: spec.namespace(),
            image: spec.image(),
            snapshot: None,
        };
        let identity = Identity {
            fsid: session.cluster.fsid(),
            pool_id: io.pool_id(),
            namespace: spec.namespace(),
            image_id: &id,
        };
        let asked = Asked { added, defaults };
        let mapping =
            self.kernel.map(request, identity, &self.maker, Deadline::after(MAPS)).map_err(|e| {
                match e.error.errno {
                    Errno::EACCES | Errno::EPERM => {
                        self.key_refused(spec, &e).unwrap_or_else(|| refused(&io, spec, e, &asked))
                    }
                    _ => refused(&io, spec, e, &asked),
                }
            })?;
        let hold = blkdev::open(&mapping.path).ok().map(Arc::new);
        if let Some(hold) = &hold {
            blkdev::read_ahead(hold);
        }
        if let Err(e) = self.owners.note_address(&kv, &self.host(&kv), spec, &id, &mapping.client_addr) {
            // Somebody has followed us meanwhile: nothing was written through it yet.
            // The last one to close a device waits for what is being read of it, as long as the cluster does not answer.
            drop(std::thread::Builder::new().name("rbd_close".to_owned()).spawn(move || drop(hold)));
            return Err(match self.kernel.unmap(mapping.id, false, Deadline::after(SETTLES)) {
                Ok(()) => e,
                Err(failure) => e.also(failure.into()),
            });
        }
        Ok(Device { hold, ..self.device(&mapping) })
    }

    /// Why the cluster does not take the key that the kernel was given, if that is so: a client that came in with an older one goes on
    /// for a while. Another one is tried, because nothing else tells a key that was changed from a capability that lacks.
    fn key_refused(&self, spec: &ImageSpec, failure: &Failure) -> Option<DriverError> {
        let e = Session::connect(&self.options).err().filter(|e| e.kind != ErrorKind::Unreachable)?;
        let kernel = &failure.error;
        Some(e.context(format!("the kernel may not map {spec} ({kernel})")))
    }

    /// The mapping of an image on this host, by its identity; while the cluster is away, or when the image is gone, what this plugin has
    /// mapped under its name.
    pub(super) fn find_mapping(&self, spec: &ImageSpec) -> Result<Option<Mapping>> {
        let identity = self.link.session().and_then(|session| {
            let io = session.of(spec)?;
            let id = match self.seen.of(spec) {
                Some((id, _)) => Some(id),
                None => header::id(&io, spec.image())?,
            };
            Ok((session.cluster.fsid().to_owned(), io.pool_id(), id))
        });
        match identity {
            Ok((fsid, pool_id, Some(id))) => {
                let identity = Identity { fsid: &fsid, pool_id, namespace: spec.namespace(), image_id: &id };
                Ok(self.kernel.find(identity)?)
            }
            Ok((fsid, _, None)) => self.mapped_under(spec, Some(&fsid)),
            Err(e) if matches!(e.kind, ErrorKind::NotFound | ErrorKind::Unreachable) => {
                self.mapped_under(spec, self.fsid().as_deref())
            }
            Err(e) => Err(e),
        }
    }

    /// What this plugin has mapped under a name that is another image's now, or none's.
    fn find_renamed(&self, spec: &ImageSpec) -> Result<Option<Mapping>> {
        let session = self.link.session()?;
        let id = header::id(&session.of(spec)?, spec.image())?;
        let fsid = Some(session.cluster.fsid());
        let is_it = |mapping: &Mapping| {
            self.may_be_ours(mapping, spec, fsid) && id.as_ref() != Some(&mapping.image_id)
        };
        Ok(self.kernel.find_where(is_it)?)
    }

    /// What this plugin has mapped under a name. Another cluster may have an image of that name, which another plugin of this host has
    /// mapped: with two that may be meant, neither is.
    fn mapped_under(&self, spec: &ImageSpec, fsid: Option<&str>) -> Result<Option<Mapping>> {
        let mut found = self.kernel.list()?;
        found.retain(|mapping| self.may_be_ours(mapping, spec, fsid));
        if found.len() > 1 {
            let paths: Vec<String> = found.iter().map(|mapping| mapping.path.display().to_string()).collect();
            return Err(DriverError::new(
                ErrorKind::Unreachable,
                format!(
                    "cannot tell which of {} is {spec}: the cluster cannot be asked",
                    paths.join(" and ")
                ),
            )
            .hint("it is looked at again when the cluster answers"));
        }
        Ok(found.pop())
    }

    /// Whether this plugin may have mapped it under this name.
    fn may_be_ours(&self, mapping: &Mapping, spec: &ImageSpec, fsid: Option<&str>) -> bool {
        mapping.snapshot.is_none()
            && is_named(mapping, spec)
            && fsid.is_none_or(|fsid| fsid == mapping.fsid)
            && self.has_made(mapping)
    }

    /// Whether a mapping bears this plugin's mark.
    pub(super) fn has_made(&self, mapping: &Mapping) -> bool {
        mapping.mark.as_ref().is_some_and(|mark| mark.may_be_of(&self.maker))
    }

    /// The id of our cluster, as far as it is known.
    fn fsid(&self) -> Option<String> {
        let answered = self.link.session().ok().map(|session| session.cluster.fsid().to_owned());
        answered.or_else(|| lock(&self.known_fsid).clone())
    }

    fn local_mapping(&self, spec: &ImageSpec) -> Result<Option<Device>> {
        Ok(self.find_mapping(spec)?.map(|mapping| self.device(&mapping)))
    }

    /// A mapping for the driver, which gives it back as a device by its number.
    fn device(&self, mapping: &Mapping) -> Device {
        lock(&self.devices).insert(mapping.number, mapping.clone());
        *lock(&self.known_fsid) = Some(mapping.fsid.clone());
        Device { path: mapping.path.clone(), number: mapping.number, hold: None }
    }

    /// The mapping behind a device of an image, if it is there still: device numbers are used again.
    fn behind(&self, spec: &ImageSpec, device: &Device) -> Result<Option<Mapping>> {
        let Some(mapping) = self.kernel.at(device.number)? else { return Ok(None) };
        let known = lock(&self.devices).get(&device.number).cloned();
        let same = match known {
            Some(known) => {
                (known.identity(), &known.client_addr) == (mapping.identity(), &mapping.client_addr)
            }
            // Found as a mount while the cluster was away.
            None => self.may_be_ours(&mapping, spec, self.fsid().as_deref()),
        };
        Ok(same.then_some(mapping))
    }
}

/// Whether it was mapped under this name.
fn is_named(mapping: &Mapping, spec: &ImageSpec) -> bool {
    (mapping.pool.as_str(), mapping.namespace.as_deref(), mapping.image.as_str())
        == (spec.pool(), spec.namespace(), spec.image())
}

/// An error for features that the kernel lacks, with the command that ends it.
pub(super) fn lacks(spec: &ImageSpec, has: u64, lacking: u64) -> DriverError {
    let message = format!("{spec} has features that this kernel lacks: {}", features::told(lacking));
    DriverError::new(ErrorKind::Failed, message).hint(without_features(spec, has, lacking))
}

/// What lets a kernel that lacks these features map the image, out of those that it has.
pub(super) fn without_features(spec: &ImageSpec, has: u64, lacking: u64) -> String {
    let removable = features::EXCLUSIVE_LOCK
        | features::OBJECT_MAP
        | features::FAST_DIFF
        | features::DEEP_FLATTEN
        | features::JOURNALING;
    if lacking & !removable != 0 {
        return "use a newer kernel".to_owned();
    }
    // What rests on one of them has to go with it.
    let go = features::with_dependents(lacking) & has;
    let mirrored = if go & features::JOURNALING != 0 {
        " (where it is mirrored by its journal, that ends its mirroring)"
    } else {
        ""
    };
    format!("rbd feature disable {spec} {}{mirrored}", features::names(go).join(","))
}

/// Where the options of a mapping come from that nobody gave with `map-options`.
#[derive(Debug)]
struct Asked {
    added: Option<Added>,
    defaults: String,
}

/// Which option the kernel may have refused.
fn refused_option(spec: &ImageSpec, said: &str, asked: &Asked) -> DriverError {
    let release = boot::release();
    let guess = if said.contains("ms_mode") { "" } else { " (a guess)" };
    match asked.added {
        Some(Added { why, word }) if kernel_speaks_msgr2() != Some(true) || said.contains("ms_mode") => {
            DriverError::new(
                ErrorKind::MissingTool,
                format!(
                    "this kernel ({release}) does not speak msgr2, and {why}: {spec} is not mapped{guess}"
                ),
            )
            .hint(format!(
                "use a newer kernel, or monitors with a v1 address; {word} was added because {why}"
            ))
        }
        _ if !asked.defaults.is_empty() => {
            DriverError::new(ErrorKind::Invalid, format!("the kernel refused an option of {spec}")).hint(
                format!("see map-options, and {DEFAULTS} in ceph.conf or in the cluster: {}", asked.defaults),
            )
        }
        _ => DriverError::new(ErrorKind::Invalid, format!("the kernel refused an option of {spec}"))
            .hint("see map-options"),
    }
}

/// What the kernel's refusal means, with its own words.
fn refused(io: &IoCtx, spec: &ImageSpec, failure: Failure, asked: &Asked) -> DriverError {
    let errno = failure.error.errno;
    let said = failure.kernel.join("; ");
    let mut error = match errno {
        Errno::ENOENT => DriverError::new(ErrorKind::NotFound, format!("{spec} does not exist")),
        Errno::EBUSY => Image::open_read_only(io, spec.image())
            .and_then(|image| image.lockers())
            .map_or_else(|_| DriverError::new(ErrorKind::InUse, format!("{spec} is locked")), |held| locked(spec, &held)),
        Errno::EROFS => DriverError::new(ErrorKind::InUse, format!("{spec}: its lock is held and not given up"))
            .hint(format!("somebody has it mapped with lock=exclusive; rbd status {spec} shows where")),
        Errno::ETIMEDOUT => DriverError::new(ErrorKind::Unreachable, format!("mapping {spec} took too long"))
            .hint(match osdmap::beyond_kernels(io.cluster()) {
                Ok(Some(why)) => format!("{why}: a guess; see the kernel log"),
                _ => "do the monitors and OSDs answer this host's kernel? See ceph -s".to_owned(),
            }),
        Errno::EACCES => DriverError::new(ErrorKind::Denied, format!("the cluster does not let the kernel map {spec}")),
        Errno::EPERM => DriverError::new(ErrorKind::Denied, format!("the kernel did not find the key for {spec}"))
            .hint("the plugin needs root, CAP_SYS_ADMIN and the add_key system call (a container's seccomp profile may forbid it)"),
        Errno::EINVAL => refused_option(spec, &said, asked),
        Errno::ENXIO => DriverError::new(ErrorKind::Failed, format!("the kernel cannot map {spec}"))
            .hint("it has a feature or a layout that this kernel lacks"),
        Errno::ESTALE => DriverError::new(ErrorKind::Failed, format!("{spec} is another image by now"))
            .hint("try again"),
        _ => DriverError::new(ErrorKind::Failed, format!("the kernel did not map {spec}")),
    };
    if !said.is_empty() {
        error.message.push_str(&format!(" (kernel: {said})"));
    }
    error.caused_by(failure.error)
}

impl Mapper for RbdBackend {
    fn map(&self, spec: &ImageSpec) -> Result<Device> {
        self.link.heed(self.attach(spec))
    }

    fn unmap(&self, spec: &ImageSpec, device: Device) -> Result<()> {
        let Some(mapping) = self.behind(spec, &device)? else { return Ok(()) };
        drop(device);
        self.kernel.unmap(mapping.id, false, Deadline::after(SETTLES)).map_err(|e| match e.errno {
            Errno::EBUSY => {
                let holders = self.kernel.holders(&mapping);
                let by =
                    if holders.is_empty() { String::new() } else { format!(" by {}", holders.join(", ")) };
                let message = format!("{spec}: its device {} is still open{by}", mapping.path.display());
                DriverError::new(ErrorKind::InUse, message)
                    .hint("end what has it open; another mount namespace may still have it mounted")
                    .caused_by(e)
            }
            _ => e.into(),
        })?;
        lock(&self.devices).remove(&mapping.number);
        Ok(())
    }

    fn abandon(&self, spec: &ImageSpec, device: Device) -> Result<()> {
        // By force, only what this plugin has mapped.
        let mapping = self.behind(spec, &device)?.filter(|mapping| self.has_made(mapping));
        let Some(mapping) = mapping else { return Ok(()) };
        self.kernel.unmap(mapping.id, true, Deadline::after(FORCED))?;
        lock(&self.devices).remove(&mapping.number);
        Ok(())
    }

    fn mapping(&self, spec: &ImageSpec) -> Result<Option<Device>> {
        self.link.heed(self.local_mapping(spec))
    }

    fn renamed_mapping(&self, spec: &ImageSpec) -> Result<Option<Device>> {
        let found = self.link.heed(self.find_renamed(spec))?;
        Ok(found.map(|mapping| self.device(&mapping)))
    }
}

//! Images as kernel devices.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::RbdBackend;
use super::advisory::locked;
use super::header;
use crate::backend::{Device, ImageOptions, Mapper};
use crate::ceph::{Image, IoCtx, features};
use crate::deadline::Deadline;
use crate::error::{DriverError, ErrorKind, Result};
use crate::linux::blkdev;
use crate::linux::krbd::{self, Failure, Identity, Mapping, Request};
use crate::name::ImageSpec;

/// How long the kernel may take to map: an exclusive lock is waited for as long as `lock_timeout`, and then some.
/// With the longest `--owner-wait` it is less than Docker gives a Mount.
const MAPS: Duration = Duration::from_secs(45);
/// How long a device may stay open after our unmount: udev and blkid look at it for a moment.
const SETTLES: Duration = Duration::from_secs(10);
/// How long a forced unmap may take: requests in flight are waited for.
const FORCED: Duration = Duration::from_secs(20);

impl RbdBackend {
    fn attach(&self, spec: &ImageSpec) -> Result<Device> {
        let session = self.link.session()?;
        let io = session.of(spec)?;
        let missing = || DriverError::new(ErrorKind::NotFound, format!("{spec} does not exist"));
        let seen = self.seen.of(spec);
        self.seen.forget(spec);
        let (id, header) = match seen {
            // Should the name be another image's by now, the kernel maps that one, and its id says so.
            Some((id, header)) => (id, Some(header)),
            None => (header::id(&io, spec.image())?.ok_or_else(missing)?, None),
        };
        if !self.holds(spec, &id) {
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
        let Some(kernel) = krbd::supported_features()? else {
            return Err(DriverError::new(ErrorKind::MissingTool, "the kernel module rbd is not loaded")
                .hint("modprobe rbd; to load it at every start: echo rbd > /etc/modules-load.d/rbd.conf"));
        };
        refuse_features(spec, header.features & !kernel)?;
        let options = header.record.map_or_else(ImageOptions::default, |stored| stored.record.options);
        let mut words = self.map_options(&options, header.features, spec)?;
        let monitors = session.monitors();
        let (addresses, needs) = monitors.for_options(&words);
        words.extend(needs.map(str::to_owned));
        let request = Request {
            monitors: addresses,
            user: session.cluster.user(),
            key: session.key.as_ref(),
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
        let mapping =
            krbd::map(request, identity, Deadline::after(MAPS)).map_err(|e| refused(&io, spec, e))?;
        let hold = blkdev::open(&mapping.path).ok().map(Arc::new);
        if let Some(hold) = &hold {
            blkdev::read_ahead(hold);
        }
        if let Err(e) = self.note_address(&io, spec, &id, &mapping.client_addr) {
            // Somebody has followed us meanwhile: nothing was written through it yet.
            // The last one to close a device waits for what is being read of it, as long as the cluster does not answer.
            drop(std::thread::Builder::new().name("rbd_close".to_owned()).spawn(move || drop(hold)));
            return Err(match krbd::unmap(mapping.id, false, Deadline::after(SETTLES)) {
                Ok(()) => e,
                Err(failure) => e.also(failure.into()),
            });
        }
        Ok(Device { hold, ..device(&mapping) })
    }

    /// The mapping of an image on this host, by its identity; while the cluster is away, or when the image is gone, by its name.
    pub(super) fn find_mapping(&self, spec: &ImageSpec) -> Result<Option<Mapping>> {
        let heads = |mapping: &Mapping| {
            mapping.snapshot.is_none() && mapping.namespace.as_deref() == spec.namespace()
        };
        let mut mappings: Vec<Mapping> = krbd::list()?.into_iter().filter(heads).collect();
        if mappings.is_empty() {
            return Ok(None);
        }
        let named = |mapping: &Mapping| {
            (mapping.pool.as_str(), mapping.image.as_str()) == (spec.pool(), spec.image())
        };
        let identity = self.link.session().and_then(|session| {
            let io = session.of(spec)?;
            let id = match self.seen.of(spec) {
                Some((id, _)) => Some(id),
                None => header::id(&io, spec.image())?,
            };
            Ok((session.cluster.fsid().to_owned(), io.pool_id(), id))
        });
        let at = match identity {
            Ok((fsid, pool, Some(id))) => mappings.iter().position(|mapping| {
                mapping.fsid == fsid && mapping.pool_id == pool && mapping.image_id == id
            }),
            Ok((fsid, _, None)) => mappings.iter().position(|mapping| mapping.fsid == fsid && named(mapping)),
            Err(e) if e.kind == ErrorKind::NotFound => mappings.iter().position(named),
            Err(e) if e.kind == ErrorKind::Unreachable => {
                // Any cluster's: told apart again when ours answers.
                mappings.iter().position(named)
            }
            Err(e) => return Err(e),
        };
        Ok(at.map(|at| mappings.swap_remove(at)))
    }

    /// The mapping of an image on this host that some plugin of this kind has made.
    pub(super) fn own_mapping(&self, io: &IoCtx, id: &str) -> Result<Option<Mapping>> {
        Ok(mapping_of(io, id)?.filter(|mapping| mapping.marked))
    }

    /// `InUse` when a free image is mapped on this host, by nobody's plugin: perhaps by the old one, which has it mounted and locked.
    pub(super) fn refuse_if_mapped_by_hand(&self, io: &IoCtx, spec: &ImageSpec, id: &str) -> Result<()> {
        match mapping_of(io, id)?.filter(|mapping| !mapping.marked) {
            Some(mapping) => Err(DriverError::new(
                ErrorKind::InUse,
                format!("{spec} is mapped to {}, not by this plugin", mapping.path.display()),
            )
            .hint("unmap it")),
            None => Ok(()),
        }
    }

    pub(super) fn local_mapping(&self, spec: &ImageSpec) -> Result<Option<Device>> {
        Ok(self.find_mapping(spec)?.as_ref().map(device))
    }
}

/// The mapping of an image on this host, by its id.
fn mapping_of(io: &IoCtx, id: &str) -> Result<Option<Mapping>> {
    let identity = Identity {
        fsid: io.cluster().fsid(),
        pool_id: io.pool_id(),
        namespace: io.namespace(),
        image_id: id,
    };
    Ok(krbd::list()?.into_iter().find(|mapping| mapping.is(identity)))
}

/// Whether it was mapped under this name. Device numbers are used again.
pub(super) fn is_named(mapping: &Mapping, spec: &ImageSpec) -> bool {
    (mapping.pool.as_str(), mapping.namespace.as_deref(), mapping.image.as_str())
        == (spec.pool(), spec.namespace(), spec.image())
}

fn device(mapping: &Mapping) -> Device {
    Device { path: mapping.path.clone(), number: mapping.number, hold: None }
}

/// An error for features that the kernel lacks, with the command that ends it.
fn refuse_features(spec: &ImageSpec, lacking: u64) -> Result<()> {
    if lacking == 0 {
        return Ok(());
    }
    let names = features::names(lacking).join(",");
    let message = format!("{spec} has features that this kernel lacks: {names}");
    Err(DriverError::new(ErrorKind::Failed, message).hint(without_features(spec, lacking)))
}

/// What lets a kernel that lacks these features map the image.
pub(super) fn without_features(spec: &ImageSpec, lacking: u64) -> String {
    let removable = features::EXCLUSIVE_LOCK
        | features::OBJECT_MAP
        | features::FAST_DIFF
        | features::DEEP_FLATTEN
        | features::JOURNALING;
    if lacking & !removable == 0 {
        format!("rbd feature disable {spec} {}", features::names(lacking).join(","))
    } else {
        "use a newer kernel".to_owned()
    }
}

/// What the kernel's refusal means, with its own words.
fn refused(io: &IoCtx, spec: &ImageSpec, failure: Failure) -> DriverError {
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
            .hint("do the monitors and OSDs answer this host's kernel? See ceph -s"),
        Errno::EACCES => DriverError::new(ErrorKind::Denied, format!("the cluster does not let the kernel map {spec}"))
            .hint(super::caps_hint(io.cluster().user())),
        Errno::EPERM => DriverError::new(ErrorKind::Denied, format!("the kernel did not find the key for {spec}"))
            .hint("the plugin needs root, CAP_SYS_ADMIN and the add_key system call (a container's seccomp profile may forbid it)"),
        Errno::EINVAL => DriverError::new(ErrorKind::Invalid, format!("the kernel refused an option of {spec}"))
            .hint("see map-options"),
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
        // Otherwise the device is gone, and its number is another image's.
        let mapping = krbd::at(device.number)?.filter(|mapping| is_named(mapping, spec));
        let Some(mapping) = mapping else { return Ok(()) };
        drop(device);
        krbd::unmap(mapping.id, false, Deadline::after(SETTLES)).map_err(|e| match e.errno {
            Errno::EBUSY => {
                let holders = krbd::holders(&mapping);
                let by =
                    if holders.is_empty() { String::new() } else { format!(" by {}", holders.join(", ")) };
                let message = format!("{spec}: its device {} is still open{by}", mapping.path.display());
                DriverError::new(ErrorKind::InUse, message)
                    .hint("end what has it open; another mount namespace may still have it mounted")
                    .caused_by(e)
            }
            _ => e.into(),
        })
    }

    fn abandon(&self, spec: &ImageSpec, device: Device) -> Result<()> {
        let mapping = krbd::at(device.number)?.filter(|mapping| is_named(mapping, spec));
        let Some(mapping) = mapping else { return Ok(()) };
        Ok(krbd::unmap(mapping.id, true, Deadline::after(FORCED))?)
    }

    fn mapping(&self, spec: &ImageSpec) -> Result<Option<Device>> {
        Ok(self.link.heed(self.find_mapping(spec))?.as_ref().map(device))
    }
}

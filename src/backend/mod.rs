//! Where images live and how they become devices.
//!
//! An [`ImageStore`] is the control plane: images, the record kept with each, the owner of each, the registry of bare names.
//! A [`Mapper`] is the data plane: image to block device and back; [`Disks`] are this host's devices. Contracts that hold for every method:
//!
//! * It is idempotent: what is already so is success.
//! * It may be killed at any instruction; what it leaves is described at the method.
//! * "Not there" is `Ok(None)` or [`ErrorKind::NotFound`](crate::model::error::ErrorKind); an outage is `Unreachable`, never "not there".
//! * The caller holds the volume's guard for all that changes one image; reads may come at any time.

pub mod disks;
#[cfg(any(test, feature = "fault-points"))]
pub mod fault;
pub mod local;
#[cfg(feature = "ceph")]
pub mod rbd;
pub mod sim;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use disks::Disks;

use crate::model::bindings::{Bindings, look_up};
use crate::model::error::{DriverError, Result};
use crate::model::filesystem::Content;
use crate::model::image::{ImageInfo, LeftOut, Listing, NoVolume};
use crate::model::mount::Mounted;
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::owner::Owner;
use crate::model::record::Record;
use crate::model::size::Size;
pub use crate::model::store::{Look, Pulse, Source};

/// Images and what is known of them.
pub trait ImageStore: fmt::Debug + Send + Sync {
    /// What is known of an image; `None` when there is neither an image nor a half-made one.
    fn info(&self, spec: &ImageSpec) -> Result<Option<ImageInfo>>;

    /// What the image holds, by its signatures, read without a mapping: somebody else may have it mapped.
    fn content(&self, spec: &ImageSpec) -> Result<Content>;

    /// What is known of an image that is not there under this name any more: where it is now, for an error.
    fn whereabouts(&self, _spec: &ImageSpec) -> Option<String> {
        None
    }

    /// Images that [`list`](Self::list) has left out when it was last asked, and why.
    fn no_volumes(&self) -> Vec<NoVolume> {
        Vec::new()
    }

    /// Refuses options that this backend cannot honour. Asked before anything is made.
    fn check_options(&self, options: &ImageOptions) -> Result<()> {
        options.refuse_rbd_only()
    }

    /// All images of all pools of which [`info`](Self::info) says that they are whole. An error only when nothing can be listed.
    fn list(&self) -> Result<Listing>;

    /// Makes a blank image with its record. The record is there before the image: killed between the two it leaves a
    /// half-made image ([`ImageInfo::size`] is `None`), and calling again completes it.
    fn create(&self, spec: &ImageSpec, size: Size, record: &Record) -> Result<()>;

    /// Replaces the record, atomically and durably.
    fn write_record(&self, spec: &ImageSpec, record: &Record) -> Result<()>;

    /// Whether there may be an image of this name: a look, without a claim and without a change. `false` is certain.
    fn may_exist(&self, spec: &ImageSpec) -> Result<bool> {
        Ok(self.info(spec)?.is_some_and(|info| !info.is_half_made()))
    }

    /// Whether the store answered last, where the backend keeps an eye on that: at once, and without asking it.
    fn reachable(&self) -> Result<()> {
        Ok(())
    }

    /// Whether nothing was ever written to the image (no block of it is allocated).
    fn is_untouched(&self, spec: &ImageSpec) -> Result<bool>;

    /// Throws all data of the image away: it reads as zeros and is untouched again.
    fn discard(&self, spec: &ImageSpec) -> Result<()>;

    /// Deletes image and record; killed half way it leaves a half-made image.
    fn remove(&self, spec: &ImageSpec) -> Result<()>;

    /// Gives the image another name in the same place, record included. `AlreadyExists` when it is taken.
    fn rename(&self, from: &ImageSpec, to: &ImageSpec) -> Result<()>;

    /// Makes this plugin the owner of the image, or answers `InUse` naming the owner. Whoever died may be followed:
    /// the owner record is taken over when its holder provably cannot use the image any more.
    fn claim(&self, spec: &ImageSpec) -> Result<()>;

    /// Gives the ownership back; nothing happens when this plugin is not the owner.
    fn release(&self, spec: &ImageSpec) -> Result<()>;

    /// Who owns the image, whose id may be known from [`info`](Self::info).
    fn owner(&self, spec: &ImageSpec, id: Option<&str>) -> Result<Option<Owner>>;

    /// Whether the image is known to be another one than the image behind a device of this host, and a clone of it, its origin, or a
    /// clone of the same origin: then their filesystems are copies of each other.
    fn is_copy(&self, _spec: &ImageSpec, _of: &Device) -> Result<bool> {
        Ok(false)
    }

    /// The images whose owner is this plugin, in this life or an earlier one. An error only when nothing can be told.
    fn owned(&self) -> Result<Listing>;

    /// The same, as far as this life may have left something: asked now and then, so it has to be cheap.
    fn leftovers(&self) -> Result<Vec<ImageSpec>> {
        Ok(self.owned()?.specs)
    }

    /// A look at images that this plugin has mounted. It changes nothing, and needs no guard: what it finds may be of a moment ago. What is
    /// not known (the store does not answer) is neither lost nor amiss.
    fn look(&self, _mounted: &[ImageSpec]) -> Result<Look> {
        Ok(Look::default())
    }

    /// Writes down again what a [`look`](Self::look) has found amiss with a mounted image; or why the image is lost. The caller holds the
    /// volume's guard and has seen that it is mounted still: what was released must not come back.
    fn mend(&self, _spec: &ImageSpec) -> Result<Option<String>> {
        Ok(None)
    }

    /// Notes the mount IDs that use an image, for the errors of other hosts. Nothing rests on it.
    fn note_uses(&self, _spec: &ImageSpec, _ids: &[String]) -> Result<()> {
        Ok(())
    }

    /// The bare names that were bound to an image with `-o pool=`.
    fn bindings(&self) -> Result<Arc<Bindings>>;

    /// The image that one bare name was bound to: the cost does not grow with the number of names.
    fn binding(&self, name: &str) -> Result<Option<ImageSpec>> {
        Ok(look_up(&*self.bindings()?, name)?.cloned())
    }

    /// The same as they were read last, where reading them takes time.
    fn known_bindings(&self) -> Result<Arc<Bindings>> {
        self.bindings()
    }

    /// Binds a bare name to an image; `AlreadyExists` when it is bound to another.
    fn bind(&self, name: &str, spec: &ImageSpec) -> Result<()>;

    /// Takes the binding of a bare name to this image back.
    fn unbind(&self, name: &str, spec: &ImageSpec) -> Result<()>;
}

/// Images as block devices.
pub trait Mapper: fmt::Debug + Send + Sync {
    /// Maps the image. The caller has seen that there is no [`mapping`](Self::mapping) yet.
    fn map(&self, spec: &ImageSpec) -> Result<Device>;

    /// Takes the mapping away; what is not mapped is success. `InUse` when the device is still open.
    fn unmap(&self, spec: &ImageSpec, device: Device) -> Result<()>;

    /// Takes the mapping of a lost image away even though somebody still has it open: they get errors.
    fn abandon(&self, spec: &ImageSpec, device: Device) -> Result<()>;

    /// The mapping of one image on this host, as the kernel has it.
    fn mapping(&self, spec: &ImageSpec) -> Result<Option<Device>>;

    /// A mapping that this plugin has made under the name, of another image than has that name now: somebody has given the image another
    /// name meanwhile.
    fn renamed_mapping(&self, _spec: &ImageSpec) -> Result<Option<Device>> {
        Ok(None)
    }
}

/// A place for images, with a name for people.
pub trait Backend: ImageStore + Mapper {
    /// `local`, `sim`, …
    fn name(&self) -> &'static str;

    /// Whether the store answers, and what is told of it with that. May take as long as the store lets it: it is asked in the background.
    fn pulse(&self) -> Result<Pulse>;

    /// Where the images are and who looks at them. Never waits.
    fn source(&self) -> Source {
        Source::default()
    }

    /// The pools that are served, and why one of them does not answer. Never waits.
    fn pools(&self) -> Vec<(String, Option<DriverError>)> {
        Vec::new()
    }

    /// What the last listing has left out, and what it would leave out now. Never waits.
    fn left_out(&self) -> Vec<LeftOut> {
        Vec::new()
    }

    /// How long ago this plugin last showed the others that it lives, in each place where that counts. Never waits.
    fn heartbeats(&self) -> Vec<(String, Duration)> {
        Vec::new()
    }
}

/// A mapped image.
#[derive(Debug, Clone)]
pub struct Device {
    /// `/dev/loop3`.
    pub path: PathBuf,
    /// Major and minor number, as in mountinfo.
    pub number: (u32, u32),
    /// Keeps the device open: one that detaches itself on last close, or what was read of it in memory. Drop it once the device is mounted.
    pub hold: Option<Arc<File>>,
}

impl Device {
    /// Whether that is a mount of the device. btrfs mounts show a number of their own, so the name counts as well.
    pub fn is_at(&self, mount: &Mounted) -> bool {
        mount.place.number == self.number || Path::new(&mount.source) == self.path
    }

    /// Whether that is a mount of all of its filesystem, and not of a folder in it. What a btrfs calls its root is its own affair.
    pub fn is_whole_at(&self, mount: &Mounted) -> bool {
        self.is_at(mount) && (mount.fstype == "btrfs" || mount.place.root == Path::new("/"))
    }

    /// The same device without the hold.
    #[must_use]
    pub fn unheld(&self) -> Self {
        Self { hold: None, ..self.clone() }
    }
}

//! What the driver asks of a kind of volume, and what it lends to one.
//!
//! A kind is where volumes live and how one becomes a mount: images that are mapped as block devices are one. The driver knows names,
//! mount IDs, guards and what is mounted where; it never asks what is behind a mount. A volume that is attached is known by its [`Place`].
//!
//! The contracts for every method are those of a store: idempotent, killable at any instruction, an outage is `Unreachable` and never
//! "not there". The caller holds the volume's guard for all that changes one volume; reads may come at any time.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

pub use super::guard::Reserved;
pub use super::undo::Undo;
use crate::model::bindings::Bindings;
use crate::model::block_io::BlockIo;
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, Result};
use crate::model::image::{ImageInfo, LeftOut, Listing, NoVolume};
pub use crate::model::mount::{Attached, Mounted, Place};
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::owner::Owner;
use crate::model::record::Record;
use crate::model::size::Size;
use crate::model::store::{Look, Pulse, Source};

/// Where the volumes of a kind are, and what is known of them.
pub trait Catalogue: fmt::Debug + Send + Sync {
    /// What people call the store: `local`, `rbd`, …
    fn name(&self) -> &'static str;

    /// Whether the store answers, and what is told of it with that. May take as long as the store lets it: it is asked in the background.
    fn pulse(&self) -> Result<Pulse>;

    /// Whether the store answered last: at once, and without asking it.
    fn reachable(&self) -> Result<()>;

    /// Where the volumes are and who looks at them. Never waits.
    fn source(&self) -> Source;

    /// The pools that are served, and why one of them does not answer. Never waits.
    fn pools(&self) -> Vec<(String, Option<DriverError>)>;

    /// What the last listing has left out, and what it would leave out now. Never waits.
    fn left_out(&self) -> Vec<LeftOut>;

    /// How long ago this plugin last showed the others that it lives, in each place where that counts. Never waits.
    fn heartbeats(&self) -> Vec<(String, Duration)>;

    /// What is known of a volume; `None` when there is neither a volume nor a half-made one.
    fn info(&self, spec: &ImageSpec) -> Result<Option<ImageInfo>>;

    /// Whether there may be a volume of this name: a look, without a claim and without a change. `false` is certain.
    fn may_exist(&self, spec: &ImageSpec) -> Result<bool>;

    /// What is known of a volume that is not there under this name any more: where it is now, for an error.
    fn whereabouts(&self, spec: &ImageSpec) -> Option<String>;

    /// All that [`info`](Self::info) says to be whole. An error only when nothing can be listed.
    fn list(&self) -> Result<Listing>;

    /// What [`list`](Self::list) has left out when it was last asked, and why it is no volume.
    fn no_volumes(&self) -> Vec<NoVolume>;

    /// Refuses options that cannot be honoured here. Asked before anything is made.
    fn check_options(&self, options: &ImageOptions) -> Result<()>;

    /// Deletes the volume and its record; killed half way it leaves a half-made one.
    fn remove(&self, spec: &ImageSpec) -> Result<()>;

    /// Gives the volume another name in the same place, record included. `AlreadyExists` when it is taken.
    fn rename(&self, from: &ImageSpec, to: &ImageSpec) -> Result<()>;

    /// Makes this plugin the owner, or answers `InUse` naming the owner, who is followed when he provably cannot use it any more.
    fn claim(&self, spec: &ImageSpec) -> Result<()>;

    /// Gives the ownership back; nothing happens when this plugin is not the owner.
    fn release(&self, spec: &ImageSpec) -> Result<()>;

    /// Who owns the volume, whose id may be known from [`info`](Self::info).
    fn owner(&self, spec: &ImageSpec, id: Option<&str>) -> Result<Option<Owner>>;

    /// What this plugin owns, in this life or an earlier one. An error only when nothing can be told.
    fn owned(&self) -> Result<Listing>;

    /// The same, as far as this life may have left something: asked now and then, so it has to be cheap.
    fn leftovers(&self) -> Result<Vec<ImageSpec>>;

    /// A look at what this plugin has mounted, without a guard and without a change. What is not known (the store does not answer) is
    /// neither lost nor amiss.
    fn look(&self, mounted: &[ImageSpec]) -> Result<Look>;

    /// Writes down again what a [`look`](Self::look) has found amiss; or why the volume is lost. The caller has seen that it is mounted
    /// still: what was released must not come back.
    fn mend(&self, spec: &ImageSpec) -> Result<Option<String>>;

    /// Notes the mount IDs that use a volume, for the errors of other hosts. Nothing rests on it.
    fn note_uses(&self, spec: &ImageSpec, ids: &[String]) -> Result<()>;

    /// The bare names that were bound to a volume with `-o pool=`.
    fn bindings(&self) -> Result<Arc<Bindings>>;

    /// What one bare name was bound to: the cost does not grow with the number of names.
    fn binding(&self, name: &str) -> Result<Option<ImageSpec>>;

    /// All of them as they were read last, where reading them takes time.
    fn known_bindings(&self) -> Result<Arc<Bindings>>;

    /// Binds a bare name; `AlreadyExists` when it is bound to another.
    fn bind(&self, name: &str, spec: &ImageSpec) -> Result<()>;

    /// Takes the binding of a bare name to this volume back.
    fn unbind(&self, name: &str, spec: &ImageSpec) -> Result<()>;
}

/// How a volume of a kind is made, attached to this host and taken off it again.
pub trait Kind: Catalogue {
    /// The record of a volume that is to be made, with what is not asked for filled in; refuses what cannot be made. `size` is that of
    /// the volume's name.
    fn plan(&self, asked: &ImageOptions, size: Option<Size>) -> Result<Record>;

    /// Makes the volume that was planned, and leaves nothing of it on this host. The caller owns it.
    fn provision<'a>(
        &'a self,
        spec: &'a ImageSpec,
        record: Record,
        undo: &mut Undo<'a>,
        deadline: Deadline,
    ) -> Result<()>;

    /// Create of a volume that is there: accepts what is so already, refuses what is not, and records what can still be honoured.
    fn accept(
        &self,
        name: &str,
        spec: &ImageSpec,
        info: &ImageInfo,
        asked: ImageOptions,
        volumes: &dyn Volumes,
    ) -> Result<()>;

    /// Takes away what a Create or a Remove that died has left half done, provided that nobody else's data can be on it. The caller owns it.
    fn clear(&self, spec: &ImageSpec, info: &ImageInfo) -> Result<()>;

    /// The volume is gone: what else is kept of it on this host goes, too.
    fn forget(&self, spec: &ImageSpec);

    /// Attaches the volume at its mountpoint; pushes what would undo it. `Busy` when that goes on behind the operation, for which the kind
    /// has [reserved](Volumes::reserve) the volume: then nothing of it may be undone. The caller owns the volume.
    fn attach<'a>(&'a self, job: Attach<'a>, info: ImageInfo, undo: &mut Undo<'a>) -> Result<Attached>;

    /// Attaches again what was unmounted behind our back while containers have it, and calls `before` as soon as that is known; `None`
    /// when nobody has it.
    fn attach_again(
        &self,
        job: Attach<'_>,
        before: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Option<Attached>>;

    /// The volume as it is attached, if that is what is mounted here; by the kernel's word.
    fn attached(&self, spec: &ImageSpec, here: &Mounted) -> Result<Option<Attached>>;

    /// What is left on this host of a volume that is unmounted goes; what is gone is success. `InUse` when somebody still has it.
    fn detach(&self, spec: &ImageSpec, attached: &Attached) -> Result<()>;

    /// The same of a lost volume even though somebody still has it: they get errors. `None` stands for whatever is there.
    fn abandon(&self, spec: &ImageSpec, attached: Option<&Attached>) -> Result<()>;

    /// What of the volume is on this host although it is not mounted, for people: `mapped to /dev/rbd3, not by this plugin`.
    fn stray(&self, spec: &ImageSpec) -> Result<Option<String>>;

    /// The volume that a mount elsewhere than at a mountpoint belongs to: one that the kind has made for a while.
    fn trace(&self, mount: &Mounted) -> Option<ImageSpec>;

    /// Takes away what operations that died have left on this host of a volume that is not mounted. `InUse` when somebody else has it
    /// mounted.
    fn sweep(&self, spec: &ImageSpec, mounts: &[Mounted]) -> Result<()>;

    /// The same of what was left under the name of the volume, and is of another one: that has got another name since. Comes before the claim,
    /// which would be on the volume that has the name now.
    fn sweep_renamed(&self, _spec: &ImageSpec, _mounts: &[Mounted]) -> Result<()> {
        Ok(())
    }

    /// Of each of what is attached, whether a container has it; with one look at all of them.
    fn which_held(&self, attached: &[Attached]) -> Result<Vec<bool>>;

    /// Whether a container has it.
    fn held_elsewhere(&self, attached: &Attached) -> Result<bool> {
        Ok(self.which_held(std::slice::from_ref(attached))?.contains(&true))
    }

    /// Refuses with `InUse`, naming the holders, where a container has what is mounted at the directory: an unmount here would succeed, and
    /// leave them with it.
    fn refuse_held(&self, target: &Path, attached: &Attached) -> Result<()>;

    /// Its size in bytes and what was read and written, where the kernel counts that. Never waits for the storage.
    fn counters(&self, attached: &Attached) -> (Option<u64>, Option<BlockIo>);

    /// What the kind has to show of a volume, for people.
    fn describe(&self, info: &ImageInfo) -> BTreeMap<&'static str, Value>;
}

/// What is to be attached.
#[derive(Debug, Clone, Copy)]
pub struct Attach<'a> {
    /// The volume.
    pub spec: &'a ImageSpec,
    /// Where. The directory is made when it is needed.
    pub mountpoint: &'a Path,
    /// What the driver knows of this and others.
    pub volumes: &'a dyn Volumes,
    /// When it has to be over.
    pub deadline: Deadline,
}

/// What the driver knows of its volumes, and does for a kind.
pub trait Volumes: fmt::Debug {
    /// Whether it is mounted by this plugin.
    fn is_mounted(&self, spec: &ImageSpec) -> bool;

    /// The volume that this plugin has mounted at a path.
    fn mounted_at(&self, target: &Path) -> Option<ImageSpec>;

    /// Whether something of it is left to undo: then what is on this host of it is ours.
    fn is_unsettled(&self, spec: &ImageSpec) -> bool;

    /// Something of it could not be undone: it is brought to rest later.
    fn mark_unsettled(&self, spec: &ImageSpec);

    /// Work on the volume goes on after its operation: until the answer is dropped nobody gets its guard, and then it is brought to rest.
    fn reserve(&self, spec: &ImageSpec, since: Instant) -> Reserved;
}

//! The kind, as the driver calls it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Block;
use crate::driver::kind::{Attach, Catalogue, Kind, Undo, Volumes};
use crate::model::bindings::Bindings;
use crate::model::block_io::BlockIo;
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, Result};
use crate::model::image::{ImageInfo, LeftOut, Listing, NoVolume};
use crate::model::mount::{Attached, Mounted};
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::owner::Owner;
use crate::model::record::Record;
use crate::model::size::Size;
use crate::model::store::{Look, Pulse, Source};

/// What is known of volumes is what the store knows of images.
macro_rules! of_the_store {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&self, $($arg: $kind),*) -> $answer {
            self.store.$name($($arg),*)
        })*
    };
}

impl Catalogue for Block {
    of_the_store! {
        name() -> &'static str;
        pulse() -> Result<Pulse>;
        reachable() -> Result<()>;
        source() -> Source;
        pools() -> Vec<(String, Option<DriverError>)>;
        left_out() -> Vec<LeftOut>;
        heartbeats() -> Vec<(String, Duration)>;
        info(spec: &ImageSpec) -> Result<Option<ImageInfo>>;
        may_exist(spec: &ImageSpec) -> Result<bool>;
        whereabouts(spec: &ImageSpec) -> Option<String>;
        list() -> Result<Listing>;
        no_volumes() -> Vec<NoVolume>;
        check_options(options: &ImageOptions) -> Result<()>;
        remove(spec: &ImageSpec) -> Result<()>;
        rename(from: &ImageSpec, to: &ImageSpec) -> Result<()>;
        claim(spec: &ImageSpec) -> Result<()>;
        release(spec: &ImageSpec) -> Result<()>;
        owner(spec: &ImageSpec, id: Option<&str>) -> Result<Option<Owner>>;
        owned() -> Result<Listing>;
        leftovers() -> Result<Vec<ImageSpec>>;
        look(mounted: &[ImageSpec]) -> Result<Look>;
        mend(spec: &ImageSpec) -> Result<Option<String>>;
        note_uses(spec: &ImageSpec, ids: &[String]) -> Result<()>;
        bindings() -> Result<Arc<Bindings>>;
        binding(name: &str) -> Result<Option<ImageSpec>>;
        known_bindings() -> Result<Arc<Bindings>>;
        bind(name: &str, spec: &ImageSpec) -> Result<()>;
        unbind(name: &str, spec: &ImageSpec) -> Result<()>;
    }
}

impl Kind for Block {
    fn plan(&self, asked: &ImageOptions, size: Option<Size>) -> Result<Record> {
        Self::plan(self, asked, size)
    }

    fn provision<'a>(
        &'a self,
        spec: &'a ImageSpec,
        record: Record,
        undo: &mut Undo<'a>,
        deadline: Deadline,
    ) -> Result<()> {
        Self::provision(self, spec, record, undo, deadline)
    }

    fn accept(
        &self,
        name: &str,
        spec: &ImageSpec,
        info: &ImageInfo,
        asked: ImageOptions,
        volumes: &dyn Volumes,
    ) -> Result<()> {
        Self::accept(self, name, spec, info, asked, volumes)
    }

    fn clear(&self, spec: &ImageSpec, info: &ImageInfo) -> Result<()> {
        match info.record.clone() {
            Some(mut half) => self.clear_half_made(spec, &mut half, info.size.is_some()),
            None => Ok(()),
        }
    }

    fn forget(&self, spec: &ImageSpec) {
        self.verdicts.forget(spec);
    }

    fn attach<'a>(&'a self, job: Attach<'a>, info: ImageInfo, undo: &mut Undo<'a>) -> Result<Attached> {
        Self::attach(self, job, info, undo)
    }

    fn attach_again(
        &self,
        job: Attach<'_>,
        before: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Option<Attached>> {
        Self::attach_again(self, job, before)
    }

    fn attached(&self, spec: &ImageSpec, here: &Mounted) -> Result<Option<Attached>> {
        let device = self.store.mapping(spec)?.filter(|device| device.is_whole_at(here));
        Ok(device.map(|_| Attached::from(here)))
    }

    fn detach(&self, spec: &ImageSpec, attached: &Attached) -> Result<()> {
        self.store.unmap(spec, self.device_of(attached)?)
    }

    fn abandon(&self, spec: &ImageSpec, attached: Option<&Attached>) -> Result<()> {
        let device = match attached {
            Some(attached) => Some(self.device_of(attached)?),
            None => self.store.mapping(spec)?,
        };
        device.map_or(Ok(()), |device| self.store.abandon(spec, device))
    }

    fn stray(&self, spec: &ImageSpec) -> Result<Option<String>> {
        let mapped = self.store.mapping(spec)?;
        Ok(mapped.map(|device| format!("mapped to {}, not by this plugin", device.path.display())))
    }

    fn trace(&self, mount: &Mounted) -> Option<ImageSpec> {
        ImageSpec::from_file_name(mount.target.strip_prefix(self.stagings()).ok()?.to_str()?)
    }

    fn sweep(&self, spec: &ImageSpec, mounts: &[Mounted]) -> Result<()> {
        Self::sweep(self, spec, mounts)
    }

    fn sweep_renamed(&self, spec: &ImageSpec, mounts: &[Mounted]) -> Result<()> {
        match self.store.renamed_mapping(spec)? {
            Some(device) if !mounts.iter().any(|mount| device.is_at(mount)) => {
                tracing::warn!(image = %spec, device = %device.path.display(), "unmapping an image that has another name by now");
                self.store.unmap(spec, device)
            }
            _ => Ok(()),
        }
    }

    fn which_held(&self, attached: &[Attached]) -> Result<Vec<bool>> {
        self.disks.which_held(attached)
    }

    fn refuse_held(&self, target: &Path, attached: &Attached) -> Result<()> {
        self.disks.refuse_held(target, attached)
    }

    fn counters(&self, attached: &Attached) -> (Option<u64>, Option<BlockIo>) {
        self.disks.counters(Path::new(&attached.source))
    }

    fn describe(&self, info: &ImageInfo) -> BTreeMap<&'static str, Value> {
        Self::describe(info)
    }
}

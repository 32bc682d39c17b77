//! The simulated store and its mappings.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use super::{Data, Image, Sim, State};
use crate::backend::{Backend, Device, ImageStore, Look, Mapper, Pulse};
use crate::model::bindings::{Bindings, Bound};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::Content;
use crate::model::image::{ImageInfo, Listing};
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::owner::Owner;
use crate::model::record::{Record, Stage};
use crate::model::size::Size;

impl Sim {
    /// The state, unless the store is away.
    fn store(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.world.look();
        if state.away {
            return Err(DriverError::new(ErrorKind::Unreachable, "the simulated store is away"));
        }
        Ok(state)
    }

    fn same_instance(&self, owner: &Owner) -> bool {
        owner.same_plugin(&self.identity)
    }
}

fn missing(spec: &ImageSpec) -> DriverError {
    DriverError::new(ErrorKind::NotFound, format!("{spec} does not exist"))
}

impl ImageStore for Sim {
    fn info(&self, spec: &ImageSpec) -> Result<Option<ImageInfo>> {
        let state = self.store()?;
        let (image, record) = (state.images.get(spec), state.records.get(spec));
        if image.is_none() && record.is_none() {
            return Ok(None);
        }
        Ok(Some(ImageInfo {
            size: image.map(|image| image.size),
            record: record.cloned(),
            created: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            allocated: None,
            id: None,
            is: ImageOptions { size: image.map(|image| image.size), ..ImageOptions::default() },
            trouble: None,
            details: BTreeMap::new(),
        }))
    }

    fn content(&self, spec: &ImageSpec) -> Result<Content> {
        let state = self.store()?;
        Ok(state.images.get(spec).ok_or_else(|| missing(spec))?.data.content())
    }

    fn reachable(&self) -> Result<()> {
        self.store().map(drop)
    }

    fn list(&self) -> Result<Listing> {
        let state = self.store()?;
        let whole = |spec: &&ImageSpec| {
            state.records.get(*spec).is_none_or(|record| record.stage == Stage::Ready || record.adopted)
        };
        Ok(state.images.keys().filter(whole).cloned().collect::<Vec<_>>().into())
    }

    fn create(&self, spec: &ImageSpec, size: Size, record: &Record) -> Result<()> {
        let mut state = self.store()?;
        if state.images.contains_key(spec) {
            return Err(DriverError::new(ErrorKind::AlreadyExists, format!("{spec} exists")));
        }
        state.records.insert(spec.clone(), record.clone());
        state.images.insert(spec.clone(), Image { size, data: Data::Untouched });
        Ok(())
    }

    fn write_record(&self, spec: &ImageSpec, record: &Record) -> Result<()> {
        self.store()?.records.insert(spec.clone(), record.clone());
        Ok(())
    }

    fn is_untouched(&self, spec: &ImageSpec) -> Result<bool> {
        let state = self.store()?;
        state.images.get(spec).map(|image| image.data == Data::Untouched).ok_or_else(|| missing(spec))
    }

    fn discard(&self, spec: &ImageSpec) -> Result<()> {
        let mut state = self.store()?;
        state.images.get_mut(spec).ok_or_else(|| missing(spec))?.data = Data::Untouched;
        Ok(())
    }

    fn remove(&self, spec: &ImageSpec) -> Result<()> {
        let mut state = self.store()?;
        if state.mapping(spec).is_some() {
            return Err(DriverError::new(ErrorKind::InUse, format!("{spec} is mapped")));
        }
        state.images.remove(spec);
        state.records.remove(spec);
        Ok(())
    }

    fn rename(&self, from: &ImageSpec, to: &ImageSpec) -> Result<()> {
        let mut state = self.store()?;
        if state.images.contains_key(to) {
            return Err(DriverError::new(ErrorKind::AlreadyExists, format!("{to} exists")));
        }
        let image = state.images.remove(from).ok_or_else(|| missing(from))?;
        state.images.insert(to.clone(), image);
        if let Some(record) = state.records.remove(from) {
            state.records.insert(to.clone(), record);
        }
        Ok(())
    }

    fn claim(&self, spec: &ImageSpec) -> Result<()> {
        let mut state = self.store()?;
        if let Some(owner) = state.owners.get(spec)
            && !self.same_instance(owner)
            && (!owner.same_host(&self.identity) || owner.boot_id == self.identity.boot_id)
        {
            return Err(DriverError::new(ErrorKind::InUse, format!("{spec} is in use by {owner}")));
        }
        state.owners.insert(spec.clone(), self.identity.clone());
        Ok(())
    }

    fn release(&self, spec: &ImageSpec) -> Result<()> {
        let mut state = self.store()?;
        if state.owners.get(spec).is_some_and(|owner| self.same_instance(owner)) {
            state.owners.remove(spec);
        }
        Ok(())
    }

    fn owner(&self, spec: &ImageSpec, _id: Option<&str>) -> Result<Option<Owner>> {
        Ok(self.store()?.owners.get(spec).cloned())
    }

    fn owned(&self) -> Result<Listing> {
        let state = self.store()?;
        state.fails("owned")?;
        let own = state.owners.iter().filter(|(_, owner)| self.same_instance(owner));
        Ok(own.map(|(spec, _)| spec.clone()).collect::<Vec<_>>().into())
    }

    fn look(&self, mounted: &[ImageSpec]) -> Result<Look> {
        let state = self.store()?;
        let mut look = Look::default();
        for spec in mounted {
            match state.owners.get(spec) {
                Some(owner) if self.same_instance(owner) => {}
                Some(_) => look.lost.push((spec.clone(), "taken over".to_owned())),
                None => look.amiss.push(spec.clone()),
            }
        }
        look.unread = state.unread.clone().into_iter().filter(|(spec, _)| mounted.contains(spec)).collect();
        Ok(look)
    }

    fn mend(&self, spec: &ImageSpec) -> Result<Option<String>> {
        let mut state = self.store()?;
        state.fails("mend")?;
        let owner = state.owners.entry(spec.clone()).or_insert_with(|| self.identity.clone());
        Ok((!self.same_instance(owner)).then(|| "taken over".to_owned()))
    }

    fn bindings(&self) -> Result<Arc<Bindings>> {
        let state = self.store()?;
        state.fails("bindings")?;
        let bound = |(name, spec): (&String, &ImageSpec)| (name.clone(), Bound::To(spec.clone()));
        Ok(Arc::new(state.bindings.iter().map(bound).collect()))
    }

    fn bind(&self, name: &str, spec: &ImageSpec) -> Result<()> {
        let mut state = self.store()?;
        match state.bindings.get(name) {
            Some(bound) if bound != spec => {
                Err(DriverError::new(ErrorKind::AlreadyExists, format!("{name:?} is {bound} already")))
            }
            _ => {
                state.bindings.insert(name.to_owned(), spec.clone());
                Ok(())
            }
        }
    }

    fn unbind(&self, name: &str, spec: &ImageSpec) -> Result<()> {
        let mut state = self.store()?;
        if state.bindings.get(name) == Some(spec) {
            state.bindings.remove(name);
        }
        Ok(())
    }
}

impl Mapper for Sim {
    fn map(&self, spec: &ImageSpec) -> Result<Device> {
        let mut state = self.store()?;
        if !state.images.contains_key(spec) {
            return Err(missing(spec));
        }
        if let Some(device) = state.mapping(spec) {
            return Ok(device);
        }
        let number = state.next_device;
        state.next_device += 1;
        state.devices.insert(number, spec.clone());
        Ok(state.device(number))
    }

    fn unmap(&self, spec: &ImageSpec, device: Device) -> Result<()> {
        let mut state = self.world.look();
        if state.mounts.iter().any(|mount| device.is_at(mount)) || state.held.contains(&device.number.1) {
            let path = device.path.display();
            return Err(DriverError::new(ErrorKind::InUse, format!("{spec}: {path} is still open")));
        }
        state.devices.retain(|number, mapped| *number != device.number.1 || mapped != spec);
        Ok(())
    }

    fn abandon(&self, spec: &ImageSpec, device: Device) -> Result<()> {
        let mut state = self.world.look();
        state.devices.retain(|number, mapped| *number != device.number.1 || mapped != spec);
        Ok(())
    }

    fn mapping(&self, spec: &ImageSpec) -> Result<Option<Device>> {
        Ok(self.store()?.mapping(spec))
    }
}

impl Backend for Sim {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn pulse(&self) -> Result<Pulse> {
        let devices = self.store()?.devices.len();
        Ok(Pulse { devices, bindings: self.bindings()? })
    }
}

//! Changing owner records that are ours: by compare-and-swap, and only as long as they are.

use super::RbdBackend;
use super::owner::{OBJECT, OwnerRecord, in_use, some};
use crate::ceph::{IoCtx, Swap};
use crate::lock;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::owner::Owner;

/// How often a change may meet one by somebody else before it says so.
const ATTEMPTS: u32 = 20;

impl RbdBackend {
    /// Changes a record of our own, or removes it; whether it was ours. What it is now is answered.
    pub(super) fn change(
        &self,
        io: &IoCtx,
        key: &str,
        change: impl Fn(OwnerRecord) -> Option<OwnerRecord>,
    ) -> Result<Changed> {
        for _ in 0..ATTEMPTS {
            let found = some(io, &[key])?;
            let Some(raw) = found.get(key) else { return Ok(Changed::NotOurs(None)) };
            let before = OwnerRecord::parse(raw)?;
            if !self.is_own(&before) {
                return Ok(Changed::NotOurs(Some(before.owner)));
            }
            let after = self.changed(io, before, &change)?;
            if after.as_ref() == Some(raw) {
                return Ok(Changed::To(after));
            }
            if io.omap_swap(OBJECT, &[Swap { key, expected: Some(raw), new: after.as_deref() }])? {
                return Ok(Changed::To(after));
            }
        }
        Err(DriverError::new(ErrorKind::Busy, format!("the owner record {key} keeps changing")))
    }

    /// A record of ours after a change, as it is stored.
    fn changed(
        &self,
        io: &IoCtx,
        before: OwnerRecord,
        change: impl Fn(OwnerRecord) -> Option<OwnerRecord>,
    ) -> Result<Option<Vec<u8>>> {
        let after = change(before).map(|record| self.signed(io.cluster(), record)).transpose()?;
        Ok(after.map(|record| record.store()))
    }

    /// Changes a record that we hold without reading it first: one round trip. Nothing when it is not what we think it is.
    pub(super) fn change_known(
        &self,
        io: &IoCtx,
        spec: &ImageSpec,
        key: &str,
        change: impl Fn(OwnerRecord) -> Option<OwnerRecord>,
    ) -> Result<Option<Option<Vec<u8>>>> {
        let Some(known) = lock(&self.held).get(spec).and_then(|keys| keys.get(key)).cloned() else {
            return Ok(None);
        };
        let after = self.changed(io, OwnerRecord::parse(&known)?, change)?;
        let swap = Swap { key, expected: Some(&known), new: after.as_deref() };
        Ok(io.omap_swap(OBJECT, &[swap])?.then_some(after))
    }

    /// Changes the record of a mapped image, and answers it; an error when the image is somebody else's by now.
    pub(super) fn change_held(
        &self,
        io: &IoCtx,
        spec: &ImageSpec,
        key: String,
        change: impl Fn(OwnerRecord) -> OwnerRecord,
    ) -> Result<Vec<u8>> {
        if !lock(&self.held).get(spec).is_some_and(|keys| keys.contains_key(&key)) {
            return Err(not_claimed(spec));
        }
        let changed = match self.change_known(io, spec, &key, |record| Some(change(record)))? {
            Some(raw) => Changed::To(raw),
            None => self.change(io, &key, |record| Some(change(record)))?,
        };
        match changed {
            Changed::To(Some(raw)) => {
                if let Some(keys) = lock(&self.held).get_mut(spec) {
                    keys.insert(key, raw.clone());
                }
                Ok(raw)
            }
            Changed::NotOurs(Some(owner)) => Err(in_use(spec, &owner)),
            Changed::NotOurs(None) | Changed::To(None) => {
                Err(DriverError::new(ErrorKind::InUse, format!("the owner record of {spec} was taken away"))
                    .hint("somebody has broken the lock meanwhile; try again"))
            }
        }
    }
}

/// What became of a record.
#[derive(Debug)]
pub(super) enum Changed {
    /// It was ours, and is this now.
    To(Option<Vec<u8>>),
    /// It is another plugin's, or there is none.
    NotOurs(Option<Owner>),
}

pub(super) fn taken_away(spec: &ImageSpec) -> DriverError {
    DriverError::new(ErrorKind::InUse, format!("the claim on {spec} was taken away")).hint("try again")
}

pub(super) fn not_claimed(spec: &ImageSpec) -> DriverError {
    DriverError::new(ErrorKind::Failed, format!("{spec} is not claimed"))
}

//! Changing owner records that are ours: by compare-and-swap, and only as long as they are.

use super::kv::{ClusterKv, Place, Swap, place};
use super::owners::{Owners, signed};
use super::record::{OBJECT, OwnerRecord, in_use, not_claimed, some};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::owner::Owner;

/// How often a change may meet one by somebody else before it says so.
const ATTEMPTS: u32 = 20;

impl Owners {
    /// Changes a record of our own, or removes it; whether it was ours. What it is now is answered.
    pub(super) fn change(
        &self,
        kv: &dyn ClusterKv,
        at: &Place,
        key: &str,
        change: impl Fn(OwnerRecord) -> Option<OwnerRecord>,
    ) -> Result<Changed> {
        for _ in 0..ATTEMPTS {
            let found = some(kv, at, &[key])?;
            let Some(raw) = found.get(key) else { return Ok(Changed::NotOurs(None)) };
            let before = OwnerRecord::parse(raw)?;
            if !self.is_own(&before) {
                return Ok(Changed::NotOurs(Some(before.owner)));
            }
            let after = changed(kv, before, &change)?;
            if after.as_ref() == Some(raw) {
                return Ok(Changed::To(after));
            }
            if kv.swap(at, OBJECT, &[Swap { key, expected: Some(raw), new: after.as_deref() }])? {
                return Ok(Changed::To(after));
            }
        }
        Err(DriverError::new(ErrorKind::Busy, format!("the owner record {key} keeps changing")))
    }

    /// Changes a record that we hold without reading it first: one round trip. Nothing when it is not what we think it is.
    pub(super) fn change_known(
        &self,
        kv: &dyn ClusterKv,
        spec: &ImageSpec,
        key: &str,
        change: impl Fn(OwnerRecord) -> Option<OwnerRecord>,
    ) -> Result<Option<Option<Vec<u8>>>> {
        let Some(known) = self.held_keys(spec).remove(key) else { return Ok(None) };
        let after = changed(kv, OwnerRecord::parse(&known)?, change)?;
        let swap = Swap { key, expected: Some(&known), new: after.as_deref() };
        Ok(kv.swap(&place(spec), OBJECT, &[swap])?.then_some(after))
    }

    /// Changes the record of a mapped image, and answers it; an error when the image is somebody else's by now.
    pub(super) fn change_held(
        &self,
        kv: &dyn ClusterKv,
        spec: &ImageSpec,
        key: String,
        change: impl Fn(OwnerRecord) -> OwnerRecord,
    ) -> Result<Vec<u8>> {
        if !self.holds_key(spec, &key) {
            return Err(not_claimed(spec));
        }
        let changed = match self.change_known(kv, spec, &key, |record| Some(change(record)))? {
            Some(raw) => Changed::To(raw),
            None => self.change(kv, &place(spec), &key, |record| Some(change(record)))?,
        };
        match changed {
            Changed::To(Some(raw)) => {
                if self.holds_key(spec, &key) {
                    self.hold(spec, key, raw.clone());
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

/// A record of ours after a change, as it is stored.
fn changed(
    kv: &dyn ClusterKv,
    before: OwnerRecord,
    change: impl Fn(OwnerRecord) -> Option<OwnerRecord>,
) -> Result<Option<Vec<u8>>> {
    let after = change(before).map(|record| signed(kv, record)).transpose()?;
    Ok(after.map(|record| record.store()))
}

/// What became of a record.
#[derive(Debug)]
pub(super) enum Changed {
    /// It was ours, and is this now.
    To(Option<Vec<u8>>),
    /// It is another plugin's, or there is none.
    NotOurs(Option<Owner>),
}

impl Changed {
    /// What it is now, if it is there and ours.
    pub(super) fn ours(self) -> Option<Vec<u8>> {
        match self {
            Self::To(raw) => raw,
            Self::NotOurs(_) => None,
        }
    }
}

//! Which images are this plugin's: claimed, given back, looked for, looked at, found lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::kv::Rados;
use super::link::place;
use super::places::{self, Configured};
use super::{RbdBackend, header};
use crate::ceph::features;
use crate::coordination::blocklist::Blocklist;
use crate::coordination::{ClusterKv, Mappings, Reading, by_place};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::image::Listing;
use crate::model::name::ImageSpec;
use crate::model::store::Look;

/// How often the cluster's blocklist is read: a fence by a plugin shows in the owner records, one by hand only there.
const BLOCKLIST: Duration = Duration::from_secs(30);
/// How long a start looks for own images in pools that are not the plugin's. One request to a pool that is down takes all of its timeout.
const ELSEWHERE: Duration = Duration::from_secs(5);

impl RbdBackend {
    /// See [`ImageStore::claim`](crate::backend::ImageStore::claim).
    pub(super) fn claim_image(&self, spec: &ImageSpec) -> Result<()> {
        let looked_up = self.seen.take_id(spec);
        let kv = self.cluster()?;
        let host = self.host(&kv);
        let claimed = self.owners.claim(&kv, &host, spec, looked_up);
        let Some(id) = claimed.map_err(|e| self.or_read_only(&kv, spec, e))? else { return Ok(()) };
        // What was read before the claim may have been changed by somebody else.
        let header = header::read(&kv.session.of(spec)?, &id)?;
        let needs_lock = header.as_ref().is_some_and(|header| needs_advisory_lock(header.features));
        self.owners.complete_claim(&kv, &host, spec, &id, needs_lock)?;
        if let Some(header) = header {
            self.seen.note(spec, &id, Some(header));
        }
        Ok(())
    }

    /// A refusal of a volume that lives elsewhere, which says more where the volume is read-only.
    fn or_read_only(&self, kv: &Rados, spec: &ImageSpec, e: DriverError) -> DriverError {
        if e.kind != ErrorKind::InUse || e.hint.as_deref() != Some(crate::coordination::UNMOUNT_THERE) {
            return e;
        }
        let read_only = || {
            let io = kv.session.of(spec).ok()?;
            let id = header::id(&io, spec.image()).ok()??;
            header::read(&io, &id).ok()??.record?.record.options.read_only
        };
        if read_only() == Some(true) {
            e.hint("a read-only volume, too, is for one host at a time: unmount the volume there")
        } else {
            e
        }
    }

    /// See [`ImageStore::release`](crate::backend::ImageStore::release).
    pub(super) fn release_image(&self, spec: &ImageSpec) -> Result<()> {
        self.seen.forget(spec);
        let kv = self.cluster()?;
        match kv.session.of(spec) {
            // In a pool that is not there, nothing is left to give back.
            Err(e) if e.kind == ErrorKind::NotFound && !self.owners.knows(spec) => return Ok(()),
            io => drop(io?),
        }
        self.owners.release(&kv, &self.host(&kv), spec, |id| needs_lock(&kv, spec, id))
    }

    /// Every record of this plugin, in any pool, and the configured pools where there may be more.
    pub(super) fn find_own(&self) -> Result<Listing> {
        let session = self.link.session()?;
        let mut specs = BTreeSet::new();
        let found = places::records(&session, &Configured::new(&self.options), Some(ELSEWHERE))?;
        let mut left_out = found.left_out;
        left_out.retain_mut(|out| {
            out.why = self.link.heed_error(out.why.clone());
            let asked_again = self.options.pools.contains(&out.pool);
            if !asked_again {
                tracing::warn!("it is not known whether this plugin owns images in {out}");
            }
            asked_again
        });
        for (place, _, keys) in found.records {
            specs.extend(self.owners.found(&place, keys));
        }
        Ok(Listing { specs: specs.into_iter().collect(), left_out })
    }

    /// See [`ImageStore::leftovers`](crate::backend::ImageStore::leftovers).
    pub(super) fn find_leftovers(&self) -> Result<Vec<ImageSpec>> {
        let kv = self.cluster()?;
        let mut specs = BTreeSet::new();
        for place in self.owners.heartbeat.ever() {
            // What one place does not tell now is asked again.
            specs.extend(self.link.heed(self.owners.recorded(&kv, &place)).unwrap_or_default());
        }
        Ok(specs.into_iter().collect())
    }

    /// See [`ImageStore::look`](crate::backend::ImageStore::look). One reading of the kernel's devices, of the blocklist, and of the owner
    /// records of each place, for all volumes; nothing is changed.
    pub(super) fn look_at(&self, mounted: &[ImageSpec]) -> Result<Look> {
        let kv = self.cluster()?;
        // Without it, a fence by a plugin still shows in the owner records.
        let read = |within| {
            self.blocklist.of(&kv, within).unwrap_or_else(|e| {
                tracing::warn!(error = %e, "cannot see the cluster's blocklist");
                Arc::<Blocklist>::default()
            })
        };
        let mut fenced = read(BLOCKLIST);
        let mappings = self.host(&kv).list()?;
        // The entry of a host or a network may have ended since, and the mapping be newer than its end.
        if mappings.iter().any(|mapping| mapping.ours && fenced.covers(&mapping.address).is_some()) {
            fenced = read(Duration::ZERO);
        }
        #[cfg(feature = "fault-points")]
        crate::backend::fault::pass("look");
        let reading = Reading { mappings: &mappings, fenced: &fenced };
        let mut look = Look::default();
        let mut failed = None;
        // What cannot be seen of one place does not keep the others from being looked at.
        for (place, specs) in by_place(mounted) {
            let seen = self.owners.look_in(&kv, &place, &specs, reading, &mut look);
            if let Err(e) = self.link.heed(seen) {
                // That a pool is silent is said once.
                if e.kind != ErrorKind::Unreachable {
                    tracing::warn!(pool = place.0, error = %e, "cannot see whether its volumes were taken over");
                }
                failed = Some(e);
            }
        }
        match failed {
            Some(e) if look == Look::default() => Err(e),
            _ => Ok(look),
        }
    }

    /// See [`ImageStore::mend`](crate::backend::ImageStore::mend).
    pub(super) fn mend_record(&self, spec: &ImageSpec) -> Result<Option<String>> {
        let kv = self.cluster()?;
        self.owners.mend(&kv, &self.host(&kv), spec, |id| needs_lock(&kv, spec, id))
    }

    /// Who owns an image, whose id may be known.
    pub(super) fn owner_of(
        &self,
        spec: &ImageSpec,
        id: Option<&str>,
    ) -> Result<Option<crate::model::owner::Owner>> {
        let kv = self.cluster()?;
        let id = match id {
            Some(id) => Some(id.to_owned()),
            None => kv.image_id(spec)?,
        };
        id.map_or(Ok(None), |id| self.owners.owner(&kv, &place(spec), &id))
    }
}

/// Whether earlier plugins look at the advisory lock of an image with these features.
pub(super) fn needs_advisory_lock(has: u64) -> bool {
    has & features::EXCLUSIVE_LOCK == 0
}

fn needs_lock(kv: &Rados, spec: &ImageSpec, id: &str) -> Result<bool> {
    let header = header::read(&kv.session.of(spec)?, id)?;
    Ok(header.is_some_and(|header| needs_advisory_lock(header.features)))
}

//! Which images are copies of each other: clones, and what they were cloned from.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::RbdBackend;
use super::header;
use crate::backend::Device;
use crate::ceph::IoCtx;
use crate::model::error::Result;
use crate::model::name::ImageSpec;

/// So many generations of clones are looked at.
const GENERATIONS: usize = 16;

impl RbdBackend {
    /// See [`ImageStore::is_copy`](crate::backend::ImageStore::is_copy).
    pub(super) fn is_kin(&self, spec: &ImageSpec, of: &Device) -> Result<bool> {
        let session = self.link.session()?;
        let io = session.of(spec)?;
        let Some(id) = header::id(&io, spec.image())? else { return Ok(false) };
        let Some(other) = self.kernel.at(of.number)?.filter(|mapping| mapping.fsid == session.cluster.fsid())
        else {
            return Ok(false);
        };
        let there = ImageSpec::new(&other.pool, other.namespace.as_deref(), &other.image)?;
        let there = session.of(&there)?;
        if there.pool_id() != other.pool_id || id == other.image_id {
            return Ok(false);
        }
        let (ours, theirs) = (origins(&io, &id)?, origins(&there, &other.image_id)?);
        Ok(!ours.is_disjoint(&theirs))
    }
}

/// An image and all that it was cloned from, by id, as far back as that is in its own pool and namespace. A clone that was flattened has
/// no parent any more.
fn origins(io: &IoCtx, id: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::from([id.to_owned()]);
    let mut next = id.to_owned();
    for _ in 0..GENERATIONS {
        let parent = match header::parent(io, &next) {
            Ok(Some(parent)) => parent,
            Ok(None) => break,
            // What is behind a parent that is gone, or not to be read, is not known.
            Err(e) if matches!(e.errno, Errno::ENOENT | Errno::EPERM | Errno::EACCES) => break,
            Err(e) => return Err(e.into()),
        };
        found.insert(parent.image.clone());
        if (parent.pool, parent.namespace.as_str()) != (io.pool_id(), io.namespace().unwrap_or_default()) {
            break;
        }
        next = parent.image;
    }
    Ok(found)
}

//! What is looked up of an image without a mapping: its data, what is left of one that is gone, and where that went.

use std::time::Duration;

use nix::errno::Errno;

use super::header;
use crate::ceph::{Image, IoCtx};
use crate::linux::probe;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::Content;
use crate::model::name::ImageSpec;

/// How much of an image's ends is read to see what it holds: the superblock of btrfs, a partition table's copy.
const BEGINNING: usize = 1 << 20;
const END: u64 = 1 << 20;
/// How long it may take to see that an image was never written to.
const LOOKS: Duration = Duration::from_secs(20);

/// Whether nothing was ever written to an image.
pub(super) fn is_untouched(io: &IoCtx, spec: &ImageSpec) -> Result<bool> {
    Image::open_read_only(io, spec.image())?.is_untouched(LOOKS).map_err(|e| match e.errno {
        Errno::ETIMEDOUT => DriverError::new(
            ErrorKind::NotAllowed,
            format!("{spec} is too large to see in {} s that nothing was written to it", LOOKS.as_secs()),
        )
        .hint(format!(
            "format it yourself; or, for an image with exclusive-lock: rbd feature enable {spec} object-map,fast-diff \
             and rbd object-map rebuild {spec}"
        ))
        .caused_by(e),
        _ => e.into(),
    })
}

/// What an image holds, by its signatures.
pub(super) fn content(io: &IoCtx, spec: &ImageSpec) -> Result<Content> {
    let image = Image::open_read_only(io, spec.image())?;
    let size = image.size()?;
    let end = END.min(size);
    let beginning = image.read(0, BEGINNING)?;
    let end = image.read(size - end, usize::try_from(end).unwrap_or(0))?;
    Ok(probe::content_of_ends(&beginning, &end, size, &spec.to_string())?)
}

/// Where an image is that was called so, if that is known.
pub(super) fn whereabouts(io: &IoCtx, spec: &ImageSpec) -> Option<String> {
    let trash = io.trash().ok()?;
    let found = trash.iter().find(|image| image.name == spec.image())?;
    let pool = spec.pool();
    Some(if found.migrating {
        format!("an image of this name is being migrated to another one: see rbd trash ls --all {pool}")
    } else {
        let namespace = spec.namespace().map(|name| format!(" --namespace {name}")).unwrap_or_default();
        format!("it is in the trash: rbd trash restore --pool {pool}{namespace} {}", found.id)
    })
}

/// Removes the entry of the pool's directory when it is all that is left of an image: `rbd create` would find the name taken.
pub(super) fn clear_entry(io: &IoCtx, spec: &ImageSpec) -> Result<bool> {
    if header::id(io, spec.image())?.is_some() {
        return Ok(false);
    }
    let Some(entry) = io.images()?.into_iter().find(|image| image.name == spec.image()) else {
        return Ok(false);
    };
    if entry.id.is_empty() || header::read(io, &entry.id)?.is_some() {
        return Err(DriverError::new(
            ErrorKind::Failed,
            format!(
                "{spec} is in the directory of its pool, but not under this name: rbd_id.{} is missing",
                spec.image()
            ),
        )
        .hint(format!("its data may be whole (id {}); choose another name for the new volume", entry.id)));
    }
    tracing::warn!(image = %spec, "removing what is left of a removed image: an entry in the pool's directory");
    io.remove_image(spec.image(), &mut |_| {})?;
    Ok(true)
}

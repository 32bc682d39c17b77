//! What is looked up of an image without a mapping: its data, what is left of one that is gone, and where that went.

use std::time::Duration;

use nix::errno::Errno;

use super::header::{self, Header};
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
    open(io, spec)?.is_untouched(LOOKS).map_err(|e| match e.errno {
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
    let image = open(io, spec)?;
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
    refuse_nameless(io, spec)?;
    if header::listed_id(io, spec.image())?.is_none() {
        return Ok(false);
    }
    tracing::warn!(image = %spec, "removing what is left of a removed image: an entry in the pool's directory");
    io.remove_image(spec.image(), &mut |_| {})?;
    Ok(true)
}

/// The image that the pool's directory has under a name whose own object is missing; nothing when there is none, or when it is on its way to
/// the trash. No Create and no removal that died leaves one like that: something was damaged.
pub(super) fn nameless(io: &IoCtx, spec: &ImageSpec) -> Result<Option<(String, Header)>> {
    let Some(id) = header::listed_id(io, spec.image())? else { return Ok(None) };
    let Some(header) = header::read(io, &id)? else { return Ok(None) };
    let is_between =
        header::id(io, spec.image())?.is_some() || io.trash()?.iter().any(|trashed| trashed.id == id);
    Ok((!is_between).then_some((id, header)))
}

/// An error for such an image: librbd would remove its data along with the name.
pub(super) fn refuse_nameless(io: &IoCtx, spec: &ImageSpec) -> Result<()> {
    nameless(io, spec)?.map_or(Ok(()), |(id, _)| Err(lost_its_name(spec, &id)))
}

/// See [`nameless`].
pub(super) fn lost_its_name(spec: &ImageSpec, id: &str) -> DriverError {
    let image = spec.image();
    DriverError::new(
        ErrorKind::AlreadyExists,
        format!("{spec} is in the directory of its pool, but not under this name: rbd_id.{image} is missing"),
    )
    .hint(format!(
        "its data may be whole (id {id}); that object holds the length of the id, four bytes, and the id"
    ))
}

/// The addresses that watch an image: of everybody who has it mapped, or open for writing.
pub(super) fn watchers(io: &IoCtx, spec: &ImageSpec) -> Result<Vec<String>> {
    let image = match Image::open_read_only(io, spec.image()) {
        Err(e) if e.errno == Errno::ENOENT => return Ok(Vec::new()),
        image => image?,
    };
    Ok(image.watchers()?.into_iter().map(|watcher| watcher.address).collect())
}

/// Opens an image that has a name.
pub(super) fn open(io: &IoCtx, spec: &ImageSpec) -> Result<Image> {
    Image::open_read_only(io, spec.image()).map_err(|e| match header::id(io, spec.image()) {
        Ok(Some(id)) if e.errno == Errno::ENOENT => {
            let parent = match header::parent(io, &id) {
                Ok(Some(parent)) => format!(" (image {} in pool {})", parent.image, parent.pool),
                _ => String::new(),
            };
            DriverError::new(
                ErrorKind::Failed,
                format!(
                    "{spec} is there and cannot be opened: perhaps what it was cloned from{parent} is gone"
                ),
            )
            .hint(format!("what is not its own data is lost then; if it is not needed: rbd rm {spec}"))
            .caused_by(e)
        }
        _ => e.into(),
    })
}

//! What one small request tells of each of many images: whether it is a volume at first sight. Whatever has another state than that of almost
//! all images wants a closer look.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::header::{self, Stored};
use crate::ceph::{ImageName, IoCtx};
use crate::coordination::record;
use crate::model::error::{CallError, Result};
use crate::model::record::Stage;

/// So many images are asked at a time.
const AT_ONCE: usize = 64;

/// What was seen of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// It is whole: a volume, whoever made it.
    Whole,
    /// To be looked at closely.
    Odd,
    /// The cluster does not answer.
    Unseen,
}

/// What is seen of images that a directory has just named. Beside one request for each of them there is one for all names under which images
/// are being made, and one for the trash, by way of which librbd removes them. Both come before the headers: of an image that is
/// made or removed meanwhile, one or the other tells.
pub(super) fn glance(io: &IoCtx, images: &[&ImageName]) -> Vec<Sight> {
    let around = new_names(io).and_then(|making| {
        let trash: BTreeSet<String> = io.trash()?.into_iter().map(|trashed| trashed.id).collect();
        Ok((making, trash))
    });
    let (making, trash) = match around {
        Ok(around) => around,
        Err(e) if e.errno == Errno::ETIMEDOUT => return vec![Sight::Unseen; images.len()],
        Err(_) => return vec![Sight::Odd; images.len()],
    };
    let ids: Vec<&str> = images.iter().map(|image| image.id.as_str()).collect();
    let mut seen = Vec::with_capacity(images.len());
    header::records(io, &ids, AT_ONCE, |id, record| {
        let image = images.get(seen.len());
        let is_between = image.is_none_or(|image| making.contains(&image.name)) || trash.contains(id);
        seen.push(if is_between { Sight::Odd } else { sight(record) });
    });
    seen
}

/// The names under which images are being made, or are claimed to be made.
fn new_names(io: &IoCtx) -> Result<BTreeSet<String>, CallError> {
    match io.omap_with(record::OBJECT, record::NEW) {
        Err(e) if e.errno == Errno::ENOENT => Ok(BTreeSet::new()),
        found => {
            let names = found?.into_keys().filter_map(|key| Some(key.strip_prefix(record::NEW)?.to_owned()));
            Ok(names.collect())
        }
    }
}

fn sight(record: Result<Option<Option<Stored>>>) -> Sight {
    match record {
        // Somebody else has made it.
        Ok(Some(None)) => Sight::Whole,
        Ok(Some(Some(stored))) if !stored.removing && stored.record.stage == Stage::Ready => Sight::Whole,
        Err(e) if e.source.as_ref().is_some_and(|call| call.errno == Errno::ETIMEDOUT) => Sight::Unseen,
        _ => Sight::Odd,
    }
}

//! Which images of a pool are volumes: those that Get answers, too. A pool's directory also has names that no volume can have, images that
//! are being made or removed, and entries of which nothing else is left.
//!
//! An image that was found whole is not looked at again: its id is never another image's. Whoever finds it half made later [forgets](
//! Catalogue::forget) it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::thread;

use super::link::Place;
use crate::ceph::ImageName;
use crate::lock;
use crate::model::error::Result;
use crate::model::image::{ImageInfo, NoVolume};
use crate::model::name::ImageSpec;

/// So many images are looked at at a time.
const AT_ONCE: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    /// The ids of images that are whole.
    whole: Mutex<HashMap<ImageSpec, String>>,
    left_out: Mutex<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    /// Of the list that is being made, and of the last one.
    now: BTreeSet<NoVolume>,
    last: BTreeSet<NoVolume>,
}

/// What an entry of the directory is.
enum Entry {
    Volume,
    /// Being made, or being removed: nobody has to be told.
    Passing,
    /// Something that stays as it is until somebody acts.
    Not(&'static str),
}

impl Catalogue {
    /// The volumes among the images of a place.
    pub(super) fn volumes(
        &self,
        place: &Place,
        images: &[ImageName],
        info: impl Fn(&ImageSpec) -> Result<Option<ImageInfo>> + Sync,
    ) -> Vec<ImageSpec> {
        let mut volumes = Vec::new();
        let mut unknown = Vec::new();
        for image in images {
            match ImageSpec::new(&place.0, place.1.as_deref(), &image.name) {
                // One of format 1 has no id; it is told from a volume by Get.
                Ok(spec) if image.id.is_empty() || self.is_whole(&spec, &image.id) => volumes.push(spec),
                Ok(spec) => unknown.push((spec, image.id.as_str())),
                Err(e) => self.leave_out(place, &image.name, &e.message),
            }
        }
        // Of a removed image nothing need be known.
        let names: BTreeSet<&str> = images.iter().map(|image| image.name.as_str()).collect();
        lock(&self.whole).retain(|spec, _| {
            (spec.pool(), spec.namespace()) != (place.0.as_str(), place.1.as_deref())
                || names.contains(spec.image())
        });
        let look = |(spec, id): &(ImageSpec, &str)| match info(spec) {
            // Get tells what is wrong with it.
            Err(_) => Entry::Volume,
            Ok(Some(found)) if !found.is_half_made() => {
                lock(&self.whole).insert(spec.clone(), (*id).to_owned());
                Entry::Volume
            }
            Ok(Some(found)) if found.is_being_made() => Entry::Passing,
            Ok(Some(_)) => {
                Entry::Not("it was left half removed, or half made by another program: rbd rm ends that")
            }
            Ok(None) => Entry::Not("only its entry in the pool's directory is left: rbd rm removes that"),
        };
        let share = unknown.len().div_ceil(AT_ONCE).max(1);
        let entries: Vec<Entry> = thread::scope(|scope| {
            let threads: Vec<_> = unknown
                .chunks(share)
                .map(|chunk| {
                    let named = thread::Builder::new().name("list".to_owned());
                    (chunk, named.spawn_scoped(scope, || chunk.iter().map(look).collect::<Vec<_>>()))
                })
                .collect();
            let answers =
                threads.into_iter().map(|(chunk, thread)| match thread.map(|thread| thread.join()) {
                    Ok(Ok(entries)) => entries,
                    // Get tells what is wrong with them.
                    Ok(Err(_)) => chunk.iter().map(|_| Entry::Volume).collect(),
                    // There is no thread to be had.
                    Err(_) => chunk.iter().map(look).collect(),
                });
            answers.flatten().collect()
        });
        for ((spec, _), entry) in unknown.into_iter().zip(entries) {
            match entry {
                Entry::Volume => volumes.push(spec),
                Entry::Passing => {}
                Entry::Not(why) => self.leave_out(place, spec.image(), why),
            }
        }
        volumes
    }

    /// The list is whole.
    pub(super) fn listed(&self) {
        let mut lists = lock(&self.left_out);
        lists.last = std::mem::take(&mut lists.now);
    }

    pub(super) fn no_volumes(&self) -> Vec<NoVolume> {
        lock(&self.left_out).last.iter().cloned().collect()
    }

    pub(super) fn forget(&self, spec: &ImageSpec) {
        lock(&self.whole).remove(spec);
    }

    fn is_whole(&self, spec: &ImageSpec, id: &str) -> bool {
        lock(&self.whole).get(spec).is_some_and(|known| known == id)
    }

    fn leave_out(&self, place: &Place, image: &str, why: &str) {
        let parts = [Some(place.0.as_str()), place.1.as_deref(), Some(image)];
        let image = parts.into_iter().flatten().collect::<Vec<_>>().join("/");
        let left = NoVolume { image, why: why.to_owned() };
        let mut lists = lock(&self.left_out);
        if !lists.last.contains(&left) && !lists.now.contains(&left) {
            tracing::info!(image = left.image, why, "not listed: it is no volume");
        }
        lists.now.insert(left);
    }
}

//! Which images of a pool are volumes: those that Get answers, too. A pool's directory also has names that no volume can have, images that
//! are being made or removed, and entries of which nothing else is left.
//!
//! An image that was found whole is not looked at again: its id is never another image's. Whoever finds it half made later [forgets](
//! Catalogue::forget) it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::thread;

use super::glance::Sight;
use super::link::{Place, place};
use crate::ceph::ImageName;
use crate::lock;
use crate::model::error::Result;
use crate::model::image::{ImageInfo, NoVolume};
use crate::model::name::ImageSpec;

/// So many images are looked at closely at a time.
const AT_ONCE: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    whole: Mutex<HashMap<Place, Ids>>,
    left_out: Mutex<Lists>,
}

/// The ids of images that are whole, each followed by a newline, which no id holds. There may be very many of them, and they are kept for as
/// long as the plugin runs: one piece of memory is all they take, and no more than what they say.
#[derive(Debug, Default)]
struct Ids(String);

impl Ids {
    fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.lines()
    }

    /// Whether they are the ids of these images, in this order.
    fn are_those_of(&self, images: &[ImageName]) -> bool {
        self.iter().eq(images.iter().map(|image| image.id.as_str()))
    }

    fn of<'a>(ids: impl Iterator<Item = &'a str>) -> Self {
        let mut text = String::new();
        ids.for_each(|id| text.extend([id, "\n"]));
        text.shrink_to_fit();
        Self(text)
    }
}

#[derive(Debug, Default)]
struct Lists {
    /// Of the list that is being made, and of the last one.
    now: BTreeSet<NoVolume>,
    last: BTreeSet<NoVolume>,
}

/// What an entry of the directory is.
enum Entry {
    /// One whose state is not known is a volume, too.
    Volume { is_whole: bool },
    /// Being made, or being removed: nobody has to be told.
    Passing,
    /// Something that stays as it is until somebody acts.
    Not(&'static str),
}

impl Catalogue {
    /// The volumes among the images of a place. All that are not known yet are seen at a glance; what is odd is looked at by itself.
    pub(super) fn volumes(
        &self,
        place: &Place,
        images: &[ImageName],
        glance: impl Fn(&[&ImageName]) -> Vec<Sight>,
        info: impl Fn(&ImageSpec) -> Result<Option<ImageInfo>> + Sync,
    ) -> Vec<ImageSpec> {
        let mut volumes = Vec::with_capacity(images.len());
        let mut unknown = Vec::new();
        {
            let whole = lock(&self.whole);
            let whole = whole.get(place);
            // Most Lists are like the one before.
            let all_are = whole.is_some_and(|whole| whole.are_those_of(images));
            let whole = whole.filter(|_| !all_are).into_iter().flat_map(Ids::iter);
            let whole: HashSet<&str> = whole.collect();
            for image in images {
                match ImageSpec::new(&place.0, place.1.as_deref(), &image.name) {
                    // One of format 1 has no id; it is told from a volume by Get.
                    Ok(spec) if all_are || image.id.is_empty() || whole.contains(image.id.as_str()) => {
                        volumes.push(spec);
                    }
                    Ok(spec) => unknown.push((spec, image)),
                    Err(e) => self.leave_out(place, &image.name, &e.message),
                }
            }
        }
        let names: Vec<&ImageName> = unknown.iter().map(|(_, image)| *image).collect();
        let sights = if names.is_empty() { Vec::new() } else { glance(&names) };
        let mut found_whole: HashSet<&str> = HashSet::new();
        let mut odd = Vec::new();
        for ((spec, image), sight) in unknown.into_iter().zip(sights) {
            match sight {
                Sight::Whole => {
                    found_whole.insert(&image.id);
                    volumes.push(spec);
                }
                // Get tells what is wrong with it.
                Sight::Unseen => volumes.push(spec),
                Sight::Odd => odd.push((spec, image.id.as_str())),
            }
        }
        for ((spec, id), entry) in odd.iter().zip(look_at_each(&odd, info)) {
            match entry {
                Entry::Volume { is_whole } => {
                    volumes.push(spec.clone());
                    if is_whole {
                        found_whole.insert(id);
                    }
                }
                Entry::Passing => {}
                Entry::Not(why) => self.leave_out(place, spec.image(), why),
            }
        }
        self.keep(place, images, &found_whole);
        volumes
    }

    /// Of images that are not listed any more nothing need be known.
    fn keep(&self, place: &Place, images: &[ImageName], found: &HashSet<&str>) {
        let mut all = lock(&self.whole);
        let before = all.remove(place).unwrap_or_default();
        let ids = if found.is_empty() && before.are_those_of(images) {
            None
        } else {
            let known: HashSet<&str> = before.iter().collect();
            let ids = images.iter().map(|image| image.id.as_str());
            Some(Ids::of(ids.filter(|id| known.contains(id) || found.contains(id))))
        };
        all.insert(place.clone(), ids.unwrap_or(before));
    }

    /// The list is whole.
    pub(super) fn listed(&self) {
        let mut lists = lock(&self.left_out);
        lists.last = std::mem::take(&mut lists.now);
    }

    pub(super) fn no_volumes(&self) -> Vec<NoVolume> {
        lock(&self.left_out).last.iter().cloned().collect()
    }

    /// The image with this id is not whole.
    pub(super) fn forget(&self, spec: &ImageSpec, id: &str) {
        if let Some(ids) = lock(&self.whole).get_mut(&place(spec))
            && ids.iter().any(|known| known == id)
        {
            *ids = Ids::of(ids.iter().filter(|known| *known != id));
        }
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

/// Each of the images by itself, some at a time.
fn look_at_each(
    images: &[(ImageSpec, &str)],
    info: impl Fn(&ImageSpec) -> Result<Option<ImageInfo>> + Sync,
) -> Vec<Entry> {
    let look = |(spec, _): &(ImageSpec, &str)| match info(spec) {
        // Get tells what is wrong with it.
        Err(_) => Entry::Volume { is_whole: false },
        Ok(Some(found)) if !found.is_half_made() => Entry::Volume { is_whole: true },
        Ok(Some(found)) if found.is_being_made() => Entry::Passing,
        Ok(Some(_)) => {
            Entry::Not("it was left half removed, or half made by another program: rbd rm ends that")
        }
        Ok(None) => Entry::Not("only its entry in the pool's directory is left: rbd rm removes that"),
    };
    let share = images.len().div_ceil(AT_ONCE).max(1);
    thread::scope(|scope| {
        let threads: Vec<_> = images
            .chunks(share)
            .map(|chunk| {
                let named = thread::Builder::new().name("list".to_owned());
                (chunk, named.spawn_scoped(scope, || chunk.iter().map(look).collect::<Vec<_>>()))
            })
            .collect();
        let answers = threads.into_iter().map(|(chunk, thread)| match thread.map(|thread| thread.join()) {
            Ok(Ok(entries)) => entries,
            // Get tells what is wrong with them.
            Ok(Err(_)) => chunk.iter().map(|_| Entry::Volume { is_whole: false }).collect(),
            // There is no thread to be had.
            Err(_) => chunk.iter().map(look).collect(),
        });
        answers.flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn image(id: &str, name: &str) -> ImageName {
        ImageName { id: id.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn what_is_whole_is_not_looked_at_again_until_it_is_forgotten() {
        let catalogue = Catalogue::default();
        let here: Place = ("rbd".to_owned(), None);
        let list = |images: &[ImageName]| {
            let asked = RefCell::new(Vec::new());
            let glance = |images: &[&ImageName]| {
                asked.borrow_mut().extend(images.iter().map(|image| image.id.clone()));
                images.iter().map(|image| if image.id == "odd" { Sight::Odd } else { Sight::Whole }).collect()
            };
            let volumes = catalogue.volumes(&here, images, glance, |_| Ok(None));
            let names: BTreeSet<String> = volumes.iter().map(|spec| spec.image().to_owned()).collect();
            (names.into_iter().collect::<Vec<_>>().join(" "), asked.into_inner().join(" "))
        };
        let both = |listed: &str, asked: &str| (listed.to_owned(), asked.to_owned());
        let mut images = vec![image("1", "a"), image("", "old"), image("odd", "b"), image("22", "c")];
        assert_eq!(list(&images), both("a c old", "1 odd 22"));
        assert_eq!(list(&images), both("a c old", "odd"), "one that is odd may be whole the next time");
        catalogue.forget(&ImageSpec::new("rbd", None, "a").unwrap(), "1");
        catalogue.forget(&ImageSpec::new("rbd", None, "x").unwrap(), "2");
        assert_eq!(list(&images), both("a c old", "1 odd"));
        // By its id it is the same under another name, and another one under its own.
        images[0] = image("1", "renamed");
        images[3] = image("3", "c");
        assert_eq!(list(&images), both("c old renamed", "odd 3"));
        assert_eq!(lock(&catalogue.whole)[&here].0, "1\n3\n", "nothing is kept of what is gone");
    }
}

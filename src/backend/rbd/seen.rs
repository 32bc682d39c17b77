//! What was read of an image right before and right after it was claimed, so that a Mount reads it once. Nobody else changes what we own; what
//! changes it here [forgets](Seen::forget) it, and by itself it is forgotten soon.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::header::Header;
use crate::lock;
use crate::model::name::ImageSpec;

/// A Mount needs it for as long as it takes to map. Somebody may resize the image by hand meanwhile.
const LASTS: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<HashMap<ImageSpec, Sight>>);

#[derive(Debug, Clone)]
struct Sight {
    at: Instant,
    id: String,
    /// None before the claim: others may change it still.
    header: Option<Header>,
}

impl Seen {
    pub(super) fn note(&self, spec: &ImageSpec, id: &str, header: Option<Header>) {
        let mut seen = lock(&self.0);
        seen.retain(|_, sight| sight.at.elapsed() < LASTS);
        seen.insert(spec.clone(), Sight { at: Instant::now(), id: id.to_owned(), header });
    }

    /// The image's id, if it was looked up just now. It is forgotten.
    pub(super) fn take_id(&self, spec: &ImageSpec) -> Option<String> {
        let sight = lock(&self.0).remove(spec)?;
        (sight.at.elapsed() < LASTS).then_some(sight.id)
    }

    pub(super) fn forget(&self, spec: &ImageSpec) {
        lock(&self.0).remove(spec);
    }

    /// The image's id and header, if they were read just now under our claim.
    pub(super) fn of(&self, spec: &ImageSpec) -> Option<(String, Header)> {
        let seen = lock(&self.0);
        let sight = seen.get(spec).filter(|sight| sight.at.elapsed() < LASTS)?;
        Some((sight.id.clone(), sight.header.clone()?))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::model::size::Size;

    #[test]
    fn a_sight_is_of_its_image_until_it_is_forgotten_or_old() {
        let header = Header {
            size: Size::bytes(1),
            object_size: Size::bytes(1),
            features: 0,
            striping: None,
            data_pool: None,
            created: UNIX_EPOCH,
            record: None,
            damage: None,
        };
        let [a, b] = ["a", "b"].map(|image| ImageSpec::new("rbd", None, image).unwrap());
        let seen = Seen::default();
        seen.note(&a, "1", None);
        assert!(seen.of(&a).is_none(), "what was read before the claim is no more than an id");
        assert_eq!(seen.take_id(&a).as_deref(), Some("1"));
        assert_eq!(seen.take_id(&a), None);
        seen.note(&a, "1", Some(header.clone()));
        seen.note(&b, "2", Some(header));
        assert_eq!(seen.of(&a).unwrap().0, "1");
        seen.forget(&a);
        assert!(seen.of(&a).is_none());
        let Some(long_ago) = Instant::now().checked_sub(LASTS) else { return };
        lock(&seen.0).get_mut(&b).unwrap().at = long_ago;
        assert!(seen.of(&b).is_none());
    }
}

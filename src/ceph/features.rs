//! The features of an image: names and bits, as Ceph's headers have them.

use std::ffi::CStr;

use librbd_sys as sys;

/// Snapshots and clones.
pub const LAYERING: u64 = sys::RBD_FEATURE_LAYERING;
/// Striping other than object by object.
pub const STRIPING: u64 = sys::RBD_FEATURE_STRIPINGV2;
/// One writer at a time, by a lock that moves on demand.
pub const EXCLUSIVE_LOCK: u64 = sys::RBD_FEATURE_EXCLUSIVE_LOCK;
/// A map of the objects that exist.
pub const OBJECT_MAP: u64 = sys::RBD_FEATURE_OBJECT_MAP;
/// Differences out of the object map.
pub const FAST_DIFF: u64 = sys::RBD_FEATURE_FAST_DIFF;
/// Flattening of snapshots too.
pub const DEEP_FLATTEN: u64 = sys::RBD_FEATURE_DEEP_FLATTEN;
/// A journal of all writes.
pub const JOURNALING: u64 = sys::RBD_FEATURE_JOURNALING;
/// Data in another pool than the header.
pub const DATA_POOL: u64 = sys::RBD_FEATURE_DATA_POOL;
/// Newer operations on it that older clients do not know.
pub const OPERATIONS: u64 = sys::RBD_FEATURE_OPERATIONS;
/// It is just being migrated.
pub const MIGRATING: u64 = sys::RBD_FEATURE_MIGRATING;
/// A mirror that another cluster writes.
pub const NON_PRIMARY: u64 = sys::RBD_FEATURE_NON_PRIMARY;
/// Writes are left in the cache of a client.
pub const DIRTY_CACHE: u64 = sys::RBD_FEATURE_DIRTY_CACHE;

/// What an image gets and loses in the course of its life: nobody can choose it.
pub const STATES: u64 = OPERATIONS | MIGRATING | NON_PRIMARY | DIRTY_CACHE;
/// What Ceph gives where nothing is set.
pub const DEFAULT: u64 = LAYERING | EXCLUSIVE_LOCK | OBJECT_MAP | FAST_DIFF | DEEP_FLATTEN;

/// Features, and what each of them rests on; that comes first.
const NEEDS: [(u64, u64); 3] =
    [(OBJECT_MAP, EXCLUSIVE_LOCK), (JOURNALING, EXCLUSIVE_LOCK), (FAST_DIFF, OBJECT_MAP)];

const ALL: [(u64, &CStr); 12] = [
    (LAYERING, sys::RBD_FEATURE_NAME_LAYERING),
    (STRIPING, sys::RBD_FEATURE_NAME_STRIPINGV2),
    (EXCLUSIVE_LOCK, sys::RBD_FEATURE_NAME_EXCLUSIVE_LOCK),
    (OBJECT_MAP, sys::RBD_FEATURE_NAME_OBJECT_MAP),
    (FAST_DIFF, sys::RBD_FEATURE_NAME_FAST_DIFF),
    (DEEP_FLATTEN, sys::RBD_FEATURE_NAME_DEEP_FLATTEN),
    (JOURNALING, sys::RBD_FEATURE_NAME_JOURNALING),
    (DATA_POOL, sys::RBD_FEATURE_NAME_DATA_POOL),
    (OPERATIONS, sys::RBD_FEATURE_NAME_OPERATIONS),
    (MIGRATING, sys::RBD_FEATURE_NAME_MIGRATING),
    (NON_PRIMARY, sys::RBD_FEATURE_NAME_NON_PRIMARY),
    (DIRTY_CACHE, sys::RBD_FEATURE_NAME_DIRTY_CACHE),
];

/// The names of the bits, lowest bit first. A bit that these headers do not know has none.
pub fn names(bits: u64) -> Vec<&'static str> {
    let set = ALL.into_iter().filter(|(bit, _)| bits & bit != 0);
    set.filter_map(|(_, name)| name.to_str().ok()).collect()
}

/// The names of the bits, with commas, and the bits that these headers do not know.
pub fn told(bits: u64) -> String {
    let mut names = names(bits);
    let unknown = ALL.iter().fold(bits, |rest, (bit, _)| rest & !bit);
    let rest = format!("unknown ones ({unknown:#x})");
    if unknown != 0 {
        names.push(&rest);
    }
    names.join(",")
}

/// A choice as librbd makes it: every object map comes with fast-diff.
pub const fn completed(bits: u64) -> u64 {
    if bits & OBJECT_MAP == 0 { bits } else { bits | FAST_DIFF }
}

/// The first feature that rests on one that is not there, and that one.
pub fn orphan(bits: u64) -> Option<(u64, u64)> {
    NEEDS.into_iter().find(|(feature, needs)| bits & feature != 0 && bits & needs == 0)
}

/// These features, and all that rest on them.
pub fn with_dependents(bits: u64) -> u64 {
    NEEDS
        .into_iter()
        .fold(bits, |bits, (feature, needs)| if bits & needs == 0 { bits } else { bits | feature })
}

/// The most of a choice that a kernel can map: without a feature, what rests on it and what brings it along are not possible either.
pub fn possible(wanted: u64, kernel: u64) -> u64 {
    let wanted = completed(wanted);
    let mut lacking = wanted & !kernel;
    if lacking & FAST_DIFF != 0 {
        lacking |= OBJECT_MAP;
    }
    wanted & !with_dependents(lacking)
}

/// The bits of a comma-separated list of names; an empty list has none. What is unknown comes back as it was written.
pub fn parse(list: &str) -> Result<u64, String> {
    let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(bit).try_fold(0, |bits, bit| Ok(bits | bit?))
}

/// The bit of a name.
pub fn bit(word: &str) -> Result<u64, String> {
    let found = ALL.into_iter().find(|(_, name)| name.to_bytes() == word.as_bytes());
    found.map(|(bit, _)| bit).ok_or_else(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bits_are_those_of_the_rbd_command() {
        let default = "layering,exclusive-lock,object-map,fast-diff,deep-flatten";
        assert_eq!(parse(default), Ok(61));
        assert_eq!(names(61).join(","), default);
        assert_eq!(
            names(parse("striping, data-pool,journaling,").unwrap()),
            ["striping", "journaling", "data-pool"]
        );
        assert_eq!(names(u64::MAX).len(), ALL.len());
        assert_eq!(parse(&names(u64::MAX).join(",")), Ok(0xfff));
    }

    #[test]
    fn bits_without_a_name_are_told_too() {
        assert_eq!(told(LAYERING | OBJECT_MAP), "layering,object-map");
        assert_eq!(told(OBJECT_MAP | 1 << 60), "object-map,unknown ones (0x1000000000000000)");
        assert_eq!(told(1 << 12), "unknown ones (0x1000)");
    }

    #[test]
    fn what_is_possible_is_the_most_that_an_image_can_have() {
        let fits = |bits: u64| orphan(bits).is_none() && completed(bits) == bits;
        for (wanted, kernel) in (0..0x80).flat_map(|wanted| (0..0x80).map(move |kernel| (wanted, kernel))) {
            // What rests on nothing is refused before.
            if orphan(wanted).is_some() {
                continue;
            }
            let most = (0..0x80)
                .filter(|bits| bits & !(completed(wanted) & kernel) == 0 && fits(*bits))
                .max_by_key(|bits: &u64| bits.count_ones())
                .unwrap();
            let found = possible(wanted, kernel);
            assert_eq!(names(found), names(most), "{:?} on {:?}", names(wanted), names(kernel));
        }
    }

    #[test]
    fn features_rest_on_each_other() {
        assert_eq!(orphan(OBJECT_MAP | FAST_DIFF), Some((OBJECT_MAP, EXCLUSIVE_LOCK)));
        assert_eq!(orphan(EXCLUSIVE_LOCK | FAST_DIFF), Some((FAST_DIFF, OBJECT_MAP)));
        assert_eq!(orphan(DEFAULT | JOURNALING), None);
        assert_eq!(with_dependents(EXCLUSIVE_LOCK), EXCLUSIVE_LOCK | OBJECT_MAP | FAST_DIFF | JOURNALING);
        assert_eq!(with_dependents(FAST_DIFF), FAST_DIFF);
    }

    #[test]
    fn an_unknown_word_comes_back() {
        assert_eq!(parse("layering,Layering"), Err("Layering".to_owned()));
        assert_eq!(parse(""), Ok(0));
    }
}

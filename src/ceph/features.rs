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

/// The bits of a comma-separated list of names; an empty list has none. What is unknown comes back as it was written.
pub fn parse(list: &str) -> Result<u64, String> {
    let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(bit).try_fold(0, |bits, bit| Ok(bits | bit?))
}

fn bit(word: &str) -> Result<u64, String> {
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
    fn an_unknown_word_comes_back() {
        assert_eq!(parse("layering,Layering"), Err("Layering".to_owned()));
        assert_eq!(parse(""), Ok(0));
    }
}

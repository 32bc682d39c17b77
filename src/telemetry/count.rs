//! What is counted from the start of this process on, by whoever sees it happen, in whatever layer. Who reads it is no concern of
//! theirs: see [`metrics`](super::metrics).

use std::sync::atomic::{AtomicU64, Ordering};

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// The connection to the cluster was lost and is there again.
    Reconnect,
    /// A client was shut out of the cluster.
    Fence,
    /// An image was taken over from an owner that is gone.
    Takeover,
    /// A volume was taken away from this host while it was mounted.
    Lost,
    /// A mountpoint was busy, and unmounting it was tried again.
    BusyUnmount,
    /// A device was busy, and unmapping it was tried again.
    BusyUnmap,
}

const HOW_MANY: usize = 6;

static COUNTS: [AtomicU64; HOW_MANY] = [const { AtomicU64::new(0) }; HOW_MANY];

/// It has happened once more.
pub fn count(what: Count) {
    COUNTS[what as usize].fetch_add(1, Ordering::Relaxed);
}

/// How often it has happened.
pub fn counted(what: Count) -> u64 {
    COUNTS[what as usize].load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_by_itself() {
        // The first and the last: other tests of this process may count, too.
        for what in [Count::Reconnect, Count::BusyUnmap] {
            let before = counted(what);
            count(what);
            assert!(counted(what) > before, "{what:?}");
        }
        assert_eq!(Count::BusyUnmap as usize + 1, HOW_MANY);
    }
}

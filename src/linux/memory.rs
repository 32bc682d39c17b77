//! The allocator of the C library, told to keep less.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether there may be much to give back.
static WANTED: AtomicBool = AtomicBool::new(false);

/// Of each thread that allocates, glibc would make an arena of its own, up to eight for each processor, and what is freed in one stays
/// there. Threads are many here, and short.
pub fn use_few_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two numbers and touches no memory of ours.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Says that much was freed: after a large answer, or by a thread at its end.
pub fn trim_soon() {
    WANTED.store(true, Ordering::Relaxed);
}

/// Gives what is free back to the kernel, if somebody has said that it is much. Asked now and then.
pub fn trim_if_wanted() {
    if WANTED.swap(false, Ordering::Relaxed) {
        trim();
    }
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number, and releases only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

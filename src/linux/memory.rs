//! The allocator of the C library, told to keep less.
#![allow(unsafe_code)]

/// Of each thread that allocates, glibc would make an arena of its own, up to eight for each processor, and what is freed in one stays
/// there. Threads are many here, and short.
pub fn use_few_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two numbers and touches no memory of ours.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives what is free back to the kernel.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number, and releases only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

//! The running plugin: made of its parts by [`assemble`], served by [`serve`] until a signal ends it. What a stopped one has left mounted is
//! given back by [`release`].

pub mod assemble;
pub mod release;
pub mod serve;
pub mod systemd;

use std::io::{self, Write};

use crate::linux::fork;

/// Ends the program: the one way out of every command and of the daemon. Threads may still ask the cluster something that nobody waits for.
pub fn end(status: u8) -> ! {
    // What is printed is flushed already; this is for what a library has printed.
    let _ = io::stdout().flush();
    fork::end(status)
}

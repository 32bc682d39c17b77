//! The volumes of a plugin that has stopped are given back, without serving anything.
//!
//! The work is done by a second process, a copy of this one. A thread that hangs in the kernel, as an unmount does while its storage is
//! away, keeps its process from ending: so that one ends later, and the command on time. Until then the second process holds the plugin's
//! name: nothing else begins to work on what it may still be changing.

use std::io;
use std::thread;
use std::time::Duration;

use super::assemble;
use crate::config::Config;
use crate::frontend::http::socket::Claim;
use crate::linux::fork::{self, Fork, Second};
use crate::model::deadline::{Deadline, within};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::released::Released;

/// What the storage may hang up besides the volumes is waited for a little longer than for them.
const GRACE: Duration = Duration::from_secs(2);

/// How often to see whether the work is done.
const POLL: Duration = Duration::from_millis(10);

/// Has it done by a second process, within the time. There `tell` says what became of the volumes, and with which exit status.
pub fn all(config: &Config, timeout: Duration, tell: &dyn Fn(Released) -> Result<u8>) -> Result<u8> {
    let second = match fork::fork()? {
        Fork::Second => return work(config, timeout).and_then(tell),
        Fork::First(second) => second,
    };
    let Second { child, stdout, stderr } = second;
    let told =
        [thread::spawn(|| pass_on(stdout, io::stdout())), thread::spawn(|| pass_on(stderr, io::stderr()))];
    let deadline = Deadline::after(timeout + GRACE * 2);
    while !deadline.left().is_zero() {
        if let Some(status) = child.ended()? {
            told.into_iter().for_each(|thread| drop(thread.join()));
            return Ok(status);
        }
        thread::sleep(POLL);
    }
    // It has said already what is left.
    let message = format!("process {child} hangs in the kernel, and goes on when the storage is back");
    Err(DriverError::new(ErrorKind::Timeout, message).hint("until then no plugin of this name starts"))
}

/// A reader who has left is no failure.
fn pass_on(mut from: impl io::Read, mut to: impl io::Write) {
    let _ = io::copy(&mut from, &mut to).and_then(|_| to.flush());
}

fn work(config: &Config, timeout: Duration) -> Result<Released> {
    assemble::check(config)?;
    let claim = Claim::hold(&config.plugins, &config.name).map_err(|e| match e.kind {
        ErrorKind::InUse => {
            e.hint("unmount --all is for one that has stopped: systemctl stop rbd-docker-plugin")
        }
        _ => e,
    })?;
    // Held for as long as this process lives: what hangs may still be changing something.
    std::mem::forget(claim);
    let (deadline, config) = (Deadline::after(timeout), config.clone());
    // Opening the store may hang as well.
    let released =
        within(deadline.left() + GRACE, "release", move || assemble::release_all(&config, deadline))?;
    released.unwrap_or_else(|| {
        let message = format!("the storage did not answer within {} s: nothing is known", timeout.as_secs());
        Err(DriverError::new(ErrorKind::Timeout, message).hint("rbd-docker-plugin doctor says what hangs"))
    })
}

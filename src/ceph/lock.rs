//! Advisory locks on objects, and who holds them. They bind only those who ask for them.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::time::Duration;

use librbd_sys as sys;
use nix::errno::Errno;

use super::call::{Fit, c_string, check, fit, string, strings};
use super::{IoCtx, Result};

/// One holder of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locker {
    /// `client.4123`: [`Cluster::instance_id`](super::Cluster::instance_id) of the holder.
    pub client: String,
    /// What the holder calls this hold.
    pub cookie: String,
    /// Its address, as the blocklist takes it.
    pub address: String,
}

/// A lock and its holders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lockers {
    /// Whether there can be only one.
    pub exclusive: bool,
    /// What all holders of a shared lock agree on.
    pub tag: String,
    /// Nobody, when the lock is free.
    pub lockers: Vec<Locker>,
}

impl IoCtx {
    /// Takes part in a shared lock, until `lasts` is over by the clock of the OSD; again with the same cookie it counts from
    /// then. Makes the object when it is missing. `EBUSY`: it is held under another tag.
    pub fn lock_shared(
        &self,
        object: &str,
        lock: &str,
        cookie: &str,
        tag: &str,
        description: &str,
        lasts: Duration,
    ) -> Result<()> {
        let call = "rados_lock_shared";
        let (oid, lock, cookie) = (c_string(call, object)?, c_string(call, lock)?, c_string(call, cookie)?);
        let (tag, description) = (c_string(call, tag)?, c_string(call, description)?);
        let mut lasts = sys::timeval {
            tv_sec: lasts.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_usec: lasts.subsec_micros().into(),
        };
        // SAFETY: the handle is live, all strings end with a zero byte, and the time is only read.
        let rc = unsafe {
            sys::rados_lock_shared(
                self.raw(),
                oid.as_ptr(),
                lock.as_ptr(),
                cookie.as_ptr(),
                tag.as_ptr(),
                description.as_ptr(),
                &raw mut lasts,
                MAY_RENEW,
            )
        };
        check(call, self.named(object), rc.into()).map(drop)
    }

    /// Gives up a hold of ours; one that is not there is success.
    pub fn unlock(&self, object: &str, lock: &str, cookie: &str) -> Result<()> {
        let call = "rados_unlock";
        let (oid, lock, cookie) = (c_string(call, object)?, c_string(call, lock)?, c_string(call, cookie)?);
        // SAFETY: the handle is live, and all strings end with a zero byte.
        let rc = unsafe { sys::rados_unlock(self.raw(), oid.as_ptr(), lock.as_ptr(), cookie.as_ptr()) };
        match check(call, self.named(object), rc.into()) {
            Err(e) if e.errno == Errno::ENOENT => Ok(()),
            done => done.map(drop),
        }
    }

    /// Who holds a lock now: the OSD leaves out those whose time is over. Nobody, when there is no such lock or object.
    pub fn lockers(&self, object: &str, lock: &str) -> Result<Vec<Locker>> {
        let call = "rados_list_lockers";
        let (oid, lock) = (c_string(call, object)?, c_string(call, lock)?);
        let found = list(call, &self.named(object), |b| {
            // SAFETY: the handle is live, the names end with a zero byte, and every buffer is as long as the length beside it says.
            unsafe {
                sys::rados_list_lockers(
                    self.raw(),
                    oid.as_ptr(),
                    lock.as_ptr(),
                    &raw mut b.exclusive,
                    b.tag.pointer(),
                    &raw mut b.tag.length,
                    b.clients.pointer(),
                    &raw mut b.clients.length,
                    b.cookies.pointer(),
                    &raw mut b.cookies.length,
                    b.addresses.pointer(),
                    &raw mut b.addresses.length,
                )
            }
        });
        match found {
            Err(e) if e.errno == Errno::ENOENT => Ok(Vec::new()),
            found => Ok(found?.lockers),
        }
    }
}

const MAY_RENEW: u8 = sys::LIBRADOS_LOCK_FLAG_MAY_RENEW.to_le_bytes()[0];

/// The buffers of a call that lists lockers.
#[derive(Debug)]
pub(super) struct Buffers {
    pub(super) exclusive: c_int,
    pub(super) tag: Buffer,
    pub(super) clients: Buffer,
    pub(super) cookies: Buffer,
    pub(super) addresses: Buffer,
}

/// One of them: how long it is, or is asked to be.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    pub(super) length: usize,
}

impl Buffer {
    fn new(room: usize) -> Self {
        Self { bytes: vec![0; room], length: room }
    }

    pub(super) fn pointer(&mut self) -> *mut c_char {
        self.bytes.as_mut_ptr().cast()
    }
}

/// Lists lockers by either of the two calls that do, whose buffers are alike.
pub(super) fn list(
    call: &'static str,
    object: &str,
    mut ask: impl FnMut(&mut Buffers) -> isize,
) -> Result<Lockers> {
    fit(call, object, 256, |room| {
        let buffer = || Buffer::new(room);
        let mut b = Buffers {
            exclusive: 0,
            tag: buffer(),
            clients: buffer(),
            cookies: buffer(),
            addresses: buffer(),
        };
        let rc = ask(&mut b);
        let Ok(count) = usize::try_from(rc) else {
            let rc = rc as i64;
            if rc != i64::from(-libc::ERANGE) {
                return Fit::Failed(rc);
            }
            return Fit::Needs(
                [&b.tag, &b.clients, &b.cookies, &b.addresses]
                    .map(|b| b.length)
                    .into_iter()
                    .max()
                    .unwrap_or(0),
            );
        };
        let clients = strings(&b.clients.bytes, count);
        let cookies = strings(&b.cookies.bytes, count);
        let addresses = strings(&b.addresses.bytes, count);
        let lockers = clients.into_iter().zip(cookies).zip(addresses);
        let lockers = lockers.map(|((client, cookie), address)| Locker { client, cookie, address });
        Fit::Fits(Lockers {
            exclusive: b.exclusive != 0,
            tag: string(&b.tag.bytes),
            lockers: lockers.collect(),
        })
    })
}

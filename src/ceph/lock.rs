//! Advisory locks on objects, and who holds them. They bind only those who ask for them.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::time::Duration;

use librbd_sys as sys;
use nix::errno::Errno;

use super::call::{Fit, c_string, check, fit, plain_address, string, strings};
use super::{IoCtx, Result};
use crate::model::locker::{Locker, Lockers};

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

    /// Takes a lock that only one can hold, until it is given up; ours already is success. Makes the object when it is missing. `EBUSY`:
    /// another's. With the lock `rbd_lock` of an image's header this is what `rbd lock add` does.
    pub fn lock_exclusive(&self, object: &str, lock: &str, cookie: &str) -> Result<()> {
        let call = "rados_lock_exclusive";
        let (oid, lock, cookie) = (c_string(call, object)?, c_string(call, lock)?, c_string(call, cookie)?);
        // SAFETY: the handle is live, all strings end with a zero byte, and no time means that it does not run out.
        let rc = unsafe {
            sys::rados_lock_exclusive(
                self.raw(),
                oid.as_ptr(),
                lock.as_ptr(),
                cookie.as_ptr(),
                c"".as_ptr(),
                std::ptr::null_mut(),
                0,
            )
        };
        match check(call, self.named(object), rc.into()) {
            Err(e) if e.errno == Errno::EEXIST => Ok(()),
            done => done.map(drop),
        }
    }

    /// Gives up a hold of ours; one that is not there is success. Whether it was.
    pub fn unlock(&self, object: &str, lock: &str, cookie: &str) -> Result<bool> {
        let call = "rados_unlock";
        let (oid, lock, cookie) = (c_string(call, object)?, c_string(call, lock)?, c_string(call, cookie)?);
        // SAFETY: the handle is live, and all strings end with a zero byte.
        let rc = unsafe { sys::rados_unlock(self.raw(), oid.as_ptr(), lock.as_ptr(), cookie.as_ptr()) };
        match check(call, self.named(object), rc.into()) {
            Err(e) if e.errno == Errno::ENOENT => Ok(false),
            done => done.map(|_| true),
        }
    }

    /// Who holds a lock now: the OSD leaves out those whose time is over. Nobody, when there is no such lock or object.
    pub fn lockers(&self, object: &str, lock: &str) -> Result<Vec<Locker>> {
        match self.list_lockers(object, lock) {
            Err(e) if e.errno == Errno::ENOENT => Ok(Vec::new()),
            found => Ok(found?.lockers),
        }
    }

    /// The same with what is known of the lock; a missing object is `ENOENT`.
    pub fn list_lockers(&self, object: &str, lock: &str) -> Result<Lockers> {
        let call = "rados_list_lockers";
        let (oid, lock) = (c_string(call, object)?, c_string(call, lock)?);
        fit(call, self.named(object), 256, |room| {
            let mut exclusive: c_int = 0;
            let buffer = || Buffer::new(room);
            let (mut tag, mut clients, mut cookies, mut addresses) = (buffer(), buffer(), buffer(), buffer());
            // SAFETY: the handle is live, the names end with a zero byte, and every buffer is as long as the length beside it says.
            let rc = unsafe {
                sys::rados_list_lockers(
                    self.raw(),
                    oid.as_ptr(),
                    lock.as_ptr(),
                    &raw mut exclusive,
                    tag.pointer(),
                    &raw mut tag.length,
                    clients.pointer(),
                    &raw mut clients.length,
                    cookies.pointer(),
                    &raw mut cookies.length,
                    addresses.pointer(),
                    &raw mut addresses.length,
                )
            };
            let Ok(count) = usize::try_from(rc) else {
                let rc = rc as i64;
                let needs = tag.length.max(clients.length).max(cookies.length).max(addresses.length);
                let too_small = rc == i64::from(-libc::ERANGE);
                return if too_small { Fit::Needs(needs) } else { Fit::Failed(rc) };
            };
            let all = clients.strings(count).into_iter().zip(cookies.strings(count));
            let all = all.zip(addresses.strings(count));
            let lockers = all.map(|((client, cookie), address)| {
                let address = plain_address(&address);
                Locker { client, cookie, address }
            });
            Fit::Fits(Lockers {
                exclusive: exclusive != 0,
                tag: string(&tag.bytes),
                lockers: lockers.collect(),
            })
        })
    }
}

const MAY_RENEW: u8 = sys::LIBRADOS_LOCK_FLAG_MAY_RENEW.to_le_bytes()[0];

/// A buffer for strings: how long it is, or has to be.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    length: usize,
}

impl Buffer {
    fn new(room: usize) -> Self {
        Self { bytes: vec![0; room], length: room }
    }

    fn pointer(&mut self) -> *mut c_char {
        self.bytes.as_mut_ptr().cast()
    }

    fn strings(&self, count: usize) -> Vec<String> {
        strings(&self.bytes, count)
    }
}

//! An open image.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use librbd_sys as sys;
use nix::errno::Errno;
use tracing::warn;

use super::call::{Fit, c_string, check, fit, plain_address, string, text};
use super::{IoCtx, Lockers, Result, features};
use crate::model::error::CallError;

/// How much is cleared by one call: librbd takes less than 2 GiB.
const CHUNK: u64 = 1 << 30;
/// How much is looked at by one call where each object is asked.
const LOOKS: u64 = 16 << 30;

/// Somebody who has an image open for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watcher {
    /// As [`Cluster::addresses`](super::Cluster::addresses) of the watcher.
    pub address: String,
    /// The number of the client.
    pub id: i64,
    /// Which of its watches.
    pub cookie: u64,
}

/// An image that this process has open.
#[derive(Debug)]
pub struct Image {
    // Null once it is closed.
    handle: sys::rbd_image_t,
    name: String,
    io: IoCtx,
}

// SAFETY: an `rbd_image_t` belongs to no thread.
unsafe impl Send for Image {}
// SAFETY: librbd does its own locking; only closing must not happen while others use it, and that takes the image itself.
unsafe impl Sync for Image {}

type Open =
    unsafe extern "C" fn(sys::rados_ioctx_t, *const c_char, *mut sys::rbd_image_t, *const c_char) -> c_int;

impl Image {
    /// Opens an image for changes. This makes us one of its watchers; it takes no lock, nor keeps anybody from mapping it.
    pub fn open(io: &IoCtx, name: &str) -> Result<Self> {
        Self::open_by("rbd_open", sys::rbd_open, io, name)
    }

    /// Opens an image for questions, and watches nothing: what changes meanwhile may go unnoticed.
    pub fn open_read_only(io: &IoCtx, name: &str) -> Result<Self> {
        Self::open_by("rbd_open_read_only", sys::rbd_open_read_only, io, name)
    }

    fn open_by(call: &'static str, open: Open, io: &IoCtx, name: &str) -> Result<Self> {
        let c_name = c_string(call, name)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the pool is live, the name ends with a zero byte, one handle is stored, and no name of a snapshot means none.
        let rc = unsafe { open(io.raw(), c_name.as_ptr(), &raw mut handle, ptr::null()) };
        check(call, io.named(name), rc.into())?;
        Ok(Self { handle, name: name.to_owned(), io: io.clone() })
    }

    /// How large it is, in bytes.
    pub fn size(&self) -> Result<u64> {
        let mut size = 0;
        // SAFETY: the image is open, and one number is stored.
        let rc = unsafe { sys::rbd_get_size(self.handle, &raw mut size) };
        check("rbd_get_size", self.object(), rc.into())?;
        Ok(size)
    }

    /// Its [`features`](super::features).
    pub fn features(&self) -> Result<u64> {
        let mut features = 0;
        // SAFETY: the image is open, and one number is stored.
        let rc = unsafe { sys::rbd_get_features(self.handle, &raw mut features) };
        check("rbd_get_features", self.object(), rc.into())?;
        Ok(features)
    }

    /// Its id.
    pub fn id(&self) -> Result<String> {
        fit("rbd_get_id", self.object(), 64, |room| {
            let mut id = vec![0_u8; room];
            // SAFETY: the image is open, and `room` bytes may be written.
            let rc = unsafe { sys::rbd_get_id(self.handle, id.as_mut_ptr().cast::<c_char>(), room) };
            match rc {
                0.. => Fit::Fits(string(&id)),
                _ if rc == -libc::ERANGE => Fit::Needs(0),
                _ => Fit::Failed(rc.into()),
            }
        })
    }

    /// Who has it open for writing, or mapped: ourselves too, unless it is open read-only.
    pub fn watchers(&self) -> Result<Vec<Watcher>> {
        fit("rbd_watchers_list", self.object(), 16, |room| {
            let mut found = vec![sys::rbd_image_watcher_t::default(); room];
            let mut count = room;
            // SAFETY: the image is open, and `count` entries may be written.
            let rc = unsafe { sys::rbd_watchers_list(self.handle, found.as_mut_ptr(), &raw mut count) };
            match rc {
                0.. => {
                    let watchers = found.iter().take(count).filter_map(watcher).collect();
                    // SAFETY: librbd has filled so many entries with strings of its own, and they are freed here only.
                    unsafe { sys::rbd_watchers_list_cleanup(found.as_mut_ptr(), count) }
                    Fit::Fits(watchers)
                }
                _ if rc == -libc::ERANGE => Fit::Needs(count),
                _ => Fit::Failed(rc.into()),
            }
        })
    }

    /// Who holds its lock: one by [`lock`](Self::lock) or `rbd lock add`, or (tag `internal`, cookie `auto …`) the one that
    /// comes with the exclusive-lock feature.
    ///
    /// Asked of the header itself: librbd answers from what it knew when it last looked.
    pub fn lockers(&self) -> Result<Lockers> {
        let header = match self.id() {
            Ok(id) => format!("rbd_header.{id}"),
            // An image of the old format has none.
            Err(e) if e.errno == Errno::EINVAL => format!("{}.rbd", self.name),
            Err(e) => return Err(e),
        };
        self.io.list_lockers(&header, "rbd_lock")
    }

    /// Takes the advisory lock, which outlives this image and this process; ours already is success. `EBUSY`: another's. An image
    /// with the exclusive-lock feature can then be mapped by nobody.
    pub fn lock(&self, cookie: &str) -> Result<()> {
        let call = "rbd_lock_exclusive";
        let cookie = c_string(call, cookie)?;
        // SAFETY: the image is open, and the cookie ends with a zero byte.
        let rc = unsafe { sys::rbd_lock_exclusive(self.handle, cookie.as_ptr()) };
        self.done(call, rc, Errno::EEXIST)
    }

    /// Gives up the advisory lock of this client; not held is success.
    pub fn unlock(&self, cookie: &str) -> Result<()> {
        let call = "rbd_unlock";
        let cookie = c_string(call, cookie)?;
        // SAFETY: the image is open, and the cookie ends with a zero byte.
        let rc = unsafe { sys::rbd_unlock(self.handle, cookie.as_ptr()) };
        self.done(call, rc, Errno::ENOENT)
    }

    /// Takes the lock from whoever holds it, as listed by [`lockers`](Self::lockers); not held is success. librbd blocklists that client
    /// (`rbd_blocklist_on_break_lock`), for an hour unless the conf file says otherwise; our own we only give up.
    pub fn break_lock(&self, client: &str, cookie: &str) -> Result<()> {
        if client == format!("client.{}", self.io.cluster().instance_id()) {
            return self.unlock(cookie);
        }
        let call = "rbd_break_lock";
        let (client, cookie) = (c_string(call, client)?, c_string(call, cookie)?);
        // SAFETY: the image is open, and both strings end with a zero byte.
        let rc = unsafe { sys::rbd_break_lock(self.handle, client.as_ptr(), cookie.as_ptr()) };
        self.done(call, rc, Errno::ENOENT)
    }

    /// Whether no block of it was ever written, as far as the cluster knows: not even by its parent, if it is a clone. `ETIMEDOUT`
    /// when the time is over before all of it was looked at: without a map of its objects each of them is asked.
    pub fn is_untouched(&self, within: Duration) -> Result<bool> {
        let call = "rbd_diff_iterate2";
        let size = self.size()?;
        let touched = AtomicBool::new(false);
        let start = Instant::now();
        let step = if self.features()? & features::FAST_DIFF != 0 { size.max(1) } else { LOOKS };
        let mut at = 0;
        while at < size {
            if start.elapsed() > within {
                return Err(CallError::new(call, self.object(), Errno::ETIMEDOUT));
            }
            let length = step.min(size - at);
            // SAFETY: the image is open, no snapshot to start from means from the beginning, and the callback gets a flag that is there
            // until the call returns, when nothing of it runs any more.
            let rc = unsafe {
                sys::rbd_diff_iterate2(
                    self.handle,
                    ptr::null(),
                    at,
                    length,
                    1,
                    1,
                    Some(extent),
                    ptr::from_ref(&touched).cast_mut().cast::<c_void>(),
                )
            };
            if touched.load(Ordering::Relaxed) {
                return Ok(false);
            }
            check(call, self.object(), rc.into())?;
            at += length;
        }
        Ok(true)
    }

    /// Makes all of it read as zeros, and gives the space back.
    pub fn discard_all(&self) -> Result<()> {
        let call = "rbd_write_zeroes";
        let size = self.size()?;
        let mut at = 0;
        while at < size {
            let length = CHUNK.min(size - at);
            let Ok(bytes) = usize::try_from(length) else { break };
            // SAFETY: the image is open.
            let rc = unsafe { sys::rbd_write_zeroes(self.handle, at, bytes, 0, 0) };
            check(call, self.object(), rc as i64)?;
            at += length;
        }
        // SAFETY: the image is open.
        let rc = unsafe { sys::rbd_flush(self.handle) };
        check("rbd_flush", self.object(), rc.into()).map(drop)
    }

    /// Closes it; dropping it does too, and can only log that it failed. It is closed either way.
    pub fn close(mut self) -> Result<()> {
        self.close_once()
    }

    fn close_once(&mut self) -> Result<()> {
        let handle = std::mem::replace(&mut self.handle, ptr::null_mut());
        if handle.is_null() {
            return Ok(());
        }
        // SAFETY: open until now, and nobody can get at it any more.
        let rc = unsafe { sys::rbd_close(handle) };
        check("rbd_close", self.object(), rc.into()).map(drop)
    }

    pub(super) fn object(&self) -> String {
        self.io.named(&self.name)
    }

    pub(super) fn raw(&self) -> sys::rbd_image_t {
        self.handle
    }

    pub(super) fn io(&self) -> &IoCtx {
        &self.io
    }

    /// The end of a call for which one errno means that there was nothing to do.
    fn done(&self, call: &'static str, rc: c_int, fine: Errno) -> Result<()> {
        match check(call, self.object(), rc.into()) {
            Err(e) if e.errno == fine => Ok(()),
            done => done.map(drop),
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(e) = self.close_once() {
            warn!("{e}");
        }
    }
}

fn watcher(found: &sys::rbd_image_watcher_t) -> Option<Watcher> {
    // SAFETY: librbd has stored a string in it.
    let address = unsafe { text(found.addr) };
    Some(Watcher { address: plain_address(&address?), id: found.id, cookie: found.cookie })
}

/// Hears of an extent: the first one that exists ends the search.
extern "C" fn extent(_at: u64, _length: usize, exists: c_int, touched: *mut c_void) -> c_int {
    if exists == 0 {
        return 0;
    }
    // SAFETY: what is_untouched passed, which waits for the call that we are part of.
    let touched = unsafe { &*touched.cast::<AtomicBool>() };
    touched.store(true, Ordering::Relaxed);
    -libc::ECANCELED
}

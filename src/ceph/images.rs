//! The images of a pool: what is done by name, without opening one.
#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use librbd_sys as sys;

use super::call::{Fit, c_string, check, fit, strings, text};
use super::{IoCtx, Result};
use crate::lock;

/// For how many entries a directory is read at first: with too little room librbd reads all of it, and only then says how much it is.
/// It grows with the largest directory that was seen.
static ROOM: AtomicUsize = AtomicUsize::new(1 << 17);

/// An entry of a pool's directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageName {
    /// What the header object is called after: it stays when the image is renamed, and no other image ever gets it.
    pub id: String,
    /// What people call it.
    pub name: String,
}

/// How an image is laid out. What is not said is the cluster's default (`rbd_default_…`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// [`features`](super::features) bits.
    pub features: Option<u64>,
    /// Objects are of 2^order bytes.
    pub order: Option<u8>,
    /// In bytes; it divides the size of an object.
    pub stripe_unit: Option<u64>,
    /// Over how many objects a stripe goes.
    pub stripe_count: Option<u64>,
    /// Where the data goes, when not to the pool of the header.
    pub data_pool: Option<String>,
}

impl IoCtx {
    /// All images, in no order: one read of the directory, and no image is opened. A name that is no UTF-8 is left out.
    pub fn images(&self) -> Result<Vec<ImageName>> {
        fit("rbd_list2", self.place(), ROOM.load(Ordering::Relaxed), |room| {
            let mut found: Vec<sys::rbd_image_spec_t> = Vec::with_capacity(room);
            let mut count = room;
            // SAFETY: the handle is live, and there is room for `count` entries.
            let rc = unsafe { sys::rbd_list2(self.raw(), found.as_mut_ptr(), &raw mut count) };
            match rc {
                0.. => {
                    ROOM.fetch_max(count + count / 8, Ordering::Relaxed);
                    // SAFETY: librbd has filled so many entries, and there was room for them.
                    unsafe { found.set_len(count) }
                    let names = found.iter().filter_map(image_name).collect();
                    // SAFETY: the strings in the entries are librbd's own, and they are freed here only.
                    unsafe { sys::rbd_image_spec_list_cleanup(found.as_mut_ptr(), count) }
                    Fit::Fits(names)
                }
                _ if rc == -libc::ERANGE => Fit::Needs(count),
                _ => Fit::Failed(rc.into()),
            }
        })
    }

    /// The namespaces of the pool, whichever of them this one is.
    pub fn namespaces(&self) -> Result<Vec<String>> {
        fit("rbd_namespace_list", self.place(), 1024, |room| {
            let mut names = vec![0_u8; room];
            let mut length = room;
            // SAFETY: the handle is live, and `length` bytes may be written.
            let rc = unsafe {
                sys::rbd_namespace_list(self.raw(), names.as_mut_ptr().cast::<c_char>(), &raw mut length)
            };
            match rc {
                0.. => {
                    names.truncate(length);
                    let names = strings(&names, usize::MAX);
                    Fit::Fits(names.into_iter().filter(|name| !name.is_empty()).collect())
                }
                _ if rc == -libc::ERANGE => Fit::Needs(length),
                _ => Fit::Failed(rc.into()),
            }
        })
    }

    /// Makes an image. `EEXIST`: there is one of this name; `EDOM`, `EINVAL` or `ENOSYS`: not with these options.
    pub fn create_image(&self, name: &str, bytes: u64, options: &CreateOptions) -> Result<()> {
        let call = "rbd_create4";
        let object = self.named(name);
        let c_name = c_string(call, name)?;
        let layout = Layout::new();
        let numbers = [
            (sys::RBD_IMAGE_OPTION_FEATURES, options.features),
            (sys::RBD_IMAGE_OPTION_ORDER, options.order.map(u64::from)),
            (sys::RBD_IMAGE_OPTION_STRIPE_UNIT, options.stripe_unit),
            (sys::RBD_IMAGE_OPTION_STRIPE_COUNT, options.stripe_count),
        ];
        for (option, value) in numbers {
            if let Some(value) = value {
                layout.set_number(&object, option, value)?;
            }
        }
        if let Some(pool) = &options.data_pool {
            // librbd would say no better, and wait for a monitor without end.
            self.cluster().ioctx(pool, None)?;
            layout.set_text(&object, sys::RBD_IMAGE_OPTION_DATA_POOL, pool)?;
        }
        // SAFETY: handle and options are live, and the name ends with a zero byte.
        let rc = unsafe { sys::rbd_create4(self.raw(), c_name.as_ptr(), bytes, layout.0) };
        check(call, object, rc.into()).map(drop)
    }

    /// Removes an image and its data; `progress` hears of shares from 0 to 1, on threads of librbd. `EBUSY`: somebody has it
    /// open; `ENOTEMPTY`: it has snapshots. An image that was left half removed is removed by the next try.
    pub fn remove_image(&self, name: &str, progress: &mut (dyn FnMut(f64) + Send)) -> Result<()> {
        let call = "rbd_remove_with_progress";
        let c_name = c_string(call, name)?;
        let listener = Mutex::new(Listener { report: progress, panic: None });
        // SAFETY: the handle is live, the name ends with a zero byte, and the callback gets a listener that is there until
        // the call returns, when nothing of it runs any more.
        let rc = unsafe {
            sys::rbd_remove_with_progress(
                self.raw(),
                c_name.as_ptr(),
                Some(heard),
                ptr::from_ref(&listener).cast_mut().cast::<c_void>(),
            )
        };
        if let Some(panic) = lock(&listener).panic.take() {
            resume_unwind(panic);
        }
        check(call, self.named(name), rc.into()).map(drop)
    }

    /// Renames an image, also one that is open. `EEXIST`: there is one of the new name.
    pub fn rename_image(&self, from: &str, to: &str) -> Result<()> {
        let call = "rbd_rename";
        let (c_from, c_to) = (c_string(call, from)?, c_string(call, to)?);
        // SAFETY: the handle is live, and both names end with a zero byte.
        let rc = unsafe { sys::rbd_rename(self.raw(), c_from.as_ptr(), c_to.as_ptr()) };
        check(call, format_args!("{} to {to}", self.named(from)), rc.into()).map(drop)
    }
}

fn image_name(spec: &sys::rbd_image_spec_t) -> Option<ImageName> {
    // SAFETY: librbd has stored a string in it.
    let id = unsafe { text(spec.id) };
    // SAFETY: as for the id.
    let name = unsafe { text(spec.name) };
    Some(ImageName { id: id?, name: name? })
}

/// An owned `rbd_image_options_t`.
#[derive(Debug)]
struct Layout(sys::rbd_image_options_t);

impl Layout {
    fn new() -> Self {
        let mut options = ptr::null_mut();
        // SAFETY: one handle is stored.
        unsafe { sys::rbd_image_options_create(&raw mut options) };
        Self(options)
    }

    fn set_number(&self, object: &str, option: c_uint, value: u64) -> Result<()> {
        // SAFETY: the options are live.
        let rc = unsafe { sys::rbd_image_options_set_uint64(self.0, option.cast_signed(), value) };
        check("rbd_image_options_set_uint64", object, rc.into()).map(drop)
    }

    fn set_text(&self, object: &str, option: c_uint, value: &str) -> Result<()> {
        let call = "rbd_image_options_set_string";
        let value = c_string(call, value)?;
        // SAFETY: the options are live, and the value ends with a zero byte.
        let rc = unsafe { sys::rbd_image_options_set_string(self.0, option.cast_signed(), value.as_ptr()) };
        check(call, object, rc.into()).map(drop)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: ours, and destroyed nowhere else.
        unsafe { sys::rbd_image_options_destroy(self.0) }
    }
}

/// Who wants to hear of progress, and the panic that it ended in.
struct Listener<'a> {
    report: &'a mut (dyn FnMut(f64) + Send),
    panic: Option<Box<dyn Any + Send>>,
}

extern "C" fn heard(done: u64, total: u64, listener: *mut c_void) -> c_int {
    // SAFETY: what remove_image passed, which waits for the call that we are part of.
    let listener = unsafe { &*listener.cast::<Mutex<Listener<'_>>>() };
    let mut listener = lock(listener);
    if listener.panic.is_none() && total > 0 {
        let share = done as f64 / total as f64;
        // No panic may pass through librbd: the caller resumes it.
        listener.panic = catch_unwind(AssertUnwindSafe(|| (listener.report)(share))).err();
    }
    0
}

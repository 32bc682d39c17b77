//! The keys and values of an object, and the compare-and-swap on them.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_uchar};
use std::ptr;

use librbd_sys as sys;
use nix::errno::Errno;

use super::call::{c_string, check};
use super::ioctx::{ReadOp, WriteOp};
use super::{IoCtx, Result};
use crate::model::error::CallError;

/// How many keys are asked for at once; an OSD answers with 1024 at most.
const PAGE: u64 = 1024;

/// One change of one key.
#[derive(Debug, Clone, Copy)]
pub struct Swap<'a> {
    /// Which key.
    pub key: &'a str,
    /// What it must be now; nothing means that there is no such key.
    pub expected: Option<&'a [u8]>,
    /// What it becomes; nothing removes it. Never empty: Ceph cannot tell an empty value from none when it compares.
    pub new: Option<&'a [u8]>,
}

impl IoCtx {
    /// All keys of an object with their values. A missing object is `ENOENT`; a key that is no UTF-8 is left out.
    pub fn omap(&self, object: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        self.omap_with(object, "")
    }

    /// The same of the keys with a prefix.
    pub fn omap_with(&self, object: &str, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let prefix = c_string("rados_read_op_omap_get_vals2", prefix)?;
        let mut found = BTreeMap::new();
        let mut after = CString::default();
        loop {
            let operation = ReadOp::new(self.named(object))?;
            let mut pairs = Pairs::new();
            let (mut more, mut result): (c_uchar, c_int) = (0, 0);
            // SAFETY: the operation is live and the strings end with a zero byte; where it stores iterator, flag and result is there
            // until it is released.
            unsafe {
                sys::rados_read_op_omap_get_vals2(
                    operation.0,
                    after.as_ptr(),
                    prefix.as_ptr(),
                    PAGE,
                    &raw mut pairs.0,
                    &raw mut more,
                    &raw mut result,
                );
            }
            operation.run(self, object)?;
            check("rados_read_op_omap_get_vals2", self.named(object), result.into())?;
            let mut last = None;
            while let Some((key, value)) = pairs.next() {
                if let Ok(key) = std::str::from_utf8(&key) {
                    found.insert(key.to_owned(), value);
                }
                last = Some(key);
            }
            match last.filter(|_| more != 0) {
                Some(last) => after = c_string("rados_read_op_omap_get_vals2", last)?,
                None => return Ok(found),
            }
        }
    }

    /// Those of the keys that the object has. A missing object is `ENOENT`.
    pub fn omap_get(&self, object: &str, keys: &[&str]) -> Result<BTreeMap<String, Vec<u8>>> {
        let names: Vec<*const c_char> = keys.iter().map(|key| key.as_ptr().cast()).collect();
        let lengths: Vec<usize> = keys.iter().map(|key| key.len()).collect();
        let operation = ReadOp::new(self.named(object))?;
        let mut pairs = Pairs::new();
        let mut result: c_int = 0;
        // SAFETY: the operation is live, and copies as many names as there are, each of its length; where it stores iterator and result is there
        // until it is released.
        unsafe {
            sys::rados_read_op_omap_get_vals_by_keys2(
                operation.0,
                names.as_ptr(),
                names.len(),
                lengths.as_ptr(),
                &raw mut pairs.0,
                &raw mut result,
            );
        }
        operation.run(self, object)?;
        check("rados_read_op_omap_get_vals_by_keys2", self.named(object), result.into())?;
        let pairs = std::iter::from_fn(|| pairs.next());
        Ok(pairs.filter_map(|(key, value)| Some((String::from_utf8(key).ok()?, value))).collect())
    }

    /// Makes all changes if every key is as expected, in one operation; false means that one was not, and nothing is changed. Makes
    /// the object when it is missing.
    pub fn omap_swap(&self, object: &str, changes: &[Swap<'_>]) -> Result<bool> {
        if let Some(change) = changes.iter().find(|change| change.new.is_some_and(<[u8]>::is_empty)) {
            let what = format!("{} {}", self.named(object), change.key);
            return Err(CallError::new("rados_write_op_omap_set2", what, Errno::EINVAL));
        }
        let done = match self.try_swap(object, changes) {
            Err(e) if e.errno == Errno::ENOENT => {
                self.create_object(object)?;
                self.try_swap(object, changes)
            }
            done => done,
        };
        match done {
            Ok(()) => Ok(true),
            Err(e) if e.errno == Errno::ECANCELED => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn try_swap(&self, object: &str, changes: &[Swap<'_>]) -> Result<()> {
        let operation = WriteOp::new(self.named(object))?;
        // All comparisons before all changes: a step sees what the ones before it did.
        for change in changes {
            let expected = change.expected.unwrap_or_default();
            // SAFETY: the operation is live, and copies key and value, each of its length; no result of its own is asked for.
            unsafe {
                sys::rados_write_op_omap_cmp2(
                    operation.0,
                    change.key.as_ptr().cast(),
                    COMPARE_EQUAL,
                    expected.as_ptr().cast(),
                    change.key.len(),
                    expected.len(),
                    ptr::null_mut(),
                );
            }
        }
        for change in changes {
            let (key, key_length) = (change.key.as_ptr().cast::<c_char>(), change.key.len());
            match change.new {
                Some(new) => {
                    let (value, length) = (new.as_ptr().cast::<c_char>(), new.len());
                    // SAFETY: the operation is live, and copies one key and one value, each of its length.
                    unsafe {
                        sys::rados_write_op_omap_set2(
                            operation.0,
                            &raw const key,
                            &raw const value,
                            &raw const key_length,
                            &raw const length,
                            1,
                        );
                    }
                }
                // SAFETY: the operation is live, and copies one key of its length.
                None => unsafe {
                    sys::rados_write_op_omap_rm_keys2(operation.0, &raw const key, &raw const key_length, 1);
                },
            }
        }
        operation.run(self, object)
    }
}

const COMPARE_EQUAL: u8 = sys::LIBRADOS_CMPXATTR_OP_EQ.to_le_bytes()[0];

/// An owned `rados_omap_iter_t`: it keeps what it iterates over.
#[derive(Debug)]
struct Pairs(sys::rados_omap_iter_t);

impl Pairs {
    fn new() -> Self {
        Self(ptr::null_mut())
    }

    /// The next key and its value; only once the operation has run.
    fn next(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        let (mut key, mut value) = (ptr::null_mut(), ptr::null_mut());
        let (mut key_length, mut length) = (0, 0);
        // SAFETY: the iterator is live, and two pointers and two lengths are stored.
        unsafe {
            sys::rados_omap_get_next2(
                self.0,
                &raw mut key,
                &raw mut value,
                &raw mut key_length,
                &raw mut length,
            );
        }
        if key.is_null() {
            return None;
        }
        // SAFETY: the iterator, which is still live, has stored both.
        let key = unsafe { bytes(key, key_length) };
        // SAFETY: as for the key.
        let value = unsafe { bytes(value, length) };
        Some((key, value))
    }
}

impl Drop for Pairs {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: ours, and ended nowhere else.
            unsafe { sys::rados_omap_get_end(self.0) }
        }
    }
}

/// # Safety
/// `data` is null, or points to `length` bytes.
unsafe fn bytes(data: *const c_char, length: usize) -> Vec<u8> {
    if data.is_null() {
        return Vec::new();
    }
    // SAFETY: not null, and the caller vouches for the rest.
    unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) }.to_vec()
}

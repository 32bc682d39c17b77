//! How a C function takes its arguments and gives its answers: return codes, strings, and buffers whose size it only tells
//! when they are too small.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::fmt;

use librbd_sys as sys;
use nix::errno::Errno;

use super::Result;
use crate::model::error::CallError;

/// How large an answer may get before something is wrong with it rather than with our buffer.
const MOST: usize = 256 << 20;

/// A return code: a negative one is an errno, any other the result.
pub(super) fn check(call: &'static str, object: impl fmt::Display, rc: i64) -> Result<u64> {
    u64::try_from(rc).map_err(|_| CallError::new(call, object, errno(rc)))
}

/// The errno of a negative return code.
pub(super) fn errno(rc: i64) -> Errno {
    i32::try_from(rc.unsigned_abs()).map_or(Errno::EIO, Errno::from_raw)
}

/// An argument; a zero byte in it makes it no name of anything.
pub(super) fn c_string(call: &'static str, text: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(text).map_err(|e| {
        let text = String::from_utf8_lossy(&e.into_vec()).replace('\0', "\\0");
        CallError::new(call, text, Errno::EINVAL)
    })
}

/// A copy of a string of the library's; nothing for a null pointer, and for what is no UTF-8: it is no name that we could say.
///
/// # Safety
/// `text` is null or points to a string that ends with a zero byte.
pub(super) unsafe fn text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller vouches for the rest.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().ok().map(str::to_owned)
}

/// `count` strings that each end with a zero byte; they may be empty.
pub(super) fn strings(bytes: &[u8], count: usize) -> Vec<String> {
    bytes.split(|&b| b == 0).take(count).map(|s| String::from_utf8_lossy(s).into_owned()).collect()
}

/// The string at the begin of a buffer that a call has filled.
pub(super) fn string(bytes: &[u8]) -> String {
    strings(bytes, 1).concat()
}

/// The address of a client without the protocol that some calls put before it: `10.0.0.7:0/3120`, as the kernel writes it and the
/// blocklist takes it.
pub(super) fn plain_address(address: &str) -> String {
    let plain = ["v1:", "v2:", "any:"].into_iter().find_map(|protocol| address.strip_prefix(protocol));
    plain.unwrap_or(address).to_owned()
}

/// What came of a call with a buffer of some size.
#[derive(Debug)]
pub(super) enum Fit<T> {
    /// It fitted.
    Fits(T),
    /// It needs this much, as far as it tells: 0 means just more.
    Needs(usize),
    /// It failed with this return code.
    Failed(i64),
}

/// Repeats a call with a growing buffer until the answer fits: what it counts may have become more since it said how much it needs.
pub(super) fn fit<T>(
    call: &'static str,
    object: impl fmt::Display,
    first: usize,
    mut ask: impl FnMut(usize) -> Fit<T>,
) -> Result<T> {
    let mut room = first;
    while room <= MOST {
        match ask(room) {
            Fit::Fits(answer) => return Ok(answer),
            Fit::Needs(more) => room = (more + more / 8).max(room * 2),
            Fit::Failed(rc) => return Err(CallError::new(call, object, errno(rc))),
        }
    }
    Err(CallError::new(call, object, Errno::ERANGE))
}

/// A buffer that librados has allocated for an answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) data: *mut c_char,
    pub(super) length: usize,
}

impl Answer {
    pub(super) fn new() -> Self {
        Self { data: std::ptr::null_mut(), length: 0 }
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        if self.data.is_null() {
            return Vec::new();
        }
        // SAFETY: librados has filled both fields: so many bytes are there, and nobody changes them.
        unsafe { std::slice::from_raw_parts(self.data.cast::<u8>(), self.length) }.to_vec()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: null, or allocated by librados for us and freed nowhere else.
        unsafe { sys::rados_buffer_free(self.data) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_code_is_an_errno() {
        assert_eq!(check("c", "o", 7), Ok(7));
        assert_eq!(check("c", "o", -108), Err(CallError::new("c", "o", Errno::ESHUTDOWN)));
        assert_eq!(check("c", "o", i64::MIN), Err(CallError::new("c", "o", Errno::EIO)));
    }

    #[test]
    fn strings_may_be_empty_and_what_follows_is_none() {
        assert_eq!(strings(b"a\0\0c\0\0\0", 3), ["a", "", "c"]);
        assert_eq!(strings(b"\0\0", 0), [""; 0]);
        assert_eq!(string(b"id\0rest"), "id");
    }

    #[test]
    fn addresses_are_alike_whoever_tells_them() {
        for address in ["v1:10.0.0.7:0/3120", "v2:10.0.0.7:0/3120", "any:10.0.0.7:0/3120", "10.0.0.7:0/3120"]
        {
            assert_eq!(plain_address(address), "10.0.0.7:0/3120");
        }
        assert_eq!(plain_address("v1:[fd00::7]:0/3120"), "[fd00::7]:0/3120");
    }

    #[test]
    fn a_zero_byte_is_refused_by_name() {
        let e = c_string("rbd_open", "a\0b").unwrap_err();
        assert_eq!(e.to_string(), "rbd_open(a\\0b): Invalid argument (EINVAL)");
    }

    #[test]
    fn a_buffer_grows_until_it_fits_and_not_for_ever() {
        let mut sizes = Vec::new();
        let got = fit("c", "o", 4, |room| {
            sizes.push(room);
            if room < 20 { Fit::Needs(if room < 8 { 0 } else { 16 }) } else { Fit::Fits(room) }
        });
        assert_eq!((got, sizes), (Ok(36), vec![4, 8, 18, 36]));
        assert_eq!(fit("c", "o", 1, |_| Fit::<()>::Needs(0)).unwrap_err().errno, Errno::ERANGE);
        assert_eq!(fit("c", "o", 1, |_| Fit::<()>::Failed(-5)).unwrap_err().errno, Errno::EIO);
    }
}

//! The kernel's keyrings, as far as they carry a Ceph key to libceph.
//!
//! A key is put on the keyring of ONE thread: no other thread can use it, no tool lists it for long, and the kernel drops it when the
//! thread ends. libceph looks for it with the credentials of the thread that writes to sysfs, so that thread has to be the same.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fmt;
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;

use crate::error::{CallError, OrCall};

/// Type, time stamp and length: what stands in front of the secret itself.
const HEADER: usize = 12;

/// A CryptoKey of Ceph's, as the kernel wants it: decoded, but still in its envelope. Copies share one buffer, which is
/// overwritten when the last of them goes.
#[derive(Clone)]
pub struct Key(Arc<Secret>);

struct Secret(Vec<u8>);

impl Drop for Secret {
    fn drop(&mut self) {
        let (start, length) = (self.0.as_mut_ptr(), self.0.len());
        // SAFETY: it is all of a buffer that is ours alone and goes away now.
        unsafe { libc::explicit_bzero(start.cast(), length) };
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Reads a key as keyring files and `ceph auth print-key` have it; blanks around it do not matter. `None` when it is none.
    pub fn from_base64(text: &str) -> Option<Self> {
        let secret = Secret(decode(text.trim().as_bytes())?);
        let length = u16::from_le_bytes([*secret.0.get(HEADER - 2)?, *secret.0.get(HEADER - 1)?]);
        (length > 0 && secret.0.len() == HEADER + usize::from(length)).then(|| Self(Arc::new(secret)))
    }
}

/// Puts a key where libceph finds it under `key=<name>`, for as long as the calling thread lives and for no other thread.
pub(super) fn give(name: &str, key: &Key) -> Result<(), CallError> {
    add("ceph", name, &key.0.0)
}

/// Whether keys can be handed to the kernel at all: the seccomp profiles of container engines forbid it.
pub fn probe() -> Result<(), CallError> {
    let name = "rbd-docker-plugin";
    let asked = thread::Builder::new().spawn(|| add("user", name, b"probe")).or_call("clone", name)?;
    asked.join().unwrap_or_else(|_| Err(CallError::new("add_key", name, Errno::EIO)))
}

fn add(kind: &str, name: &str, payload: &[u8]) -> Result<(), CallError> {
    let text = |text: &str| CString::new(text).map_err(|_| CallError::new("add_key", name, Errno::EINVAL));
    let (kind, description) = (text(kind)?, text(name)?);
    // SAFETY: both strings end with a zero byte, the payload is as long as we say, and the kernel copies all three.
    let serial = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            kind.as_ptr(),
            description.as_ptr(),
            payload.as_ptr(),
            payload.len(),
            libc::c_long::from(libc::KEY_SPEC_THREAD_KEYRING),
        )
    };
    Errno::result(serial).map(drop).or_call("add_key", name)
}

/// Strict base64, into a buffer that is never moved: no copy of a secret is left behind in freed memory.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|&&b| b == b'=').count();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for &byte in text.get(..text.len().checked_sub(padding)?)? {
        bits = bits << 6 | u32::from(sextet(byte)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    let leftover = bits & ((1 << count) - 1);
    (padding <= 2 && leftover == 0 && bytes.len() + padding == text.len() / 4 * 3).then_some(bytes)
}

fn sextet(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made for this test; no cluster knows it.
    const TEXT: &str = "AQBmzkBnAAAAABAAAAECAwQFBgcICQoLDA0ODw==";

    #[test]
    fn a_key_keeps_its_envelope_and_shows_nothing() {
        let key = Key::from_base64(&format!(" {TEXT}\n")).unwrap();
        assert_eq!(key.0.0.len(), 28);
        assert_eq!(&key.0.0[..2], &[1, 0], "AES");
        assert_eq!(&key.0.0[10..12], &[16, 0], "length");
        assert_eq!(key.0.0[12..], (0..16).collect::<Vec<u8>>());
        assert_eq!(format!("{key:?}"), "Key(..)");
    }

    #[test]
    fn what_is_no_key() {
        for text in
            ["", "=", "====", "AQBm", "AQ==", "not a key", &TEXT[..36], &TEXT.replace('Q', "-"), "key = AQ=="]
        {
            assert!(Key::from_base64(text).is_none(), "{text:?}");
        }
        assert!(Key::from_base64(&TEXT.replacen("AAABAA", "AAACAA", 1)).is_none(), "a wrong length");
    }

    #[test]
    fn base64() {
        for (text, bytes) in
            [("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar"), ("+/+/", "\u{0}")]
        {
            let wanted = if text == "+/+/" { vec![0xfb, 0xff, 0xbf] } else { bytes.as_bytes().to_vec() };
            assert_eq!(decode(text.as_bytes()), Some(wanted), "{text}");
        }
        for text in ["Zg=", "Zg", "Zg=a", "Z===", "Zh==", "Zm9=", "Zm9v\n", "Zm9vZg==Zm9v"] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_key_lives_as_long_as_its_thread() {
        match probe() {
            Ok(()) => {}
            Err(e) if matches!(e.errno, Errno::EPERM | Errno::ENOSYS) => {
                println!("skipped: this machine lets nobody add keys: {e}");
                return;
            }
            Err(e) => panic!("{e}"),
        }
        // Of a kind that no kernel knows.
        assert_eq!(
            thread::spawn(|| add("no-kind", "x", b"x")).join().unwrap().unwrap_err().errno,
            Errno::ENODEV
        );
        assert_eq!(add("user", "a\0b", b"x").unwrap_err().errno, Errno::EINVAL);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,64}") {
            let _ = Key::from_base64(&text);
        }
    }
}

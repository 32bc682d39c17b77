//! The kernel's keyrings, as far as they carry a Ceph key to libceph.
//!
//! A key is put on the keyring of ONE thread: no other thread can use it, no tool lists it for long, and the kernel drops it when the
//! thread ends. libceph looks for it with the credentials of the thread that writes to sysfs, so that thread has to be the same.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;

use super::wipe::Wiped;
use crate::model::error::{CallError, OrCall};

/// Type, time stamp and length: what stands in front of the secret itself.
const HEADER: usize = 12;
/// An errno of the kernel's that no program's header has.
const ENOTSUPP: i32 = 524;
/// The shortest secret of a key of type 1.
const AES_LENGTH: usize = 16;

/// What Ceph calls the type of a key: AES with 128 bits, which everything knows.
pub const AES: u16 = 1;

/// A CryptoKey of Ceph's, as the kernel wants it: decoded, but still in its envelope. Copies share one buffer, which is
/// overwritten when the last of them goes.
#[derive(Clone)]
pub struct Key(Arc<Wiped>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Without showing either.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes() == other.0.bytes()
    }
}

impl Key {
    /// Reads a key as librados does, which leaves aside what follows the padding, and the envelope. `None` when it is none.
    pub fn from_base64(text: &[u8]) -> Option<Self> {
        let mut secret = decode(text)?;
        let length = u16::from_le_bytes([*secret.bytes().get(HEADER - 2)?, *secret.bytes().get(HEADER - 1)?]);
        let whole = HEADER + usize::from(length);
        secret.truncate(whole);
        let fits = length > 0 && secret.bytes().len() == whole;
        let key = fits.then(|| Self(Arc::new(secret)))?;
        (key.kind() != AES || usize::from(length) >= AES_LENGTH).then_some(key)
    }

    /// Its type: 1 is `aes`, 2 is `aes256k`.
    pub fn kind(&self) -> u16 {
        match self.0.bytes() {
            [low, high, ..] => u16::from_le_bytes([*low, *high]),
            _ => 0,
        }
    }
}

/// Puts a key where libceph finds it under `key=<name>`, for as long as the calling thread lives and for no other thread.
pub(super) fn give(name: &str, key: &Key) -> Result<(), CallError> {
    add("ceph", name, key.0.bytes())
}

/// Whether the kernel takes keys of a type at all: one of nobody's is given to a thread of its own, and goes with it. The seccomp
/// profiles of container engines forbid the call (`EPERM`, `ENOSYS`), a kernel refuses types that it does not know (`EOPNOTSUPP`).
/// Without libceph, which comes with rbd, only the call itself is tried.
pub fn probe(kind: u16) -> Result<(), CallError> {
    let name = "rbd-docker-plugin-probe";
    let length: u16 = if kind == AES { 16 } else { 32 };
    let mut payload = kind.to_le_bytes().to_vec();
    payload.extend([0; 8]);
    payload.extend(length.to_le_bytes());
    payload.extend((0..length).map(|_| 7));
    let probe = move || match add("ceph", name, &payload) {
        Err(e) if e.errno == Errno::ENODEV => add("user", name, &payload),
        answer => answer,
    };
    let asked = thread::Builder::new().spawn(probe).or_call("clone", name)?;
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
    if serial >= 0 {
        return Ok(());
    }
    let errno = match io::Error::last_os_error().raw_os_error() {
        // The kernel's own ENOTSUPP, which programs have no name for: of libceph, that it does not know the key's type.
        Some(ENOTSUPP) => Errno::EOPNOTSUPP,
        number => number.map_or(Errno::EIO, Errno::from_raw),
    };
    Err(CallError::new("add_key", name, errno))
}

/// Base64 as librados reads it: line ends between groups of four are left out, and what follows the padding, too.
fn decode(text: &[u8]) -> Option<Wiped> {
    let mut bytes = Wiped::with_capacity(text.len() / 4 * 3 + 3);
    let mut rest = text;
    loop {
        while let [b'\n', behind @ ..] = rest {
            rest = behind;
        }
        let [a, b, c, d, behind @ ..] = rest else { return rest.is_empty().then_some(bytes) };
        let [x, y, z, w] = [sextet(*a)?, sextet(*b)?, sextet(*c)?, sextet(*d)?];
        bytes.push(x << 2 | y >> 4);
        if *c == b'=' {
            return Some(bytes);
        }
        bytes.push(y << 4 | z >> 2);
        if *d == b'=' {
            return Some(bytes);
        }
        bytes.push(z << 6 | w);
        rest = behind;
    }
}

fn sextet(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        b'=' => 0,
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
        for text in [TEXT.to_owned(), format!("{TEXT}\r\n"), format!("{TEXT} of 2025"), format!("\n{TEXT}")] {
            let key = Key::from_base64(text.as_bytes()).unwrap();
            assert_eq!(key.0.bytes().len(), 28);
            assert_eq!(key.kind(), AES);
            assert_eq!(&key.0.bytes()[10..12], &[16, 0], "length");
            assert_eq!(key.0.bytes()[12..], (0..16).collect::<Vec<u8>>());
            assert_eq!(format!("{key:?}"), "Key(..)");
        }
    }

    #[test]
    fn what_is_no_key() {
        for text in
            ["", "=", "====", "AQBm", "AQ==", "not a key", &TEXT[..36], &TEXT.replace('Q', "-"), "key = AQ=="]
        {
            assert!(Key::from_base64(text.as_bytes()).is_none(), "{text:?}");
        }
        let longer = TEXT.replacen("AAABAA", "AAACAA", 1);
        assert!(Key::from_base64(longer.as_bytes()).is_none(), "a wrong length");
    }

    #[test]
    fn base64() {
        for (text, bytes) in [
            ("Zg==", &b"f"[..]),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9v\nYmFy\n", b"foobar"),
            ("+/+/", &[0xfb, 0xff, 0xbf]),
            ("Zg==Zm9v", b"f"),
        ] {
            assert_eq!(decode(text.as_bytes()).unwrap().bytes(), bytes, "{text}");
        }
        for text in ["Zg=", "Zg", "Z-==", "Zm9v Zm9v"] {
            assert!(decode(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_key_lives_as_long_as_its_thread() {
        match probe(AES) {
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
            let _ = Key::from_base64(text.as_bytes());
        }
    }
}

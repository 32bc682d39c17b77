//! Memory that held a secret is overwritten before it is given back.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// No file with a key is longer; what is longer is not read.
const MOST: u64 = 16 << 20;

/// Bytes that are overwritten when they go, and that nothing prints.
#[derive(Default)]
pub struct Wiped(Vec<u8>);

impl Wiped {
    /// Room for so many bytes: as long as there are no more, they are never moved, and no copy stays behind.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// All of a file.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        if length > MOST {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        let mut whole = Self::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
        let mut part = Self(vec![0; 4096]);
        loop {
            match file.read(&mut part.0) {
                Ok(0) => return Ok(whole),
                Ok(count) => part.0.iter().take(count).for_each(|&byte| whole.push(byte)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Adds a byte.
    pub fn push(&mut self, byte: u8) {
        if self.0.len() == self.0.capacity() {
            let mut larger = Self::with_capacity(self.0.len() * 2 + 64);
            larger.0.extend_from_slice(&self.0);
            // The old one is overwritten.
            *self = larger;
        }
        self.0.push(byte);
    }

    /// Leaves only the first bytes.
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<String> for Wiped {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl fmt::Debug for Wiped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wiped(..)")
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        let (start, length) = (self.0.as_mut_ptr(), self.0.capacity());
        // SAFETY: it is all of a buffer that is ours alone and goes away now; what lies behind its bytes is ours, too.
        unsafe { libc::explicit_bzero(start.cast(), length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_reads_files_and_shows_nothing() {
        let mut bytes = Wiped::with_capacity(1);
        (0..200).for_each(|byte| bytes.push(byte));
        assert_eq!(bytes.bytes(), (0..200).collect::<Vec<u8>>());
        bytes.truncate(2);
        assert_eq!((bytes.bytes(), format!("{bytes:?}")), (&[0, 1][..], "Wiped(..)".to_owned()));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let long = vec![7; 10_000];
        std::fs::write(&path, &long).unwrap();
        assert_eq!(Wiped::read(&path).unwrap().bytes(), long);
        // It does not tell how long it is.
        assert!(!Wiped::read(Path::new("/proc/self/status")).unwrap().bytes().is_empty());
        assert!(Wiped::read(dir.path()).is_err());
    }
}

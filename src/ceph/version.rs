//! Which Ceph this is: what was compiled against, and what was found at run time.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fmt;

use librbd_sys as sys;

/// Versions of the libraries; they are not those of Ceph (librbd 1.16 is Ceph 16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The loaded librados.
    pub librados: (i32, i32, i32),
    /// The loaded librbd.
    pub librbd: (i32, i32, i32),
    /// The librbd whose headers this was built against.
    pub headers: &'static str,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dotted = |(major, minor, extra): (i32, i32, i32)| format!("{major}.{minor}.{extra}");
        let (librados, librbd) = (dotted(self.librados), dotted(self.librbd));
        write!(f, "librados {librados}, librbd {librbd} (built against {})", self.headers)
    }
}

/// Asks the libraries; needs no cluster.
pub fn versions() -> Versions {
    Versions { librados: ask(sys::rados_version), librbd: ask(sys::rbd_version), headers: sys::HEADERS }
}

fn ask(library: unsafe extern "C" fn(*mut c_int, *mut c_int, *mut c_int)) -> (i32, i32, i32) {
    let (mut major, mut minor, mut extra) = (0, 0, 0);
    // SAFETY: either function writes three integers, and no more.
    unsafe { library(&raw mut major, &raw mut minor, &raw mut extra) };
    (major, minor, extra)
}

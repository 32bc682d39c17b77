//! Descriptors that whoever started this process has opened for it: systemd's socket activation (`LISTEN_FDS`, `LISTEN_PID`).
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};

use crate::model::error::{CallError, OrCall};

/// Takes what was passed to this process, closed on exec from here on; the second time there is nothing left. To be called before
/// anything is opened: should fewer be open than were announced, a number would be somebody else's by then.
pub fn take() -> Result<Vec<OwnedFd>, CallError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let numbers = sd_notify::listen_fds().or_call("fcntl", "LISTEN_FDS")?;
    // SAFETY: the descriptor is open, sd_notify has just changed its flags; it was opened for this process, which gives it away here,
    // and here only.
    Ok(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}

/// The descriptor as a listening unix stream socket; what it is instead, when it is not one.
pub fn unix_listener(fd: OwnedFd) -> Result<UnixListener, &'static str> {
    let address = getsockname::<SockaddrStorage>(fd.as_raw_fd());
    if address == Err(Errno::ENOTSOCK) {
        return Err("no socket");
    }
    // The kernel gives a socket without a name the family alone.
    if address.is_ok_and(|address| address.family() != Some(AddressFamily::Unix)) {
        return Err("a socket of another family than unix");
    }
    if getsockopt(&fd, sockopt::SockType) != Ok(SockType::Stream) {
        return Err("a unix socket of another type than stream");
    }
    if getsockopt(&fd, sockopt::AcceptConn) != Ok(true) {
        return Err("a unix socket that does not listen");
    }
    Ok(UnixListener::from(fd))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[test]
    fn only_a_listening_unix_stream_socket_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(unix_listener(listener.into()).is_ok());
        let of_a_pair = || UnixStream::pair().unwrap().0;
        for (fd, what) in [
            (File::open("/dev/null").unwrap().into(), "no socket"),
            (TcpListener::bind("127.0.0.1:0").unwrap().into(), "another family"),
            (UnixDatagram::unbound().unwrap().into(), "another type"),
            (of_a_pair().into(), "does not listen"),
        ] {
            let found = unix_listener(fd).unwrap_err();
            assert!(found.contains(what), "{found}");
        }
    }

    #[test]
    fn this_test_was_passed_nothing() {
        assert!(take().unwrap().is_empty());
        assert!(take().unwrap().is_empty());
    }
}

//! The two layers of errors.
//!
//! [`CallError`] says which call to the kernel or to Ceph failed, on which object, with which errno; it is made
//! by [`CallError::new`] and the [`OrCall`] adapter and nowhere else. [`DriverError`] is what an operation answers: a kind the
//! program can act on, a sentence and a hint a person can act on, the call that caused it, and everything that
//! went wrong while undoing the operation (`also`). Neither ever holds a secret: objects are names and paths.

use std::fmt;
use std::io;

use nix::errno::Errno;

/// The result of everything above `linux/` and `ceph/`.
pub type Result<T, E = DriverError> = std::result::Result<T, E>;

/// One failed call: `mount(/dev/loop3 on /mnt/x): Device or resource busy (EBUSY)`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}({object}): {} ({errno:?})", errno.desc())]
pub struct CallError {
    /// Name of the system call, ioctl, sysfs write or function of librados or librbd.
    pub call: &'static str,
    /// What it was done to: a path, a device, an image.
    pub object: String,
    /// What the kernel or the cluster answered.
    pub errno: Errno,
}

impl CallError {
    /// The one constructor.
    pub fn new(call: &'static str, object: impl fmt::Display, errno: Errno) -> Self {
        Self { call, object: object.to_string(), errno }
    }
}

/// Turns a failed `io` or `nix` result into a [`CallError`] that names the call and its object.
pub trait OrCall<T> {
    /// Names the call; `object` is only rendered when it failed.
    fn or_call(self, call: &'static str, object: impl fmt::Display) -> Result<T, CallError>;
}

impl<T> OrCall<T> for io::Result<T> {
    fn or_call(self, call: &'static str, object: impl fmt::Display) -> Result<T, CallError> {
        self.map_err(|e| CallError::new(call, object, e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))
    }
}

impl<T> OrCall<T> for nix::Result<T> {
    fn or_call(self, call: &'static str, object: impl fmt::Display) -> Result<T, CallError> {
        self.map_err(|errno| CallError::new(call, object, errno))
    }
}

/// What a failure means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// There is no such volume, and the backend is sure of it (ENOENT, never an outage).
    NotFound,
    /// There is one already and it differs from what was asked for.
    AlreadyExists,
    /// The name, an option, a size or the request itself makes no sense.
    Invalid,
    /// This plugin was not told that it may (`--create`).
    NotAllowed,
    /// Somebody else uses the image, the device or the mountpoint.
    InUse,
    /// Another operation on the same volume did not end in time.
    Busy,
    /// Docker's deadline would have passed.
    Timeout,
    /// No space left where the data goes.
    NoSpace,
    /// The image holds something that this plugin did not write and cannot mount.
    ForeignData,
    /// The filesystem is damaged beyond what its checker repairs by itself.
    NeedsRepair,
    /// A program or a kernel feature is missing on this host.
    MissingTool,
    /// The kernel refused for want of a privilege.
    Denied,
    /// The backend cannot be reached; nothing is known about the volume.
    Unreachable,
    /// A wrong setting of the plugin.
    Config,
    /// Everything else.
    Failed,
}

impl ErrorKind {
    /// Its name in the log and in the metrics: as it is written here.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Invalid => "Invalid",
            Self::NotAllowed => "NotAllowed",
            Self::InUse => "InUse",
            Self::Busy => "Busy",
            Self::Timeout => "Timeout",
            Self::NoSpace => "NoSpace",
            Self::ForeignData => "ForeignData",
            Self::NeedsRepair => "NeedsRepair",
            Self::MissingTool => "MissingTool",
            Self::Denied => "Denied",
            Self::Unreachable => "Unreachable",
            Self::Config => "Config",
            Self::Failed => "Failed",
        }
    }
}

/// Why an operation failed, and what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub struct DriverError {
    /// What it means.
    pub kind: ErrorKind,
    /// What happened, to what; one line.
    pub message: String,
    /// The next step for a person.
    pub hint: Option<String>,
    /// The call that failed.
    #[source]
    pub source: Option<CallError>,
    /// What went wrong while undoing it.
    pub also: Vec<DriverError>,
}

impl DriverError {
    /// An error of `kind` with a message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None, also: Vec::new() }
    }

    /// Bad input.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Adds the next step for a person.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the call that caused it.
    #[must_use]
    pub fn caused_by(mut self, source: CallError) -> Self {
        self.source = Some(source);
        self
    }

    /// Adds what went wrong afterwards, while undoing.
    #[must_use]
    pub fn also(mut self, other: DriverError) -> Self {
        self.also.push(other);
        self
    }

    /// Puts `context: ` before the message: `volume foo: …`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

/// `message: cause (hint); also: …`, on one line.
impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        for other in &self.also {
            write!(f, "; also: {other}")?;
        }
        Ok(())
    }
}

/// The meaning of a failed call, by call and errno: the same errno means different things to different calls.
impl From<CallError> for DriverError {
    fn from(e: CallError) -> Self {
        use ErrorKind as K;
        let (kind, message, hint) = match (e.call, e.errno) {
            (_, Errno::ENOSPC | Errno::EDQUOT) => {
                (K::NoSpace, "no space left", Some("free some space, or extend the storage, and try again"))
            }
            (_, Errno::ESHUTDOWN) => (
                K::Unreachable,
                "this client was fenced: it is on the cluster's blocklist",
                Some("it connects anew by itself; ceph osd blocklist ls shows who else is"),
            ),
            ("rados_connect", Errno::ETIMEDOUT) => (
                K::Unreachable,
                "no monitor of the Ceph cluster answered",
                Some("check mon_host in ceph.conf, the network, and ceph -s"),
            ),
            ("rados_connect", Errno::EACCES | Errno::EPERM) => (
                K::Denied,
                "the Ceph cluster rejects the user or its key",
                Some("compare the keyring with: ceph auth get client.USER"),
            ),
            ("rados_connect" | "rados_conf_read_file", Errno::ENOENT) => (
                K::Config,
                "the Ceph configuration names no monitor, or no keyring with the user's key",
                Some(
                    "check mon_host and keyring in ceph.conf, and the files' readability; rbd-docker-plugin doctor says which it is",
                ),
            ),
            ("rados_conf_read_file", _) => (K::Config, "the Ceph configuration cannot be read", None),
            ("rados_ioctx_create", Errno::ENOENT) => (
                K::NotFound,
                "the pool or namespace does not exist",
                Some(
                    "ceph osd pool ls shows the pools; ceph osd pool create POOL and rbd pool init POOL make one",
                ),
            ),
            (
                "rbd_open" | "rbd_open_read_only" | "rbd_remove_with_progress" | "rbd_rename",
                Errno::ENOENT,
            ) => (K::NotFound, "the image does not exist", None),
            ("rbd_create4", Errno::EINVAL | Errno::ENOSYS | Errno::EDOM) => (
                K::Invalid,
                "the cluster refused the image's size, features or layout",
                Some("see features, object-size and stripe-unit"),
            ),
            ("rbd_create4", Errno::ENOENT) => (K::Invalid, "the data pool does not exist", None),
            (call, Errno::EROFS) if call.starts_with("rbd_") => (
                K::InUse,
                "the image's exclusive lock is held and not given up",
                Some("it is mapped with lock=exclusive: unmount it first"),
            ),
            (call, Errno::EPERM | Errno::EACCES)
                if call.starts_with("rados_") || call.starts_with("rbd_") =>
            {
                (
                    K::Denied,
                    "the Ceph user lacks a capability",
                    Some(
                        "it needs mon 'profile rbd', osd 'profile rbd' and mgr 'profile rbd' (ceph auth caps)",
                    ),
                )
            }
            (call, Errno::ETIMEDOUT | Errno::ENOTCONN)
                if call.starts_with("rados_") || call.starts_with("rbd_") =>
            {
                (
                    K::Unreachable,
                    "the Ceph cluster does not answer",
                    Some("ceph -s shows what is down; it is tried again by itself"),
                )
            }
            ("mount", Errno::EUCLEAN) => (
                K::NeedsRepair,
                "Image filesystem has errors, requires manual repairs",
                Some("run the filesystem's own checker on the unmounted image"),
            ),
            ("mount", Errno::EINVAL) => (
                K::Failed,
                "the kernel refused the filesystem or a mount option",
                Some("the kernel log (dmesg) names the reason"),
            ),
            ("mount", Errno::EACCES | Errno::EROFS) => (
                K::Failed,
                "the device is read-only",
                Some("mount the volume read-only, or make its image writable"),
            ),
            ("mount", Errno::ENODEV) => {
                (K::MissingTool, "the kernel does not know this filesystem", Some("load its kernel module"))
            }
            (
                "umount2" | "LOOP_CLR_FD" | "rbd_remove" | "rmdir" | "flock",
                Errno::EBUSY | Errno::EWOULDBLOCK,
            ) => (K::InUse, "still in use", None),
            (_, Errno::EPERM | Errno::EACCES) => {
                (K::Denied, "permission denied", Some("the plugin needs to run as root with CAP_SYS_ADMIN"))
            }
            (_, Errno::EIO | Errno::ESTALE | Errno::ENXIO | Errno::ETIMEDOUT) => {
                (K::Unreachable, "the storage does not answer", None)
            }
            (_, Errno::EBADMSG) => (
                K::Failed,
                "the answer is not understood",
                Some("the object may be damaged, or written by a newer version of Ceph: ceph health detail"),
            ),
            _ => (K::Failed, "the operation failed", None),
        };
        let mut error = DriverError::new(kind, message).caused_by(e);
        error.hint = hint.map(str::to_owned);
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_error_names_call_object_and_errno() {
        let e = CallError::new("mount", "/dev/loop3 on /mnt/x", Errno::EBUSY);
        assert_eq!(e.to_string(), "mount(/dev/loop3 on /mnt/x): Device or resource busy (EBUSY)");
    }

    #[test]
    fn driver_error_is_one_line_with_cause_hint_and_rollback_failures() {
        let e = DriverError::new(ErrorKind::InUse, "volume \"a\": in use")
            .caused_by(CallError::new("umount2", "/m", Errno::EBUSY))
            .hint("stop the container")
            .also(DriverError::new(ErrorKind::Failed, "unmap failed"));
        assert_eq!(
            e.to_string(),
            "volume \"a\": in use: umount2(/m): Device or resource busy (EBUSY); stop the container; \
             also: unmap failed"
        );
    }

    #[test]
    fn the_meaning_depends_on_the_call() {
        let kind = |call, errno| DriverError::from(CallError::new(call, "x", errno)).kind;
        assert_eq!(kind("umount2", Errno::EBUSY), ErrorKind::InUse);
        assert_eq!(kind("mount", Errno::EUCLEAN), ErrorKind::NeedsRepair);
        assert_eq!(kind("write", Errno::ENOSPC), ErrorKind::NoSpace);
        assert_eq!(kind("readdir", Errno::EIO), ErrorKind::Unreachable);
        assert_eq!(
            kind("open", Errno::ENOENT),
            ErrorKind::Failed,
            "an ENOENT is not found only where its caller says so"
        );
    }
}

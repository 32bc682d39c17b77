//! The two layers of errors.
//!
//! [`CallError`] says which call to the kernel or to Ceph failed, on which object, with which errno; it is made
//! by [`CallError::new`] and the [`OrCall`] adapter and nowhere else. [`DriverError`] is what an operation answers: a kind the
//! program can act on, a sentence and a hint a person can act on, the call that caused it, and everything that
//! went wrong while undoing the operation (`also`). Neither ever holds a secret: objects are names and paths.

mod meaning;

use std::fmt;
use std::io;

use nix::errno::Errno;

/// The result of everything above `linux/` and `ceph/`.
pub type Result<T, E = DriverError> = std::result::Result<T, E>;

/// One failed call: `mount(/dev/loop3 on /mnt/x): Device or resource busy (EBUSY)`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}({object}): {}", self.said())]
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

    /// What the errno says: `Device or resource busy (EBUSY)`. The one that leaks out of the kernel without a name is 524.
    fn said(&self) -> String {
        match self.errno {
            Errno::UnknownErrno => {
                "an error that has no name, mostly ENOTSUPP (524): not supported".to_owned()
            }
            errno => format!("{} ({errno:?})", errno.desc()),
        }
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
}

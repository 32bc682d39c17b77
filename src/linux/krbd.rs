//! RBD images as block devices of the kernel (`/sys/bus/rbd`), without the `rbd` program and without udev.
//!
//! Mapping is one write to sysfs. When it returns the device is there, so nothing is polled and no event is waited for: the new
//! device is the one that bears the mark which went into the write. A write hangs as long as the cluster does not answer,
//! whatever `mount_timeout` says, and nothing but its end or the death of this process ends it; so it happens on a thread of its
//! own that is left behind at the deadline, and takes away again what it gets later.
//!
//! Needs Linux 4.9 (`config_info`, `cluster_fsid`, `client_addr`, forced unmapping) and a loaded module.

mod add;
mod busy;
mod mark;
mod remove;
mod sysfs;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;

use nix::errno::Errno;
use nix::sys::signal::SigSet;

use super::keyring::Key;
use crate::model::deadline::Deadline;
use crate::model::error::{CallError, OrCall};
pub use mark::{Maker, Mark};
use sysfs::Sysfs;

/// What to map, for the kernel. Names go into one line of words, so none may hold blanks, and options no commas either: EINVAL.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `192.0.2.1:3300`, `[2001:db8::1]:3300`; of the kind (v1, v2) that the option `ms_mode` asks for.
    pub monitors: &'a [String],
    /// The Ceph user, without `client.`.
    pub user: &'a str,
    /// Its key; `None` for a cluster without authentication.
    pub key: Option<&'a Key>,
    /// Options of rbd and libceph, one each: `noshare`, `lock_timeout=30`. Never `secret=`: it could be read from sysfs.
    pub options: &'a [String],
    /// The pool's name.
    pub pool: &'a str,
    /// The namespace in the pool.
    pub namespace: Option<&'a str>,
    /// The image's name.
    pub image: &'a str,
    /// A snapshot of it: a device that cannot be written.
    pub snapshot: Option<&'a str>,
}

/// What the caller means by these names. The kernel looks names up by itself, later, and ignores `fsid=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The cluster.
    pub fsid: &'a str,
    /// The pool's id.
    pub pool_id: i64,
    /// The namespace in the pool.
    pub namespace: Option<&'a str>,
    /// The image's id.
    pub image_id: &'a str,
}

/// The calls that the kernel's own clients fail in.
pub const CALLS: [&str; 2] = [add::CALL, remove::CALL];

/// A mapped image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The number in `/sys/bus/rbd/devices`.
    pub id: u32,
    /// `/dev/rbd3`.
    pub path: PathBuf,
    /// Its major and minor number.
    pub number: (u32, u32),
    /// The cluster.
    pub fsid: String,
    /// The pool's name when it was mapped.
    pub pool: String,
    /// The pool's id.
    pub pool_id: i64,
    /// The namespace in the pool.
    pub namespace: Option<String>,
    /// The image's name when it was mapped.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// The snapshot; `None` for the image itself.
    pub snapshot: Option<String>,
    /// Address and nonce of the kernel's client, `192.0.2.7:0/3589491565`: what a fence is put on.
    pub client_addr: String,
    /// In bytes.
    pub size: u64,
    /// The mark of the plugin of this kind that has mapped it.
    pub mark: Option<Mark>,
}

impl Mapping {
    /// Whether this is the image itself (not a snapshot of it) that the caller means.
    pub fn is(&self, identity: Identity<'_>) -> bool {
        self.identity() == identity && self.snapshot.is_none()
    }

    /// Which image this is of.
    pub fn identity(&self) -> Identity<'_> {
        Identity {
            fsid: &self.fsid,
            pool_id: self.pool_id,
            namespace: self.namespace.as_deref(),
            image_id: &self.image_id,
        }
    }
}

/// Why an image was not mapped, and what the kernel's log said meanwhile: the errno alone does not tell a missing pool from a
/// missing image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}{}{}", if kernel.is_empty() { "" } else { "; the kernel said: " }, kernel.join("; "))]
pub struct Failure {
    /// The failed call.
    pub error: CallError,
    /// Lines of rbd and libceph.
    pub kernel: Vec<String>,
}

/// Whether the kernel's client can speak msgr2, which distributions have brought to old kernels too; nothing when that is not to be
/// seen, as before libceph is loaded.
pub fn kernel_speaks_msgr2() -> Option<bool> {
    let symbols = std::fs::read_to_string("/proc/kallsyms").ok()?;
    symbols.contains("ceph_con_").then(|| symbols.contains(" ceph_con_v2_"))
}

/// The kernel's side of it. Clones are the same.
#[derive(Debug, Clone)]
pub struct Kernel(Arc<Sysfs>);

impl Kernel {
    /// The one that runs here. Tests of whole programs put a tree of their own in its place: `RBD_FAULT_SYS` names it.
    pub fn host() -> Self {
        #[cfg(feature = "fault-points")]
        if let Some(root) = std::env::var_os("RBD_FAULT_SYS") {
            return Self::of_tree(std::path::Path::new(&root));
        }
        Self(Arc::new(Sysfs::host()))
    }

    /// A tree of files with `bus`, `block` and `dev` that stands for a kernel.
    #[cfg(any(test, feature = "fault-points"))]
    pub fn of_tree(root: &std::path::Path) -> Self {
        Self(Arc::new(Sysfs::new(root.join("bus"), root.join("block"), root.join("dev"))))
    }

    /// All images that are mapped on this host, by anyone; none without the module.
    pub fn list(&self) -> Result<Vec<Mapping>, CallError> {
        self.0.list()
    }

    /// How many images are mapped on this host of which it is so. Only what does not change of a mapping may be asked.
    pub fn count(&self, is_it: impl Fn(&Mapping) -> bool) -> Result<usize, CallError> {
        self.0.count(is_it)
    }

    /// The mapping of an image itself, by anyone on this host.
    pub fn find(&self, identity: Identity<'_>) -> Result<Option<Mapping>, CallError> {
        self.0.find(|mapping| mapping.is(identity))
    }

    /// The first mapping of which it is so, by what does not change of one: number, names and ids.
    pub fn find_where(&self, is_it: impl Fn(&Mapping) -> bool) -> Result<Option<Mapping>, CallError> {
        self.0.find(is_it)
    }

    /// The image that is mapped to the device of this number, if there is one.
    pub fn at(&self, number: (u32, u32)) -> Result<Option<Mapping>, CallError> {
        self.0.find(|mapping| mapping.number == number)
    }

    /// Maps an image, and makes sure that it is the one that is meant.
    ///
    /// The errno is the kernel's, of `rbd_add`, or of `add_key`; or one of ours: `ETIMEDOUT` when the deadline passed (what comes later is
    /// unmapped again, and the next call for this image waits for that), `ESTALE` when the names led to another image (it was unmapped
    /// again), `EINVAL` or `E2BIG` for names that the kernel would read as something else.
    pub fn map(
        &self,
        request: Request<'_>,
        identity: Identity<'_>,
        maker: &Maker,
        deadline: Deadline,
    ) -> Result<Mapping, Failure> {
        add::map(&self.0, request, identity, maker, deadline)
    }

    /// Unmaps a device and waits until it is gone; one that is gone already is success.
    ///
    /// `EBUSY` is tried again until the deadline: udev and libblkid look at every new device and keep it open for a moment. `force` takes it
    /// from those who have it open: they get I/O errors, but writes under way are waited for. `ETIMEDOUT` when the kernel does not
    /// come to an end: it may do so later.
    pub fn unmap(&self, id: u32, force: bool, deadline: Deadline) -> Result<(), CallError> {
        remove::unmap(&self.0, id, force, deadline)
    }

    /// The image features that this kernel knows, as librbd's bits; `None` without the module.
    pub fn supported_features(&self) -> Result<Option<u64>, CallError> {
        self.0.supported_features()
    }

    /// Whether images can be mapped from here: `ENOENT` without the module, `EROFS` where `/sys` is read-only, `EACCES`.
    pub fn is_writable(&self) -> Result<(), CallError> {
        self.0.control(sysfs::ADD).map(drop)
    }

    /// Who keeps a device busy, for people: mounts, in whatever namespace, processes that have it open, devices and swap on top of it. It
    /// looks for three seconds at most, and what it does not find may exist nevertheless.
    pub fn holders(&self, mapping: &Mapping) -> Vec<String> {
        busy::holders(&self.0, mapping)
    }

    /// How many files of the tree were read so far.
    #[cfg(any(test, feature = "fault-points"))]
    pub fn reads(&self) -> u64 {
        self.0.reads.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Does `work` on a thread of its own. At the deadline that thread is left to itself, and what it brings about then goes to `late`.
fn by_deadline<T: Send + 'static>(
    call: &'static str,
    object: &str,
    deadline: Deadline,
    work: impl FnOnce() -> Result<T, CallError> + Send + 'static,
    late: impl FnOnce(T) + Send + 'static,
) -> Result<T, CallError> {
    let timeout = || CallError::new(call, object, Errno::ETIMEDOUT);
    if deadline.left().is_zero() {
        return Err(timeout());
    }
    // Without room for a result: it is either received or handed back to the thread, never lost between the two.
    let (result, received): (SyncSender<Result<T, CallError>>, _) = sync_channel(0);
    let thread = move || {
        // A signal would make the kernel give a write up and begin it anew.
        let calm = SigSet::all().thread_block().or_call("pthread_sigmask", call);
        if let Err(lost) = result.send(calm.and_then(|()| work()))
            && let Ok(value) = lost.0
        {
            late(value);
        }
    };
    thread::Builder::new().name(call.to_owned()).spawn(thread).or_call("clone", call)?;
    match received.recv_timeout(deadline.left()) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(timeout()),
        Err(RecvTimeoutError::Disconnected) => Err(CallError::new(call, object, Errno::EIO)),
    }
}

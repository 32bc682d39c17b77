//! What `/sys/bus/rbd` shows, and its control files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::{Mapping, Mark};
use crate::linux::files;
use crate::model::error::{CallError, OrCall};

/// A control file by its name of today and by the one of kernels (or a `rbd.single_major=N`) without the first.
pub(super) type Control = [&'static str; 2];

pub(super) const ADD: Control = ["add_single_major", "add"];
pub(super) const REMOVE: Control = ["remove_single_major", "remove"];

/// What `current_snap` says of an image itself.
pub(super) const HEAD: &str = "-";

/// The trees that the kernel shows devices in.
#[derive(Debug)]
pub(super) struct Sysfs {
    pub(super) bus: PathBuf,
    pub(super) block: PathBuf,
    pub(super) dev: PathBuf,
    /// What was read of each device, and of which: most of it does not change as long as the device is the same.
    seen: Mutex<BTreeMap<u32, (Instance, Mapping)>>,
    #[cfg(any(test, feature = "fault-points"))]
    pub(super) reads: std::sync::atomic::AtomicU64,
}

/// Tells a device from a later one of its number: the folder's inode, and when that was made.
type Instance = (u64, i64, i64);

impl Sysfs {
    pub(super) fn host() -> Self {
        Self::new("/sys/bus/rbd".into(), "/sys/block".into(), "/dev".into())
    }

    pub(super) fn new(bus: PathBuf, block: PathBuf, dev: PathBuf) -> Self {
        Self {
            bus,
            block,
            dev,
            seen: Mutex::default(),
            #[cfg(any(test, feature = "fault-points"))]
            reads: std::sync::atomic::AtomicU64::default(),
        }
    }

    /// What stands for the kernel in tests has no keyring.
    pub(super) fn takes_keys(&self) -> bool {
        cfg!(not(feature = "fault-points")) || self.bus == Path::new("/sys/bus/rbd")
    }

    pub(super) fn device(&self, id: u32) -> PathBuf {
        self.bus.join("devices").join(id.to_string())
    }

    pub(super) fn node(&self, id: u32) -> PathBuf {
        self.dev.join(format!("rbd{id}"))
    }

    /// The numbers of all devices.
    pub(super) fn ids(&self) -> Result<BTreeSet<u32>, CallError> {
        let folder = self.bus.join("devices");
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries.or_call("readdir", folder.display())?,
        };
        let names = entries.collect::<io::Result<Vec<_>>>().or_call("readdir", folder.display())?;
        Ok(names.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    pub(super) fn list(&self) -> Result<Vec<Mapping>, CallError> {
        let ids = self.ids()?;
        crate::lock(&self.seen).retain(|id, _| ids.contains(id));
        ids.into_iter().filter_map(|id| self.mapping(id).transpose()).collect()
    }

    /// The first device of which it is so, by what does not change of a device: number, names and ids.
    pub(super) fn find(&self, is_it: impl Fn(&Mapping) -> bool) -> Result<Option<Mapping>, CallError> {
        for id in self.ids()? {
            if self.known(id)?.is_none_or(|known| is_it(&known))
                && let Some(mapping) = self.mapping(id)?.filter(&is_it)
            {
                return Ok(Some(mapping));
            }
        }
        Ok(None)
    }

    /// Of how many devices it is so, by what does not change of a device. Of those that were seen before nothing is read.
    pub(super) fn count(&self, is_it: impl Fn(&Mapping) -> bool) -> Result<usize, CallError> {
        let mut count = 0;
        for id in self.ids()? {
            let mapping = match self.known(id)? {
                None => self.mapping(id)?,
                known => known,
            };
            count += usize::from(mapping.is_some_and(|mapping| is_it(&mapping)));
        }
        Ok(count)
    }

    /// A device as it was when it was read, if it is still the same.
    fn known(&self, id: u32) -> Result<Option<Mapping>, CallError> {
        let Some((instance, mapping)) = crate::lock(&self.seen).get(&id).cloned() else { return Ok(None) };
        Ok((self.instance_of(id)? == Some(instance)).then_some(mapping))
    }

    /// Kernels with a major number for each device have no attribute for the minor one, which is 0.
    fn number_of(&self, id: u32) -> Result<(u32, u32), Option<CallError>> {
        let major = self.attribute(id, "major")?.ok_or(None)?;
        let minor = self.attribute(id, "minor")?.unwrap_or_else(|| "0".to_owned());
        Ok((self.number(id, "major", &major)?, self.number(id, "minor", &minor)?))
    }

    /// A device, unless it goes away meanwhile. Of one that was seen before, only what may have changed is read: a plugin with hundreds
    /// of volumes looks at all of its devices every few seconds, and each has a dozen files.
    pub(super) fn mapping(&self, id: u32) -> Result<Option<Mapping>, CallError> {
        let Some(instance) = self.instance_of(id)? else { return Ok(None) };
        let known = crate::lock(&self.seen).get(&id).filter(|(seen, _)| *seen == instance).cloned();
        let found = match known {
            Some((_, mapping)) => self.look_again(mapping),
            None => self.read(id),
        };
        let Some(mapping) =
            found.map_or_else(|gone| gone.map_or(Ok(None), Err), |mapping| Ok(Some(mapping)))?
        else {
            return Ok(None);
        };
        // It may have been exchanged for another one while it was read.
        if self.instance_of(id)? == Some(instance) {
            crate::lock(&self.seen).insert(id, (instance, mapping.clone()));
        }
        Ok(Some(mapping))
    }

    /// The image may have been resized; the address is what fences are put on, and is never taken from memory.
    fn look_again(&self, known: Mapping) -> Result<Mapping, Option<CallError>> {
        let text = |name: &str| self.attribute(known.id, name)?.ok_or(None);
        let (client_addr, size) = (text("client_addr")?, self.number(known.id, "size", &text("size")?)?);
        Ok(Mapping { client_addr, size, ..known })
    }

    fn read(&self, id: u32) -> Result<Mapping, Option<CallError>> {
        let text = |name: &str| self.attribute(id, name)?.ok_or(None);
        let optional = |name: &str| Ok::<_, Option<CallError>>(self.attribute(id, name)?.unwrap_or_default());
        let some = |text: String, nothing: &str| (text != nothing).then_some(text);
        Ok(Mapping {
            id,
            path: self.node(id),
            number: self.number_of(id)?,
            fsid: text("cluster_fsid")?,
            pool: text("pool")?,
            pool_id: self.number(id, "pool_id", &text("pool_id")?)?,
            namespace: some(optional("pool_ns")?, ""),
            image: text("name")?,
            image_id: text("image_id")?,
            snapshot: some(text("current_snap")?, HEAD),
            client_addr: text("client_addr")?,
            size: self.number(id, "size", &text("size")?)?,
            mark: Mark::of(&optional("config_info")?),
        })
    }

    fn number<T: FromStr>(&self, id: u32, name: &str, text: &str) -> Result<T, CallError> {
        text.parse().map_err(|_| CallError::new("read", self.device(id).join(name).display(), Errno::EINVAL))
    }

    /// An attribute of a device; nothing when it, or the device, is not there.
    pub(super) fn attribute(&self, id: u32, name: &str) -> Result<Option<String>, CallError> {
        #[cfg(any(test, feature = "fault-points"))]
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        read(&self.device(id).join(name))
    }

    /// Tells a device from a later one of the same number.
    pub(super) fn instance(&self, id: u32) -> Result<Option<u64>, CallError> {
        Ok(self.instance_of(id)?.map(|(inode, ..)| inode))
    }

    fn instance_of(&self, id: u32) -> Result<Option<Instance>, CallError> {
        let device = self.device(id);
        match fs::metadata(&device) {
            Ok(folder) => Ok(Some((folder.ino(), folder.mtime(), folder.mtime_nsec()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).or_call("stat", device.display()),
        }
    }

    pub(super) fn supported_features(&self) -> Result<Option<u64>, CallError> {
        let path = self.bus.join("supported_features");
        let Some(text) = read(&path)? else {
            return match self.bus.exists() {
                true => Err(CallError::new("read", path.display(), Errno::ENOENT)),
                false => Ok(None),
            };
        };
        let bits = text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        bits.map(Some).ok_or_else(|| CallError::new("read", path.display(), Errno::EINVAL))
    }

    /// Opens a control file for its one write.
    pub(super) fn control(&self, names: Control) -> Result<Opened, CallError> {
        let [today, before] = names.map(|name| self.bus.join(name));
        let open = |path: &Path| Opened::open(path).or_call("open", path.display());
        match open(&today) {
            Err(e) if e.errno == Errno::ENOENT => {
                // Without the module neither is there, and the first is the one to tell.
                open(&before).map_err(|failed| if failed.errno == Errno::ENOENT { e } else { failed })
            }
            opened => opened,
        }
    }

    /// Makes sure that the device's node is there. Where `/dev` is the kernel's, the node has come with the device; a `/dev` of
    /// a container's own gets one.
    pub(super) fn ensure_node(&self, mapping: &Mapping) -> Result<(), CallError> {
        let (path, number) = (&mapping.path, makedev(mapping.number.0.into(), mapping.number.1.into()));
        match fs::symlink_metadata(path) {
            Ok(node) if node.file_type().is_block_device() && node.rdev() == number => return Ok(()),
            Ok(_) => fs::remove_file(path).or_call("unlink", path.display())?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).or_call("stat", path.display()),
        }
        mknod(path, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, number).or_call("mknod", path.display())
    }
}

/// A control file that is open.
#[derive(Debug)]
pub(super) enum Opened {
    File(File),
    /// What stands for the kernel in tests listens on a socket of that name, and answers with an errno.
    #[cfg(any(test, feature = "fault-points"))]
    Stand(std::os::unix::net::UnixStream),
}

impl Opened {
    fn open(path: &Path) -> io::Result<Self> {
        #[cfg(any(test, feature = "fault-points"))]
        if fs::metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
            return std::os::unix::net::UnixStream::connect(path).map(Self::Stand);
        }
        OpenOptions::new().write(true).open(path).map(Self::File)
    }
}

/// A write to what stands for the kernel.
#[cfg(any(test, feature = "fault-points"))]
mod stand {
    use std::io::{self, Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    pub(super) fn ask(mut socket: UnixStream, text: &str) -> io::Result<()> {
        socket.write_all(text.as_bytes())?;
        socket.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        match answer.trim().parse() {
            Ok(0) => Ok(()),
            Ok(errno) => Err(io::Error::from_raw_os_error(errno)),
            Err(_) => Err(io::Error::from_raw_os_error(libc::EIO)),
        }
    }
}

/// One write with all of it: sysfs takes each write for a request of its own.
pub(super) fn write(
    control: Opened,
    text: &str,
    call: &'static str,
    object: impl Display,
) -> Result<(), CallError> {
    let mut file = match control {
        Opened::File(file) => file,
        #[cfg(any(test, feature = "fault-points"))]
        Opened::Stand(socket) => return stand::ask(socket, text).or_call(call, object),
    };
    match file.write(text.as_bytes()).or_call(call, &object)? {
        written if written == text.len() => Ok(()),
        _ => Err(CallError::new(call, object, Errno::EIO)),
    }
}

fn read(path: &Path) -> Result<Option<String>, CallError> {
    match files::attribute(path) {
        Ok(text) => Ok(Some(text)),
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::ENXIO)
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(e).or_call("read", path.display()),
    }
}

//! What `/sys/bus/rbd` shows, and its control files.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::Mapping;
use crate::error::{CallError, OrCall};

/// A control file by its name of today and by the one of kernels (or a `rbd.single_major=N`) without the first.
pub(super) type Control = [&'static str; 2];

pub(super) const ADD: Control = ["add_single_major", "add"];
pub(super) const REMOVE: Control = ["remove_single_major", "remove"];

/// What `current_snap` says of an image itself.
pub(super) const HEAD: &str = "-";

/// The trees that the kernel shows devices in.
#[derive(Debug, Clone)]
pub(super) struct Sysfs {
    pub(super) bus: PathBuf,
    pub(super) block: PathBuf,
    pub(super) dev: PathBuf,
}

impl Sysfs {
    pub(super) fn host() -> Self {
        Self { bus: "/sys/bus/rbd".into(), block: "/sys/block".into(), dev: "/dev".into() }
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
        ids.into_iter().filter_map(|id| self.mapping(id).transpose()).collect()
    }

    /// The device of a number.
    pub(super) fn at(&self, number: (u32, u32)) -> Result<Option<Mapping>, CallError> {
        for id in self.ids()? {
            match self.number_of(id) {
                Ok(found) if found == number => return self.mapping(id),
                Ok(_) | Err(None) => {}
                Err(Some(e)) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Kernels with a major number for each device have no attribute for the minor one, which is 0.
    fn number_of(&self, id: u32) -> Result<(u32, u32), Option<CallError>> {
        let major = self.attribute(id, "major")?.ok_or(None)?;
        let minor = self.attribute(id, "minor")?.unwrap_or_else(|| "0".to_owned());
        Ok((self.number(id, "major", &major)?, self.number(id, "minor", &minor)?))
    }

    /// A device, unless it goes away meanwhile.
    pub(super) fn mapping(&self, id: u32) -> Result<Option<Mapping>, CallError> {
        self.read(id).map_or_else(|gone| gone.map_or(Ok(None), Err), |mapping| Ok(Some(mapping)))
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
            // The mark is the last word of what was written to map it.
            marked: optional("config_info")?
                .rsplit(' ')
                .next()
                .is_some_and(|word| word.starts_with(super::MARK)),
        })
    }

    fn number<T: FromStr>(&self, id: u32, name: &str, text: &str) -> Result<T, CallError> {
        text.parse().map_err(|_| CallError::new("read", self.device(id).join(name).display(), Errno::EINVAL))
    }

    /// An attribute of a device; nothing when it, or the device, is not there.
    pub(super) fn attribute(&self, id: u32, name: &str) -> Result<Option<String>, CallError> {
        read(&self.device(id).join(name))
    }

    /// Tells a device from a later one of the same number.
    pub(super) fn instance(&self, id: u32) -> Result<Option<u64>, CallError> {
        let device = self.device(id);
        match fs::metadata(&device) {
            Ok(folder) => Ok(Some(folder.ino())),
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
    pub(super) fn control(&self, names: Control) -> Result<File, CallError> {
        let [today, before] = names.map(|name| self.bus.join(name));
        let open = |path: &Path| OpenOptions::new().write(true).open(path).or_call("open", path.display());
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

/// One write with all of it: sysfs takes each write for a request of its own.
pub(super) fn write(
    mut control: File,
    text: &str,
    call: &'static str,
    object: impl Display,
) -> Result<(), CallError> {
    match control.write(text.as_bytes()).or_call(call, &object)? {
        written if written == text.len() => Ok(()),
        _ => Err(CallError::new(call, object, Errno::EIO)),
    }
}

fn read(path: &Path) -> Result<Option<String>, CallError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())),
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

//! Loop devices: a file as a block device.
//!
//! A device is attached by ONE ioctl (`LOOP_CONFIGURE`) that also makes it detach itself on last close. So there is no instant at
//! which a kill leaves a device behind: until it is mounted the open [`File`] in [`Attached`] keeps it, and dies with us.
//! Attaching asks the kernel for a free number and never looks at other devices: it costs the same with one as with a hundred.
//!
//! Which file is behind a device is told by device and inode number, never by the path in sysfs, which the kernel truncates and
//! decorates.
#![allow(unsafe_code)]

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;

use super::{files, uapi};
use crate::model::deadline::Deadline;
use crate::model::error::{CallError, OrCall};
use crate::telemetry::count::{Count, count};

const CONTROL: &str = "/dev/loop-control";
const SYSFS: &str = "/sys/block";
const PARTITIONS: &str = "/proc/partitions";

/// Room for the lines of some hundred devices. Of a file in `/proc` nobody knows the size, and for each read of it the kernel goes through
/// all devices anew.
const ROOM: usize = 16 << 10;

/// How often a free number may be snatched away, or its node be late, before we give up: about three seconds in all.
const ATTEMPTS: u64 = 120;

/// How long one round of waiting lasts at most.
const STEP: Duration = Duration::from_millis(50);

/// The identity of a backing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backing {
    /// The device it lies on, as stat(2) gives it.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
}

impl From<&Metadata> for Backing {
    fn from(m: &Metadata) -> Self {
        Self { dev: m.dev(), ino: m.ino() }
    }
}

/// A device we have just attached.
#[derive(Debug)]
pub struct Attached {
    /// `/dev/loop3`.
    pub path: PathBuf,
    /// Its major and minor number.
    pub number: (u32, u32),
    /// Keeps it attached until it is mounted: the device detaches itself when nobody has it open any more.
    pub hold: File,
}

/// A device that the kernel has attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loop {
    /// `/dev/loop3`.
    pub path: PathBuf,
    /// Its major and minor number.
    pub number: (u32, u32),
    /// The file behind it.
    pub backing: Backing,
    /// Where that file was, as far as sysfs can tell: for people only.
    pub backing_path: PathBuf,
    /// Whether it can be read only.
    pub read_only: bool,
    /// Whether it detaches itself on last close.
    pub autoclear: bool,
}

/// Attaches an open file; `name` is for messages and `losetup -l`. For a writable device the file must be open for writing.
pub fn attach(backing: &File, name: &Path, read_only: bool) -> Result<Attached, CallError> {
    let control = OpenOptions::new().read(true).write(true).open(CONTROL).or_call("open", CONTROL)?;
    let config = config(backing, name, read_only)?;
    let mut last = CallError::new("LOOP_CONFIGURE", name.display(), Errno::EBUSY);
    for attempt in 0..ATTEMPTS {
        let path = PathBuf::from(format!("/dev/loop{}", free_number(&control)?));
        match configure(&path, &config) {
            Ok(hold) => {
                let rdev = hold.metadata().or_call("fstat", path.display())?.rdev();
                return Ok(Attached { number: (libc::major(rdev), libc::minor(rdev)), path, hold });
            }
            // Somebody was faster, or the new node is not there yet, or was removed again.
            Err(e) if matches!(e.errno, Errno::EBUSY | Errno::ENOENT | Errno::ENXIO) => last = e,
            Err(e) => return Err(e),
        }
        sleep(Duration::from_micros(250 * attempt).min(STEP));
    }
    Err(last)
}

/// The device that a file of this name is attached to. Only devices whose backing file may be this one are opened: an open delays the
/// detaching of a device that somebody is just taking down. They bear the last part of its name; a file with several names, or one whose
/// first name is gone, may be attached by any of them.
pub fn find(backing: Backing, name: &Path) -> Result<Option<Loop>, CallError> {
    let named = fs::symlink_metadata(name).ok();
    // The kernel tells the file's own name, not that of a link to it.
    let link = named.as_ref().filter(|file| file.is_symlink()).and_then(|_| fs::canonicalize(name).ok());
    let file = if link.is_some() { fs::metadata(name).ok() } else { named };
    let has_others = file.is_some_and(|file| file.nlink() > 1);
    let own = link.unwrap_or_else(|| name.to_owned());
    let found = scan(|seen| {
        has_others
            || seen.removed
            || seen.path.is_empty()
            || Path::new(seen.path).file_name() == own.file_name()
    })?;
    Ok(found.into_iter().find(|device| device.backing == backing))
}

/// The devices whose backing files are below a folder, and no others are opened.
pub fn below(folder: &Path) -> Result<Vec<Loop>, CallError> {
    scan(|seen| Path::new(seen.path).starts_with(folder))
}

/// All attached devices of this host. One that vanishes meanwhile is left out.
pub fn all() -> Result<Vec<Loop>, CallError> {
    scan(|_| true)
}

/// What sysfs says of the file behind a device.
struct Seen<'a> {
    path: &'a str,
    /// Whether that name of it is gone.
    removed: bool,
}

fn scan(wanted: impl Fn(&Seen<'_>) -> bool) -> Result<Vec<Loop>, CallError> {
    // One read names the devices that have a size; sysfs has a folder for every device that was ever used.
    let mut partitions = String::with_capacity(ROOM);
    File::open(PARTITIONS)
        .and_then(|mut file| file.read_to_string(&mut partitions))
        .or_call("read", PARTITIONS)?;
    let names = partitions.lines().filter_map(|line| line.split_ascii_whitespace().nth(3));
    let mut found = Vec::new();
    for name in names.filter(|name| is_loop(name)) {
        found.extend(look_at(&Path::new(SYSFS).join(name), &Path::new("/dev").join(name), &wanted)?);
    }
    found.sort_by_key(|device| device.number);
    Ok(found)
}

/// Detaches a device if `backing` is still behind it, and waits until it is gone. `EBUSY` when somebody keeps it open past the
/// deadline: then the kernel detaches it as soon as they close it. A device that was detached already is success.
pub fn detach(path: &Path, backing: Backing, deadline: Deadline) -> Result<(), CallError> {
    let Some(file) = open_attached(path)? else { return Ok(()) };
    if status(&file, path)?.is_none_or(|info| identity(&info) != backing) {
        return Ok(());
    }
    // SAFETY: the descriptor is open, and the ioctl's argument is ignored.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request(uapi::LOOP_CLR_FD), 0) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ENXIO) => {}
        Err(errno) => return Err(CallError::new("LOOP_CLR_FD", path.display(), errno)),
    }
    // The kernel detaches on last close, and this descriptor is one of the opens it counts.
    drop(file);
    let mut step = Duration::from_micros(200);
    loop {
        match open_attached(path)? {
            Some(file) if status(&file, path)?.is_some_and(|info| identity(&info) == backing) => {}
            _ => return Ok(()),
        }
        if deadline.left().is_zero() {
            return Err(CallError::new("LOOP_CLR_FD", path.display(), Errno::EBUSY));
        }
        count(Count::BusyUnmap);
        sleep(step.min(deadline.left()));
        step = (step * 2).min(STEP);
    }
}

fn config(backing: &File, name: &Path, read_only: bool) -> Result<uapi::loop_config, CallError> {
    let mut config = uapi::loop_config {
        fd: u32::try_from(backing.as_raw_fd())
            .map_err(|_| CallError::new("LOOP_CONFIGURE", name.display(), Errno::EBADF))?,
        ..Default::default()
    };
    config.info.lo_flags = uapi::LO_FLAGS_AUTOCLEAR;
    if read_only {
        config.info.lo_flags |= uapi::LO_FLAGS_READ_ONLY;
    }
    // The kernel wants the name to end with a zero byte: the last one stays untouched.
    let room = config.info.lo_file_name.len() - 1;
    for (to, from) in config.info.lo_file_name[..room].iter_mut().zip(name.as_os_str().as_bytes()) {
        *to = *from;
    }
    Ok(config)
}

fn free_number(control: &File) -> Result<i32, CallError> {
    // SAFETY: the descriptor is open, and the ioctl takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), request(uapi::LOOP_CTL_GET_FREE)) };
    Errno::result(number).or_call("LOOP_CTL_GET_FREE", CONTROL)
}

fn configure(path: &Path, config: &uapi::loop_config) -> Result<File, CallError> {
    let device = OpenOptions::new().read(true).write(true).open(path).or_call("open", path.display())?;
    // SAFETY: the descriptor is open, and the argument is a whole `loop_config` that outlives the call.
    let result =
        unsafe { libc::ioctl(device.as_raw_fd(), request(uapi::LOOP_CONFIGURE), std::ptr::from_ref(config)) };
    Errno::result(result).or_call("LOOP_CONFIGURE", path.display())?;
    Ok(device)
}

/// Opens the device for questions; nothing when it does not exist. Reading only: closing a writable descriptor makes udev look
/// at the device again.
fn open_attached(path: &Path) -> Result<Option<File>, CallError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENXIO)) => Ok(None),
        Err(e) => Err(e).or_call("open", path.display()),
    }
}

/// What the kernel says of a device; nothing when no file is behind it.
fn status(device: &File, path: &Path) -> Result<Option<uapi::loop_info64>, CallError> {
    let mut info = uapi::loop_info64::default();
    // SAFETY: the descriptor is open, and the kernel writes one `loop_info64` to the argument.
    let result = unsafe {
        libc::ioctl(device.as_raw_fd(), request(uapi::LOOP_GET_STATUS64), std::ptr::from_mut(&mut info))
    };
    match Errno::result(result) {
        Ok(_) => Ok(Some(info)),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(CallError::new("LOOP_GET_STATUS64", path.display(), errno)),
    }
}

/// `loop3`, but not its partition `loop3p1`.
fn is_loop(name: &str) -> bool {
    name.strip_prefix("loop").is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
}

fn look_at(sysfs: &Path, path: &Path, wanted: impl Fn(&Seen<'_>) -> bool) -> Result<Option<Loop>, CallError> {
    let Some(mut backing_path) = read_attribute(&sysfs.join("loop/backing_file"))? else { return Ok(None) };
    let live = backing_path.strip_suffix(" (deleted)").map(str::len);
    backing_path.truncate(live.unwrap_or(backing_path.len()));
    if !wanted(&Seen { path: &backing_path, removed: live.is_some() }) {
        return Ok(None);
    }
    let Some(file) = open_attached(path)? else { return Ok(None) };
    let Some(info) = status(&file, path)? else { return Ok(None) };
    let rdev = file.metadata().or_call("fstat", path.display())?.rdev();
    Ok(Some(Loop {
        path: path.to_owned(),
        number: (libc::major(rdev), libc::minor(rdev)),
        backing: identity(&info),
        backing_path: backing_path.into(),
        read_only: info.lo_flags & uapi::LO_FLAGS_READ_ONLY != 0,
        autoclear: info.lo_flags & uapi::LO_FLAGS_AUTOCLEAR != 0,
    }))
}

/// A sysfs attribute; nothing when it is not there, which is how sysfs says "not attached".
fn read_attribute(path: &Path) -> Result<Option<String>, CallError> {
    match files::attribute(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        // The device is being detached right now, or its path is longer than sysfs can say.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::ENAMETOOLONG) => Ok(Some(String::new())),
        Err(e) => Err(e).or_call("read", path.display()),
    }
}

fn identity(info: &uapi::loop_info64) -> Backing {
    Backing { dev: info.lo_device, ino: info.lo_inode }
}

/// The type of an ioctl number differs between C libraries.
fn request(number: u32) -> libc::Ioctl {
    number as libc::Ioctl
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_and_ends_with_a_zero() {
        let file = File::open("/dev/null").unwrap();
        let config = config(&file, Path::new(&"x".repeat(200)), true).unwrap();
        assert_eq!(config.info.lo_file_name.iter().filter(|&&b| b == b'x').count(), 63);
        assert_eq!(config.info.lo_file_name[63], 0);
        assert_eq!(config.info.lo_flags, uapi::LO_FLAGS_AUTOCLEAR | uapi::LO_FLAGS_READ_ONLY);
    }
}

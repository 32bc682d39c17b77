//! Why the kernel did not mount a filesystem, as far as it is known: from its own log, from the superblock, from what else is mounted.
//!
//! Damage is claimed only where the kernel or the checker has found it. A cause that nobody has told is called a guess.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::features::{self, Unknown};
use super::{bytes_at, diagnose, explain, geometry, superblock};
use crate::linux::exec::Programs;
use crate::linux::{holders, mountinfo, stacked};
use crate::model::error::{CallError, DriverError, ErrorKind, OrCall};
use crate::model::filesystem::{Filesystem, FsKind, MountFlags};

/// How long the superblocks of other mounted filesystems may take to be read: their storage may be away.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many processes that have a device open are worth naming.
const ENOUGH: usize = 4;

/// A mount that the kernel refused.
#[derive(Debug)]
pub struct Refused<'a> {
    /// The device.
    pub path: &'a Path,
    /// Its number.
    pub number: (u32, u32),
    /// What is on it.
    pub fs: &'a Filesystem,
    /// How it was to be mounted.
    pub flags: &'a MountFlags,
    /// The options that only the filesystem knows.
    pub data: &'a str,
    /// What the kernel answered.
    pub cause: CallError,
    /// What it wrote to its log meanwhile.
    pub said: Vec<String>,
}

impl Refused<'_> {
    /// The reason, for a person.
    pub fn explain(self, programs: &Programs) -> DriverError {
        let found = match self.cause.errno {
            Errno::EBUSY => Some(kept(self.path)),
            Errno::EROFS | Errno::EACCES => {
                geometry::explain_seed(self.path, self.fs.kind).or_else(|| Some(self.read_only()))
            }
            Errno::ENODEV | Errno::ENOSPC | Errno::ESHUTDOWN | Errno::EPERM | Errno::ENOMEM => None,
            _ => self
                .told()
                .or_else(|| geometry::explain(self.path, self.fs.kind))
                .or_else(|| self.examined(programs))
                .or_else(|| self.guessed()),
        };
        let error = match found {
            Some(error) => error.caused_by(self.cause),
            None => DriverError::from(self.cause),
        };
        explain(self.path, with_log(error, &self.said))
    }

    fn what(&self) -> String {
        format!("the {} on {}", self.fs.type_name, self.path.display())
    }

    /// What the kernel's log says for certain.
    fn told(&self) -> Option<DriverError> {
        if let Some(unknown) = self.said.iter().find_map(|line| features::refused(self.fs.kind, line)) {
            return Some(self.newer(&unknown, "has a feature that this host's kernel"));
        }
        let twin = self.cause.errno == Errno::EEXIST
            || self
                .said
                .iter()
                .any(|line| line.contains("duplicate UUID") || line.contains("duplicate device"));
        if twin {
            return Some(same_uuid(
                self.path,
                twin_of(self.path, self.number, self.fs).as_ref(),
                self.fs.kind,
            ));
        }
        let option = ["Unknown parameter", "Bad value for", "nrecognized mount option", "nrecognized option"];
        if self.said.iter().any(|line| option.iter().any(|words| line.contains(words))) {
            return Some(self.option(""));
        }
        None
    }

    /// What the superblock, other mounts and, last, the checker say.
    fn examined(&self, programs: &Programs) -> Option<DriverError> {
        let refusal = matches!(self.cause.errno, Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS);
        if refusal && let Some(twin) = twin_of(self.path, self.number, self.fs) {
            return Some(same_uuid(self.path, Some(&twin), self.fs.kind));
        }
        let may_be_damage = match self.cause.errno {
            Errno::EUCLEAN | Errno::EIO | Errno::EBADMSG => true,
            // With options of the user's the first suspect is an option; without a word of the kernel's, a feature.
            Errno::EINVAL => self.data.is_empty() && self.newer_by_version().is_none(),
            _ => false,
        };
        if may_be_damage { diagnose(programs, self.path, self.fs, &self.cause) } else { None }
    }

    /// What is likely, where the log is silent.
    fn guessed(&self) -> Option<DriverError> {
        match self.cause.errno {
            Errno::EUCLEAN | Errno::EBADMSG => None,
            Errno::EINVAL if !self.data.is_empty() => Some(self.option("perhaps ")),
            Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS => {
                let unknown = self.newer_by_version()?;
                Some(self.newer(&unknown, "has a feature that this host's kernel perhaps"))
            }
            _ => None,
        }
    }

    fn newer_by_version(&self) -> Option<Unknown> {
        let sb = superblock(self.path, self.fs.kind).ok()??;
        features::newer_than(self.fs.kind, &sb, features::kernel().1)
    }

    fn newer(&self, unknown: &Unknown, words: &str) -> DriverError {
        let (release, _) = features::kernel();
        let message = format!("{} {words} ({release}) does not know: {unknown}", self.what());
        let mkfs = format!("mkfs.{}", self.fs.kind);
        let around = match unknown.without() {
            Some(words) => format!("this host's kernel can mount what is made with mkfs-options=\"{words}\""),
            None => format!("man {mkfs} names the option that leaves it out of a new one"),
        };
        let read = if unknown.word == features::Word::RoCompat && !self.flags.read_only {
            "; read-only it can be mounted"
        } else {
            ""
        };
        DriverError::new(ErrorKind::MissingTool, message).hint(format!(
            "no damage is known: use a newer kernel here, or a host that has one{read}; {around}"
        ))
    }

    fn option(&self, perhaps: &str) -> DriverError {
        let message = format!(
            "the kernel {perhaps}refused a mount option of {}: mount-options={}",
            self.what(),
            self.flags.options
        );
        let at = if self.said.is_empty() { "; dmesg may name it" } else { "" };
        DriverError::new(ErrorKind::Failed, message)
            .hint(format!("give options that this kernel's {} knows{at}", self.fs.type_name))
    }

    fn read_only(&self) -> DriverError {
        let replay =
            self.said.iter().any(|line| line.contains("recovery required") || line.contains("norecovery"));
        let device = self.path.display();
        if replay {
            let skip = match self.fs.kind {
                FsKind::Ext4 => "ro,noload",
                FsKind::Xfs => "ro,norecovery",
                FsKind::Btrfs => "ro,rescue=nologreplay",
            };
            return DriverError::new(
                ErrorKind::Failed,
                format!("the device is read-only, and {} has a journal to be replayed, which writes", self.what()),
            )
            .hint(format!(
                "mount it once where the image can be written; mount-options={skip} shows it without what the journal holds"
            ));
        }
        if self.flags.read_only {
            return DriverError::new(
                ErrorKind::Failed,
                format!("the kernel did not mount {} read-only: {device} cannot be written to", self.what()),
            )
            .hint("its journal may have to be replayed, which writes: make the image writable");
        }
        DriverError::new(ErrorKind::Failed, format!("the device is read-only: {device}"))
            .hint("mount the volume read-only, or make its image writable")
    }
}

/// Somebody keeps the device to himself: device-mapper, a program, a mount.
pub(super) fn kept(path: &Path) -> DriverError {
    let number = fs::metadata(path).map(|meta| (libc::major(meta.rdev()), libc::minor(meta.rdev())));
    let on_top = number.or_call("stat", path.display()).and_then(stacked::on_number);
    let unseen =
        on_top.as_ref().err().map(|e| format!("perhaps a device on top of it, which cannot be seen ({e})"));
    let on_top = on_top.unwrap_or_default();
    let hint = on_top
        .first()
        .map_or_else(|| "end what has it; lsblk and `fuser -v` show more".to_owned(), stacked::OnTop::hint);
    let open = holders::of(path, Some(path)).into_iter().take(ENOUGH);
    let who: Vec<String> = on_top
        .iter()
        .map(ToString::to_string)
        .chain(unseen)
        .chain(open.map(|holder| holder.to_string()))
        .collect();
    let by = if who.is_empty() { "something else".to_owned() } else { who.join(", ") };
    DriverError::new(ErrorKind::InUse, format!("{} is kept by {by}", path.display())).hint(hint)
}

/// Puts what the kernel said behind the message.
fn with_log(mut error: DriverError, said: &[String]) -> DriverError {
    if !said.is_empty() && !said.iter().all(|line| error.message.contains(line.as_str())) {
        error.message.push_str(&format!(" (kernel: {})", said.join("; ")));
    }
    error
}

/// Two filesystems with one UUID, of which the kernel mounts one at a time.
fn same_uuid(path: &Path, twin: Option<&mountinfo::Entry>, kind: FsKind) -> DriverError {
    let other = twin.map_or_else(
        || "another mounted filesystem".to_owned(),
        |twin| format!("{}, mounted at {},", twin.source, twin.target.display()),
    );
    let message = format!("{other} has the same UUID as {}", path.display());
    let hint = match kind {
        FsKind::Xfs => {
            "unmount the other first. Only where `rbd info` shows that they are two images: mount-options=nouuid, or \
             `xfs_admin -U generate` on the device of the one that is not mounted"
        }
        FsKind::Btrfs => {
            "unmount the other first. Only where `rbd info` shows that they are two images: `btrfstune -u` on the device of \
             the one that is not mounted gives it a UUID of its own"
        }
        FsKind::Ext4 => "unmount the other first",
    };
    DriverError::new(ErrorKind::InUse, message).hint(hint)
}

/// The mounted filesystem with this one's UUID, on another device. On a thread of its own: devices of others are read.
pub fn twin_of(path: &Path, number: (u32, u32), fs: &Filesystem) -> Option<mountinfo::Entry> {
    let kind = fs.kind;
    let ours = uuid(&superblock(path, kind).ok()??, kind)?;
    let mounts = mountinfo::read(Path::new(mountinfo::OWN)).ok()?;
    let (found, twin) = channel();
    let others = mounts
        .into_iter()
        .filter(|mount| {
            mount.fstype == kind.name() && mount.number != number && Path::new(&mount.source) != path
        })
        .collect::<Vec<_>>();
    let look = move || {
        let is_twin = |mount: &mountinfo::Entry| {
            let sb = superblock(Path::new(&mount.source), kind).ok().flatten();
            sb.and_then(|sb| uuid(&sb, kind)) == Some(ours)
        };
        let _ = found.send(others.into_iter().find(is_twin));
    };
    thread::Builder::new().name("twin".to_owned()).spawn(look).ok()?;
    twin.recv_timeout(PATIENCE).ok().flatten()
}

/// What the kernel takes for the filesystem's identity; ext4 has none that it would compare.
fn uuid(sb: &[u8], kind: FsKind) -> Option<[u8; 16]> {
    match kind {
        FsKind::Xfs | FsKind::Btrfs => Some(bytes_at(sb, 0x20)),
        FsKind::Ext4 => None,
    }
}

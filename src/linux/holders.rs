//! Who keeps a mountpoint or a device busy, for people: which processes, and how.
//!
//! It reads links in `/proc` and asks no filesystem, so a stuck mount cannot stop it. It sees what the plugin may see: run
//! without CAP_SYS_PTRACE, or in a PID namespace of its own, it knows less, and says nothing rather than something wrong.
//! Never decide on an empty answer; decide on what the kernel refused.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use nix::errno::Errno;

use super::{blkdev, mountinfo};
use crate::lock;
use crate::model::deadline::Deadline;
use crate::model::error::{CallError, DriverError, ErrorKind, OrCall};

/// How many holders are worth naming.
const ENOUGH: usize = 8;

/// How long to look, on a host with very many processes.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many processes are remembered to be looked at first.
const REMEMBERED: usize = 1024;

/// Somebody who keeps it busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id, as this process sees it.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// What it does with it.
    pub how: How,
}

/// The ways to keep a mountpoint or a device busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// Its working directory is there.
    WorkingDirectory,
    /// Its root directory is there.
    RootDirectory,
    /// It runs a program from there.
    Program,
    /// It has a file open.
    File(PathBuf),
    /// It is in another mount namespace, where the device is mounted.
    Mount(PathBuf),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}, ", self.comm, self.pid)?;
        match &self.how {
            How::WorkingDirectory => f.write_str("working directory)"),
            How::RootDirectory => f.write_str("root directory)"),
            How::Program => f.write_str("running program)"),
            How::File(path) => write!(f, "open {})", path.display()),
            How::Mount(path) => write!(f, "mounted at {} in its namespace)", path.display()),
        }
    }
}

/// Processes that use something below `target`, or the device itself; one entry per process.
pub fn of(target: &Path, device: Option<&Path>) -> Vec<Holder> {
    let deadline = Deadline::after(PATIENCE);
    let inside = |path: &Path| path.starts_with(target) || device == Some(path);
    let mut found = Vec::new();
    for pid in processes().into_iter().flatten() {
        if found.len() >= ENOUGH || deadline.left().is_zero() {
            break;
        }
        if let Some(how) = uses(pid, inside) {
            found.push(Holder { pid, comm: comm(pid), how });
        }
    }
    found
}

/// Mounts that hide below or above: what else is mounted under a directory, in this namespace.
pub fn mounts_below(target: &Path) -> Result<Vec<PathBuf>, CallError> {
    let mounts = mountinfo::read(Path::new(mountinfo::OWN))?;
    Ok(mounts
        .into_iter()
        .map(|m| m.target)
        .filter(|path| path.starts_with(target) && path != target)
        .collect())
}

/// Processes in whose mount namespaces devices were found the last time. They are looked at first the next time: containers hold what they
/// hold for long. What they hold is read anew each time, so it does not matter what became of them.
#[derive(Debug, Default)]
pub struct LastFound(Mutex<Vec<u32>>);

/// Whether devices have other mounts than those we know of: in containers, mostly. One search is made for all of them, and it ends as
/// soon as each of them was found once.
///
/// The kernel answers first: a device that it has given to no filesystem is mounted nowhere, and `/proc` is not read for it at all.
/// Otherwise the namespaces of all processes are searched. A copy of our mount that the kernel propagated to another namespace
/// (of a service with slave mounts, systemd's `PrivateTmp=` and the like; the host's, when ours is that of a container) does not
/// count: it goes when ours goes. A copy that is
/// private to its namespace does count: it does hold the filesystem, until that service is restarted. A device that is claimed,
/// but mounted in no namespace that we can see, counts as held: a namespace may live on without processes.
pub fn held_elsewhere(devices: &[(&Path, (u32, u32))], last: &LastFound) -> Result<Vec<bool>, CallError> {
    let first = lock(&last.0).clone();
    let found = search(devices, &first, 1)?;
    let pids: BTreeSet<u32> = found.iter().flatten().flatten().map(|found| found.pid).collect();
    // Those that another search has found may be of use to the next one.
    let earlier = first.into_iter().filter(|pid| !pids.contains(pid));
    *lock(&last.0) = pids.iter().copied().chain(earlier).take(REMEMBERED).collect();
    Ok(found.into_iter().map(|found| found.is_some()).collect())
}

/// The error of a mountpoint that cannot be unmounted, with those who are known to use it.
pub fn in_use(target: &Path, who: Vec<String>) -> DriverError {
    let message = match who.as_slice() {
        [] => format!("{} is still in use", target.display()),
        who => format!("{} is still in use by {}", target.display(), who.join(", ")),
    };
    DriverError::new(ErrorKind::InUse, message).hint("stop what uses it and try again")
}

/// The same of one device, with those who can be named: `None` when nobody holds it, an empty list when they cannot be seen.
pub fn who_holds_elsewhere(path: &Path, number: (u32, u32)) -> Result<Option<Vec<Holder>>, CallError> {
    let found = search(&[(path, number)], &[], ENOUGH)?.pop().flatten();
    Ok(found.map(|found| found.into_iter().map(Found::named).collect()))
}

fn search(
    devices: &[(&Path, (u32, u32))],
    first: &[u32],
    enough: usize,
) -> Result<Vec<Option<Vec<Found>>>, CallError> {
    let claimed: Vec<bool> =
        devices.iter().map(|(path, _)| blkdev::is_claimed(path)).collect::<Result<_, _>>()?;
    if !claimed.contains(&true) {
        return Ok(devices.iter().map(|_| None).collect());
    }
    let here = mountinfo::read(Path::new(mountinfo::OWN))?;
    // Of each device that is claimed, whether it is mounted here once, as it should be, and where that mount sits.
    let ours: Vec<(bool, Option<Seat>)> = devices
        .iter()
        .zip(&claimed)
        .filter(|(_, is_claimed)| **is_claimed)
        .map(|((path, number), _)| {
            match here.iter().filter(|m| is_of(m, path, *number)).collect::<Vec<_>>()[..] {
                [ours] => (true, Seat::of(ours, &here)),
                _ => (false, None),
            }
        })
        .collect();
    let wanted: Vec<Wanted<'_>> = devices
        .iter()
        .zip(&claimed)
        .filter(|(_, is_claimed)| **is_claimed)
        .zip(&ours)
        .map(|(((path, number), _), (_, seat))| Wanted { path, number: *number, ours: seat.as_ref() })
        .collect();
    let mut found = elsewhere(&wanted, first, enough)?.into_iter().zip(&ours);
    let held = claimed.into_iter().map(|is_claimed| {
        let (holders, (is_here, _)) = is_claimed.then(|| found.next()).flatten()?;
        Some(holders).filter(|holders| !(*is_here && holders.is_empty()))
    });
    Ok(held.collect())
}

/// A device whose mounts are searched for, but those that go with the mount at `ours`.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) path: &'a Path,
    pub(super) number: (u32, u32),
    pub(super) ours: Option<&'a Seat>,
}

/// Where a mount sits: in which mount, and at which place of that one's filesystem. Mounting and unmounting spread from seat to
/// seat, whatever paths lead there.
#[derive(Debug)]
pub(super) struct Seat {
    group: Option<u64>,
    master: Option<u64>,
    number: (u32, u32),
    place: PathBuf,
}

impl Seat {
    fn of(mount: &mountinfo::Entry, all: &[mountinfo::Entry]) -> Option<Self> {
        let on = all.iter().find(|entry| entry.id == mount.parent)?;
        let place = mount.target.strip_prefix(&on.target).ok()?;
        Some(Self { group: on.group, master: on.master, number: on.number, place: on.root.join(place) })
    }

    /// Whether what is mounted here goes when what is mounted at `other` goes.
    fn follows(&self, other: &Self) -> bool {
        let groups = [self.group, self.master];
        (self.number, &self.place) == (other.number, &other.place)
            && other.group.is_some()
            && groups.contains(&other.group)
    }
}

/// A process in another mount namespace, and where the device is mounted there.
#[derive(Debug)]
pub(super) struct Found {
    pid: u32,
    target: PathBuf,
}

impl Found {
    pub(super) fn named(self) -> Holder {
        Holder { pid: self.pid, comm: comm(self.pid), how: How::Mount(self.target) }
    }
}

/// Of each device, one process of each other mount namespace that has it mounted: of so many that it is enough. Each namespace is read once,
/// those of the `first` processes before all others, and no more of them when enough was found of every device.
pub(super) fn elsewhere(
    wanted: &[Wanted<'_>],
    first: &[u32],
    enough: usize,
) -> Result<Vec<Vec<Found>>, CallError> {
    let own = "/proc/self/ns/mnt";
    let mut seen = BTreeSet::from([fs::read_link(own).or_call("readlink", own)?]);
    let mut found: Vec<Vec<Found>> = wanted.iter().map(|_| Vec::new()).collect();
    for pid in first.iter().copied().chain(processes()?) {
        if found.iter().all(|found| found.len() >= enough) {
            break;
        }
        let link = format!("/proc/{pid}/ns/mnt");
        let Some(namespace) = unless_passed_over(fs::read_link(&link).or_call("readlink", &link))? else {
            continue;
        };
        if seen.contains(&namespace) {
            continue;
        }
        let mounts = mountinfo::read(Path::new(&format!("/proc/{pid}/mountinfo")));
        let Some(mounts) = unless_passed_over(mounts)? else { continue };
        seen.insert(namespace);
        for (wanted, found) in wanted.iter().zip(&mut found).filter(|(_, found)| found.len() < enough) {
            let goes = |m: &mountinfo::Entry| {
                wanted.ours.is_some_and(|ours| Seat::of(m, &mounts).is_some_and(|seat| seat.follows(ours)))
            };
            if let Some(mount) = mounts.iter().find(|m| is_of(m, wanted.path, wanted.number) && !goes(m)) {
                found.push(Found { pid, target: mount.target.clone() });
            }
        }
    }
    Ok(found)
}

/// btrfs numbers its mounts by itself: there the source has to tell.
pub(super) fn is_of(mount: &mountinfo::Entry, path: &Path, number: (u32, u32)) -> bool {
    mount.number == number || (mount.fstype == "btrfs" && Path::new(&mount.source) == path)
}

fn uses(pid: u32, inside: impl Fn(&Path) -> bool) -> Option<How> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    for (link, how) in [("cwd", How::WorkingDirectory), ("root", How::RootDirectory), ("exe", How::Program)] {
        if fs::read_link(process.join(link)).is_ok_and(|path| inside(&path)) {
            return Some(how);
        }
    }
    let files = fs::read_dir(process.join("fd")).ok()?;
    files.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()).find(|path| inside(path)).map(How::File)
}

fn comm(pid: u32) -> String {
    fs::read(format!("/proc/{pid}/comm")).map_or_else(
        |_| "?".to_owned(),
        |name| String::from_utf8_lossy(&name).trim_end().replace(char::is_control, "?"),
    )
}

/// A process that ended meanwhile, or that we may not look at, is passed over; what cannot be read for another reason (no memory, no free
/// descriptor) is an error.
fn unless_passed_over<T>(read: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match read {
        Err(e)
            if matches!(
                e.errno,
                Errno::ENOENT | Errno::ESRCH | Errno::EINVAL | Errno::EACCES | Errno::EPERM
            ) =>
        {
            Ok(None)
        }
        read => read.map(Some),
    }
}

fn processes() -> Result<Vec<u32>, CallError> {
    let entries: Vec<fs::DirEntry> =
        fs::read_dir("/proc").and_then(Iterator::collect).or_call("readdir", "/proc")?;
    let number = |entry: &fs::DirEntry| std::str::from_utf8(entry.file_name().as_bytes()).ok()?.parse().ok();
    Ok(entries.iter().filter_map(number).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_is_gone_or_closed_to_us_is_passed_over() {
        let read =
            |errno| unless_passed_over(Err::<(), _>(CallError::new("readlink", "/proc/7/ns/mnt", errno)));
        for errno in [Errno::ENOENT, Errno::ESRCH, Errno::EACCES] {
            assert_eq!(read(errno).unwrap(), None);
        }
        for errno in [Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE, Errno::EIO] {
            assert_eq!(read(errno).unwrap_err().errno, errno, "it may hold the device");
        }
    }

    #[test]
    fn an_open_file_is_found_with_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let _open = fs::File::create(&path).unwrap();
        let me = std::process::id();
        let holders = of(dir.path(), None);
        let mine = holders.iter().find(|holder| holder.pid == me).unwrap();
        assert_eq!(mine.how, How::File(path.clone()));
        assert!(mine.to_string().contains(&format!("(pid {me}, open {})", path.display())), "{mine}");
        assert_eq!(of(&dir.path().join("other"), None), []);
    }

    /// The seat of a volume that is mounted on a mount which mountinfo shows so.
    fn seat(root: &str, target: &str, groups: &str, volume: &str) -> Seat {
        let text = format!(
            "40 1 254:0 {root} {target} rw {groups} - ext4 /dev/vda rw\n\
             41 40 7:3 / {volume} rw shared:7 - ext4 /dev/loop3 rw\n"
        );
        let entries = mountinfo::parse(text.as_bytes());
        Seat::of(&entries[1], &entries).unwrap()
    }

    #[test]
    fn only_propagated_copies_of_our_own_mount_go_with_it() {
        let ours = seat("/", "/", "shared:2", "/m/a");
        assert!(seat("/", "/", "shared:2", "/m/a").follows(&ours));
        assert!(seat("/", "/", "shared:9 master:2", "/m/a").follows(&ours), "of a service with slave mounts");
        for (groups, volume) in
            [("", "/m/a"), ("shared:9", "/m/a"), ("master:9", "/m/a"), ("shared:2", "/m/b")]
        {
            assert!(!seat("/", "/", groups, volume).follows(&ours), "{groups} {volume}");
        }
        let private = seat("/", "/", "", "/m/a");
        assert!(
            !seat("/", "/", "", "/m/a").follows(&private),
            "two private mounts have nothing to do with each other"
        );
    }

    #[test]
    fn the_hosts_copy_goes_with_the_mount_of_a_container_under_another_path() {
        let ours = seat("/d/plugins/1/p", "/mnt/volumes", "shared:2", "/mnt/volumes/a");
        assert!(
            seat("/d/plugins/1/p", "/var/d/plugins/1/p", "shared:2", "/var/d/plugins/1/p/a").follows(&ours)
        );
        assert!(seat("/", "/var", "shared:2", "/var/d/plugins/1/p/a").follows(&ours));
        assert!(
            !seat("/d/plugins/2/p", "/var/d/plugins/2/p", "shared:2", "/var/d/plugins/2/p/a").follows(&ours)
        );
        assert!(!seat("/d/overlay/3", "/", "", "/data").follows(&ours), "what the container has");
    }

    #[test]
    fn btrfs_is_recognised_by_its_source() {
        let entry = |line: &str| mountinfo::parse(line.as_bytes()).remove(0);
        let device = (Path::new("/dev/loop3"), (7, 3));
        assert!(is_of(&entry("1 2 7:3 / /a rw - ext4 /dev/whatever rw"), device.0, device.1));
        assert!(is_of(&entry("1 2 0:44 / /a rw - btrfs /dev/loop3 rw"), device.0, device.1));
        assert!(!is_of(&entry("1 2 0:44 / /a rw - tmpfs /dev/loop3 rw"), device.0, device.1));
        assert!(!is_of(&entry("1 2 7:33 / /a rw - ext4 /dev/loop33 rw"), device.0, device.1));
    }
}

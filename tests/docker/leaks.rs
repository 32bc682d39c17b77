//! What the kernel and the disk still hold: of one case, and of the whole run on the host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};

use crate::daemon::wait;
use crate::engine;

/// The mountpoints at or below a folder, sorted, one entry per mount.
pub(crate) fn mounts_under(dir: &Path) -> Vec<PathBuf> {
    mounts_in(Path::new("/proc/self/mountinfo"), dir)
}

/// The same in the mount namespace of another process.
pub(crate) fn mounts_in(mountinfo: &Path, dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(mountinfo).expect("mountinfo can be read");
    let mut mounts: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|target| target.starts_with(dir))
        .collect();
    mounts.sort();
    mounts
}

/// The loop devices whose file is below a folder.
pub(crate) fn loops_under(dir: &Path) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").expect("/sys/block can be read");
    devices
        .filter_map(Result::ok)
        .filter(|device| {
            let file = fs::read_to_string(device.path().join("loop/backing_file"));
            file.is_ok_and(|file| Path::new(file.trim_end()).starts_with(dir))
        })
        .map(|device| Path::new("/dev").join(device.file_name()))
        .collect()
}

/// The loop devices of these files, whatever path they were attached by.
pub(crate) fn loops_of(files: &[PathBuf]) -> Vec<PathBuf> {
    let attached = |file: &PathBuf| {
        let found = Command::new("losetup")
            .args(["--noheadings", "--output", "NAME", "--associated"])
            .arg(file)
            .output();
        String::from_utf8_lossy(&found.expect("losetup runs").stdout)
            .lines()
            .map(PathBuf::from)
            .collect::<Vec<_>>()
    };
    files.iter().flat_map(attached).collect()
}

/// Detaches loop devices.
pub(crate) fn detach(devices: &[PathBuf]) {
    for device in devices {
        let _ = Command::new("losetup").arg("-d").arg(device).status();
    }
}

/// The processes whose root is a folder of the host whose path, in its filesystem, ends or goes on so.
pub(crate) fn rooted_in(part: &str) -> Vec<Pid> {
    let is_rooted = |pid: &Pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let mut roots = text.lines().filter_map(|line| line.split(' ').nth(3).zip(line.split(' ').nth(4)));
        roots.any(|(root, target)| target == "/" && root.contains(part))
    };
    processes().filter(is_rooted).collect()
}

/// The files below a folder whose name ends so.
pub(crate) fn files_under(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if path.is_dir() {
            files.extend(files_under(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            files.push(path);
        }
    }
    files
}

/// The processes of a case, or of this whole run: engines, shims, plugins, containers. Another run beside it is none of ours.
pub(crate) fn processes_of(case: Option<&str>) -> Vec<(Pid, String)> {
    let case = case.map_or_else(String::new, |case| format!("{case}/"));
    // Command lines name the sockets' folder; a container's does not, but it is in the case's cgroup.
    let rig = format!("{}/{case}", engine::rig().display());
    let cgroup = format!("/{}/{case}", engine::cgroup());
    // A managed plugin is in a cgroup that the engine names after it, and its root is in the engine's folder.
    let managed = rooted_in(&format!("/tmp/docker/{case}")).into_iter().collect::<BTreeSet<_>>();
    processes()
        .filter(|&pid| pid != getpid())
        .filter_map(|pid| {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            let line = String::from_utf8_lossy(&fs::read(proc.join("cmdline")).ok()?).replace('\0', " ");
            let contained =
                || fs::read_to_string(proc.join("cgroup")).is_ok_and(|text| text.contains(&cgroup));
            let ours = || line.contains(&rig) || managed.contains(&pid) || contained();
            (!line.is_empty() && ours()).then_some((pid, line))
        })
        .collect()
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").expect("/proc can be read");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).map(Pid::from_raw)
}

/// Takes down by force what a failed case left, or a whole run that was killed: processes, mounts, loop devices.
pub(crate) fn clear(dir: &Path, case: Option<&str>) {
    for _ in 0..50 {
        let left = processes_of(case);
        if left.is_empty() {
            break;
        }
        for (pid, _) in left {
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    for target in mounts_under(dir).iter().rev() {
        let _ = umount2(target, MntFlags::MNT_DETACH);
    }
    detach(&loops_under(dir));
}

/// What of the host a run could leave changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    mounts: BTreeSet<String>,
    loops: BTreeSet<String>,
}

impl Snapshot {
    /// As it is now. The parent (cargo) is still in the host's mount namespace.
    pub(crate) fn of_host() -> Self {
        let parent = fs::read_to_string(format!("/proc/{}/mountinfo", getppid())).unwrap_or_default();
        let ours = |line: &&str| line.contains(env!("CARGO_TARGET_TMPDIR")) || line.contains("/run/docker");
        let loops = loops_under(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("docker"));
        Self {
            mounts: parent.lines().filter(ours).map(str::to_owned).collect(),
            loops: loops.iter().map(|path| path.display().to_string()).collect(),
        }
    }

    /// Asserts that there are no more mounts, loop devices, cgroups and processes than there were: what an earlier run left may go
    /// meanwhile.
    pub(crate) fn compare(self) {
        wait("the containers' cgroups to go", remove_cgroups);
        let after = Self::of_host();
        let more = |after: &BTreeSet<String>, before: &BTreeSet<String>| {
            after.difference(before).cloned().collect::<Vec<_>>()
        };
        assert_eq!(more(&after.mounts, &self.mounts), Vec::<String>::new(), "mounts of the host");
        assert_eq!(more(&after.loops, &self.loops), Vec::<String>::new(), "loop devices");
        let strays = processes_of(None);
        assert!(strays.is_empty(), "processes of the tests: {strays:?}");
        let mounts = mounts_under(Path::new(env!("CARGO_TARGET_TMPDIR")));
        assert!(mounts.is_empty(), "mounts of the tests: {mounts:?}");
    }
}

/// Removes the containers' cgroups and their parents; whether all are gone.
pub(crate) fn remove_cgroups() -> bool {
    cgroups().iter().filter(|dir| !remove_cgroup(dir)).count() == 0
}

/// Removes a tree of cgroups; one with a process in it stays.
fn remove_cgroup(dir: &Path) -> bool {
    let below = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for child in below.filter(|path| path.is_dir()) {
        remove_cgroup(&child);
    }
    fs::remove_dir(dir).is_ok()
}

/// Removes the cgroups of a managed plugin, which an engine that was killed leaves behind. They have its id for a name and are below the
/// engine's own cgroup, which is ours.
pub(crate) fn remove_plugins_cgroups(id: &str) {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let below: BTreeSet<String> = own.map(|own| format!("{}/{id}", own.trim_matches('/'))).collect();
    for dir in below.iter().flat_map(|name| named(name.trim_start_matches('/'))) {
        remove_cgroup(&dir);
    }
}

/// The parents of the containers' cgroups, v1 or v2.
fn cgroups() -> Vec<PathBuf> {
    named(&engine::cgroup())
}

fn named(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_dir(root).into_iter().flatten().flatten().map(|controller| controller.path());
    let parents = controllers.chain([root.to_owned()]).map(|dir| dir.join(name));
    parents.filter(|dir| dir.is_dir()).collect()
}

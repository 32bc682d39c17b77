//! What every test of this tier stands on: a temporary folder with images and mountpoints, a clean-up that always runs, and a
//! check that the test left no mount, no loop device and no process behind.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rbd_docker_plugin::backend::Device;
use rbd_docker_plugin::block::kernel::KernelDisks;
use rbd_docker_plugin::host::kernel::KernelHost;
use rbd_docker_plugin::linux::exec::Programs;
use rbd_docker_plugin::linux::{loopdev, mountinfo};
use rbd_docker_plugin::model::deadline::Deadline;
use tempfile::TempDir;

/// Whether this tier can run here; if not, why.
pub(crate) type Ready = Result<(), String>;

/// Moves the process into a mount namespace of its own.
pub(crate) fn enter() -> Ready {
    if !nix::unistd::geteuid().is_root() {
        return Err("it needs root".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Err("there is no /dev/loop-control".to_owned());
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| format!("unshare(CLONE_NEWNS): {e}"))?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|e| format!("mount --make-rprivate: {e}"))
}

/// One test: runs it in a rig of its own, cleans up whatever happens, and fails it for what it left behind.
pub(crate) fn trial(name: &str, ready: &Ready, test: impl Fn(&Rig) + Send + 'static) -> Trial {
    let ready = ready.clone();
    Trial::ignorable_test(name, move || {
        if let Err(why) = ready {
            println!("skipped: {why}");
            return Ok(Completion::ignored_with(why));
        }
        let rig = Rig::new();
        let result = catch_unwind(AssertUnwindSafe(|| test(&rig)));
        let leaks = rig.leaks();
        rig.clean();
        if let Err(panic) = result {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            return Err(Failed::from(
                text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked"),
            ));
        }
        if leaks.is_empty() {
            Ok(Completion::Completed)
        } else {
            Err(format!("left behind: {leaks:?}").into())
        }
    })
}

/// A temporary folder, and what was there before the test.
#[derive(Debug)]
pub(crate) struct Rig {
    dir: TempDir,
    mounts: BTreeSet<PathBuf>,
    children: BTreeSet<u32>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), mounts: mounts(), children: children() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// This machine.
    #[allow(clippy::unused_self)]
    pub(crate) fn host(&self) -> KernelHost {
        KernelHost
    }

    /// Its block devices.
    #[allow(clippy::unused_self)]
    pub(crate) fn disks(&self) -> KernelDisks {
        KernelDisks::new(Programs::find())
    }

    /// A sparse file.
    pub(crate) fn image(&self, name: &str, mib: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(mib << 20).unwrap();
        path
    }

    /// A folder to mount at.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The image as a device, held until the result is dropped.
    #[allow(clippy::unused_self)]
    pub(crate) fn attach(&self, image: &Path, read_only: bool) -> Device {
        let file = OpenOptions::new().read(true).write(!read_only).open(image).unwrap();
        let attached = loopdev::attach(&file, image, read_only).unwrap();
        Device { path: attached.path, number: attached.number, hold: Some(Arc::new(attached.hold)) }
    }

    /// A fresh image as a device.
    pub(crate) fn device(&self, name: &str, mib: u64) -> Device {
        self.attach(&self.image(name, mib), false)
    }

    /// What the test left behind. The kernel and init get a moment: a loop device detaches itself after its last close.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let begin = Instant::now();
        loop {
            let leaks = self.leaks_now();
            if leaks.is_empty() || begin.elapsed() > Duration::from_secs(3) {
                return leaks;
            }
            sleep(Duration::from_millis(20));
        }
    }

    fn leaks_now(&self) -> Vec<String> {
        let loops =
            self.loops().into_iter().map(|l| format!("{} on {}", l.path.display(), l.backing_path.display()));
        let mounts = mounts()
            .difference(&self.mounts)
            .map(|path| format!("mount {}", path.display()))
            .collect::<Vec<_>>();
        let children =
            children().difference(&self.children).map(|pid| format!("process {pid}")).collect::<Vec<_>>();
        loops.chain(mounts).chain(children).collect()
    }

    /// Only what is ours: other loop devices of this machine are none of our business.
    fn loops(&self) -> Vec<loopdev::Loop> {
        let dir = self.dir.path().canonicalize().unwrap();
        loopdev::all().unwrap().into_iter().filter(|l| l.backing_path.starts_with(&dir)).collect()
    }

    /// Unmounts and detaches what is left. Lazily: this is the one place that must always come to an end.
    pub(crate) fn clean(self) {
        for path in mounts().difference(&self.mounts) {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
        for device in self.loops() {
            let _ = loopdev::detach(&device.path, device.backing, Deadline::after(Duration::from_secs(2)));
        }
        for &pid in children().difference(&self.children) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

pub(crate) fn mounts() -> BTreeSet<PathBuf> {
    mountinfo::read(Path::new(mountinfo::OWN)).unwrap().into_iter().map(|m| m.target).collect()
}

/// Processes whose parent we are, zombies too: they were not waited for.
fn children() -> BTreeSet<u32> {
    let me = std::process::id().to_string();
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.split(' ').nth(1) == Some(&me))
    })
    .collect()
}

//! What stands for the kernel's `/sys/bus/rbd`: a tree of files that looks like it, and a thread that maps and unmaps.
//!
//! ```text
//! let kernel = FakeKernel::new(dir.path());      // or with_disks: then devices can be mounted (needs root)
//! kernel.knows(&lab.conf);                       // once for each cluster that may be mapped from
//! RbdBackend::open_on(kernel.kernel(), …)        // a backend in this process, or
//! daemon.start_with(&[kernel.environment()]);    // a whole plugin (the binary needs feature fault-points)
//! kernel.map(&Foreign { … });                    // a device of somebody else, or of another cluster: only files
//! kernel.mappings();                             // what is mapped now
//! ```
//!
//! What is mapped through the control files is mapped for real as far as the cluster can see: a client of its own for each
//! mapping has the image open, so it watches the header, has an address that can be fenced, and goes when it is unmapped. Data is
//! not the image's: with disks, it is in a file for each image below `disks`, which stays when the image is unmapped. Hundreds of such
//! clients would be what is measured: `unwatched` shows an address for each mapping and has no client behind it.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rbd_docker_plugin::ceph::{Cluster, Connect, Image};
use rbd_docker_plugin::linux::krbd::{Kernel, Mapping};
use rbd_docker_plugin::linux::loopdev;
use rbd_docker_plugin::model::error::CallError;

/// A device of which only the files are there.
#[derive(Debug, Clone)]
pub(crate) struct Foreign {
    pub(crate) fsid: String,
    pub(crate) pool: String,
    pub(crate) pool_id: i64,
    pub(crate) namespace: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) client_addr: String,
    /// The last word of `config_info`.
    pub(crate) mark: String,
}

/// What keeps a mapping alive.
struct Live {
    number: (u32, u32),
    /// Closed before its client.
    image: Option<Image>,
    disk: Option<File>,
}

#[derive(Default)]
struct State {
    next: u32,
    conf: Vec<PathBuf>,
    devices: BTreeMap<u32, Live>,
    /// The features that it knows.
    features: u64,
    /// What the next mapping fails with.
    refuse: Option<Errno>,
    /// Every line that was written to map or unmap.
    writes: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct FakeKernel(Arc<Tree>);

struct Tree {
    root: PathBuf,
    disks: bool,
    /// Looks images up for all mappings; none of them has a client of its own.
    looks: Option<Cluster>,
    state: Mutex<State>,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("root", &self.root).finish_non_exhaustive()
    }
}

impl FakeKernel {
    /// Devices that cannot be opened.
    pub(crate) fn new(root: &Path) -> Self {
        Self::start(root, false, None)
    }

    /// Devices that are loop devices on files.
    pub(crate) fn with_disks(root: &Path) -> Self {
        Self::start(root, true, None)
    }

    /// The same, without a client for each: to the cluster, nothing is mapped.
    pub(crate) fn unwatched(root: &Path, conf: &Path) -> Self {
        let kernel = Self::start(root, true, Some(Cluster::connect(&client(conf)).unwrap()));
        kernel.knows(conf);
        kernel
    }

    fn start(root: &Path, disks: bool, looks: Option<Cluster>) -> Self {
        for folder in ["bus/devices", "block", "dev", "disks", "new"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let tree = Arc::new(Tree { root: root.to_owned(), disks, looks, state: Mutex::default() });
        for (control, serve) in
            [("add_single_major", add as fn(&Tree, &str) -> Errno), ("remove_single_major", remove)]
        {
            let path = root.join("bus").join(control);
            let _ = fs::remove_file(&path);
            let listener = UnixListener::bind(path).unwrap();
            let tree = Arc::clone(&tree);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    tree.answer(stream, serve);
                }
            });
        }
        let kernel = Self(tree);
        // Linux 6.1: all but journaling.
        kernel.supports(0x1bf);
        kernel
    }

    /// From now on it knows these features of images, and maps no image that has others.
    pub(crate) fn supports(&self, features: u64) {
        fs::write(self.0.root.join("bus/supported_features"), format!("{features:#x}\n")).unwrap();
        self.0.state().features = features;
    }

    /// Images of this cluster can be mapped.
    pub(crate) fn knows(&self, conf: &Path) {
        self.0.state().conf.push(conf.to_owned());
    }

    pub(crate) fn kernel(&self) -> Kernel {
        Kernel::of_tree(&self.0.root)
    }

    /// What makes a plugin use it.
    pub(crate) fn environment(&self) -> (&'static str, String) {
        ("RBD_FAULT_SYS", self.0.root.to_str().unwrap().to_owned())
    }

    pub(crate) fn mappings(&self) -> Vec<Mapping> {
        self.kernel().list().unwrap()
    }

    /// The next mapping fails.
    pub(crate) fn refuse_next(&self, errno: Errno) {
        self.0.state().refuse = Some(errno);
    }

    /// Every line that was written to map or unmap.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.0.state().writes.clone()
    }

    /// Shows a device, and answers its number.
    pub(crate) fn map(&self, device: &Foreign) -> u32 {
        let id = self.0.free_id();
        let live = Live { number: (252, id * 16), image: None, disk: None };
        self.0.show(id, device, 16 << 20, &format!("192.0.2.1:3300 name=x rbd x - {}", device.mark), live);
        id
    }

    /// Takes a device away, as somebody else's `rbd unmap` does.
    pub(crate) fn unmap(&self, id: u32) {
        assert_eq!(remove(&self.0, &format!("{id} force")), Errno::UnknownErrno);
    }
}

/// What is mapped still is given back.
impl Drop for FakeKernel {
    fn drop(&mut self) {
        let devices = std::mem::take(&mut self.0.state().devices);
        drop(devices);
    }
}

impl Tree {
    fn answer(&self, mut stream: UnixStream, serve: fn(&Self, &str) -> Errno) {
        let mut line = String::new();
        if stream.read_to_string(&mut line).is_ok() && !line.is_empty() {
            self.state().writes.push(line.clone());
            let errno = serve(self, &line);
            let _ = write!(stream, "{}", errno as i32);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free_id(&self) -> u32 {
        let mut state = self.state();
        state.next += 1;
        state.next - 1
    }

    /// A device appears whole.
    fn show(&self, id: u32, device: &Foreign, size: u64, config_info: &str, live: Live) {
        let folder = self.root.join("new").join(id.to_string());
        fs::create_dir_all(&folder).unwrap();
        let (major, minor) = live.number;
        for (name, content) in [
            ("major", major.to_string()),
            ("minor", minor.to_string()),
            ("cluster_fsid", device.fsid.clone()),
            ("pool", device.pool.clone()),
            ("pool_id", device.pool_id.to_string()),
            ("pool_ns", device.namespace.clone()),
            ("name", device.image.clone()),
            ("image_id", device.image_id.clone()),
            ("current_snap", "-".to_owned()),
            ("client_addr", device.client_addr.clone()),
            ("size", size.to_string()),
            ("config_info", config_info.to_owned()),
        ] {
            fs::write(folder.join(name), format!("{content}\n")).unwrap();
        }
        self.state().devices.insert(id, live);
        fs::rename(folder, self.root.join("bus/devices").join(id.to_string())).unwrap();
    }

    /// The loop device that stands for an image.
    fn disk(&self, id: u32, name: &str, size: u64) -> Result<((u32, u32), Option<File>), Errno> {
        if !self.disks {
            return Ok(((252, id * 16), None));
        }
        let path = self.root.join("disks").join(name);
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|_| Errno::EIO)?;
        file.set_len(size).map_err(|_| Errno::EIO)?;
        let attached = loopdev::attach(&file, &path, false).map_err(|e| e.errno)?;
        let node = self.root.join("dev").join(format!("rbd{id}"));
        let _ = fs::remove_file(&node);
        let number = makedev(attached.number.0.into(), attached.number.1.into());
        mknod(&node, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, number)?;
        Ok((attached.number, Some(attached.hold)))
    }
}

/// Maps; 0 is success.
fn add(kernel: &Tree, line: &str) -> Errno {
    try_add(kernel, line).err().unwrap_or(Errno::UnknownErrno)
}

fn try_add(kernel: &Tree, line: &str) -> Result<(), Errno> {
    if let Some(errno) = kernel.state().refuse.take() {
        return Err(errno);
    }
    let words: Vec<&str> = line.split(' ').collect();
    let [monitors, options, pool, image, ..] = words[..] else { return Err(Errno::EINVAL) };
    let namespace = options.split(',').find_map(|option| option.strip_prefix("_pool_ns="));
    let knows = |conf: &&PathBuf| {
        let text = fs::read_to_string(conf).unwrap_or_default();
        monitors.split(',').any(|monitor| text.contains(monitor))
    };
    let conf = kernel.state().conf.iter().find(knows).cloned().ok_or(Errno::ETIMEDOUT)?;
    let id = kernel.free_id();
    let open = || {
        let own = kernel.looks.is_none().then(|| Cluster::connect(&client(&conf))).transpose()?;
        let cluster = own
            .as_ref()
            .or(kernel.looks.as_ref())
            .ok_or_else(|| CallError::new("rbd_add", image, Errno::EIO))?;
        let io = cluster.ioctx(pool, namespace)?;
        let open = Image::open(&io, image)?;
        let device = Foreign {
            fsid: cluster.fsid().to_owned(),
            pool: pool.to_owned(),
            pool_id: io.pool_id(),
            namespace: namespace.unwrap_or_default().to_owned(),
            image: image.to_owned(),
            image_id: open.id()?,
            client_addr: match &own {
                Some(cluster) => cluster.addresses()?,
                None => format!("192.0.2.1:0/{}", id + 1),
            },
            mark: String::new(),
        };
        let (size, has) = (open.size()?, open.features()?);
        Ok::<_, CallError>((device, size, own.is_some().then_some(open), has))
    };
    let known = kernel.state().features;
    let (device, size, image, has) = open().map_err(|e| e.errno)?;
    if has & !known != 0 {
        return Err(Errno::ENXIO);
    }
    let (number, disk) = kernel.disk(id, &format!("{}.{}", device.fsid, device.image_id), size)?;
    kernel.show(id, &device, size, line, Live { number, image, disk });
    Ok(())
}

fn client(conf: &Path) -> Connect {
    Connect {
        conf: conf.to_owned(),
        user: "admin".to_owned(),
        keyring: None,
        cluster: String::new(),
        timeout: Duration::from_secs(10),
    }
}

/// Unmaps; a device that is mounted is busy.
fn remove(kernel: &Tree, line: &str) -> Errno {
    let mut words = line.split(' ');
    let Some(id) = words.next().and_then(|id| id.parse().ok()) else { return Errno::EINVAL };
    let force = words.next() == Some("force");
    let number = match kernel.state().devices.get(&id) {
        Some(live) => live.number,
        None => return Errno::ENOENT,
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounted = format!(" {}:{} ", number.0, number.1);
    if !force && mounts.contains(&mounted) {
        return Errno::EBUSY;
    }
    let live = kernel.state().devices.remove(&id);
    let _ = fs::remove_dir_all(kernel.root.join("bus/devices").join(id.to_string()));
    let _ = fs::remove_file(kernel.root.join("dev").join(format!("rbd{id}")));
    if let Some(image) = live.and_then(|live| live.image) {
        drop(image);
    }
    Errno::UnknownErrno
}

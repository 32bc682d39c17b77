//! What every test of this tier stands on: the cluster, images of its own, and a check that nothing stays mapped.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};
use rbd_docker_plugin::ceph::{Cluster, Connect, CreateOptions, Image, IoCtx};
use rbd_docker_plugin::linux::keyring::Key;
use rbd_docker_plugin::linux::krbd::{Failure, Identity, Kernel, Maker, Mapping, Request};
use rbd_docker_plugin::model::deadline::Deadline;
use serde_json::{Value, json};

pub(crate) const POOL: &str = "rbd";
pub(crate) const USER: &str = "docker";
pub(crate) const MIB: u64 = 1 << 20;

/// Why this tier cannot run here.
fn missing() -> Option<String> {
    if env::var_os("KRBD_TEST_CONF").is_none() {
        return Some("KRBD_TEST_CONF names no cluster".to_owned());
    }
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    (!Path::new("/sys/bus/rbd").exists())
        .then(|| "this kernel has no rbd, or the module is not loaded".to_owned())
}

pub(crate) fn trial(name: &str, test: fn(&Rig)) -> Trial {
    Trial::ignorable_test(name, move || {
        static RIG: OnceLock<Rig> = OnceLock::new();
        if let Some(why) = missing() {
            println!("skipped: {why}");
            return Ok(Completion::ignored_with(why));
        }
        let rig = RIG.get_or_init(Rig::new);
        let result = catch_unwind(AssertUnwindSafe(|| test(rig)));
        let left: Vec<_> = kernel().list().unwrap().into_iter().map(|mapping| mapping.path).collect();
        rig.clean();
        if let Err(panic) = result {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            return Err(Failed::from(text.unwrap_or("it panicked")));
        }
        if left.is_empty() { Ok(Completion::Completed) } else { Err(format!("left mapped: {left:?}").into()) }
    })
}

pub(crate) fn within(seconds: u64) -> Deadline {
    Deadline::after(Duration::from_secs(seconds))
}

/// Waits for what happens a moment after the event that causes it.
pub(crate) fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !test() {
        assert!(begin.elapsed() < Duration::from_secs(30), "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) cluster: Cluster,
    pub(crate) monitors: Vec<String>,
    pub(crate) secret: String,
    pub(crate) key: Key,
    conf: PathBuf,
}

/// An image that was made for one test.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) io: IoCtx,
    pub(crate) fsid: String,
    pub(crate) name: String,
    pub(crate) id: String,
}

impl Made {
    pub(crate) fn identity(&self) -> Identity<'_> {
        Identity {
            fsid: &self.fsid,
            pool_id: self.io.pool_id(),
            namespace: self.io.namespace(),
            image_id: &self.id,
        }
    }

    pub(crate) fn watchers(&self) -> Vec<String> {
        let image = Image::open_read_only(&self.io, &self.name).unwrap();
        image.watchers().unwrap().into_iter().map(|watcher| watcher.address).collect()
    }
}

impl Rig {
    pub(crate) fn new() -> Self {
        let conf = PathBuf::from(env::var_os("KRBD_TEST_CONF").unwrap());
        let cluster = Cluster::connect(&Connect {
            conf: conf.clone(),
            user: "admin".to_owned(),
            keyring: None,
            cluster: String::new(),
            timeout: Duration::from_secs(60),
        })
        .unwrap();
        let ask = |command: Value| String::from_utf8(cluster.mon_command(&command).unwrap()).unwrap();
        let map: Value = serde_json::from_str(&ask(json!({"prefix": "mon dump", "format": "json"}))).unwrap();
        let addresses =
            map["mons"].as_array().unwrap().iter().flat_map(|mon| mon["public_addrs"]["addrvec"].as_array());
        let monitors = addresses
            .flatten()
            .filter(|address| address["type"] == "v2")
            .map(|address| address["addr"].as_str().unwrap().to_owned())
            .collect();
        let secret =
            ask(json!({"prefix": "auth print-key", "entity": format!("client.{USER}")})).trim().to_owned();
        let key = Key::from_base64(secret.as_bytes()).unwrap();
        Self { cluster, monitors, secret, key, conf }
    }

    /// An image of 16 MiB.
    pub(crate) fn image(&self, namespace: Option<&str>) -> Made {
        static IMAGES: AtomicU32 = AtomicU32::new(0);
        let io = self.cluster.ioctx(POOL, namespace).unwrap();
        let name = format!("krbd-{}-{}", std::process::id(), IMAGES.fetch_add(1, Ordering::Relaxed));
        io.create_image(&name, 16 * MIB, &CreateOptions::default()).unwrap();
        let id = Image::open_read_only(&io, &name).unwrap().id().unwrap();
        self.known(namespace, name, id)
    }

    /// One that is there, without asking for it.
    pub(crate) fn known(&self, namespace: Option<&str>, name: String, id: String) -> Made {
        let io = self.cluster.ioctx(POOL, namespace).unwrap();
        Made { io, fsid: self.cluster.fsid().to_owned(), name, id }
    }

    /// `rbd WORDS`, for what the library is not asked for.
    pub(crate) fn rbd(&self, words: &[&str]) {
        let status = Command::new("rbd").arg("--conf").arg(&self.conf).args(words).status().unwrap();
        assert!(status.success(), "rbd {words:?}");
    }

    pub(crate) fn options() -> Vec<String> {
        ["ms_mode=prefer-crc", "noshare", "lock_timeout=60"].map(str::to_owned).to_vec()
    }

    pub(crate) fn request<'a>(&'a self, made: &'a Made, options: &'a [String]) -> Request<'a> {
        Request {
            monitors: &self.monitors,
            user: USER,
            key: Some(&self.key),
            options,
            pool: POOL,
            namespace: made.io.namespace(),
            image: &made.name,
            snapshot: None,
        }
    }

    pub(crate) fn try_map(&self, made: &Made, deadline: Deadline) -> Result<Mapping, Failure> {
        kernel().map(self.request(made, &Self::options()), made.identity(), &maker(), deadline)
    }

    pub(crate) fn map(&self, made: &Made) -> Mapping {
        self.try_map(made, within(60)).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// An outage: no OSD answers any request.
    pub(crate) fn pause(&self) {
        self.cluster.mon_command(&json!({"prefix": "osd pause"})).unwrap();
    }

    pub(crate) fn resume(&self) {
        self.cluster.mon_command(&json!({"prefix": "osd unpause"})).unwrap();
    }

    fn clean(&self) {
        self.resume();
        for mapping in kernel().list().unwrap() {
            if let Err(e) = kernel().unmap(mapping.id, true, within(60)) {
                println!("cannot clean up: {e}");
            }
        }
    }
}

/// A process that ends with the test.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The Ceph keys that the kernel shows to root. It shows no more of them than that they are there.
pub(crate) fn keys() -> Vec<String> {
    let keys = fs::read_to_string("/proc/keys").unwrap();
    let is_ceph = |line: &&str| line.split_ascii_whitespace().nth(7) == Some("ceph");
    keys.lines().filter(is_ceph).map(str::to_owned).collect()
}

pub(crate) fn kernel() -> Kernel {
    Kernel::host()
}

/// Who maps in these tests.
pub(crate) fn maker() -> Maker {
    Maker { boot_id: "b".to_owned(), plugin: "rbd".to_owned(), root: "/m/rbd".into() }
}

/// An attribute as sysfs has it.
pub(crate) fn attribute(mapping: &Mapping, name: &str) -> String {
    fs::read_to_string(format!("/sys/bus/rbd/devices/{}/{name}", mapping.id)).unwrap()
}

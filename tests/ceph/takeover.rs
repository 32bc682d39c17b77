//! The sign of life of a kernel. A process that has the image open stands for it: it watches the header as a kernel does, and can be frozen.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rbd_docker_plugin::backend::ImageStore;
use rbd_docker_plugin::backend::rbd::RbdBackend;
use rbd_docker_plugin::backend::rbd::admin::Admin;
use rbd_docker_plugin::ceph::{Image, IoCtx, Swap};
use rbd_docker_plugin::model::error::ErrorKind;
use rbd_docker_plugin::model::name::ImageSpec;

use crate::hosts::{claim_in_time, host, identity, options, settings_of, spec, volume};
use crate::rig::{Lab, Own, Ready, connect, trial, wait_until};

const OWNERS: &str = "rbd_docker_plugin.owners";

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("takeover::{name}"), ready, test);
    vec![
        t("a_kernel_that_answers_is_never_followed", a_kernel_that_answers_is_never_followed),
        t("a_host_is_not_followed_for_slow_storage", a_host_is_not_followed_for_slow_storage),
    ]
}

/// What tells this program to watch an image, and to be nothing but that.
const WATCH: &str = "RBD_TEST_WATCH";

/// Keeps an image open until it is killed, where the environment says so.
pub(crate) fn watch_if_told() {
    let Ok(told) = std::env::var(WATCH) else { return };
    let words: Vec<&str> = told.split(' ').collect();
    let io = connect(Path::new(words[0]), Duration::from_secs(30)).unwrap().ioctx(words[1], None).unwrap();
    let _image = Image::open(&io, words[2]).unwrap();
    // Longer than any test.
    thread::sleep(Duration::from_secs(3600));
    kill(Pid::this(), Signal::SIGKILL).unwrap();
}

/// What watches an image and answers questions, until it is frozen.
struct Watcher {
    process: Child,
    address: String,
}

impl Watcher {
    /// Begins to watch, and stands on the owner record as the kernel's client from then on.
    fn of(io: &IoCtx, conf: &Path, name: &str) -> Self {
        let image = Image::open_read_only(io, name).unwrap();
        let mut watch = Command::new(std::env::current_exe().unwrap());
        watch.env(WATCH, format!("{} {} {name}", conf.display(), io.pool()));
        let process = watch.stdin(Stdio::null()).spawn().unwrap();
        wait_until("the image to be watched", Duration::from_secs(60), || {
            !image.watchers().unwrap().is_empty()
        });
        let address = image.watchers().unwrap().remove(0).address;
        let key = format!("image.{}", image.id().unwrap());
        let found = io.omap_get(OWNERS, &[&key]).unwrap().remove(&key).unwrap();
        let mut record: serde_json::Value = serde_json::from_slice(&found).unwrap();
        record["client_addr"] = address.clone().into();
        let new = record.to_string().into_bytes();
        assert!(
            io.omap_swap(OWNERS, &[Swap { key: &key, expected: Some(&found), new: Some(&new) }]).unwrap()
        );
        Self { process, address }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Tries for so long to have an image that lives elsewhere; why it was refused last, by whoever answered.
fn refused_for(two: &RbdBackend, image: &ImageSpec, time: Duration) -> String {
    let (begin, mut last) = (Instant::now(), String::new());
    while begin.elapsed() < time {
        match two.claim(image) {
            Ok(()) => panic!("taken over after {:?}", begin.elapsed()),
            Err(e) if e.kind == ErrorKind::InUse => last = e.to_string(),
            // The storage is slow.
            Err(_) => {}
        }
        thread::sleep(Duration::from_millis(300));
    }
    last
}

fn a_kernel_that_answers_is_never_followed(lab: &Lab) {
    let (one, two) = (host(lab, "h1"), host(lab, "h2"));
    let a = spec(lab, "answers");
    volume(&one, &a);
    one.claim(&a).unwrap();
    let watcher = Watcher::of(&lab.io, &lab.conf, "answers");
    // The plugin is stopped: only the kernel is left.
    drop(one);
    let said = refused_for(&two, &a, Duration::from_secs(25));
    assert!(said.contains("its host still uses the image"), "{said}");
    watcher.signal(Signal::SIGSTOP);
    let frozen = Instant::now();
    let took = claim_in_time(&two, &a, Duration::from_secs(100));
    println!("taken over {took:?} after its kernel was frozen");
    assert!(frozen.elapsed() >= Duration::from_secs(9), "the silence has to last: {took:?}");
    let fences = Admin::connect(&options(lab)).unwrap().fences().unwrap();
    assert!(fences.iter().any(|fence| fence.address == watcher.address), "{fences:?}");
    watcher.signal(Signal::SIGCONT);
    drop(watcher);
    two.remove(&a).unwrap();
    two.release(&a).unwrap();
}

/// Every request takes two seconds and more: an OSD that is stopped and let go on, again and again.
fn a_host_is_not_followed_for_slow_storage(_: &Lab) {
    let own = Own::start();
    let settings = settings_of(own.conf());
    let backend =
        |name: &str| RbdBackend::open(&settings, identity(name, &format!("boot of {name}"))).unwrap();
    let (one, two) = (backend("h1"), backend("h2"));
    let a = ImageSpec::new("rbd", None, "slow").unwrap();
    volume(&one, &a);
    one.claim(&a).unwrap();
    let io = own.connect().ioctx("rbd", None).unwrap();
    let _watcher = Watcher::of(&io, &own.conf(), "slow");
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let slow = scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let still = own.freeze("osd.");
                thread::sleep(Duration::from_secs(2));
                drop(still);
                thread::sleep(Duration::from_millis(300));
            }
        });
        // Its plugin and its kernel are there; then the kernel alone.
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            refused_for(&two, &a, Duration::from_secs(40));
            drop(one);
            refused_for(&two, &a, Duration::from_secs(40));
        }));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        slow.join().unwrap();
        if let Err(panic) = refused {
            std::panic::resume_unwind(panic);
        }
    });
    // The OSD catches up with what has waited.
    let said = refused_for(&two, &a, Duration::from_secs(20));
    assert!(said.contains("its host still uses the image"), "{said}");
}

//! What is written to the kernel for a mapping, and what its refusals are called.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;
use nix::errno::Errno;
use rbd_docker_plugin::backend::rbd::RbdBackend;
use rbd_docker_plugin::backend::{ImageStore, Mapper};
use rbd_docker_plugin::config;
use rbd_docker_plugin::model::error::{DriverError, ErrorKind};

use crate::fake_kernel::FakeKernel;
use crate::hosts::{identity, options, spec, volume, with_user};
use crate::rig::{Lab, Ready, fresh, trial};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("wire::{name}"), ready, test);
    vec![
        t("what_the_cluster_says_of_mappings_reaches_the_kernel", defaults),
        t("an_option_that_nobody_gave_is_not_blamed_on_map_options", blamed),
        t("a_key_that_was_changed_is_told_from_a_capability_that_lacks", changed_key),
    ]
}

/// A user with a ceph.conf of his own.
struct World {
    kernel: FakeKernel,
    backend: RbdBackend,
    dir: tempfile::TempDir,
}

fn world(lab: &Lab, user: &str, more: &str) -> World {
    let dir = tempfile::tempdir().unwrap();
    let conf =
        with_user(lab, dir.path(), user, &["mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd"]);
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text}\n{more}\n")).unwrap();
    let sys = dir.path().join("sys");
    fs::create_dir(&sys).unwrap();
    let kernel = FakeKernel::new(&sys);
    kernel.knows(&lab.conf);
    let options = config::Ceph { user: user.to_owned(), conf, ..options(lab) };
    let identity = identity(user, &format!("boot of {user}"));
    let backend = RbdBackend::open_on(kernel.kernel(), &options, identity).unwrap();
    World { kernel, backend, dir }
}

/// What came of a mapping: the line for the kernel, or the error.
fn mapped(lab: &Lab, world: &World, refusal: Option<Errno>) -> Result<String, DriverError> {
    let spec = spec(lab, &fresh("wired"));
    volume(&world.backend, &spec);
    world.backend.claim(&spec).unwrap();
    if let Some(errno) = refusal {
        world.kernel.refuse_next(errno);
    }
    let device = world.backend.map(&spec);
    let line = world.kernel.writes().into_iter().rev().find(|line| line.contains(spec.image()));
    let done = device.map(|device| {
        world.backend.unmap(&spec, device).unwrap();
        line.unwrap_or_default()
    });
    world.backend.remove(&spec).unwrap();
    world.backend.release(&spec).unwrap();
    done
}

fn port(lab: &Lab, protocol: &str) -> String {
    let text = fs::read_to_string(&lab.conf).unwrap();
    let line = text.lines().find(|line| line.starts_with("mon host")).unwrap();
    let address = line.split(&format!("{protocol}:")).nth(1).unwrap();
    address.split([',', ']']).next().unwrap().to_owned()
}

fn defaults(lab: &Lab) {
    let plain = world(lab, "wire-plain", "");
    let line = mapped(lab, &plain, None).unwrap();
    assert!(line.starts_with(&port(lab, "v1")) && !line.contains("ms_mode"), "{line}");
    // As an administrator sets it for all; the plugin is told while it runs.
    lab.run(&["ceph", "config", "set", "client", "rbd_default_map_options", "queue_depth=64,notrim"]);
    crate::rig::wait_until("the option is there", std::time::Duration::from_secs(30), || {
        mapped(lab, &plain, None).unwrap().contains("queue_depth=64,notrim")
    });
    lab.run(&["ceph", "config", "rm", "client", "rbd_default_map_options"]);
    let secure =
        world(lab, "wire-secure", "ms_client_mode = secure\nrbd_default_map_options = queue_depth=32");
    let line = mapped(lab, &secure, None).unwrap();
    assert!(line.starts_with(&port(lab, "v2")) && line.contains("ms_mode=secure"), "{line}");
    assert!(line.contains("queue_depth=32"), "{line}");
    for user in ["client.wire-plain", "client.wire-secure"] {
        lab.run(&["ceph", "auth", "rm", user]);
    }
}

fn blamed(lab: &Lab) {
    let secure = world(lab, "wire-blamed", "ms_client_mode = secure");
    let e = mapped(lab, &secure, Some(Errno::EINVAL)).unwrap_err();
    let told = e.to_string();
    assert!(told.contains("does not speak msgr2") && told.contains("ms_client_mode is secure"), "{told}");
    assert!(!told.contains("map-options"), "{told}");
    let given = world(lab, "wire-blamed", "rbd_default_map_options = ms_mode=crc");
    let told = mapped(lab, &given, Some(Errno::EINVAL)).unwrap_err().to_string();
    assert!(told.contains("rbd_default_map_options") && told.contains("ms_mode=crc"), "{told}");
    lab.run(&["ceph", "auth", "rm", "client.wire-blamed"]);
}

fn changed_key(lab: &Lab) {
    let world = world(lab, "wire-key", "");
    let e = mapped(lab, &world, Some(Errno::EACCES)).unwrap_err();
    assert!(e.kind == ErrorKind::Denied && e.to_string().contains("ceph auth caps client.wire-key"), "{e}");
    let keyring: &Path = &world.dir.path().join("keyring");
    fs::write(keyring, "[client.wire-key]\nkey = AQBmzkBnAAAAABAAAAECAwQFBgcICQoLDA0ODw==\n").unwrap();
    let e = mapped(lab, &world, Some(Errno::EACCES)).unwrap_err();
    let told = e.to_string();
    assert!(e.kind == ErrorKind::Denied && told.contains(&keyring.display().to_string()), "{told}");
    assert!(told.contains("ceph auth get client.wire-key") && !told.contains("ceph auth caps"), "{told}");
    lab.run(&["ceph", "auth", "rm", "client.wire-key"]);
}

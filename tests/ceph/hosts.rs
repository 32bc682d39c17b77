//! Hosts for the tests of the Ceph backend: several backends, each with an identity of its own.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rbd_docker_plugin::backend::ImageStore;
use rbd_docker_plugin::backend::rbd::RbdBackend;
use rbd_docker_plugin::config;
use rbd_docker_plugin::model::error::{ErrorKind, Result};
use rbd_docker_plugin::model::name::ImageSpec;
use rbd_docker_plugin::model::options::ImageOptions;
use rbd_docker_plugin::model::owner::Owner;
use rbd_docker_plugin::model::record::{Record, Stage};
use rbd_docker_plugin::model::size::Size;
use rbd_docker_plugin::model::stored::Unknown;

use crate::rig::Lab;

pub(crate) fn options(lab: &Lab) -> config::Ceph {
    config::Ceph { pools: vec![lab.pool.clone()], ..settings_of(lab.conf.clone()) }
}

/// The settings for the pool `rbd` of a cluster.
pub(crate) fn settings_of(conf: PathBuf) -> config::Ceph {
    config::Ceph {
        user: "admin".to_owned(),
        conf,
        keyring: None,
        cluster: String::new(),
        pools: vec!["rbd".to_owned()],
        namespace: None,
        features: None,
        object_size: None,
        map_options: None,
        takeover: true,
        dead_after: Duration::from_secs(10),
        owner_wait: Duration::ZERO,
        fence: Duration::from_secs(3600),
        timeout: Duration::from_secs(5),
    }
}

pub(crate) fn identity(host: &str, boot: &str) -> Owner {
    Owner {
        host: host.to_owned(),
        machine_id: format!("machine of {host}"),
        firmware_id: format!("firmware of {host}"),
        boot_id: boot.to_owned(),
        plugin: "rbd".to_owned(),
        root: PathBuf::from("/var/lib/docker-volumes/rbd"),
        since: 0,
        client_addr: None,
        mount_ids: Vec::new(),
        unknown: Unknown::default(),
    }
}

/// A plugin on a host of this name, in its first boot.
pub(crate) fn host(lab: &Lab, name: &str) -> RbdBackend {
    RbdBackend::open(&options(lab), identity(name, &format!("boot of {name}"))).unwrap()
}

pub(crate) fn spec(lab: &Lab, image: &str) -> ImageSpec {
    ImageSpec::new(&lab.pool, None, image).unwrap()
}

/// The `rbd` command; `rbd/IMAGE` is the image in the pool of the tests.
pub(crate) fn rbd(lab: &Lab, words: &[&str]) -> String {
    let words: Vec<String> = words
        .iter()
        .map(|word| word.strip_prefix("rbd/").map_or_else(|| (*word).to_owned(), |image| lab.spec(image)))
        .collect();
    let mut line = vec!["rbd"];
    line.extend(words.iter().map(String::as_str));
    lab.run(&line)
}

pub(crate) fn record(stage: Stage) -> Record {
    Record::new(stage, false, 1_700_000_000, ImageOptions::default())
}

/// Makes a volume that is ready, and frees it.
pub(crate) fn volume(backend: &RbdBackend, spec: &ImageSpec) {
    backend.claim(spec).unwrap();
    backend.create(spec, Size::mib(16), &record(Stage::Creating)).unwrap();
    backend.write_record(spec, &record(Stage::Ready)).unwrap();
    backend.release(spec).unwrap();
}

pub(crate) fn in_use(answer: Result<()>) -> String {
    let e = answer.unwrap_err();
    assert_eq!(e.kind, ErrorKind::InUse, "{e}");
    e.to_string()
}

/// Claims again and again, as a Mount that waits does.
pub(crate) fn claim_in_time(backend: &RbdBackend, spec: &ImageSpec, most: Duration) -> Duration {
    let start = Instant::now();
    loop {
        match backend.claim(spec) {
            Ok(()) => return start.elapsed(),
            Err(e) => {
                assert_eq!(e.kind, ErrorKind::InUse, "{e}");
                assert!(start.elapsed() < most, "{e}");
                thread::sleep(Duration::from_millis(300));
            }
        }
    }
}

/// A user of these capabilities, and a configuration that has its key.
pub(crate) fn with_user(lab: &Lab, dir: &Path, user: &str, caps: &[&str]) -> PathBuf {
    let keyring = dir.join("keyring");
    let entity = format!("client.{user}");
    let mut line = vec!["ceph", "auth", "get-or-create", &entity];
    line.extend(caps);
    line.extend(["-o", keyring.to_str().unwrap()]);
    lab.run(&line);
    let own = std::fs::read_to_string(&lab.conf).unwrap();
    let conf = dir.join("ceph.conf");
    std::fs::write(&conf, format!("{own}\n[{entity}]\nkeyring = {}\n", keyring.display())).unwrap();
    conf
}

//! Where the cluster is: on addresses of version 6, behind a name with several addresses, with monitors that are down.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::mount::{MsFlags, mount, umount};
use rbd_docker_plugin::backend::rbd::RbdBackend;
use rbd_docker_plugin::backend::rbd::admin::{Admin, Watched};
use rbd_docker_plugin::backend::{Backend, ImageStore, Mapper};
use rbd_docker_plugin::config;
use rbd_docker_plugin::model::name::ImageSpec;

use crate::fake_kernel::FakeKernel;
use crate::hosts::{identity, options, volume};
use crate::rig::{Lab, Own, Ready, mounts_are_apart, trial, trial_if, wait_until};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let has_v6 = |lab: &Lab| {
        let lacks = || "this machine has no ::1".to_owned();
        lab.is_ours().and_then(|()| std::net::UdpSocket::bind("[::1]:0").map(drop).map_err(|_| lacks()))
    };
    vec![
        trial_if("addresses::a_cluster_of_version_six", ready, has_v6, version_six),
        trial_if(
            "addresses::a_name_with_several_addresses",
            ready,
            |_| mounts_are_apart(),
            several_addresses,
        ),
        trial("addresses::two_monitors_of_three_are_down_at_the_start", ready, monitors_down),
    ]
}

/// Ten times what it takes.
const LONG: Duration = Duration::from_secs(120);

fn settings(lab: &Lab, conf: PathBuf, pool: &str) -> config::Ceph {
    config::Ceph { conf, pools: vec![pool.to_owned()], ..options(lab) }
}

/// All that depends on how an address is written.
fn version_six(lab: &Lab) {
    let own = Own::start_at("::1");
    let dir = tempfile::tempdir().unwrap();
    let kernel = FakeKernel::new(dir.path());
    kernel.knows(&own.conf());
    let settings = settings(lab, own.conf(), "rbd");
    let backend = RbdBackend::open_on(kernel.kernel(), &settings, identity("six", "boot of six")).unwrap();
    let spec = ImageSpec::new("rbd", None, "six").unwrap();
    volume(&backend, &spec);
    backend.claim(&spec).unwrap();
    let device = backend.map(&spec).unwrap();
    let line = kernel.writes().remove(0);
    let text = fs::read_to_string(own.conf()).unwrap();
    let monitor = text.split("v1:").nth(1).unwrap().split(']').take(2).collect::<Vec<_>>().join("]");
    assert!(monitor.starts_with("[::1]:") && line.starts_with(&format!("{monitor} name=admin,")), "{line}");
    let client = kernel.mappings()[0].client_addr.clone();
    assert!(client.starts_with("[::1]:0/"), "{client}");
    // It sees itself watching, and nobody is shut out.
    let admin = Admin::connect(&settings).unwrap();
    let locks = admin.locks(Watched::Asked).unwrap().found;
    assert!(locks.len() == 1 && locks[0].watching && locks[0].fenced_by.is_none(), "{locks:?}");
    assert_eq!(locks[0].client_addr.as_ref(), Some(&client));
    assert!(locks[0].plugin_addrs().all(|address| address.starts_with("[::1]:0/")), "{locks:?}");
    let lost = || backend.look(std::slice::from_ref(&spec)).map(|look| look.lost).unwrap_or_default();
    assert_eq!(lost(), []);
    // Its kernel's client is shut out, and no other one.
    own.run(&["ceph", "osd", "blocklist", "add", &client, "600"]);
    wait_until("it is seen", LONG, || lost().first().is_some_and(|(_, why)| why.contains(&client)));
    let fenced = admin.locks(Watched::Asked).unwrap().found.remove(0).fenced_by;
    assert_eq!(fenced.as_ref(), Some(&client));
    assert!(backend.reachable().is_ok());
    own.run(&["ceph", "osd", "blocklist", "rm", &client]);
    wait_until("it is over", LONG, || lost().is_empty());
    // All of the host.
    let _still = own.freeze("mgr");
    own.run(&["ceph", "osd", "blocklist", "add", "::1", "600"]);
    let told = || {
        drop(backend.list());
        backend.reachable().err().map(|e| e.to_string()).unwrap_or_default()
    };
    wait_until("it is said", LONG, || told().contains("this host ([::1]) is on the cluster's blocklist"));
    assert!(told().contains("ceph osd blocklist rm [::1]:0/0"), "{}", told());
    own.run(&["ceph", "osd", "blocklist", "rm", "[::1]:0/0"]);
    wait_until("it recovers by itself", LONG, || backend.reachable().is_ok() && backend.list().is_ok());
    backend.unmap(&spec, device).unwrap();
    backend.release(&spec).unwrap();
    assert_eq!(backend.pulse().unwrap().devices, 0);
}

/// The cluster of the tests under another list of monitors.
fn with_monitors(lab: &Lab, dir: &Path, monitors: impl Fn(&str, &str) -> String) -> PathBuf {
    let text = fs::read_to_string(&lab.conf).unwrap();
    let line = text.lines().find(|line| line.starts_with("mon host")).unwrap();
    let port = |protocol: &str| {
        let (_, rest) = line.split_once(&format!("{protocol}:127.0.0.1:")).unwrap();
        rest.split([',', ']']).next().unwrap().to_owned()
    };
    let conf = dir.join("ceph.conf");
    let other = format!("mon host = {}", monitors(&port("v2"), &port("v1")));
    fs::write(&conf, text.replace(line, &other).replace("mon initial members = a\n", "")).unwrap();
    conf
}

/// A start, a volume, and what the kernel is given: the monitors that there are, by number.
fn serves(lab: &Lab, conf: PathBuf, image: &str) {
    let dir = tempfile::tempdir().unwrap();
    let kernel = FakeKernel::new(dir.path());
    kernel.knows(&lab.conf);
    let settings = settings(lab, conf, &lab.pool);
    let begin = Instant::now();
    let own = identity(image, &format!("boot of {image}"));
    let backend = RbdBackend::open_on(kernel.kernel(), &settings, own).unwrap();
    wait_until("the link is up", LONG, || backend.reachable().is_ok());
    println!("connected after {:?}", begin.elapsed());
    let spec = crate::hosts::spec(lab, image);
    volume(&backend, &spec);
    backend.claim(&spec).unwrap();
    let device = backend.map(&spec).unwrap();
    let line = kernel.writes().remove(0);
    let monitors: Vec<&str> = line.split(' ').next().unwrap().split(',').collect();
    assert!(monitors.len() == 1 && monitors[0].starts_with("127.0.0.1:"), "{line}");
    backend.unmap(&spec, device).unwrap();
    backend.remove(&spec).unwrap();
    backend.release(&spec).unwrap();
}

fn several_addresses(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    // Only one of them has a monitor, and it is not the first.
    let names =
        "127.0.0.1 localhost\n127.0.0.2 monitors.test\n127.0.0.1 monitors.test\n127.0.0.3 monitors.test\n";
    fs::write(&hosts, names).unwrap();
    let none: Option<&str> = None;
    mount(Some(&hosts), "/etc/hosts", none, MsFlags::MS_BIND, none).unwrap();
    let conf = with_monitors(lab, dir.path(), |_, v1| format!("monitors.test:{v1}"));
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| serves(lab, conf, "several")));
    umount("/etc/hosts").unwrap();
    done.unwrap();
}

fn monitors_down(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let conf = with_monitors(lab, dir.path(), |v2, v1| {
        format!(
            "[v2:127.0.0.2:{v2},v1:127.0.0.2:{v1}],[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}],[v2:127.0.0.3:{v2},v1:127.0.0.3:{v1}]"
        )
    });
    serves(lab, conf, "monitors-down");
}

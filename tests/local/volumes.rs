//! What the tests of whole volumes share: a plugin over the rig's folder, requests, and the check that nothing is left.

use std::fs;
use std::path::Path;

use rbd_docker_plugin::linux::loopdev;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::rig::{Rig, mounts};

/// A plugin that runs, with all it makes in a folder of its name.
pub(crate) fn plugin(rig: &Rig, name: &str, flags: &[&str]) -> Daemon {
    let mut daemon = Daemon::new(name, &rig.folder(name), flags);
    daemon.start();
    daemon
}

pub(crate) fn create(daemon: &Daemon, volume: &str, options: &Value) {
    daemon.ok("Create", &json!({"Name": volume, "Opts": options}));
}

/// A Create that must fail; its error.
pub(crate) fn create_error(daemon: &Daemon, volume: &str, options: &Value) -> String {
    daemon.error("Create", &json!({"Name": volume, "Opts": options}))
}

/// A Mount that must fail; its error.
pub(crate) fn mount_error(daemon: &Daemon, volume: &str) -> String {
    daemon.error("Mount", &json!({"Name": volume, "ID": "refused"}))
}

pub(crate) fn remove(daemon: &Daemon, volume: &str) {
    daemon.ok("Remove", &json!({"Name": volume}));
}

/// A Remove that must fail; its error.
pub(crate) fn remove_error(daemon: &Daemon, volume: &str) -> String {
    daemon.error("Remove", &json!({"Name": volume}))
}

/// What Get answers.
pub(crate) fn get(daemon: &Daemon, volume: &str) -> Value {
    daemon.ok("Get", &json!({"Name": volume}))["Volume"].take()
}

/// The names that List answers, sorted: it promises no order.
pub(crate) fn list(daemon: &Daemon) -> Vec<String> {
    let answer = daemon.ok("List", &json!({}));
    let volumes = answer["Volumes"].as_array().unwrap().iter();
    let mut names: Vec<String> = volumes.map(|v| v["Name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// The loop devices over an image.
pub(crate) fn devices(image: &Path) -> Vec<loopdev::Loop> {
    loopdev::all().unwrap().into_iter().filter(|device| device.backing_path == image).collect()
}

/// Of an image in the default pool nothing is in use: no device, no mount, no owner, no mount IDs.
pub(crate) fn at_rest(daemon: &Daemon, image: &str) {
    let logs = || daemon.logs();
    assert_eq!(devices(&daemon.file(image, "img")), [], "{}", logs());
    assert!(!mounts().contains(&daemon.mountpoint(image)), "{}", logs());
    assert!(!daemon.mountpoint(image).exists(), "{}", logs());
    assert!(!daemon.is_owned(image), "{}", logs());
    assert!(!daemon.refs().join(format!("rbd@{image}.json")).exists(), "{}", logs());
    let staged = fs::read_dir(daemon.state().join("staging")).map_or(0, Iterator::count);
    assert_eq!(staged, 0, "{}", logs());
}

/// Of an image in the default pool nothing is there at all, and no request finds it.
pub(crate) fn gone(daemon: &Daemon, image: &str) {
    at_rest(daemon, image);
    for kind in ["img", "json"] {
        assert!(!daemon.file(image, kind).exists(), "{kind}: {}", daemon.logs());
    }
    let e = daemon.error("Get", &json!({"Name": image}));
    assert_eq!(e, format!("Image {image} does not exist"));
    assert!(!list(daemon).contains(&image.to_owned()));
}

/// The options of a mount, those of the mount itself and those of its filesystem: `rw,noatime,…`; the filesystem type.
pub(crate) fn mount_line(target: &Path) -> (String, String) {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut fields = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let line = fields.rfind(|fields| Path::new(fields[4]) == target).expect("it is not mounted");
    let [.., fstype, _source, of_the_filesystem] = line[..] else { panic!("{line:?}") };
    (format!("{},{of_the_filesystem}", line[5]), fstype.to_owned())
}

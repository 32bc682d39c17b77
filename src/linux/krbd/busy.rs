//! Who keeps a device busy.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use super::Mapping;
use super::sysfs::Sysfs;
use crate::linux::{holders, loopdev, mountinfo, stacked};
use crate::model::deadline::Deadline;

/// How long to look, and how many are worth naming.
const PATIENCE: Duration = Duration::from_secs(3);
const ENOUGH: usize = 8;

/// On a thread of its own: the mount table of a namespace that is being torn down can be locked for long.
pub(super) fn holders(sysfs: &Arc<Sysfs>, mapping: &Mapping) -> Vec<String> {
    let (found, holders) = channel();
    let deadline = Deadline::after(PATIENCE);
    let (sysfs, mapping) = (Arc::clone(sysfs), mapping.clone());
    let _ =
        thread::Builder::new().name("rbd_holders".to_owned()).spawn(move || look(&sysfs, &mapping, &found));
    let next = || holders.recv_timeout(deadline.left()).ok();
    std::iter::from_fn(next).take(ENOUGH).collect()
}

/// Ends early when nobody listens any more.
fn look(sysfs: &Sysfs, mapping: &Mapping, found: &Sender<String>) -> Option<()> {
    let Mapping { path, number, .. } = mapping;
    for mount in mountinfo::read(Path::new(mountinfo::OWN)).unwrap_or_default() {
        if holders::is_of(&mount, path, *number) {
            found.send(format!("a mount at {}", mount.target.display())).ok()?;
        }
    }
    for name in above(sysfs, mapping) {
        found.send(name).ok()?;
    }
    if swaps("/proc/swaps").iter().any(|swap| swap == path) {
        found.send("swap space on it".to_owned()).ok()?;
    }
    for on_top in loopdev::all().unwrap_or_default() {
        if on_top.backing_path == *path {
            found.send(format!("the loop device {} on top of it", on_top.path.display())).ok()?;
        }
    }
    let wanted = [holders::Wanted { path, number: *number, ours: None }];
    for holder in holders::elsewhere(&wanted, &[], ENOUGH).unwrap_or_default().into_iter().flatten() {
        found.send(holder.named().to_string()).ok()?;
    }
    for holder in holders::of(path, Some(path)) {
        found.send(holder.to_string()).ok()?;
    }
    Some(())
}

/// Devices of device-mapper and RAID that were made of it.
pub(super) fn above(sysfs: &Sysfs, mapping: &Mapping) -> Vec<String> {
    match stacked::on(&sysfs.block.join(format!("rbd{}", mapping.id))) {
        Ok(on_top) => on_top.iter().map(ToString::to_string).collect(),
        Err(e) => vec![format!("perhaps a device on top of it, which cannot be seen ({e})")],
    }
}

fn swaps(list: &str) -> Vec<PathBuf> {
    let text = fs::read_to_string(list).unwrap_or_default();
    text.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next()).map(PathBuf::from).collect()
}

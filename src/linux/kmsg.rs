//! What the kernel says while we ask it for something: an errno alone names no image, no feature and no reason.
//!
//! For people only. Where the log may not be read (`kernel.dmesg_restrict`, a container) it says nothing.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

const LOG: &str = "/dev/kmsg";

/// How many lines are worth telling.
const ENOUGH: usize = 12;

/// More than a record can be long: the kernel answers EINVAL to a reader with less room.
const RECORD: usize = 8192;

/// A place in the kernel's log.
#[derive(Debug)]
pub struct Mark(Option<File>);

impl Mark {
    /// The end of the log as it is now.
    pub fn now() -> Self {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(LOG);
        Self(opened.ok().and_then(|mut log| log.seek(SeekFrom::End(0)).is_ok().then_some(log)))
    }

    /// What rbd and libceph have said since, without what only tells of success.
    pub fn of_ceph(self) -> Vec<String> {
        self.since(of_ceph)
    }

    /// What a filesystem has said since of a device (`loop3`), and of mount options, which it blames on no device.
    pub fn of_mount(self, device: &str) -> Vec<String> {
        self.since(|line| of_mount(line, device))
    }

    /// The last lines that are wanted, each once.
    fn since(self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let Some(mut log) = self.0 else { return Vec::new() };
        let mut said: Vec<String> = Vec::new();
        let mut record = [0; RECORD];
        loop {
            match log.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    let line = text(&record[..length]).filter(|line| wanted(line) && !said.contains(line));
                    if let Some(line) = line {
                        said.push(line);
                    }
                }
                // What we have not read yet was overwritten; the next read goes on behind it.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        said.drain(..said.len().saturating_sub(ENOUGH));
        said
    }
}

/// The text of a record, `6,1234,5678,-;libceph: …\n KEY=value\n`.
fn text(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (_, text) = record.split_once(';')?;
    Some(text.lines().next()?.trim_end().replace(char::is_control, "?"))
}

fn of_ceph(line: &str) -> bool {
    let ours = line.starts_with("rbd: ") || line.starts_with("libceph: ");
    let success = line.ends_with(" session established")
        || line.contains(" fsid ") && line.starts_with("libceph: client")
        || line.contains(" added with size ")
        || line.contains(": capacity ");
    ours && !success
}

/// `EXT4-fs (rbd0): …`, `XFS (rbd0): …`, `BTRFS error (device rbd0 state C): …`; `xfs: Unknown parameter 'x'`.
fn of_mount(line: &str, device: &str) -> bool {
    let Some((who, what)) = line.split_once(": ") else { return false };
    let names = ["EXT4-fs", "EXT3-fs", "EXT2-fs", "XFS", "BTRFS", "SELinux"];
    let filesystem = names.iter().any(|name| who.starts_with(name));
    let words = || line.split([' ', '(', ')', ':', ',']);
    let option = ["ext2", "ext3", "ext4", "xfs", "btrfs"].contains(&who);
    let progress =
        ["Mounting V", "Ending clean mount", "mounted filesystem", "Starting recovery", "Ending recovery"]
            .iter()
            .any(|said| what.starts_with(said));
    let dump = what.starts_with(|c: char| c.is_ascii_digit());
    let chatter = who.starts_with("BTRFS info") || what.starts_with("First ") || dump;
    (option || (filesystem && words().any(|word| word == device))) && !progress && !chatter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_explains_a_failure_of_ceph() {
        let said = |record: &str| text(record.as_bytes()).filter(|line| of_ceph(line));
        assert_eq!(
            said("6,790,5041,-;rbd: image rbd/nope does not exist\n SUBSYSTEM=x\n").as_deref(),
            Some("rbd: image rbd/nope does not exist")
        );
        assert_eq!(
            said("3,1,2,-;libceph: auth protocol 'cephx' mauth authentication failed: -13\n").as_deref(),
            Some("libceph: auth protocol 'cephx' mauth authentication failed: -13")
        );
        for other in [
            "6,1,2,-;libceph: mon0 (2)10.99.0.1:3300 session established\n",
            "6,1,2,-;libceph: client4156 fsid 3f7a8c1e-0000-4000-8000-000000000000\n",
            "6,1,2,-;rbd: rbd0: capacity 10485760 features 0x3d\n",
            "6,1,2,-;EXT4-fs (rbd0): mounted filesystem\n",
            "6,1,2,-;\n",
            "",
            "garbage",
        ] {
            assert_eq!(said(other), None, "{other}");
        }
    }

    #[test]
    fn only_what_explains_a_failed_mount_of_this_device() {
        for line in [
            "EXT4-fs (loop0): Couldn't mount because of unsupported optional features (80000000)",
            "XFS (loop0): Filesystem has duplicate UUID 823e4704-6258-4ad3-a1c7-d9543e6c9012 - can't mount",
            "BTRFS error (device loop0): cannot mount because of unsupported optional features (0x8000)",
            "BTRFS error (device loop0 state C): failed to read chunk root",
            "BTRFS critical (device loop0): corrupt superblock",
            "xfs: Unknown parameter 'nonsense'",
        ] {
            assert!(of_mount(line, "loop0"), "{line}");
        }
        for line in [
            "EXT4-fs (loop01): Couldn't mount because of unsupported optional features (80000000)",
            "XFS (loop0): Mounting V5 Filesystem 823e4704-6258-4ad3-a1c7-d9543e6c9012",
            "XFS (loop0): 00000000: 49 4e 41 ed 03 01 00 00",
            "BTRFS info (device loop0): turning on async discard",
            "loop0: detected capacity change from 0 to 32768",
            "libceph: mon0 session lost",
        ] {
            assert!(!of_mount(line, "loop0"), "{line}");
        }
    }

    #[test]
    fn nothing_new_is_nothing() {
        assert_eq!(Mark(None).of_ceph(), Vec::<String>::new());
        assert!(Mark::now().of_ceph().len() <= ENOUGH);
    }
}

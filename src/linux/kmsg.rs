//! What the kernel says about Ceph while we ask it for something: an errno alone names no image, no pool and no reason.
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

    /// What rbd and libceph have said since: the last lines, each once, without those that only tell of success.
    pub fn since(self) -> Vec<String> {
        let Some(mut log) = self.0 else { return Vec::new() };
        let mut said: Vec<String> = Vec::new();
        let mut record = [0; RECORD];
        loop {
            match log.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    if let Some(line) = parse(&record[..length]).filter(|line| !said.contains(line)) {
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

/// The text of a record, `6,1234,5678,-;libceph: …\n KEY=value\n`, if it is of rbd or libceph and tells more than success.
fn parse(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (_, text) = record.split_once(';')?;
    let line = text.lines().next()?.trim_end();
    let ours = line.starts_with("rbd: ") || line.starts_with("libceph: ");
    let success = line.ends_with(" session established")
        || line.contains(" fsid ") && line.starts_with("libceph: client")
        || line.contains(" added with size ")
        || line.contains(": capacity ");
    (ours && !success).then(|| line.replace(char::is_control, "?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_explains_a_failure() {
        let said = |text: &str| parse(text.as_bytes());
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
    fn nothing_new_is_nothing() {
        assert_eq!(Mark(None).since(), Vec::<String>::new());
        assert!(Mark::now().since().len() <= ENOUGH);
    }
}

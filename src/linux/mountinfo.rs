//! `/proc/<pid>/mountinfo`: what is mounted where, in one mount namespace.
//!
//! The parser takes bytes, never fails and never panics: a line it cannot read is skipped, because a new kernel may add kinds of
//! lines and because one odd mount must not hide the others. Paths are unescaped (the kernel writes blank, tab, newline and
//! backslash as `\040`, `\011`, `\012` and `\134`) and may be any bytes.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::model::error::{CallError, OrCall};
use crate::model::mount::{Mounted, Place};

/// The mounts of the calling process.
pub const OWN: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The mount's id.
    pub id: u64,
    /// The id of the mount it is on.
    pub parent: u64,
    /// Major and minor number of the filesystem; btrfs shows an anonymous one.
    pub number: (u32, u32),
    /// Which part of the filesystem is mounted: `/` for all of it.
    pub root: PathBuf,
    /// Where.
    pub target: PathBuf,
    /// Options of this mount.
    pub options: String,
    /// The peer group that it shares mounts with (`shared:`).
    pub group: Option<u64>,
    /// The peer group that it receives mounts and unmounts from (`master:`).
    pub master: Option<u64>,
    /// Type of the filesystem.
    pub fstype: String,
    /// What was mounted: a device's path, as the mounting process spelled it.
    pub source: String,
    /// Whether nothing can be written through this mount: it, or its whole filesystem, is read-only.
    pub read_only: bool,
    /// Whether the filesystem lets nothing be written though this mount would: after an error it protects itself.
    pub failed: bool,
}

impl From<Entry> for Mounted {
    fn from(entry: Entry) -> Self {
        Self {
            target: entry.target,
            place: Place { number: entry.number, root: entry.root },
            source: entry.source,
            fstype: entry.fstype,
            read_only: entry.read_only,
            failed: entry.failed,
        }
    }
}

/// Room for the text of some hundred mounts. The kernel gives a page of it at a time, and says of no file in `/proc` how large it is:
/// with less room, the small steps by which it grows would be most of the reads.
const ROOM: usize = 64 << 10;

/// Reads a mountinfo file, in the order of mounting: of two entries with one target the later one is on top.
pub fn read(path: &Path) -> Result<Vec<Entry>, CallError> {
    let mut text = Vec::with_capacity(ROOM);
    File::open(path).and_then(|mut file| file.read_to_end(&mut text)).or_call("read", path.display())?;
    Ok(parse(&text))
}

/// The mount that a path is in: of the deepest ones the last.
pub fn covering<'a>(entries: &'a [Entry], path: &Path) -> Option<&'a Entry> {
    entries
        .iter()
        .filter(|entry| path.starts_with(&entry.target))
        .max_by_key(|entry| entry.target.components().count())
}

/// What a folder is called outside of this mount namespace: a container's folders are bound from folders of the host, and two containers
/// may call two of those the same. The path itself, where its mount does not say that it comes from elsewhere.
pub fn origin(entries: &[Entry], path: &Path) -> PathBuf {
    let named = |entry: &Entry| Some(entry.root.join(path.strip_prefix(&entry.target).ok()?));
    match covering(entries, path).and_then(named) {
        // Of a filesystem that is mounted elsewhere the host knows a longer path, and one part of a filesystem has a name of its own.
        Some(place)
            if !path.ends_with(place.strip_prefix("/").unwrap_or(&place))
                && !place.ends_with(path.strip_prefix("/").unwrap_or(path)) =>
        {
            place
        }
        _ => path.to_owned(),
    }
}

/// The entries of a mountinfo file.
pub fn parse(text: &[u8]) -> Vec<Entry> {
    text.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /target rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|&b| b == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = fields.next()?;
    let colon = device.iter().position(|&b| b == b':')?;
    let (major, minor) = device.split_at(colon);
    let device = (number(major)?, number(minor.get(1..)?)?);
    let root = path(fields.next()?);
    let target = path(fields.next()?);
    let options = text(fields.next()?);
    // Any number of optional fields, up to a lone dash.
    let (mut group, mut master) = (None, None);
    loop {
        match fields.next()? {
            b"-" => break,
            field => {
                group = group.or_else(|| number(field.strip_prefix(b"shared:")?));
                master = master.or_else(|| number(field.strip_prefix(b"master:")?));
            }
        }
    }
    let fstype = text(fields.next()?);
    let source = text(fields.next()?);
    let of_filesystem = fields.next().unwrap_or_default();
    let asked = has_word(options.as_bytes(), b"ro");
    // Whoever mounts read-only makes both read-only; newer ext4 has words of its own for it.
    let refuses = |word: &&[u8]| has_word(of_filesystem, word);
    let failed = !asked && [&b"ro"[..], b"emergency_ro", b"shutdown"].iter().any(refuses);
    let read_only = asked || has_word(of_filesystem, b"ro");
    Some(Entry {
        id,
        parent,
        number: device,
        root,
        target,
        options,
        group,
        master,
        fstype,
        source,
        read_only,
        failed,
    })
}

fn has_word(list: &[u8], word: &[u8]) -> bool {
    list.split(|&b| b == b',').any(|w| w == word)
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Turns `\ooo` into its byte; a backslash that starts no such escape stays what it is.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_all_shapes() {
        let text = br"21 27 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw
98 27 7:3 / /mnt/a\040b\134c rw,relatime - ext4 /dev/loop3 rw,errors=remount-ro
99 27 7:4 /sub /mnt/ro ro,relatime shared:1 master:2 propagate_from:3 - xfs /dev/loop4 rw
100 27 0:45 / /mnt/dead rw - ext4 /dev/loop5 ro
101 27 0:46 / /mnt/none rw - tmpfs  rw
104 27 7:6 / /mnt/asked ro,relatime - ext4 /dev/loop6 ro
105 27 7:7 / /mnt/stopped rw,relatime - ext4 /dev/loop7 rw,emergency_ro
nonsense
1 2 3 / / rw - x y z
102 27 7:1 / /no/dash rw shared:1
103 27 7:1 / /short - ext4";
        let entries = parse(text);
        let targets: Vec<_> = entries.iter().map(|e| e.target.display().to_string()).collect();
        assert_eq!(
            targets,
            ["/sys", r"/mnt/a b\c", "/mnt/ro", "/mnt/dead", "/mnt/none", "/mnt/asked", "/mnt/stopped"]
        );
        let read_only: Vec<_> = entries.iter().map(|e| e.read_only).collect();
        assert_eq!(read_only, [false, false, true, true, false, true, false]);
        let failed: Vec<_> = entries.iter().map(|e| e.failed).collect();
        assert_eq!(failed, [false, false, false, true, false, false, true]);
        let loop3 = &entries[1];
        assert_eq!((loop3.id, loop3.parent, loop3.number), (98, 27, (7, 3)));
        assert_eq!((loop3.fstype.as_str(), loop3.source.as_str()), ("ext4", "/dev/loop3"));
        assert_eq!(loop3.options, "rw,relatime");
        assert_eq!(entries[2].root, Path::new("/sub"));
        assert_eq!(entries[4].source, "");
    }

    #[test]
    fn the_deepest_mount_covers_a_path_and_the_last_of_two_is_on_top() {
        let entries = parse(
            b"1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n2 1 8:2 / /var rw - ext4 /dev/sda2 rw\n\
              3 1 8:3 / /var rw shared:7 - ext4 /dev/sda3 rw\n4 1 8:4 / /variety rw - ext4 /dev/sda4 rw\n",
        );
        let id = |path: &str| covering(&entries, Path::new(path)).unwrap().id;
        assert_eq!([id("/var/lib"), id("/variety/x"), id("/opt")], [3, 4, 1]);
    }

    #[test]
    fn a_folder_of_a_container_is_called_as_its_host_calls_it() {
        let called = |root: &str, target: &str, path: &str| {
            let text = format!(
                "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 {root} {target} rw - ext4 /dev/sda2 rw\n"
            );
            origin(&parse(text.as_bytes()), Path::new(path)).display().to_string()
        };
        let id = "/var/lib/docker/plugins/1/propagated-mount";
        assert_eq!(called(id, "/mnt/volumes", "/mnt/volumes/rbd"), format!("{id}/rbd"));
        // On the host itself, with /var a filesystem of its own or not, bound onto itself or not.
        for (root, target) in [
            ("/", "/srv"),
            ("/", "/var"),
            ("/var/lib/dv", "/var/lib/dv"),
            ("/lib/dv", "/var/lib/dv"),
            ("/@", "/"),
        ] {
            assert_eq!(called(root, target, "/var/lib/dv/rbd"), "/var/lib/dv/rbd", "{root} at {target}");
        }
    }

    #[test]
    fn escapes_that_are_none_stay() {
        for (field, want) in [
            (&br"a\040"[..], &b"a "[..]),
            (br"\04", br"\04"),
            (br"\999", br"\999"),
            (br"\\134", br"\\"),
            (br"\", br"\"),
        ] {
            assert_eq!(unescape(field), want, "{}", String::from_utf8_lossy(field));
        }
    }

    #[test]
    fn this_host_has_a_root() {
        assert!(read(Path::new(OWN)).unwrap().iter().any(|e| e.target == Path::new("/")));
    }

    fn escape(path: &[u8]) -> Vec<u8> {
        path.iter().fold(Vec::new(), |mut out, &b| {
            match b {
                b' ' | b'\t' | b'\n' | b'\\' => out.extend(format!("\\{b:03o}").bytes()),
                _ => out.push(b),
            }
            out
        })
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            parse(&bytes);
        }

        #[test]
        fn any_path_comes_back(name in proptest::collection::vec(1_u8..=255, 1..60)) {
            let mut line = b"1 2 7:3 / /".to_vec();
            line.extend(escape(&name));
            line.extend(b" rw - ext4 /dev/loop3 rw");
            let entries = parse(&line);
            prop_assert_eq!(entries.len(), 1);
            prop_assert_eq!(&entries[0].target.as_os_str().as_bytes()[1..], &name[..]);
        }
    }
}

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::*;
use crate::lock;
use crate::model::filesystem::Usage;
use crate::model::mount::Mounted;
use crate::model::process::Process;

const SNAPSHOT: &str = "/state/volumes.json";
const LOG: &str = "/state/volumes.log";

fn viewer(user: &str) -> Viewer {
    let source = Source { user: user.to_owned(), ..Source::default() };
    Viewer { source, home: ("rbd".to_owned(), None) }
}

/// Files in memory.
#[derive(Debug, Default)]
struct Disk(Mutex<HashMap<PathBuf, Vec<u8>>>);

impl Host for Disk {
    fn save(&self, path: &Path, content: &[u8]) -> Result<()> {
        lock(&self.0).insert(path.to_owned(), content.to_vec());
        Ok(())
    }

    fn append(&self, path: &Path, content: &[u8]) -> Result<()> {
        lock(&self.0).entry(path.to_owned()).or_default().extend(content);
        Ok(())
    }

    fn load(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        Ok(lock(&self.0).get(path).cloned())
    }

    fn unmount(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn detach(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn mounted_at(&self, _: &Path) -> Result<Option<Mounted>> {
        Ok(None)
    }

    fn mounts(&self) -> Result<Vec<Mounted>> {
        Ok(Vec::new())
    }

    fn make_dir(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn remove_dir(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn usage(&self, _: &Mounted) -> Result<Usage> {
        panic!("nothing is mounted")
    }

    fn files(&self, _: &Path) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn is_alive(&self, _: Process) -> bool {
        false
    }

    fn forget(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn trim_soon(&self) {}

    fn trim_if_wanted(&self) {}
}

/// The files of a cache, what is known, and what of that is not written.
struct Rig {
    host: Arc<Disk>,
    files: Files,
    volumes: Volumes,
    changed: Changed,
}

impl Rig {
    fn new() -> Self {
        let host = Arc::new(Disk::default());
        let (files, volumes) = Files::open(Path::new("/state"), &*host, &viewer("a"));
        Self { host, files, volumes, changed: Changed::default() }
    }

    /// As the next life of the plugin finds it.
    fn reopened(&self) -> (Files, Volumes) {
        Files::open(Path::new("/state"), &*self.host, &viewer("a"))
    }

    fn put(&mut self, name: &str, size: &str) {
        let details = Details { size: Some(size.to_owned()), ..Details::default() };
        self.volumes.insert(name.into(), details.into());
        self.changed.add(name);
    }

    fn remove(&mut self, name: &str) {
        self.volumes.remove(name);
        self.changed.add(name);
    }

    /// Whether a snapshot was written.
    fn flush(&mut self) -> bool {
        let piece = self.files.piece(&viewer("a"), &std::mem::take(&mut self.changed), &self.volumes);
        let is_snapshot = matches!(piece, Piece::Snapshot(..));
        self.files.write(&*self.host, piece).unwrap();
        is_snapshot
    }

    fn content(&self, file: &str) -> Vec<u8> {
        lock(&self.host.0)[Path::new(file)].clone()
    }

    fn replace(&self, file: &str, content: &[u8]) {
        lock(&self.host.0).insert(file.into(), content.to_vec());
    }
}

#[test]
fn what_was_written_is_read_back_whatever_changed() {
    let mut rig = Rig::new();
    let (mut snapshots, mut number) = (0, 1_u32);
    for round in 0..6000 {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let name = format!("v{}", (number >> 16) % 50);
        if number >> 31 == 0 {
            rig.put(&name, &format!("{round}"))
        } else {
            rig.remove(&name)
        }
        snapshots += usize::from(rig.flush());
        if round % 7 == 0 {
            assert_eq!(rig.reopened().1, rig.volumes, "after round {round}");
        }
        if round % 500 == 0 {
            rig.files = rig.reopened().0;
        }
    }
    assert!((3..10).contains(&snapshots), "{snapshots}");
}

#[test]
fn a_log_that_is_cut_off_anywhere_says_what_was_before() {
    let mut rig = Rig::new();
    rig.put("kept", "1");
    rig.put("gone", "2");
    assert!(rig.flush());
    let mut states = vec![rig.volumes.clone()];
    for change in 0..4 {
        if change == 2 {
            rig.remove("gone")
        } else {
            rig.put(&format!("new{change}"), "3")
        }
        assert!(!rig.flush());
        states.push(rig.volumes.clone());
    }
    let log = rig.content(LOG);
    let mut at = 0;
    for cut in 0..=log.len() {
        rig.replace(LOG, &log[..cut]);
        let (files, volumes) = rig.reopened();
        if at + 1 < states.len() && volumes == states[at + 1] {
            at += 1;
        }
        assert_eq!(volumes, states[at], "cut at byte {cut}");
        // What comes next is not written behind what is left of a line.
        let mut next = Rig { host: Arc::clone(&rig.host), files, volumes, changed: Changed::default() };
        let snapshot = rig.content(SNAPSHOT);
        next.put("next", "4");
        next.flush();
        assert_eq!(next.reopened().1, next.volumes, "cut at byte {cut}, and gone on");
        rig.replace(SNAPSHOT, &snapshot);
    }
    assert_eq!(at + 1, states.len());
}

#[test]
fn a_snapshot_cut_off_or_damaged_is_learnt_anew() {
    let mut rig = Rig::new();
    rig.put("a", "1");
    rig.flush();
    rig.put("b", "2");
    rig.flush();
    let whole = rig.content(SNAPSHOT);
    for cut in 0..whole.len() {
        rig.replace(SNAPSHOT, &whole[..cut]);
        let (files, volumes) = rig.reopened();
        assert!(volumes.is_empty() && files.of.is_none(), "cut at byte {cut}");
    }
}

#[test]
fn one_change_of_many_volumes_writes_one_line_and_the_log_is_bounded() {
    let mut rig = Rig::new();
    for n in 0..20_000 {
        rig.put(&format!("volume{n}"), "1073741824");
    }
    assert!(rig.flush());
    let (mut written, mut most) = (0, 0);
    for n in 0..12_000 {
        rig.put(&format!("later{n}"), "1073741824");
        let snapshot = rig.flush();
        written += if snapshot { rig.content(SNAPSHOT).len() } else { 80 };
        if !snapshot {
            most = most.max(rig.content(LOG).len());
        }
    }
    let whole = rig.content(SNAPSHOT).len();
    assert!(written < 4 * whole, "{written} bytes for 12000 changes, with snapshots of {whole}");
    assert!(most < whole / 2, "a log of {most} bytes beside a snapshot of {whole}");
    assert_eq!(rig.reopened().1, rig.volumes);
}

#[test]
fn a_log_counts_only_for_the_snapshot_that_it_follows() {
    let mut rig = Rig::new();
    rig.put("a", "1");
    rig.flush();
    rig.put("a", "2");
    rig.flush();
    // A kill between the two files: the snapshot is new, the log is not.
    let old = rig.content(LOG);
    rig.put("a", "3");
    rig.changed = Changed::Many;
    assert!(rig.flush());
    rig.replace(LOG, &old);
    assert_eq!(rig.reopened().1, rig.volumes);
    // An earlier version has written its snapshot, and knows no log.
    let mut snapshot: serde_json::Value = serde_json::from_slice(&rig.content(SNAPSHOT)).unwrap();
    snapshot.as_object_mut().unwrap().remove("log");
    rig.replace(SNAPSHOT, snapshot.to_string().as_bytes());
    let (files, volumes) = rig.reopened();
    assert_eq!(volumes, rig.volumes);
    (rig.files, rig.volumes) = (files, volumes);
    rig.put("b", "4");
    assert!(rig.flush(), "nothing is appended to a snapshot that names no log");
    assert_eq!(rig.reopened().1, rig.volumes);
}

#[test]
fn a_log_of_a_newer_version_and_of_another_viewer_counts_for_nothing() {
    let mut rig = Rig::new();
    rig.put("a", "1");
    rig.flush();
    let before = rig.volumes.clone();
    rig.put("b", "2");
    rig.flush();
    let log = String::from_utf8(rig.content(LOG)).unwrap();
    rig.replace(LOG, log.replacen("\"v\":1", "\"v\":2", 1).as_bytes());
    assert_eq!(rig.reopened().1, before);
    rig.replace(LOG, log.replacen("\"requires\":[]", "\"requires\":[\"x\"]", 1).as_bytes());
    assert_eq!(rig.reopened().1, before);
    rig.replace(LOG, log.as_bytes());
    let (files, volumes) = Files::open(Path::new("/state"), &*rig.host, &viewer("b"));
    assert!(volumes.is_empty());
    // A viewer that sees the same and is told of more, such as the id of the cluster, begins a new snapshot.
    assert!(matches!(files.piece(&viewer("b"), &Changed::default(), &volumes), Piece::Snapshot(..)));
}

#[test]
fn what_earlier_versions_wrote_is_read() {
    let rig = Rig::new();
    rig.replace("/state/known.json", br#"{"a":{},"b":{"created_at":"2024-01-01T00:00:00Z"}}"#);
    let names = |volumes: Volumes| volumes.into_keys().map(String::from).collect::<Vec<_>>();
    assert_eq!(names(rig.reopened().1), ["a", "b"]);
    let of = serde_json::to_value(viewer("a")).unwrap();
    let stored = serde_json::json!({"of": of, "volumes": {"c": {"size": "1"}}});
    rig.replace(SNAPSHOT, stored.to_string().as_bytes());
    assert_eq!(names(rig.reopened().1), ["c"]);
}

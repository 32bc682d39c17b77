//! The arrows of the house: which room of `src/` may name which other one, and which files name each other in a circle.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use source::{all, cycles, paths, uses};

/// What a room may use beside [`FOR_ALL`], as the house is drawn. Commands ask the running plugin as its admin pages answer.
const ROOMS: &[(&str, &[&str])] = &[
    ("main", &["cli", "cmd", "daemon"]),
    ("cmd", &["cli", "config", "coordination", "doctor", "frontend"]),
    // It looks at everything that volumes rest on, and changes nothing.
    ("doctor", &["backend", "ceph", "config", "coordination", "linux"]),
    // Its assemble.rs names the concrete parts.
    ("daemon", &["backend", "block", "config", "coordination", "driver", "frontend", "host", "linux"]),
    ("frontend", &["driver"]),
    ("driver", &["host"]),
    ("host", &["linux"]),
    // Its kernel.rs is what it asks of this host, for real.
    ("block", &["backend", "driver", "host", "linux"]),
    ("backend", &["ceph", "coordination", "linux"]),
    ("coordination", &[]),
    ("cli", &["config"]),
    ("config", &[]),
    ("ceph", &[]),
    ("linux", &[]),
    ("telemetry", &[]),
    ("model", &[]),
    ("lib", &[]),
];

/// Pure types, counters and the log, and the one helper of the root.
const FOR_ALL: [&str; 3] = ["model", "telemetry", "lock"];

/// Arrows that the house does not draw and that are still there: DESIGN.md, "Open". The test fails, too, when one of them is gone and
/// stands here.
const TO_BE_TURNED: &[(&str, &str)] = &[("backend", "host")];

#[test]
fn every_arrow_between_rooms_is_in_the_table() {
    let rooms: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let mut wrong = BTreeSet::new();
    let mut used = BTreeSet::new();
    let arrows = arrows();
    assert!(arrows.len() > 40, "{arrows:?}");
    for (from, to, file) in &arrows {
        let allowed = rooms.get(from.as_str()).unwrap_or_else(|| panic!("{from} is no room of the table"));
        if FOR_ALL.contains(&to.as_str()) && from != "model" || allowed.contains(&to.as_str()) {
            continue;
        }
        match TO_BE_TURNED.iter().find(|(a, b)| a == from && b == to) {
            Some(known) => drop(used.insert(known)),
            None => drop(wrong.insert(format!("{from} -> {to}, in {}", file.display()))),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let gone: Vec<_> = TO_BE_TURNED.iter().filter(|known| !used.contains(known)).collect();
    assert!(gone.is_empty(), "turned, so take it out of the list: {gone:?}");
}

/// The parts that could be others: a backend, a host, a front end, the driver itself.
const PARTS: &[&str] = &[
    "backend::local",
    "backend::rbd",
    "backend::sim",
    "block::kernel",
    DRIVER,
    "frontend::admin",
    "frontend::docker",
    "host::kernel",
];

const DRIVER: &str = "driver::Driver";

/// What the pages of the admin front end answer is what the commands read.
const ANSWERS: &str = "frontend::admin::view";

/// Who still names a part: a list that only shrinks, as that of the arrows.
const NAMES_PARTS: &[(&str, &str)] = &[("doctor", "backend::rbd")];

/// Everybody else knows them by their traits.
#[test]
fn only_assemble_names_concrete_parts() {
    let (mut wrong, mut used) = (BTreeSet::new(), BTreeSet::new());
    let mut assembled = false;
    for source in all() {
        let named = paths(&source.code, "crate::").into_iter().map(|names| names.join("::"));
        let named: Vec<String> = named.filter(|path| !path.starts_with(ANSWERS)).collect();
        let names =
            |part: &str| named.iter().any(|path| format!("{path}::").starts_with(&format!("{part}::")));
        if source.file == Path::new("daemon/assemble.rs") {
            let missing: Vec<_> = PARTS.iter().filter(|part| !names(part)).collect();
            assert!(missing.is_empty(), "assemble.rs does not name {missing:?}");
            assembled = true;
            continue;
        }
        let room = source.room();
        // A part is at home in its own folder, and the driver in all of its room.
        let home = |part: &str| {
            source.file.starts_with(part.replace("::", "/")) || (part == DRIVER && room == "driver")
        };
        for part in PARTS.iter().copied().filter(|part| names(part) && !home(part)) {
            match NAMES_PARTS.iter().find(|known| **known == (room.as_str(), part)) {
                Some(known) => drop(used.insert(known)),
                None => drop(wrong.insert(format!("{part}, in {}", source.file.display()))),
            }
        }
    }
    assert!(assembled && wrong.is_empty(), "{wrong:#?}");
    let gone: Vec<_> = NAMES_PARTS.iter().filter(|known| !used.contains(known)).collect();
    assert!(gone.is_empty(), "turned, so take it out of the list: {gone:?}");
}

/// The files that are still in a circle: none joins them, and one that has left it is taken out.
const IN_CIRCLES: &[&str] = &[
    "backend/local/mod.rs",
    "backend/local/names.rs",
    "backend/rbd/kinds.rs",
    "backend/rbd/map.rs",
    "backend/rbd/mod.rs",
    "backend/rbd/options.rs",
    "backend/rbd/places.rs",
    "backend/rbd/session.rs",
    "backend/rbd/silence.rs",
    "ceph/bounded.rs",
    "ceph/cluster.rs",
    "ceph/ioctx.rs",
    "driver/cache.rs",
    "driver/mod.rs",
    "driver/orphans.rs",
    "driver/overview.rs",
    "driver/usage.rs",
    "driver/uses.rs",
    "linux/exec.rs",
    "linux/exec/capture.rs",
    "linux/exec/program.rs",
    "linux/fs/btrfs.rs",
    "linux/fs/ext4.rs",
    "linux/fs/features.rs",
    "linux/fs/geometry.rs",
    "linux/fs/mod.rs",
    "linux/fs/refused.rs",
    "linux/fs/xfs.rs",
    "linux/krbd.rs",
    "linux/krbd/add.rs",
    "linux/krbd/busy.rs",
    "linux/krbd/remove.rs",
    "linux/krbd/sysfs.rs",
];

#[test]
fn no_further_file_is_in_a_circle() {
    let uses = uses();
    assert!(uses.values().map(BTreeSet::len).sum::<usize>() > 300, "{uses:#?}");
    let circles = cycles(&uses);
    let found: BTreeSet<String> =
        circles.iter().flatten().map(|file| file.to_string_lossy().into_owned()).collect();
    let known: BTreeSet<String> = IN_CIRCLES.iter().map(|&file| file.to_owned()).collect();
    let new: Vec<_> = found.difference(&known).collect();
    assert!(new.is_empty(), "{new:#?} name each other, by way of {circles:#?}");
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(gone.is_empty(), "in no circle any more, so take it out of the list: {gone:#?}");
}

/// Above the kinds of volumes nobody knows what is behind a mount, and a kind knows of the driver only what it is lent.
#[test]
fn the_driver_knows_no_devices_and_kinds_know_no_driver() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let devices = ["Device", "Disks", "Filesystem", "FsKind", "mkfs", "mkfs_options", "probe", "loopdev"];
    let mut wrong = Vec::new();
    let mut seen = 0;
    for room in ["driver", "frontend", "block"] {
        let mut files = Vec::new();
        collect(&src.join(room), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let mut lent = line.split("crate::driver::").skip(1).inspect(|_| seen += 1);
                let is_wrong = match room {
                    "block" => lent.any(|rest| !rest.starts_with("kind::")),
                    _ => words.any(|word| devices.contains(&word)),
                };
                if is_wrong {
                    wrong.push(format!("{}: {line}", file.display()));
                }
            }
        }
    }
    assert!(seen > 3 && wrong.is_empty(), "{wrong:#?}");
}

/// A file is one idea.
#[test]
fn no_file_is_longer_than_500_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches", "librbd-sys"] {
        collect(&root.join(folder), &mut files);
    }
    let lines = |file: &PathBuf| fs::read_to_string(file).unwrap().lines().count();
    let long: Vec<_> =
        files.iter().map(|file| (file, lines(file))).filter(|(_, lines)| *lines > 500).collect();
    assert!(long.is_empty(), "{long:#?}");
}

/// exit(3) runs the destructors of librados and librbd, while threads that nobody waits for may still be in these libraries.
#[test]
fn the_program_ends_without_exit_handlers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    let with = |word: &str| -> Vec<&Path> {
        let has = |file: &&PathBuf| fs::read_to_string(file).unwrap().contains(word);
        files.iter().filter(has).map(|file| file.strip_prefix(&src).unwrap()).collect()
    };
    for word in ["ExitCode", "process::exit"] {
        assert!(with(word).is_empty(), "{word} in {:?}", with(word));
    }
    let main = fs::read_to_string(src.join("main.rs")).unwrap();
    assert!(
        main.trim_end().ends_with("    daemon::end(done.unwrap_or_else(|e| cmd::failed(&e)))\n}"),
        "{main}"
    );
}

/// From which room to which other one, and in which file.
fn arrows() -> BTreeSet<(String, String, PathBuf)> {
    let mut arrows = BTreeSet::new();
    for source in all() {
        let from = source.room();
        let root = if from == "main" { "rbd_docker_plugin::" } else { "crate::" };
        let to = paths(&source.code, root).into_iter().filter_map(|names| names.into_iter().next());
        for to in to.filter(|to| *to != from) {
            arrows.insert((from.clone(), to, source.file.clone()));
        }
    }
    arrows
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

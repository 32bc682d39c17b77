//! The arrows of the house: which room of `src/` may name which other one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What a room may use beside [`FOR_ALL`], as the house is drawn. Commands ask the running plugin as its admin pages answer.
const ROOMS: &[(&str, &[&str])] = &[
    ("main", &["cli", "cmd", "daemon"]),
    ("cmd", &["cli", "config", "frontend"]),
    // Its assemble.rs names the concrete parts.
    ("daemon", &["backend", "block", "config", "driver", "frontend", "host", "linux"]),
    ("frontend", &["driver"]),
    ("driver", &["backend", "host"]),
    ("host", &["linux"]),
    // Its kernel.rs is what it asks of this host, for real.
    ("block", &["backend", "linux"]),
    ("backend", &["ceph", "linux"]),
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
const TO_BE_TURNED: &[(&str, &str)] = &[
    ("backend", "config"),
    ("backend", "host"),
    ("cmd", "backend"),
    ("cmd", "ceph"),
    ("cmd", "daemon"),
    ("cmd", "driver"),
    ("cmd", "linux"),
    ("daemon", "cmd"),
    ("driver", "linux"),
    ("frontend", "config"),
    ("frontend", "linux"),
];

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
        main.trim_end().ends_with("cmd::failed(&e)))\n}") && main.contains("    cmd::end(cmd::run("),
        "{main}"
    );
}

/// From which room to which other one, and in which file.
fn arrows() -> BTreeSet<(String, String, PathBuf)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    let mut arrows = BTreeSet::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap().to_owned();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let from = first.trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&file).unwrap();
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for to in paths(&code.join("\n"), if from == "main" { "rbd_docker_plugin::" } else { "crate::" }) {
            if to != from {
                arrows.insert((from.clone(), to, inside.clone()));
            }
        }
    }
    arrows
}

/// The first parts of all paths that begin so; those of a group in braces, too.
fn paths(code: &str, root: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let mut found = Vec::new();
    for (at, _) in code.match_indices(root) {
        let rest = &code[at + root.len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let group = group.split('}').next().unwrap_or_default();
                found.extend(group.split(',').map(|part| word(part.trim())));
            }
            None => found.push(word(rest)),
        }
    }
    found.retain(|word| !word.is_empty());
    found
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

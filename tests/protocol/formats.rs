//! docs/formats.md against the source: whatever is stored under a name is listed there by that name, and the other way round.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const FORMATS: &str = include_str!("../../docs/formats.md");

/// The rooms that store something.
const ROOMS: [&str; 7] = [
    "src/backend/rbd",
    "src/backend/local",
    "src/block",
    "src/coordination",
    "src/driver",
    "src/daemon",
    "src/linux/krbd/mark.rs",
];

/// What stands before a name that is stored: files, keys of an omap, objects, locks.
const BEFORE: [&str; 16] = [
    ".join(\"",
    ".join(format!(\"",
    ".with_extension(\"",
    "format!(\"image.",
    "format!(\"new.",
    "const OBJECT: &str = \"",
    "const RECORD: &str = \"",
    "const LOCK: &str = \"",
    "const ADVISORY: &str = \"",
    "const LEASE: &str = \"",
    "const IMAGE: &str = \"",
    "const NEW: &str = \"",
    "const BEGIN: &str = \"",
    "\"rbd_docker_plugin.",
    "\"rbd-docker-plugin.",
    "\".rbd-docker-plugin",
];

#[test]
fn every_stored_name_is_in_the_list_of_formats() {
    let names = names();
    assert!(names.len() >= 20, "{names:?}");
    let spans: Vec<&str> = FORMATS.split('`').skip(1).step_by(2).collect();
    let listed = |piece: &str| spans.iter().any(|span| span.contains(piece));
    let missing: Vec<_> = names.iter().filter(|(_, piece)| !listed(piece)).collect();
    assert!(missing.is_empty(), "not in docs/formats.md: {missing:#?}");
}

#[test]
fn every_object_in_the_list_of_formats_is_in_the_source() {
    let names: BTreeSet<String> = names().into_iter().map(|(_, piece)| piece).collect();
    let mut seen = 0;
    for span in FORMATS.split('`').skip(1).step_by(2).filter(|span| span.starts_with("rbd_docker_plugin.")) {
        assert!(names.contains(span), "{span} is stored by nothing");
        seen += 1;
    }
    assert!(seen >= 4, "{seen}");
}

/// The fixed pieces of all names, with the file that each is in.
fn names() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for room in ROOMS {
        let mut files = Vec::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(room), &mut files);
        for (file, text) in files {
            let code = text.split("#[cfg(test)]\n").next().unwrap_or_default();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in lines {
                for before in BEFORE {
                    for (at, _) in line.match_indices(before) {
                        let quote = line[at..].find('"').unwrap() + at + 1;
                        let literal = line[quote..].split('"').next().unwrap_or_default();
                        found.extend(pieces(literal).map(|piece| (file.clone(), piece)));
                    }
                }
            }
        }
    }
    found
}

/// `.names-{pool}{namespace}` has one: `.names-`. What is no name at all, such as what joins a list, has none.
fn pieces(literal: &str) -> impl Iterator<Item = String> {
    let outside = literal.split('{').map(|part| part.split_once('}').map_or(part, |(_, rest)| rest));
    let named = |piece: &&str| piece.chars().any(|c| c.is_ascii_alphanumeric()) && !piece.contains(' ');
    outside.filter(named).map(str::to_owned).collect::<Vec<_>>().into_iter()
}

fn collect(path: &Path, files: &mut Vec<(String, String)>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), files);
        }
    } else if path.file_name().is_some_and(|name| name != "tests.rs") {
        files.push((path.display().to_string(), fs::read_to_string(path).unwrap()));
    }
}

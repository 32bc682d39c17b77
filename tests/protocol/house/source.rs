//! The files of `src/` as modules, and the paths of other modules that stand in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The parts of a path: `crate::driver::api` is `["driver", "api"]`.
pub(super) type Names = Vec<String>;

/// A file of `src/`.
#[derive(Debug)]
pub(super) struct Source {
    /// Below `src/`.
    pub(super) file: PathBuf,
    /// The module that it is; nothing for the root.
    pub(super) module: Names,
    /// Its text without comments.
    pub(super) code: String,
}

impl Source {
    /// The room that it is in: the folder or file of `src/`.
    pub(super) fn room(&self) -> String {
        let first = self.file.components().next().unwrap().as_os_str().to_string_lossy();
        first.trim_end_matches(".rs").to_owned()
    }

    /// The code without the tests at its end.
    fn tested(&self) -> &str {
        const MARK: &str = "#[cfg(test)]\n";
        let is_inline = |at: &usize| {
            let line = self.code[at + MARK.len()..].lines().next().unwrap_or_default();
            line.contains("mod ") && line.ends_with('{')
        };
        let tests = self.code.match_indices(MARK).map(|(at, _)| at).find(is_inline);
        &self.code[..tests.unwrap_or(self.code.len())]
    }
}

/// All of them.
pub(super) fn all() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    super::collect(&src, &mut files);
    let source = |path: PathBuf| {
        let file = path.strip_prefix(&src).unwrap().to_owned();
        let mut module: Names =
            file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|last| ["mod", "lib"].contains(&last.as_str())) {
            module.pop();
        }
        let text = fs::read_to_string(&path).unwrap();
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        Source { file, module, code: code.join("\n") }
    };
    files.into_iter().map(source).collect()
}

/// The paths in a text that begin with `root` (`crate::`), those of groups in braces included, without it.
pub(super) fn paths(code: &str, root: &str) -> Vec<Names> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(root) {
        // `super::` within `super::super::`, `api::` within `fapi::` or `x::api::`.
        if !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':') {
            path(&code[at + root.len()..], &Names::new(), &mut found);
        }
    }
    found
}

/// Reads one path, or a group of them; what comes after it.
fn path<'a>(mut text: &'a str, before: &Names, found: &mut Vec<Names>) -> &'a str {
    let mut names = before.clone();
    loop {
        text = text.trim_start();
        if let Some(mut group) = text.strip_prefix('{') {
            loop {
                group = group.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
                if group.is_empty() || group.starts_with('}') {
                    return group.get(1..).unwrap_or_default();
                }
                group = path(group, &names, found);
                group = group.find([',', '}']).map_or("", |end| &group[end..]);
            }
        }
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        if !word.is_empty() && word != "self" {
            names.push(word.to_owned());
        }
        match rest.strip_prefix("::").filter(|_| !word.is_empty()) {
            Some(rest) => text = rest,
            None => {
                found.push(names);
                return rest;
            }
        }
    }
}

/// Which file uses which other ones, tests left out. What a file says of its own folder (`mod api;`, `pub use`) is no use; what is used by
/// such a name counts for the file in which it is.
pub(super) fn uses() -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let all = all();
    let modules: BTreeMap<&Names, &Source> = all
        .iter()
        .filter(|source| source.file != Path::new("main.rs"))
        .map(|source| (&source.module, source))
        .collect();
    let mut named_here: BTreeMap<(&Names, String), Names> = BTreeMap::new();
    let mut found: Vec<(&Source, Vec<Names>)> = Vec::new();
    for source in modules.values() {
        let (exports, code): (Vec<&str>, Vec<&str>) =
            source.tested().split_inclusive(';').partition(|part| {
                let last = part.trim_start().trim_start_matches('}').trim_start();
                last.starts_with("pub use ")
                    || last.starts_with("pub(crate) use ")
                    || last.starts_with("pub(super) use ")
            });
        for names in exports.iter().flat_map(|export| said(source, export, &modules)) {
            named_here.insert((&source.module, names.last().cloned().unwrap_or_default()), names);
        }
        found.push((source, said(source, &code.concat(), &modules)));
    }
    let mut uses = BTreeMap::new();
    for (source, paths) in found {
        let files = paths.iter().filter_map(|names| file_of(names, &modules, &named_here, 0));
        let others = files.filter(|file| *file != source.file && *file != Path::new("lib.rs"));
        uses.insert(source.file.clone(), others.map(Path::to_owned).collect());
    }
    uses
}

/// The paths in a file's code, from the root on.
fn said(source: &Source, code: &str, modules: &BTreeMap<&Names, &Source>) -> Vec<Names> {
    let from = |base: &[String], names: Names| [base, &names].concat();
    let module = &source.module;
    let mut all = paths(code, "crate::");
    all.extend(paths(code, "self::").into_iter().map(|names| from(module, names)));
    for up in 1..=module.len() {
        let base = &module[..module.len() - up];
        let above = paths(code, &"super::".repeat(up)).into_iter();
        all.extend(
            above
                .filter(|names| names.first().is_none_or(|first| first != "super"))
                .map(|names| from(base, names)),
        );
    }
    let below = modules.keys().filter(|below| below.len() == module.len() + 1 && below.starts_with(module));
    for child in below.filter_map(|below| below.last()) {
        let base = [module.as_slice(), std::slice::from_ref(child)].concat();
        all.extend(paths(code, &format!("{child}::")).into_iter().map(|names| from(&base, names)));
    }
    all
}

/// The file in which something is, wherever it may be named as well.
fn file_of<'a>(
    names: &Names,
    modules: &BTreeMap<&Names, &'a Source>,
    named: &BTreeMap<(&Names, String), Names>,
    depth: usize,
) -> Option<&'a Path> {
    for length in (0..=names.len()).rev() {
        let module = names[..length].to_vec();
        let Some(source) = modules.get(&module) else { continue };
        let elsewhere = names.get(length).and_then(|name| named.get(&(&module, name.clone())));
        return match elsewhere {
            Some(elsewhere) if depth < 5 => {
                file_of(&[elsewhere.as_slice(), &names[length + 1..]].concat(), modules, named, depth + 1)
            }
            _ => Some(&source.file),
        };
    }
    None
}

/// The files that are in a cycle, with those of the same one.
pub(super) fn cycles(uses: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> Vec<BTreeSet<PathBuf>> {
    let reached = |from: &PathBuf| {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&PathBuf> = uses[from].iter().collect();
        while let Some(file) = next.pop() {
            if reached.insert(file.clone()) {
                next.extend(uses.get(file).into_iter().flatten());
            }
        }
        reached
    };
    let reached: BTreeMap<&PathBuf, BTreeSet<PathBuf>> =
        uses.keys().map(|file| (file, reached(file))).collect();
    let mut cycles: BTreeSet<BTreeSet<PathBuf>> = BTreeSet::new();
    for (file, all) in &reached {
        let back = |other: &&PathBuf| reached.get(other).is_some_and(|reached| reached.contains(*file));
        let cycle: BTreeSet<PathBuf> = all.iter().filter(back).cloned().collect();
        if cycle.contains(*file) {
            cycles.insert(cycle);
        }
    }
    cycles.into_iter().collect()
}

#[test]
fn paths_are_read_with_their_groups() {
    let code =
        "use crate::a::{self, b::C, d::{E, f as g}};\nlet x = crate::h::i(super::super::j::K, fapi::l);";
    let of = |root: &str| paths(code, root).iter().map(|names| names.join("::")).collect::<Vec<_>>();
    assert_eq!(of("crate::"), ["a", "a::b::C", "a::d::E", "a::d::f", "h::i"]);
    assert_eq!(of("super::super::"), ["j::K"]);
    assert!(of("api::").is_empty());
}

#[test]
fn a_cycle_is_found_and_what_only_leads_to_it_is_not() {
    let file = |name: &str| PathBuf::from(name);
    let uses =
        [("a", "b"), ("b", "c"), ("c", "b"), ("d", "d2")].map(|(a, b)| (file(a), BTreeSet::from([file(b)])));
    let found = cycles(&uses.into_iter().collect());
    assert_eq!(found, [BTreeSet::from([file("b"), file("c")])]);
}

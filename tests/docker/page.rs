//! The files of docs/compose.md: what the page shows is what runs.

use std::path::Path;

const PAGE: &str = include_str!("../../docs/compose.md");

/// The block of kind `yaml` whose first line is `# NAME`.
pub(crate) fn file(name: &str) -> String {
    let mut blocks = PAGE.split("```yaml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0));
    let first = format!("# {name}\n");
    blocks
        .find(|block| block.starts_with(&first))
        .unwrap_or_else(|| panic!("{name} is not on the page"))
        .to_owned()
}

/// The same, written into a folder of its own below another.
pub(crate) fn write(name: &str, below: &Path) {
    let file_of = below.join(name);
    std::fs::create_dir_all(file_of.parent().expect("a folder")).expect("a folder for a project");
    std::fs::write(&file_of, file(name)).expect("a file of the page can be written");
}

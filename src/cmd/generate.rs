//! `completions` and `man`: generates the files that a package installs beside the program.

use std::fs;
use std::path::Path;

use clap_complete::Shell;

use super::output;
use crate::cli;
use crate::cli::man;
use crate::model::error::{OrCall, Result};

/// The script for a shell, to stdout.
pub(super) fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), env!("CARGO_PKG_NAME"), &mut script);
    output::write(&String::from_utf8_lossy(&script))
}

/// The page of the program to stdout, or all pages into a folder.
pub(super) fn man(dir: Option<&Path>) -> Result<()> {
    let Some(dir) = dir else {
        return output::write(&man::main_page().or_call("write", "manual page")?.roff);
    };
    fs::create_dir_all(dir).or_call("mkdir", dir.display())?;
    for page in man::pages().or_call("write", "manual page")? {
        let path = dir.join(&page.file);
        fs::write(&path, page.roff).or_call("write", path.display())?;
    }
    Ok(())
}

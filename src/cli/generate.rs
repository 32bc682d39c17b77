//! The definitions of the commands that generate files: `completions` and `man`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, Command, ValueHint, value_parser};
use clap_complete::Shell;

use super::texts::{COMPLETIONS_ABOUT, MAN_ABOUT};

pub(super) const SHELL: &str = "SHELL";
pub(super) const DIR: &str = "DIR";

/// The commands whose output a package installs beside the program. They take no settings: they run where packages are built.
pub(super) fn generators() -> [Command; 2] {
    let plain = |name: &'static str| Command::new(name).max_term_width(100).disable_help_subcommand(true);
    [
        plain("completions")
            .about("Prints the completions of this program for a shell")
            .long_about(COMPLETIONS_ABOUT)
            .arg_required_else_help(true)
            .override_usage("rbd-docker-plugin completions bash|zsh|fish")
            .arg(
                Arg::new(SHELL)
                    .required(true)
                    .value_parser(
                        PossibleValuesParser::new(["bash", "zsh", "fish"])
                            .try_map(|shell| shell.parse::<Shell>()),
                    )
                    .hide_possible_values(true)
                    .help("The shell: bash, zsh or fish"),
            ),
        plain("man")
            .about("Prints the manual page, or writes all manual pages into a folder")
            .long_about(MAN_ABOUT)
            .override_usage("rbd-docker-plugin man [DIR]")
            .arg(
                Arg::new(DIR)
                    .value_parser(value_parser!(PathBuf))
                    .value_hint(ValueHint::DirPath)
                    .help("The folder; it is made when it is missing"),
            ),
    ]
}

//! The commands and flags as clap is to know them.

use clap::builder::TypedValueParser;
use clap::{Arg, ArgAction, Command};

use super::generate::generators;
use super::texts::{
    AFTER_LONG_HELP, BREAK_ABOUT, CHECK_ABOUT, CONFIG_CHECK_ABOUT, DOCTOR_ABOUT, FENCE_ABOUT, LONG_ABOUT,
    SEEING, UNMOUNT_ABOUT,
};
use super::values::{Hinted, hint};
use crate::cli::values::Format;
use crate::config::keys::{KEYS, Key, WORDS};
use crate::model::version::version;

/// What clap is to know.
pub fn command() -> Command {
    let lock = Command::new("lock")
        .about("Shows who owns which image in Ceph, and takes images away from owners that are gone")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .override_usage("rbd-docker-plugin lock ls [--format text|json]\n       rbd-docker-plugin lock break IMAGE [--force]")
        .subcommand(
            Command::new("ls")
                .about("Lists the owner records of all images that this user may see")
                .override_usage("rbd-docker-plugin lock ls [--format text|json] [--FLAG VALUE]...")
                .arg(format_argument()),
        )
        .subcommand(
            Command::new("break")
                .about("Frees an image whose owner is gone, and shuts that owner's kernel out of the cluster first")
                .long_about(BREAK_ABOUT)
                .override_usage("rbd-docker-plugin lock break IMAGE [--force] [--FLAG VALUE]...")
                .arg(Arg::new("IMAGE").required(true).help("The volume: image, pool/image or pool/namespace/image"))
                .arg(
                    Arg::new("force")
                        .long("force")
                        .action(ArgAction::SetTrue)
                        .help("Also when its owner is alive: its containers get I/O errors, and what they have not yet written is lost"),
                )
                .arg(format_argument()),
        );
    let fence = Command::new("fence")
        .about("Shuts a host's kernel clients out of the cluster and frees all its images; `fence ls` lists who is shut out")
        .long_about(FENCE_ABOUT)
        .subcommand_negates_reqs(true)
        .arg_required_else_help(true)
        .override_usage("rbd-docker-plugin fence HOST [--FLAG VALUE]...\n       rbd-docker-plugin fence ls [--format text|json]")
        .arg(Arg::new("HOST").required(true).help("The host as `lock ls` names it"))
        .arg(format_argument())
        .subcommand(
            Command::new("ls")
                .about("Lists the addresses that are shut out of the cluster, and until when")
                .override_usage("rbd-docker-plugin fence ls [--format text|json] [--FLAG VALUE]...")
                .arg(format_argument()),
        );
    let doctor = Command::new("doctor")
        .about("Looks at settings, cluster, kernel and Docker, and says what is wrong and what mends it")
        .long_about(DOCTOR_ABOUT)
        .override_usage("rbd-docker-plugin doctor [--format text|json] [--FLAG VALUE]...")
        .arg(format_argument());
    let unmount = Command::new("unmount")
        .about(
            "Unmounts all volumes of a stopped plugin on this host, and gives them back to the other hosts",
        )
        .long_about(UNMOUNT_ABOUT)
        .override_usage("rbd-docker-plugin unmount --all [--timeout SECONDS] [--FLAG VALUE]...")
        .arg(
            Arg::new("all")
                .long("all")
                .action(ArgAction::SetTrue)
                .required(true)
                .help("Every volume: Docker itself unmounts a single one when its last container stops"),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .value_parser(clap::value_parser!(u64).range(1..=86_400))
                .default_value("60")
                .help("How long it may take; what is not done by then is left"),
        )
        .arg(format_argument());
    let check = Command::new("check")
        .about("Looks whether volumes can be had, for a monitoring system: one line, and an exit status")
        .long_about(CHECK_ABOUT)
        .override_usage("rbd-docker-plugin check [--FLAG VALUE]...");
    let config = Command::new("config")
        .about("Shows the settings, where each comes from, and all that is wrong with them")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .override_usage("rbd-docker-plugin config check [--format text|json] [--FLAG VALUE]...")
        .subcommand(
            Command::new("check")
                .about("Shows the settings, where each comes from, and all that is wrong with them")
                .long_about(CONFIG_CHECK_ABOUT)
                .override_usage("rbd-docker-plugin config check [--format text|json] [--FLAG VALUE]...")
                .arg(format_argument()),
        );
    let plugin_config =
        Command::new("plugin-config").hide(true).about("Prints the config.json of the managed plugin");
    Command::new("rbd-docker-plugin")
        .version(version())
        .about("A Docker volume driver for Ceph RBD")
        .long_about(LONG_ABOUT)
        .after_long_help(AFTER_LONG_HELP)
        .after_help("`--help` tells more: volume names and options, files, environment, signals, examples.")
        .override_usage(
            "rbd-docker-plugin [--FLAG VALUE]...\n       rbd-docker-plugin COMMAND [--FLAG VALUE]...",
        )
        .max_term_width(100)
        .args_override_self(true)
        .disable_help_subcommand(true)
        .subcommand_value_name("COMMAND")
        .args(KEYS.iter().map(argument))
        .subcommands([doctor, check, config, lock, fence, unmount, plugin_config].map(with_settings))
        .subcommands(seeing().map(with_settings))
        .subcommands(generators())
}

/// The commands that ask the running plugin.
fn seeing() -> [Command; 4] {
    let asks = |name: &'static str, about: &'static str, usage: &'static str| {
        Command::new(name).about(about).long_about(format!("{about}.\n\n{SEEING}")).override_usage(usage)
    };
    let ls = asks(
        "ls",
        "Lists all volumes: image, size if known, and where they are mounted on this host",
        "rbd-docker-plugin ls [--format text|json] [--FLAG VALUE]...",
    );
    let inspect = asks(
        "inspect",
        "Shows what the plugin knows of volumes, as `docker volume inspect` does",
        "rbd-docker-plugin inspect VOLUME... [--format text|json] [--FLAG VALUE]...",
    )
    .arg(Arg::new("VOLUME").required(true).num_args(1..).help("The volume's name, as Docker has it"));
    let df = asks(
        "df",
        "Shows how full the mounted volumes are",
        "rbd-docker-plugin df [--format text|json] [--FLAG VALUE]...",
    );
    let top = asks(
        "top",
        "Shows what the mounted volumes read and write, and which operations run, until it is interrupted",
        "rbd-docker-plugin top [--interval S] [--once] [--format text|json] [--FLAG VALUE]...",
    )
    .arg(
        Arg::new("interval")
            .long("interval")
            .value_name("S")
            .value_parser(clap::value_parser!(u64).range(1..=3600))
            .help("Seconds between two looks [default: 2]"),
    )
    .arg(
        Arg::new("once")
            .long("once")
            .action(ArgAction::SetTrue)
            .help("One table and no more; so it is, too, when stdout is no terminal"),
    );
    [ls, inspect, df, top].map(|command| command.arg(format_argument()))
}

/// A command takes the settings too; its help does not repeat them.
fn with_settings(command: Command) -> Command {
    let below: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    below
        .into_iter()
        .fold(command, |command, below| command.mut_subcommand(below, with_settings))
        .max_term_width(100)
        .args_override_self(true)
        .disable_help_subcommand(true)
        .after_help("The settings of the daemon hold here too: as flags, in the environment, in the configuration file. `rbd-docker-plugin --help` lists them.")
        .args(KEYS.iter().map(|key| argument(key).hide(true)))
}

fn format_argument() -> Arg {
    Arg::new(FORMAT)
        .long(FORMAT)
        .value_name("text|json")
        .action(ArgAction::Set)
        .value_parser(
            clap::builder::PossibleValuesParser::new(["text", "json"]).map(|text| Format::named(&text)),
        )
        .hide_possible_values(true)
        .help("Form of the answer: for people, or one JSON document on stdout [default: text]")
}

pub(super) const FORMAT: &str = "format";
/// Seconds.
pub(super) const TOP_INTERVAL: u64 = 2;

fn argument(key: &'static Key) -> Arg {
    let help = if key.default.is_empty() {
        key.help.to_owned()
    } else {
        format!("{} [default: {}]", key.help, key.default)
    };
    let arg = Arg::new(key.name)
        .long(key.name)
        .value_name(key.value)
        .action(ArgAction::Set)
        .allow_hyphen_values(key.value == WORDS)
        .value_parser(Hinted(key))
        .hide_possible_values(true)
        .value_hint(hint(key))
        .help(help)
        .help_heading(key.heading)
        .hide(key.heading.is_none());
    if key.switch { arg.num_args(0..=1).default_missing_value("true") } else { arg.num_args(1) }
}

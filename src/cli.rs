//! The command line: clap definitions made from the table of [`keys`], the commands, and the tolerance of old spellings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::LazyLock;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::cmd::output::Format;
use crate::config::keys::{self, KEYS, Key};

/// What the program was told to do, and with which settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub action: Action,
    /// The flags that were given, by the names of the table.
    pub flags: BTreeMap<&'static str, String>,
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// No command: run the daemon.
    Serve,
    /// `doctor`
    Doctor(Format),
    /// `lock ls`
    Locks(Format),
    /// `lock break`
    BreakLock {
        /// The volume, as its user writes it.
        volume: String,
        /// Whether it may be alive.
        force: bool,
        /// How to answer.
        format: Format,
    },
    /// `fence HOST`
    Fence {
        /// The host.
        host: String,
        /// How to answer.
        format: Format,
    },
    /// `fence ls`
    Fences(Format),
}

/// Version and, when the build knew it, revision.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let revision = option_env!("RBD_DOCKER_PLUGIN_REVISION").unwrap_or("unknown revision");
        format!("{} ({revision})", env!("CARGO_PKG_VERSION"))
    });
    &VERSION
}

/// What was asked for. The error prints itself: help and version are errors too.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let mut words: Vec<OsString> = arguments.into_iter().collect();
    for word in words.iter_mut().skip(1) {
        *word = respell(std::mem::take(word));
    }
    stand_alone(&mut words);
    let matches = command().try_get_matches_from(words)?;
    let mut flags = BTreeMap::new();
    let mut path = Vec::new();
    let mut level = &matches;
    loop {
        // What is said after a command counts more than what is said before it, as the last of two flags does.
        flags.extend(
            KEYS.iter().filter_map(|key| Some((key.name, level.get_one::<String>(key.name)?.clone()))),
        );
        let Some((name, below)) = level.subcommand() else { break };
        path.push((name, level));
        level = below;
    }
    Ok(Invocation { action: action(&path, level)?, flags })
}

fn action(path: &[(&str, &ArgMatches)], of: &ArgMatches) -> Result<Action, clap::Error> {
    let text = |name: &str| of.get_one::<String>(name).cloned().unwrap_or_default();
    // Only a command has the argument.
    let format = || of.get_one::<Format>(FORMAT).copied().unwrap_or_default();
    Ok(match path {
        [] => Action::Serve,
        [("doctor", _)] => Action::Doctor(format()),
        [("lock", _), ("break", _)] => {
            Action::BreakLock { volume: text("IMAGE"), force: of.get_flag("force"), format: format() }
        }
        [("lock", _), ..] => Action::Locks(format()),
        [("fence", _), (_, fence)] if fence.contains_id("HOST") => {
            return Err(command().error(ErrorKind::ArgumentConflict, "give a host to fence, or ls, not both"));
        }
        [("fence", _), ..] if path.len() > 1 => Action::Fences(format()),
        [..] => Action::Fence { host: text("HOST"), format: format() },
    })
}

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
        .subcommands([doctor, lock, fence].map(with_settings))
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

const FORMAT: &str = "format";

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
        .help(help)
        .help_heading(key.heading)
        .hide(key.heading.is_none());
    if key.switch { arg.num_args(0..=1).default_missing_value("true") } else { arg.num_args(1) }
}

/// Go's flag package took `-x` for `--x`; we also take aliases, underscores and any case. What is no flag of ours stays as it
/// is, for clap to complain about.
fn respell(argument: OsString) -> OsString {
    let Some(text) = argument.to_str() else { return argument };
    let Some(bare) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else { return argument };
    let (name, value) = match bare.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (bare, None),
    };
    let name = match keys::find(name) {
        Some(key) => key.name,
        // Two letters at least: -h and -V are clap's own.
        None if name.len() > 1 && !text.starts_with("--") => name,
        None => return argument,
    };
    match value {
        Some(value) => format!("--{name}={value}").into(),
        None => format!("--{name}").into(),
    }
}

/// A switch before a command stands alone: `--create doctor` does not mean `--create=doctor`.
fn stand_alone(words: &mut [OsString]) {
    for at in 1..words.len().saturating_sub(1) {
        let switch =
            |text: &str| KEYS.iter().any(|key| key.switch && text.strip_prefix("--") == Some(key.name));
        let (this, next) = (words[at].to_str(), words[at + 1].to_str());
        if let Some(flag) = this.filter(|text| switch(text))
            && next.is_some_and(|next| COMMANDS.contains(&next))
        {
            words[at] = format!("{flag}=true").into();
        }
    }
}

const COMMANDS: [&str; 3] = ["doctor", "lock", "fence"];

const DOCTOR_ABOUT: &str = "\
Looks at everything that volumes need: settings, ceph.conf and key, monitors, pools, capabilities, images, the kernel, mount root, \
programs, Docker, and what an earlier life of this host has left. Each line says ok, warn or fail, and on warn and fail what mends it. \
It changes nothing: in each pool it writes and removes one object of its own, rbd_docker_plugin.doctor. Nothing hangs it: what does \
not answer is told as such.

Exit status 0 when no line says fail, 1 when one does.";

const BREAK_ABOUT: &str = "\
Frees an image whose owner is gone. That owner's kernel client is shut out of the cluster first, and its plugin if it does not run: \
nothing that they still have in memory reaches the disk afterwards. An owner that shows a sign of life (its plugin runs, or its kernel \
has the image mapped) is refused without --force.";

const FENCE_ABOUT: &str = "\
Shuts out every kernel client that a host has mapped images with, alive or not, and its plugin's own, for --fence-days, and frees \
the images: other hosts can mount them at once. Containers of that host that use them get I/O errors, and what they have not yet \
written is lost. The host itself is not banned: its plugin connects anew, and what it maps afterwards works.

`fence ls` lists who is shut out. `ceph osd blocklist rm ADDRESS` lets one in again: never while a host may still hold data to write.";

const LONG_ABOUT: &str = "\
rbd-docker-plugin is a Docker volume driver. It listens on <plugins>/<name>.sock, where Docker finds it as the driver \
<name>, and gives containers volumes that are images in a Ceph cluster (RBD) or, for trying it out, files of this host. \
A volume is created, formatted, checked, mounted and unmounted as containers need it; containers of one host share one \
mount, and no two hosts mount one image at the same time.

Without a command it runs as the daemon, in the foreground.

A flag may be written -x or --x, with its value after a blank or a '='.";

/// Lines of 78 columns at most: clap would break longer ones without regard to the columns.
const AFTER_LONG_HELP: &str = "\
LOOKING AFTER IT
  doctor              What is wrong, and what mends it
  lock ls             Who owns which image
  lock break IMAGE    Frees an image whose owner is gone; --force: or alive
  fence HOST          Shuts a host out, and frees all its images
  fence ls            Who is shut out, and until when
  Flags may come before or after a command. --format json makes the answer
  one JSON document on stdout; errors are text on stderr.

VOLUME NAMES
  [pool/[namespace/]]image[@size], made of letters, digits, '-', '_', '.'.
  Without a pool it is in --pool. The size, in MiB, only matters when the
  image is created: foo, rbd/foo and foo@1024 are one image.

VOLUME OPTIONS (docker volume create -d rbd -o KEY=VALUE)
  size=SIZE           Size of the image: MiB, or with K, M, G, T
  pool=POOL           Pool of the image; remembered for the bare name
  fstype=FS           ext4, xfs or btrfs
  mkfs-options=WORDS  Further options for mkfs, quoted as in a shell
  mount-options=LIST  Mount options as in fstab: noatime,discard
  uid=N  gid=N        Owner and group of the volume's root directory
  mode=OCTAL          Its mode bits; all three are set once, after mkfs
  read-only=BOOL      Always mount it read-only
  For images in Ceph:
  namespace=NAME      RADOS namespace; remembered for the bare name
  features=LIST       Image features: layering,exclusive-lock
  object-size=SIZE  stripe-unit=SIZE  stripe-count=N
                      Layout of the image; a bare number is bytes
  data-pool=POOL      Pool of the data, if it is another one
  map-options=LIST    For the kernel's mapping, as in rbd(8)
  lock=MODE           cooperative or exclusive

FILES
  /etc/docker/rbd-docker-plugin.conf
      key=value lines, where a key is a flag without its dashes; # begins a
      comment.
  <plugins>/<name>.sock
      The socket, owned by root and --socket-group, mode 0660.
  <plugins>/<name>.lock
      Held while the plugin runs: a second one of this name does not start.
  <mount>/<name>/<pool>/<image>
      The mountpoints.
  <plugins>/<name>.mounts/
      Who uses what is mounted: for the next start, not for the next boot.
  <state>/<name>/
      The names of the volumes, for when the backend is away, and the mark of
      the local backend's folder, by which an unmounted one is told.
  <logdir>/<name>-docker-plugin.log
      The log; stderr when it may not be written.

ENVIRONMENT
  RBD_DOCKER_PLUGIN_<FLAG>
      Every flag has a twin, in capitals and with '_' for '-', such as
      RBD_DOCKER_PLUGIN_LOG_LEVEL=debug.
  A flag wins over the environment, the environment over the file, the file
  over the default. An empty value counts as not given. RUST_LOG is not read.

SIGNALS
  SIGTERM, SIGINT
      Stop: finish what is running (60 s at most), remove the socket, leave
      volumes mounted. A second one stops at once.
  SIGHUP
      Open the log file again (for logrotate).

EXIT STATUS
  0 stopped as told, or done; 1 failed, for doctor: something is wrong;
  2 wrong flag, variable or configuration file.

EXAMPLES
  Try it without a Ceph cluster:
    rbd-docker-plugin --backend local --local-dir /var/lib/rbd-images \\
        --create --fs ext4 --size 1G
    docker volume create -d rbd -o size=256M hello
    docker run --rm -v hello:/data alpine sh -c 'date >> /data/log'

  As /etc/docker/rbd-docker-plugin.conf:
    create=true
    remove=rename
    size=50G";

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Result<Vec<(&'static str, String)>, clap::Error> {
        let words = ["rbd-docker-plugin"].into_iter().chain(line.split_whitespace()).map(OsString::from);
        Ok(parse(words)?.flags.into_iter().collect())
    }

    fn invocation(line: &str) -> Invocation {
        let words = ["rbd-docker-plugin"].into_iter().chain(line.split_whitespace()).map(OsString::from);
        parse(words).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    #[test]
    fn commands_and_settings_around_them() {
        let text = Format::Text;
        let host = |host: &str| Action::Fence { host: host.to_owned(), format: text };
        let broken =
            |volume: &str, force, format| Action::BreakLock { volume: volume.to_owned(), force, format };
        for (line, action, flags) in [
            ("--user a", Action::Serve, vec![("user", "a")]),
            ("doctor", Action::Doctor(text), vec![]),
            ("-config=/c doctor -format=json", Action::Doctor(Format::Json), vec![("config", "/c")]),
            ("--user a doctor --user b", Action::Doctor(text), vec![("user", "b")]),
            ("--debug doctor --create", Action::Doctor(text), vec![("create", "true"), ("debug", "true")]),
            (
                "-pool p lock --ceph-user u ls -name n",
                Action::Locks(text),
                vec![("name", "n"), ("pool", "p"), ("user", "u")],
            ),
            ("lock ls --format json", Action::Locks(Format::Json), vec![]),
            ("lock break p/foo", broken("p/foo", false, text), vec![]),
            ("lock break --force foo -user u", broken("foo", true, text), vec![("user", "u")]),
            ("lock break -force foo --format=json", broken("foo", true, Format::Json), vec![]),
            ("fence h1", host("h1"), vec![]),
            ("fence --user u h1", host("h1"), vec![("user", "u")]),
            ("fence --user u ls", Action::Fences(text), vec![("user", "u")]),
            ("fence ls --format json", Action::Fences(Format::Json), vec![]),
            ("--name doctor", Action::Serve, vec![("name", "doctor")]),
        ] {
            let flags = flags.into_iter().map(|(k, v)| (k, v.to_owned())).collect();
            assert_eq!(invocation(line), Invocation { action, flags }, "{line}");
        }
    }

    #[test]
    fn the_definitions_are_sound() {
        command().debug_assert();
    }

    #[test]
    fn tolerances() {
        for (line, expected) in [
            ("", vec![]),
            ("--name a", vec![("name", "a")]),
            ("-name a", vec![("name", "a")]),
            ("-name=a", vec![("name", "a")]),
            ("--name=a --name=b", vec![("name", "b")]),
            ("--ceph-user=x", vec![("user", "x")]),
            ("-plugin-dir /p", vec![("plugins", "/p")]),
            ("--fsType ext4", vec![("fs", "ext4")]),
            ("--local_dir=/d", vec![("local-dir", "/d")]),
            ("--create", vec![("create", "true")]),
            ("--create=false", vec![("create", "false")]),
            ("--create true --name a", vec![("create", "true"), ("name", "a")]),
            ("-create -remove", vec![("create", "true"), ("remove", "true")]),
            ("--remove delete --create", vec![("create", "true"), ("remove", "delete")]),
            ("--remove=false", vec![("remove", "false")]),
            ("--go-ceph", vec![("go-ceph", "true")]),
            ("--go-ceph=false --debug", vec![("debug", "true"), ("go-ceph", "false")]),
            ("--logdir -", vec![("logdir", "-")]),
            ("-cluster= -user=", vec![("cluster", ""), ("user", "")]),
            ("--name a=b", vec![("name", "a=b")]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(k, v)| (k, v.to_owned())).collect();
            assert_eq!(flags(line).unwrap_or_else(|e| panic!("{line}: {e}")), expected, "{line}");
        }
    }

    #[test]
    fn wrong_usage_ends_with_2_and_names_the_flag() {
        for (line, named) in [
            ("--colour red", "--colour"),
            ("-colour", "--colour"),
            ("--name", "--name"),
            ("serve", "serve"),
            ("--size -5", "-5"),
            ("-x", "-x"),
            ("lock", "Usage"),
            ("lock steal", "steal"),
            ("lock break", "IMAGE"),
            ("lock break a b", "'b'"),
            ("fence", "Usage"),
            ("fence a ls", "not both"),
            ("doctor now", "now"),
            ("doctor --format xml", "xml"),
            ("--format json", "--format"),
            ("lock ls --force", "--force"),
        ] {
            let e = flags(line).unwrap_err();
            assert_eq!(e.exit_code(), 2, "{line}");
            assert!(e.to_string().contains(named), "{line}: {e}");
        }
    }

    #[test]
    fn help_and_version() {
        for (line, part) in [
            ("--version", concat!("rbd-docker-plugin ", env!("CARGO_PKG_VERSION"), " (")),
            ("-version", "rbd-docker-plugin "),
            ("-V", "rbd-docker-plugin "),
            ("-h", "--socket-group"),
            ("--help", "SIGNALS"),
            ("-help", "EXAMPLES"),
            ("-h", "doctor "),
            ("--help", "lock break IMAGE"),
            ("doctor --help", "rbd_docker_plugin.doctor"),
            ("lock --help", "break"),
            ("lock break -h", "--force"),
            ("fence --help", "blocklist rm"),
            ("fence ls -h", "--format"),
        ] {
            let e = flags(line).unwrap_err();
            assert_eq!(e.exit_code(), 0, "{line}");
            assert!(e.to_string().contains(part), "{line}: {e}");
        }
        let help = flags("--help").unwrap_err().to_string();
        for key in KEYS.iter().filter(|key| key.heading.is_some()) {
            assert!(help.contains(&format!("--{}", key.name)), "{}", key.name);
        }
        assert!(!help.contains("go-ceph"));
        assert_eq!(AFTER_LONG_HELP.lines().find(|line| line.len() > 78), None);
    }
}

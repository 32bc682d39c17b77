//! The command line: clap definitions made from the table of [`keys`], and the tolerance of old spellings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::LazyLock;

use clap::{Arg, ArgAction, Command};

use crate::config::keys::{self, KEYS, Key};

/// Version and, when the build knew it, revision.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let revision = option_env!("RBD_DOCKER_PLUGIN_REVISION").unwrap_or("unknown revision");
        format!("{} ({revision})", env!("CARGO_PKG_VERSION"))
    });
    &VERSION
}

/// The flags that were given, by the names of the table. The error prints itself: help and version are errors too.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<BTreeMap<&'static str, String>, clap::Error> {
    let matches = command().try_get_matches_from(arguments.into_iter().enumerate().map(
        |(index, argument)| {
            if index == 0 { argument } else { respell(argument) }
        },
    ))?;
    let given = |key: &'static Key| Some((key.name, matches.get_one::<String>(key.name)?.clone()));
    Ok(KEYS.iter().filter_map(given).collect())
}

/// What clap is to know.
pub fn command() -> Command {
    Command::new("rbd-docker-plugin")
        .version(version())
        .about("A Docker volume driver for Ceph RBD")
        .long_about(LONG_ABOUT)
        .after_long_help(AFTER_LONG_HELP)
        .after_help("`--help` tells more: volume names and options, files, environment, signals, examples.")
        .override_usage("rbd-docker-plugin [--FLAG VALUE]...")
        .max_term_width(100)
        .args_override_self(true)
        .args(KEYS.iter().map(argument))
}

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

const LONG_ABOUT: &str = "\
rbd-docker-plugin is a Docker volume driver. It listens on <plugins>/<name>.sock, where Docker finds it as the driver \
<name>, and gives containers volumes that are images in a Ceph cluster (RBD) or, for trying it out, files of this host. \
A volume is created, formatted, checked, mounted and unmounted as containers need it; containers of one host share one \
mount, and no two hosts mount one image at the same time.

A flag may be written -x or --x, with its value after a blank or a '='.";

/// Lines of 78 columns at most: clap would break longer ones without regard to the columns.
const AFTER_LONG_HELP: &str = "\
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
  0 stopped as told, 1 failed, 2 wrong flag, variable or configuration file.

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
        Ok(parse(words)?.into_iter().collect())
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

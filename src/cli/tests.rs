use super::texts::AFTER_LONG_HELP;
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
    let broken = |volume: &str, force, format| Action::BreakLock { volume: volume.to_owned(), force, format };
    let unmount = |seconds, format| {
        let timeout = Duration::from_secs(seconds);
        Action::UnmountAll { timeout, format }
    };
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
        ("unmount --all", unmount(60, text), vec![]),
        ("-name=n unmount --timeout 5 -all --format json", unmount(5, Format::Json), vec![("name", "n")]),
        ("--pool p check", Action::Check, vec![("pool", "p")]),
        ("config check --format=json", Action::CheckConfig(Format::Json), vec![]),
        (
            "-create=true config check -pool=p",
            Action::CheckConfig(text),
            vec![("create", "true"), ("pool", "p")],
        ),
        ("ls", Action::Volumes(text), vec![]),
        ("-name n df --format json", Action::Usage(Format::Json), vec![("name", "n")]),
        (
            "inspect a p/b -admin /run/x",
            Action::Inspect { volumes: vec!["a".to_owned(), "p/b".to_owned()], format: text },
            vec![("admin", "/run/x")],
        ),
        ("top", Action::Top { interval: 2, once: false, format: text }, vec![]),
        ("top -interval=5 --once", Action::Top { interval: 5, once: true, format: text }, vec![]),
        ("--name doctor", Action::Serve, vec![("name", "doctor")]),
        ("completions fish", Action::Completions(Shell::Fish), vec![]),
        ("man", Action::Man(None), vec![]),
        ("--user u man d", Action::Man(Some("d".into())), vec![("user", "u")]),
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
        ("--mkfs-options -K", vec![("mkfs-options", "-K")]),
        ("--mkfs-options=-K --create", vec![("create", "true"), ("mkfs-options", "-K")]),
        ("--volroot /v/rbd --fsType xfs", vec![("fs", "xfs"), ("volroot", "/v/rbd")]),
        // The wrapper script on a conf file with a blank line, named as its argument.
        ("-create=true -= -fs=xfs /etc/c", vec![("conf-file", "/etc/c"), ("create", "true"), ("fs", "xfs")]),
        ("/etc/c", vec![("conf-file", "/etc/c")]),
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
        ("--create=true etc/c", "etc/c"),
        ("--poool x", "'--pool'"),
        ("-polo x", "'--pool"),
        ("chekc", "'check'"),
        ("config", "Usage"),
        ("config chek", "'check'"),
        ("check now", "now"),
        ("--size -5", "-5"),
        ("-x", "-x"),
        ("lock", "Usage"),
        ("lock steal", "steal"),
        ("lock break", "IMAGE"),
        ("lock break a b", "'b'"),
        ("fence", "Usage"),
        ("fence a ls", "not both"),
        ("doctor now", "now"),
        ("inspect", "VOLUME"),
        ("top --interval 0", "0"),
        ("ls foo", "foo"),
        ("doctor --format xml", "xml"),
        ("--format json", "--format"),
        ("lock ls --force", "--force"),
        ("unmount", "--all"),
        ("unmount foo", "foo"),
        ("unmount --all --timeout 0", "1..=86400"),
        ("completions", "Usage"),
        ("completions csh", "csh"),
        ("man --user u", "--user"),
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
        ("check --help", "CEPH_CONF"),
        ("config --help", "check"),
        ("config check --help", "Exit status 0"),
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

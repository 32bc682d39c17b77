//! The command lines, conf files and environments of the plugins that this one replaces, played to the program; and what the pages of
//! docs/migration say to write.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use rbd_docker_plugin::model::create_options::Options;
use serde_json::{Value, json};

use crate::pages::{Step, steps};
use crate::program::{Daemon, program, wait_until};

/// What `config check` answers.
struct Settings {
    code: Option<i32>,
    json: Value,
}

impl Settings {
    /// Value and origin of a setting.
    fn of(&self, name: &str) -> (String, String) {
        let all = self.json["settings"].as_array().unwrap();
        let one = all.iter().find(|setting| setting["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        (one["value"].as_str().unwrap().to_owned(), one["from"].as_str().unwrap().to_owned())
    }

    fn values<const N: usize>(&self, names: [&str; N]) -> [String; N] {
        names.map(|name| self.of(name).0)
    }

    fn warnings(&self) -> Vec<&str> {
        self.json["warnings"].as_array().unwrap().iter().map(|warning| warning.as_str().unwrap()).collect()
    }

    fn right(self) -> Self {
        assert_eq!((self.code, &self.json["errors"]), (Some(0), &json!([])));
        self
    }
}

/// What a command line, without the program, and an environment come to; without a cluster, which is not here.
fn config_check(words: &[String], environment: &[(String, String)]) -> Settings {
    let mut command = program();
    command.envs(environment.iter().cloned()).args(words);
    command.args(["--backend", "sim", "config", "check", "--format", "json"]);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = |e| panic!("{words:?}: {e}: {}", String::from_utf8_lossy(&stderr));
    Settings { code: status.code(), json: serde_json::from_slice(&stdout).unwrap_or_else(said) }
}

fn flags(line: &str) -> Settings {
    config_check(&shell_words::split(line).unwrap(), &[])
}

/// The command line that a unit starts.
fn started_by(unit: &str) -> Vec<String> {
    let line =
        unit.lines().find_map(|line| line.strip_prefix("ExecStart=").or_else(|| line.strip_prefix("exec ")));
    let words = shell_words::split(line.unwrap()).unwrap();
    words.into_iter().skip(1).collect()
}

#[test]
fn units_of_2_0_1() {
    let systemd = config_check(&started_by(include_str!("old/yp.service")), &[]).right();
    assert_eq!(systemd.of("create"), ("true".to_owned(), "the flag --create".to_owned()));
    assert_eq!(systemd.of("config"), ("/etc/ceph/ceph.conf".to_owned(), "the flag --config".to_owned()));
    assert_eq!(systemd.of("plugins").0, "/run/docker/plugins");
    let upstart = config_check(&started_by(include_str!("old/yp.upstart")), &[]).right();
    for unit in [&systemd, &upstart] {
        assert_eq!(
            unit.values([
                "create", "remove", "size", "fs", "pool", "user", "name", "mount", "logdir", "cluster"
            ]),
            [
                "true",
                "ignore",
                "20G",
                "xfs",
                "rbd",
                "admin",
                "rbd",
                "/var/lib/docker-volumes",
                "/var/log",
                ""
            ]
        );
        assert!(unit.warnings().is_empty(), "{:?}", unit.warnings());
    }
}

/// The wrapper's conf file: read by the plugin, and by the wrapper.
#[test]
fn the_conf_file_of_2_0_1() {
    let text = include_str!("old/yp.conf");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rbd-docker-plugin.conf");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let read = flags(&format!("--conf-file {path}")).right();
    assert_eq!(read.of("pool"), ("liverpool".to_owned(), format!("{path}:12")));
    // A comment ends a line for it, and every line but an empty one is a flag; blank ones become `-=`.
    let wrapped: Vec<String> = text
        .lines()
        .map(|line| line.split('#').next().unwrap().trim())
        .filter(|line| !line.is_empty())
        .chain(["="])
        .map(|line| format!("-{line}"))
        .collect();
    let wrapped_with_name: Vec<String> = wrapped.iter().cloned().chain([path.to_owned()]).collect();
    for (settings, origin) in [
        (read, path.to_owned()),
        (config_check(&wrapped, &[]).right(), "the flag".to_owned()),
        (played(&wrapped_with_name), "the flag".to_owned()),
    ] {
        assert_eq!(
            settings.values(["create", "remove", "size", "fs", "pool", "user", "name", "logdir", "cluster"]),
            ["true", "rename", "1G", "ext4", "liverpool", "docker", "ssd", "/var/log/ceph", ""]
        );
        assert!(settings.of("remove").1.starts_with(&origin), "{}", settings.of("remove").1);
    }
}

/// The same where the last word is the name of the conf file, behind which nothing may come.
fn played(words: &[String]) -> Settings {
    let words = std::iter::once("rbd-docker-plugin".to_owned()).chain(words.iter().cloned()).map(Into::into);
    let flags = rbd_docker_plugin::cli::parse(words).unwrap().flags;
    let words: Vec<String> = flags.iter().map(|(key, value)| format!("--{key}={value}")).collect();
    config_check(&words, &[]).right()
}

#[test]
fn command_lines_of_the_readmes() {
    let keys = ["create", "remove", "name", "pool", "user", "plugins"];
    for (line, values, warnings) in [
        ("", ["false", "ignore", "rbd", "rbd", "admin", "/run/docker/plugins"], 0),
        (
            "--name rbd2 --pool liverpool",
            ["false", "ignore", "rbd2", "liverpool", "admin", "/run/docker/plugins"],
            0,
        ),
        ("--create --remove", ["true", "delete", "rbd", "rbd", "admin", "/run/docker/plugins"], 1),
        (
            "--create=false --remove=false",
            ["false", "rename", "rbd", "rbd", "admin", "/run/docker/plugins"],
            1,
        ),
        (
            "--create true --remove=rename",
            ["true", "rename", "rbd", "rbd", "admin", "/run/docker/plugins"],
            0,
        ),
        ("-ceph-user=docker -plugin-dir=/p -go-ceph", ["false", "ignore", "rbd", "rbd", "docker", "/p"], 1),
        (
            "--user client.docker --go-ceph=false",
            ["false", "ignore", "rbd", "rbd", "docker", "/run/docker/plugins"],
            1,
        ),
    ] {
        let settings = flags(line).right();
        assert_eq!(settings.values(keys), values, "{line}");
        assert_eq!(settings.warnings().len(), warnings, "{line}: {:?}", settings.warnings());
    }
    let debug = config_check(&[], &[("RBD_DOCKER_PLUGIN_DEBUG".to_owned(), "1".to_owned())]).right();
    assert_eq!(
        debug.of("debug"),
        ("true".to_owned(), "the environment variable RBD_DOCKER_PLUGIN_DEBUG".to_owned())
    );
    let wrong = flags("--remove sometimes");
    assert_eq!(wrong.code, Some(2));
    assert!(
        wrong.json["errors"][0]
            .as_str()
            .unwrap()
            .contains(r#"valid values are: ["ignore" "delete" "rename"]"#)
    );
}

#[test]
fn the_unit_of_tobilg() {
    let settings = config_check(&started_by(include_str!("old/tobilg.service")), &[]).right();
    assert_eq!(
        settings.values(["mount", "name", "pool", "size", "fs"]),
        ["/var/lib/docker-volumes", "rbd", "rbd", "2G", "xfs"]
    );
    assert_eq!(settings.of("mount").1, "the flag --volroot");
    assert_eq!(settings.warnings().len(), 1);
    let elsewhere = flags("--volroot /srv/volumes");
    assert_eq!(elsewhere.code, Some(2));
    assert!(elsewhere.json["errors"][0].as_str().unwrap().contains("say --mount DIR instead"));
}

#[test]
fn the_environment_of_wetopi() {
    let file: Value = serde_json::from_str(include_str!("old/wetopi.json")).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let environment: Vec<(String, String)> = file["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (text(&pair["name"]), text(&pair["value"])))
        .collect();
    let settings = config_check(&[], &environment).right();
    assert_eq!(
        settings.values(["pool", "user", "cluster", "namespace", "fs", "size", "object-size", "log-level"]),
        ["ssd", "admin", "ceph", "", "ext4", "512M", "4M", "error"]
    );
    assert_eq!(settings.values(["mkfs-options", "mount-options"]), ["-O mmp", "noatime"]);
    assert_eq!(settings.of("size").1, "the environment variable VOLUME_SIZE");
    assert_eq!(
        settings.warnings().len(),
        10,
        "nine settings, and the root of devices: {:?}",
        settings.warnings()
    );

    let strays: Vec<(String, String)> =
        environment.into_iter().filter(|(name, _)| !name.starts_with("RBD_CONF_")).collect();
    let settings = config_check(&[], &strays).right();
    assert_eq!(settings.values(["size", "fs", "log-level"]), ["20G", "xfs", "info"]);
    assert!(settings.warnings().is_empty());
}

/// Socket, mountpoints, log file and renamed images are where rbd-docker-plugin 2.0.1 has them.
#[test]
fn names_and_places_stay() {
    let daemon = Daemon::start_with(&["-remove=false"]);
    let ask = |endpoint: &str, body: &Value| daemon.ask(endpoint, &body.to_string());
    for name in ["foo", "liverpool/foo@1024"] {
        assert_eq!(ask("Create", &json!({"Name": name})), json!({}));
    }
    let root = daemon.folder.path().join("m/n");
    for (name, place) in [("foo", "rbd/foo"), ("liverpool/foo", "liverpool/foo")] {
        let mounted = ask("Mount", &json!({"Name": name, "ID": "x"}));
        assert_eq!(mounted["Mountpoint"], root.join(place).to_str().unwrap());
        assert_eq!(ask("Unmount", &json!({"Name": name, "ID": "x"})), json!({}));
        assert_eq!(ask("Remove", &json!({"Name": name})), json!({}));
    }
    let listed = ask("List", &json!({}));
    let names: Vec<&str> =
        listed["Volumes"].as_array().unwrap().iter().map(|v| v["Name"].as_str().unwrap()).collect();
    assert_eq!(names, ["liverpool/zz_foo", "zz_foo"], "they are volumes like any other");
    wait_until("the log is there", || daemon.folder.path().join("l/n-docker-plugin.log").exists());
    assert!(daemon.folder.path().join("p/n.sock").exists());
}

/// Pages, without the indentation of lists.
fn pages() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migration");
    let page = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        (path.display().to_string(), text.lines().map(|line| line.trim_start().to_owned() + "\n").collect())
    };
    std::fs::read_dir(folder).unwrap().map(page).collect()
}

#[test]
fn what_the_pages_say_can_be_typed() {
    let (mut commands, mut files) = (0, 0);
    for (page, text) in pages() {
        for step in steps(&text) {
            match step {
                // Run by `make test-vm`.
                Step::Command { host, .. } if host == "host1" => {}
                Step::Command { command, line, .. } => {
                    typed(&format!("{page}:{line}: {command}"), &shell_words::split(&command).unwrap());
                    commands += 1;
                }
                Step::Conf(conf) => {
                    let file = tempfile::NamedTempFile::new().unwrap();
                    std::fs::write(file.path(), &conf).unwrap();
                    let settings = flags(&format!("--conf-file {}", file.path().display()));
                    assert_eq!(settings.json["errors"], json!([]), "{page}: {conf}");
                    assert!(settings.warnings().is_empty(), "{page}: {:?}", settings.warnings());
                    files += 1;
                }
                Step::Event(_) => {}
            }
        }
    }
    assert!(commands > 25 && files == 4, "{commands} commands, {files} files");
}

fn typed(place: &str, words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let given = words.iter().position(|word| *word == "rbd-docker-plugin");
    match words.as_slice() {
        ["env", .., "config", "check"] | ["rbd-docker-plugin", "config", "check", ..] => {
            let (before, ours) = words.split_at(given.unwrap());
            let pairs = before.iter().filter_map(|word| word.split_once('='));
            let environment: Vec<_> =
                pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let flags: Vec<String> = ours.iter().skip(3).map(|word| (*word).to_owned()).collect();
            let settings = config_check(&flags, &environment);
            assert_eq!(settings.json["errors"], json!([]), "{place}");
        }
        ["rbd-docker-plugin", ..] => {
            let parsed = rbd_docker_plugin::cli::parse(words.iter().map(Into::into));
            assert!(parsed.is_ok(), "{place}: {parsed:?}");
        }
        ["docker", "volume", "create", options @ ..] => {
            let given =
                options.windows(2).filter(|pair| pair[0] == "-o").filter_map(|pair| pair[1].split_once('='));
            let given: BTreeMap<_, _> =
                given.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            let parsed = Options::parse(&given);
            assert!(parsed.is_ok() && !given.is_empty(), "{place}: {parsed:?}");
        }
        ["docker", "run" | "stop" | "plugin", ..] | ["systemctl", ..] | ["rbd", "showmapped"] => {}
        _ => panic!("{place}: what is that?"),
    }
}

/// The old health check's exit status, without a cluster.
#[cfg(feature = "ceph")]
#[test]
fn check_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (none, conf, open, keyring) = (at("none"), at("conf"), at("open"), at("keyring"));
    let global = "[global]\nmon_host = 127.0.0.1:1\n";
    std::fs::write(&conf, format!("{global}keyring = {none}\n")).unwrap();
    std::fs::write(&open, format!("{global}auth_client_required = none\n")).unwrap();
    std::fs::write(&keyring, "[client.u]\nkey = AQBZz3VhAAAAABAAzTVoNJDhR1mBmZyVYgZGGQ==\n").unwrap();
    let check = |words: &[&str], environment: &[(&str, &str)]| {
        let mut command = program();
        // The request fails a quarter of it earlier: so long a busy machine may take beside it.
        command.args(["check", "--ceph-timeout", "8"]).args(words).envs(environment.iter().copied());
        answer(&mut command)
    };
    for (words, environment, status, part) in [
        (&["--config", &none][..], &[][..], 1, "ERROR ceph.conf cannot be read: open("),
        (&[], &[("CEPH_CONF", none.as_str())], 1, none.as_str()),
        (
            &["--config", &conf],
            &[("CEPH_CONF", none.as_str())],
            3,
            "ERROR no keyring holds the key of client.admin",
        ),
        (&["--config", &conf], &[("CEPH_USER", "u")], 3, "the key of client.u"),
        (&["--config", &conf, "--user", "v"], &[("CEPH_USER", "u")], 3, "the key of client.v"),
        (&[], &[("CEPH_CONF", &conf), ("CEPH_USER", "v"), ("CEPH_KEY", &keyring)], 3, keyring.as_str()),
        (&[], &[("CEPH_CONF", &conf), ("CEPH_USER", "u"), ("CEPH_KEY", &keyring)], 5, "no monitor"),
        (&["--config", &open], &[], 5, "no monitor of the Ceph cluster answered"),
        (&["--size", "3Q"], &[], 2, "size = \"3Q\""),
        (&["--backend", "sim"], &[], 2, "are for images in a Ceph cluster"),
    ] {
        let (code, out, err) = check(words, environment);
        assert_eq!(code, Some(status), "{words:?} {environment:?}: {out}{err}");
        if status == 2 {
            assert!(out.is_empty() && err.contains(part), "{words:?}: {out}{err}");
        } else {
            let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
            assert!(out.starts_with(&format!("rbd-docker-plugin: {host}: ERROR ")), "{out}");
            assert!(out.contains(part) && out.lines().count() == 1, "{words:?} {environment:?}: {out}");
        }
    }
}

fn answer(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn config_check_names_everything_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("conf");
    std::fs::write(&path, "creat=true\npool=a/b\nfs=ext4\n").unwrap();
    let path = path.display().to_string();
    let (code, out, _) =
        answer(program().args(["config", "check", "--size=3Q", "--backend=sim", "--conf-file", &path]));
    assert_eq!(code, Some(2), "{out}");
    for part in [
        format!("error: {path}:1: unknown key \"creat\"; did you mean create?"),
        format!("error: pool = \"a/b\" (from {path}:2): invalid pool name"),
        "error: size = \"3Q\" (from the flag --size): ".to_owned(),
        "0 warnings, 3 errors".to_owned(),
    ] {
        assert!(out.contains(&part), "{part}: {out}");
    }
    let line = out.lines().find(|line| line.starts_with("fs ")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["fs", "ext4", &format!("{path}:3")]);
}

#[cfg(feature = "ceph")]
#[test]
fn config_check_says_what_the_start_would_say() {
    let (code, out, _) = answer(program().args(["config", "check", "--config", "/nonexistent/c"]));
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains("/nonexistent/c") && out.contains("--config FILE"), "{out}");
    let (code, out, _) =
        answer(program().args(["config", "check", "--config", "/", "--features", "nonsense"]));
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains("feature \"nonsense\" is not known"), "{out}");
}

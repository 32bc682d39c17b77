//! What packages install beside the program: manual pages, completions, the configuration file.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use rbd_docker_plugin::cli::man;
use rbd_docker_plugin::config::keys::{CONF_FILE, KEYS};
use rbd_docker_plugin::config::{self, Config};

const PROGRAM: &str = env!("CARGO_BIN_EXE_rbd-docker-plugin");

fn printed(words: &[&str]) -> String {
    let output = Command::new(PROGRAM).args(words).env_clear().output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn is_here(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()));
    if !found {
        // Not by eprintln: what a test that passes prints is not shown.
        let _ = writeln!(std::io::stderr(), "skipped: there is no {program} on this machine");
    }
    found
}

#[test]
fn there_is_a_page_for_each_command() {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("man");
    assert_eq!(printed(&["man", into.to_str().unwrap()]), "");
    let mut missing = vec!["rbd-docker-plugin.8".to_owned(), "rbd-docker-plugin.conf.5".to_owned()];
    for command in
        rbd_docker_plugin::cli::command().get_subcommands().filter(|command| !command.is_hide_set())
    {
        missing.push(format!("rbd-docker-plugin-{}.8", command.get_name()));
        for below in command.get_subcommands() {
            missing.push(format!("rbd-docker-plugin-{}-{}.8", command.get_name(), below.get_name()));
        }
    }
    let pages = missing.len();
    missing.retain(|file| !into.join(file).is_file());
    assert_eq!(missing, Vec::<String>::new());
    assert_eq!(fs::read_dir(&into).unwrap().count(), pages, "a page of a hidden command");
    assert_eq!(printed(&["man"]), fs::read_to_string(into.join("rbd-docker-plugin.8")).unwrap());
    let lock = fs::read_to_string(into.join("rbd-docker-plugin-lock-break.8")).unwrap();
    for heading in
        ["SYNOPSIS", "DESCRIPTION", "OPTIONS", "SETTINGS", "ENVIRONMENT", "EXIT STATUS", "SEE ALSO"]
    {
        assert!(lock.contains(heading), "{heading}: {lock}");
    }
}

/// A page as plain text on wide lines.
fn shown(roff: &str) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("page");
    fs::write(&file, roff).unwrap();
    let groff = ["-man", "-Tutf8", "-P-cbou", "-rLL=200n", "-ww"];
    let output = is_here("groff").then(|| Command::new("groff").args(groff).arg(&file).output().unwrap())?;
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{roff}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn pages_are_sound_and_say_what_the_help_says() {
    for page in man::pages().unwrap() {
        let Some(text) = shown(&page.roff) else { return };
        assert!(text.contains("NAME") && text.contains("SEE ALSO"), "{}: {text}", page.file);
    }
    let text = shown(&man::main_page().unwrap().roff).unwrap();
    for part in
        ["--log-level", "SIGHUP", "EXIT STATUS", "RBD_DOCKER_PLUGIN_<FLAG>", "<plugins>/<name>.sock", "zz_"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn mandoc_finds_no_error_in_the_pages() {
    if !is_here("mandoc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for page in man::pages().unwrap() {
        let file = dir.path().join(&page.file);
        fs::write(&file, page.roff).unwrap();
        let output = Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn every_key_is_in_the_page_of_the_configuration_file() {
    let page = man::pages().unwrap().pop().unwrap();
    assert_eq!(page.file, "rbd-docker-plugin.conf.5");
    let escaped = |text: &str| text.replace('-', "\\-");
    for key in KEYS {
        let entry = if key.name == CONF_FILE {
            format!("\\-\\-{}", escaped(CONF_FILE))
        } else {
            format!("\\fB{}\\fR=\\fI{}\\fR", escaped(key.name), escaped(key.value))
        };
        assert!(page.roff.contains(&entry), "{entry}: {}", page.roff);
        if key.name != CONF_FILE && !key.default.is_empty() {
            assert!(page.roff.contains(&format!("Default: {}.", escaped(key.default))), "{}", key.name);
        }
    }
}

/// What bash offers for the last of the words.
fn offered(words: &[&str]) -> Vec<String> {
    let script = r#"
source /dev/stdin
compopt() { :; }
COMP_WORDS=(rbd-docker-plugin "$@")
COMP_CWORD=$#
spec=$(complete -p rbd-docker-plugin)
function=${spec##*-F }
"${function%% *}" rbd-docker-plugin "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}""#;
    let dir = tempfile::tempdir().unwrap();
    let completions = dir.path().join("completions");
    fs::write(&completions, printed(&["completions", "bash"])).unwrap();
    let output = Command::new("bash")
        .args(["--norc", "-c", script, "bash"])
        .args(words)
        .stdin(Stdio::from(fs::File::open(&completions).unwrap()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_values() {
    if !is_here("bash") {
        return;
    }
    for (words, expected) in [
        (&["lock", ""][..], &["ls", "break"][..]),
        (&["lo"], &["lock"]),
        (&["fence", "l"], &["ls"]),
        (&["--fs", ""], &["ext4", "xfs", "btrfs"]),
        (&["--remove", "re"], &["rename"]),
        (&["--create", ""], &["true", "false"]),
        (&["doctor", "--format", ""], &["text", "json"]),
        (&["doctor", "--log-level", "t"], &["trace"]),
        (&["lock", "break", "--for"], &["--force", "--format"]),
        (&["completions", ""], &["bash", "zsh", "fish"]),
    ] {
        let offered = offered(words);
        for word in expected {
            assert!(offered.iter().any(|one| one == word), "{words:?}: {word} is not in {offered:?}");
        }
        let stray = |one: &&String| !one.starts_with('-') && !expected.contains(&one.as_str());
        assert_eq!(offered.iter().find(stray), None, "{words:?}");
    }
}

#[test]
fn other_shells_read_their_completions() {
    for (shell, check) in [("zsh", "-n"), ("fish", "-n"), ("bash", "-n")] {
        let script = printed(&["completions", shell]);
        assert!(script.contains("log-level") && script.contains("warn"), "{shell}: {script}");
        if is_here(shell) {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("script");
            fs::write(&file, script).unwrap();
            let output = Command::new(shell).arg(check).arg(&file).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{shell}");
        }
    }
}

/// Words on lines of comment.
fn comment(text: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < 100 => *line += &format!(" {word}"),
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n")
}

/// The file as packages install it: every setting with its meaning and default, and the two that the old package had set.
fn conf() -> String {
    let head = "Settings of rbd-docker-plugin: key=value lines, as rbd-docker-plugin.conf(5) tells. What stands behind a # is the \
                default. `rbd-docker-plugin config check` says what is in force.";
    let mut parts = vec![comment(head)];
    let mut heading = None;
    for key in KEYS.iter().filter(|key| key.heading.is_some() && key.name != CONF_FILE) {
        if heading.replace(key.heading) != Some(key.heading) {
            parts.push(format!("## {}", key.heading.unwrap_or_default()));
        }
        let line = match key.name {
            "create" => "create=true".to_owned(),
            "plugins" => format!("plugins={}", key.default),
            name => format!("#{name}={}", key.default),
        };
        parts.push(format!("{}\n{line}", comment(key.help)));
    }
    parts.join("\n\n") + "\n"
}

#[test]
fn the_configuration_file_of_the_packages_is_that_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/rbd-docker-plugin.conf");
    let expected = conf();
    if std::env::var_os("UPDATE_CONF").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap();
    assert!(
        written == expected,
        "src/config/keys.rs says more: UPDATE_CONF=1 cargo test --test protocol writes {path:?} anew"
    );
    // What is in force is in force, and every commented line may be uncommented.
    let load = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conf");
        fs::write(&file, text).unwrap();
        let flags = [(CONF_FILE, file.to_str().unwrap().to_owned())].into_iter().collect();
        Config::load(&flags, &std::collections::BTreeMap::new()).unwrap()
    };
    let active = load(&written);
    assert!(active.create && active.plugins == Path::new("/run/docker/plugins"));
    let lines: Vec<_> = written
        .lines()
        .map(|line| line.strip_prefix('#').filter(|l| l.contains('=') && !l.starts_with(' ')).unwrap_or(line))
        .collect();
    let uncommented = lines.join("\n");
    let (all, wrong) = config::file::parse(&uncommented, &path);
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(all.len(), KEYS.iter().filter(|key| key.heading.is_some()).count() - 1);
    assert_eq!(load(&uncommented), active, "a line that is uncommented as it is changes nothing");
    for old in "cluster config create fs logdir mount name plugins pool remove size user".split(' ') {
        assert!(lines.iter().any(|line| line.starts_with(&format!("{old}="))), "{old}");
    }
}

//! The README names every flag, every option and every command there is; what the guide says to type can be typed.

use std::path::{Path, PathBuf};

use rbd_docker_plugin::config::keys::KEYS;

use crate::pages::{Step, steps};

const README: &str = include_str!("../../README.md");

#[test]
fn the_readme_names_every_flag() {
    for key in KEYS.iter().filter(|key| key.heading.is_some()) {
        let flag = format!("`--{}`", key.name);
        assert!(README.contains(&flag), "{flag} is not in the README");
    }
}

#[test]
fn the_readme_names_every_option() {
    for option in rbd_docker_plugin::model::create_options::VALID.split(">, ") {
        let (key, _) = option.split_once('=').unwrap();
        assert!(README.contains(&format!("`{key}=")), "{key} is not in the README");
    }
}

#[test]
fn the_readme_names_every_command() {
    let named = |command: &str| README.contains(&format!("| `rbd-docker-plugin {command}"));
    for command in
        rbd_docker_plugin::cli::command().get_subcommands().filter(|command| !command.is_hide_set())
    {
        let name = command.get_name();
        assert!(named(name), "{name} is not in the README");
        for below in command.get_subcommands() {
            assert!(
                named(&format!("{name} {}", below.get_name())),
                "{name} {} is not in the README",
                below.get_name()
            );
        }
    }
}

/// The pages below a folder.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    files.chain(folders.iter().flat_map(|folder| pages(folder))).collect()
}

/// The commands of all pages of the guide: page and line, host, command.
fn guide() -> Vec<(String, String, String)> {
    let all = pages(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs"));
    let commands = all.iter().flat_map(|page| {
        let text = std::fs::read_to_string(page).unwrap();
        steps(&text).into_iter().filter_map(|step| match step {
            Step::Command { host, command, line, .. } => {
                Some((format!("{}:{line}", page.display()), host, command))
            }
            _ => None,
        })
    });
    commands.collect()
}

#[test]
fn the_guide_names_commands_that_there_are() {
    let ours = |command: &str| command.strip_prefix("rbd-docker-plugin ").map(str::to_owned);
    let mut found = 0;
    for (place, _, command) in guide() {
        let Some(arguments) = ours(&command) else { continue };
        let words = shell_words::split(&arguments).unwrap();
        let words = std::iter::once("rbd-docker-plugin".to_owned()).chain(words).map(Into::into);
        if let Err(e) = rbd_docker_plugin::cli::parse(words) {
            panic!("{place}: {command}: {e}");
        }
        found += 1;
    }
    assert!(found > 5, "{found} commands only");
}

#[test]
fn the_page_of_the_managed_plugin_names_every_variable() {
    let page = include_str!("../../docs/managed-plugin.md");
    let config = rbd_docker_plugin::cmd::plugin_config::document();
    for variable in config["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap().replace("RBD_DOCKER_PLUGIN_", "`…_") + "`";
        assert!(page.contains(&name), "{name} is not in docs/managed-plugin.md");
    }
    for mount in config["mounts"].as_array().unwrap() {
        let source = mount["source"].as_str().unwrap();
        assert!(page.contains(source), "{source} is not in docs/managed-plugin.md");
    }
    for capability in config["linux"]["capabilities"].as_array().unwrap() {
        assert!(page.contains(capability.as_str().unwrap()), "{capability} is not in docs/managed-plugin.md");
    }
}

/// What is not run on a host of the guide is printed by a tool that makes what it is about, or is one of ours, or of the Makefile,
/// or is a literal of the cases that run the page of Compose and Swarm.
#[test]
fn no_command_of_the_guide_is_untried() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let printed: String =
        std::fs::read_dir(root.join("tools")).unwrap().map(|tool| read(tool.unwrap().path())).collect();
    let printed = printed.replace("$name", "ceph");
    let makefile = read(root.join("Makefile"));
    let run = read(root.join("tests/vm/guide.rs"));
    let composed = read(root.join("tests/docker/compose.rs")) + &read(root.join("tests/docker/swarm.rs"));
    for (place, host, command) in guide() {
        let page = place.rsplit_once("/docs/").unwrap().1.split(':').next().unwrap();
        let command = command.split(" #").next().unwrap().trim_end();
        let accounted = match host.as_str() {
            "" if page == "compose.md" => composed.contains(&format!("\"{command}\"")),
            "" => match command.split(' ').collect::<Vec<_>>()[..] {
                ["make", target, ..] => makefile.contains(&format!("\n{target}:")),
                ["rbd-docker-plugin", ..] => true,
                // Its options are looked at in `migration.rs`.
                ["docker", "volume", "create", ..] => true,
                _ => printed.contains(command),
            },
            "admin" | "host1" | "host2" => run.contains(&format!("\"{page}\"")),
            _ => false,
        };
        assert!(accounted, "{place}: {command}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let top = ["README.md", "DESIGN.md", "CONTRIBUTING.md", "SECURITY.md"];
    let pages = pages(&root.join("docs")).into_iter().chain(top.map(|page| root.join(page)));
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") {
                assert!(page.parent().unwrap().join(file).exists(), "{}: {link}", page.display());
            }
        }
    }
}

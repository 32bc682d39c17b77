//! The README names every flag, every option and every command there is.

use rbd_docker_plugin::config::keys::KEYS;

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
    for option in rbd_docker_plugin::driver::options::VALID.split(">, ") {
        let (key, _) = option.split_once('=').unwrap();
        assert!(README.contains(&format!("`{key}=")), "{key} is not in the README");
    }
}

#[test]
fn the_readme_names_every_command() {
    let named = |command: &str| README.contains(&format!("| `rbd-docker-plugin {command}"));
    for command in rbd_docker_plugin::cli::command().get_subcommands() {
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

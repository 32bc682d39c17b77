//! `plugin-config`: the `config.json` of the managed plugin, made from the table of settings, so that no setting is forgotten there.

use serde_json::{Value, json};

use crate::config::keys::{KEYS, Key};
use crate::model::error::Result;

/// The folder whose mounts the engine shows to containers. It is on the host and stays while the plugin is disabled or upgraded, so
/// what has to survive that is below it too.
const VOLUMES: &str = "/mnt/volumes";
/// Where the host's folder for the images of the local backend is.
const IMAGES: &str = "/srv";

/// What the container decides, by name and value.
const FIXED: [(&str, &str); 6] = [
    ("mount", VOLUMES),
    ("state", "/mnt/volumes/.state"),
    ("mount-ids", "/mnt/volumes/.state"),
    // On the host, where the commands are.
    ("admin", "/mnt/volumes/.state/admin"),
    ("conf-file", "none"),
    ("logdir", "-"),
];

/// What has a better default here than elsewhere.
const BETTER: [(&str, &str); 1] = [("local-dir", "/srv/rbd-images")];

/// What makes no sense here: the engine names the plugin and is the only one to use its socket; the log's level says all of it.
const LEFT_OUT: [&str; 4] = ["name", "plugins", "socket-group", "debug"];

/// What the plugin may do besides what every container may.
const CAPABILITIES: [&str; 3] = [
    // mount(2), loop devices, mapping.
    "CAP_SYS_ADMIN",
    // Whether a container still has a volume is in the mount tables of its processes.
    "CAP_SYS_PTRACE",
    // The kernel's own words on a mapping that failed.
    "CAP_SYSLOG",
];

/// Prints it.
pub fn run() -> Result<()> {
    let text = serde_json::to_string_pretty(&document()).unwrap_or_default();
    super::output::write(&(text + "\n"))
}

/// The document itself.
pub fn document() -> Value {
    json!({
        "description": "Docker volumes in Ceph (RBD)",
        "documentation": "https://docs.docker.com/engine/extend/",
        "entrypoint": ["/usr/bin/rbd-docker-plugin"],
        "workdir": "/",
        "interface": { "types": ["docker.volumedriver/1.0"], "socket": "rbd.sock" },
        "network": { "type": "host" },
        "pidhost": true,
        "ipchost": false,
        "propagatedMount": VOLUMES,
        "linux": { "capabilities": CAPABILITIES, "allowAllDevices": true, "devices": [] },
        "mounts": [
            mount("dev", "/dev", "/dev", "rw", false),
            mount("sys", "/sys", "/sys", "rw", false),
            mount("etc", "/etc", "/host/etc", "ro", true),
            mount("images", "/srv", IMAGES, "rw", true),
        ],
        "env": KEYS.iter().filter_map(variable).collect::<Vec<_>>(),
        "args": { "name": "args", "description": "", "settable": [], "value": [] },
    })
}

/// Private: what the engine mounts over a part of it must not reach the host.
fn mount(name: &str, source: &str, destination: &str, mode: &str, settable: bool) -> Value {
    let settable: &[&str] = if settable { &["source"] } else { &[] };
    json!({
        "name": name, "source": source, "destination": destination, "type": "bind",
        "options": ["bind", mode, "rprivate"], "settable": settable,
    })
}

fn variable(key: &Key) -> Option<Value> {
    let of = |list: &[(&'static str, &'static str)]| {
        list.iter().find(|(name, _)| *name == key.name).map(|(_, value)| *value)
    };
    if let Some(value) = of(&FIXED) {
        return Some(json!({ "name": key.variable(), "description": key.help, "value": value }));
    }
    if key.heading.is_none() || LEFT_OUT.contains(&key.name) {
        return None;
    }
    Some(json!({
        "name": key.variable(), "description": format!("{} ({})", key.help, key.value), "settable": ["value"],
        "value": of(&BETTER).unwrap_or(key.default),
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Config;
    use crate::config::keys::CONF_FILE;

    fn environment() -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let document = document();
        let variables = document["env"].as_array().unwrap();
        variables.iter().map(|variable| (text(&variable["name"]), text(&variable["value"]))).collect()
    }

    #[test]
    fn every_setting_is_settable_or_decided_or_left_out() {
        let document = document();
        let variables = document["env"].as_array().unwrap();
        for key in KEYS {
            let found = variables.iter().find(|variable| variable["name"] == key.variable().as_str());
            let decided = FIXED.iter().any(|(name, _)| *name == key.name);
            let left_out = key.heading.is_none() || LEFT_OUT.contains(&key.name);
            assert_eq!(found.is_none(), left_out, "{}", key.name);
            assert_eq!(
                found.is_some_and(|v| v["settable"][0] == "value"),
                !decided && !left_out,
                "{}",
                key.name
            );
        }
        let names = FIXED.iter().chain(&BETTER).map(|(name, _)| *name).chain(LEFT_OUT);
        for name in names {
            assert!(KEYS.iter().any(|key| key.name == name), "there is no setting {name} any more");
        }
        assert!(environment().contains_key("RBD_DOCKER_PLUGIN_TAKEOVER"));
    }

    #[test]
    fn it_holds_as_it_is() {
        let config = Config::load(&BTreeMap::new(), &environment()).unwrap();
        assert_eq!(config.warnings, Vec::<String>::new());
        assert!(config.mount_ids.starts_with(&config.mount) && config.state.starts_with(&config.mount));
        let document = document();
        let socket = document["interface"]["socket"].as_str().unwrap();
        assert_eq!(socket, format!("{}.sock", config.name));
        assert_eq!(config.plugins.to_str(), Some("/run/docker/plugins"), "where the engine looks");
        assert_eq!(document["propagatedMount"].as_str(), config.mount.to_str());
        assert_eq!(environment()[&crate::config::keys::find(CONF_FILE).unwrap().variable()], "none");
    }

    #[test]
    fn no_mount_spreads_to_the_host() {
        for mount in document()["mounts"].as_array().unwrap() {
            let options = mount["options"].as_array().unwrap();
            assert!(options.contains(&json!("rprivate")), "{mount}");
            assert!(!options.contains(&json!("rbind")), "{mount}");
        }
    }
}

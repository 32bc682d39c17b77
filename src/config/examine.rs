//! Examines all settings at once: the value of each, where it comes from, and everything that is wrong.

use std::collections::BTreeMap;

use super::keys::KEYS;
use super::layers::{Layers, Value};
use super::{Config, values};
use crate::model::error::DriverError;

/// See the module.
#[derive(Debug)]
pub struct Examined {
    /// One for each setting, in the order of the help; in the form in which it counts, when all are right.
    pub values: Vec<Value>,
    /// Deprecated spellings that were accepted.
    pub warnings: Vec<String>,
    /// The errors.
    pub errors: Vec<DriverError>,
    /// The settings, when nothing is wrong.
    pub config: Option<Config>,
}

/// Examines them. `flags` are by the names of the table.
pub fn examine(flags: &BTreeMap<&'static str, String>, environment: &BTreeMap<String, String>) -> Examined {
    let said = Layers::gather(flags, environment);
    let mut errors = said.errors().to_vec();
    let mut tried = said.clone();
    // Each rejected value is reset to its default, and all are checked again: that shows the next error.
    let config = loop {
        match Config::try_from_layers(&tried) {
            Ok(config) => break Some(config),
            Err(refused) => {
                errors.push(refused.error);
                if !tried.reset(refused.key) {
                    break None;
                }
            }
        }
    };
    let warnings = config.as_ref().map_or_else(|| said.warnings().to_vec(), |config| config.warnings.clone());
    let config = config.filter(|_| errors.is_empty());
    let shown = KEYS.iter().filter(|key| key.heading.is_some()).filter_map(|key| {
        let value = said.get(key.name).ok()?.clone();
        let counts = config.as_ref().and_then(|config| config.shown(key.name));
        let switched = || key.switch.then(|| values::boolean(&value.text).ok()).flatten();
        let text = counts.or_else(|| Some(switched()?.to_string())).unwrap_or_else(|| value.text.clone());
        Some(Value { text, ..value })
    });
    Examined { values: shown.collect(), warnings, errors, config }
}

impl Config {
    /// Those settings that count in another form than the one in which they are written.
    fn shown(&self, key: &str) -> Option<String> {
        Some(match key {
            "remove" => self.remove.to_string(),
            "size" => self.size.to_string(),
            "user" => self.ceph.user.clone(),
            "pools" => self.ceph.pools.join(","),
            "object-size" => self.ceph.object_size?.to_string(),
            "config" => self.ceph.conf.display().to_string(),
            "plugins" => self.plugins.display().to_string(),
            "mount" => self.mount.display().to_string(),
            "state" => self.state.display().to_string(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::layers::Origin;
    use super::*;

    fn examined(flags: &[(&'static str, &str)]) -> Examined {
        let flags = flags.iter().map(|&(key, value)| (key, value.to_owned()));
        examine(&flags.chain([("conf-file", "none".to_owned())]).collect(), &BTreeMap::new())
    }

    #[test]
    fn every_wrong_value_is_told() {
        let all =
            examined(&[("size", "3Q"), ("fs", "zfs"), ("pool", "a/b"), ("backend", "local"), ("user", "u")]);
        let told: Vec<&str> =
            all.errors.iter().map(|e| e.message.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(all.errors.len(), 4, "{told:?}");
        for key in ["size", "fs", "pool", "backend"] {
            assert!(told.contains(&key), "{key}: {told:?}");
        }
        assert!(all.config.is_none());
        let value = |name: &str| all.values.iter().find(|value| value.key == name).unwrap();
        assert_eq!((value("size").text.as_str(), &value("size").origin), ("3Q", &Origin::Flag("size")));
    }

    #[test]
    fn values_are_shown_as_they_count() {
        let all = examined(&[("remove", "true"), ("size", "1024"), ("user", "client.x"), ("mount", "/m")]);
        let of = |name: &str| all.values.iter().find(|value| value.key == name).unwrap().text.as_str();
        assert_eq!([of("remove"), of("size"), of("user"), of("state")], ["delete", "1G", "x", "/m/.state"]);
        assert_eq!((all.errors.len(), all.warnings.len()), (0, 1));
        assert!(all.config.is_some() && all.values.iter().all(|value| value.key != "go-ceph"));
    }
}

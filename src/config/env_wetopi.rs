//! The environment of wetopi/docker-volume-rbd 4.1, which is set with `docker plugin set`.
//!
//! Names such as `VOLUME_SIZE` and `LOG_LEVEL` may be anybody's: they count only beside a variable that begins with `RBD_CONF_`.

use std::collections::BTreeMap;

use super::keys::{self, Key};
use crate::model::create_options::objects_of;
use crate::model::error::{DriverError, ErrorKind};

/// What begins so is theirs.
const PREFIX: &str = "RBD_CONF_";

type Translate = fn(&str) -> Result<String, String>;

/// Their variables, our keys, and how to say the value.
const TWINS: &[(&str, &str, Translate)] = &[
    ("RBD_CONF_POOL", "pool", same),
    ("RBD_CONF_CLUSTER", "cluster", same),
    ("RBD_CONF_KEYRING_USER", "user", user),
    ("RBD_CONF_NAMESPACE", "namespace", same),
    ("MOUNT_OPTIONS", "mount-options", mount_options),
    ("VOLUME_FSTYPE", "fs", same),
    ("VOLUME_MKFS_OPTIONS", "mkfs-options", same),
    ("VOLUME_SIZE", "size", same),
    ("VOLUME_ORDER", "object-size", order),
    ("LOG_LEVEL", "log-level", log_level),
];

/// Has no meaning here: the device is found in sysfs.
const DEVICE_ROOT: &str = "RBD_CONF_DEVICE_MAP_ROOT";

/// What one of their variables says, in our words.
#[derive(Debug)]
pub(super) struct Twin {
    pub(super) variable: &'static str,
    pub(super) key: &'static Key,
    pub(super) text: String,
}

/// What their environment says.
#[derive(Debug, Default)]
pub(super) struct Theirs {
    pub(super) twins: Vec<Twin>,
    pub(super) warnings: Vec<String>,
    pub(super) errors: Vec<DriverError>,
}

/// Whether a variable may be theirs.
pub(super) fn is_theirs(variable: &str) -> bool {
    variable.starts_with(PREFIX) || TWINS.iter().any(|(name, ..)| *name == variable)
}

/// Reads their environment, if it is theirs.
pub(super) fn read(environment: &BTreeMap<String, String>) -> Theirs {
    let mut theirs = Theirs::default();
    if !environment.keys().any(|variable| variable.starts_with(PREFIX)) {
        return theirs;
    }
    for (variable, key, translate) in TWINS {
        let (Some(text), Some(key)) = (environment.get(*variable), keys::find(key)) else { continue };
        let text = text.trim();
        match translate(text) {
            _ if text.is_empty() => {}
            Ok(text) => theirs.twins.push(Twin { variable, key, text }),
            Err(why) => theirs.errors.push(
                DriverError::new(
                    ErrorKind::Config,
                    format!("{variable} = {text:?} (from the environment): {why}"),
                )
                .hint(format!(
                    "leave it out, and set {} or {} in the configuration file",
                    key.variable(),
                    key.name
                )),
            ),
        }
    }
    for (variable, text) in environment.iter().filter(|(variable, _)| variable.starts_with(PREFIX)) {
        if variable == DEVICE_ROOT && !text.is_empty() {
            theirs.warnings.push(format!(
                "{DEVICE_ROOT} has no meaning any more and is ignored: devices are found in sysfs"
            ));
        } else if variable != DEVICE_ROOT && !TWINS.iter().any(|(name, ..)| name == variable) {
            theirs.warnings.push(format!("unknown environment variable {variable}"));
        }
    }
    theirs
}

fn same(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn user(text: &str) -> Result<String, String> {
    Ok(text.strip_prefix("client.").unwrap_or(text).to_owned())
}

/// From the arguments of mount(8) to a list of options.
fn mount_options(text: &str) -> Result<String, String> {
    let words = shell_words::split(text).map_err(|e| e.to_string())?;
    let mut words = words.iter().map(String::as_str);
    let mut lists = Vec::new();
    while let Some(word) = words.next() {
        let list = match word {
            "-o" | "--options" => words.next(),
            _ => word.strip_prefix("--options=").or_else(|| word.strip_prefix("-o")),
        };
        let list = list
            .ok_or_else(|| format!("{word:?} is no mount option: accepted is --options=noatime,discard"))?;
        lists.push(list.to_owned());
    }
    Ok(lists.join(","))
}

fn order(text: &str) -> Result<String, String> {
    objects_of(text).map_err(|e| e.message)
}

fn log_level(text: &str) -> Result<String, String> {
    let level = match text {
        "0" => "error",
        "1" => "warn",
        "2" => "info",
        "3" => "debug",
        _ => return Err("accepted are 0 to 3".to_owned()),
    };
    Ok(level.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(variable, text)| ((*variable).to_owned(), (*text).to_owned())).collect()
    }

    fn said(pairs: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        let theirs = read(&environment(pairs));
        assert!(theirs.errors.is_empty(), "{:?}", theirs.errors);
        theirs.twins.into_iter().map(|twin| (twin.key.name, twin.text)).collect()
    }

    #[test]
    fn each_variable_in_our_words() {
        let pool = ("RBD_CONF_POOL", "ssd");
        for (variable, text, key, ours) in [
            ("RBD_CONF_CLUSTER", "ceph", "cluster", "ceph"),
            ("RBD_CONF_KEYRING_USER", "client.admin", "user", "admin"),
            ("RBD_CONF_KEYRING_USER", "docker", "user", "docker"),
            ("RBD_CONF_NAMESPACE", "tenant", "namespace", "tenant"),
            ("MOUNT_OPTIONS", "--options=noatime", "mount-options", "noatime"),
            (
                "MOUNT_OPTIONS",
                "-o noatime --options discard -onodev",
                "mount-options",
                "noatime,discard,nodev",
            ),
            ("VOLUME_FSTYPE", "ext4", "fs", "ext4"),
            ("VOLUME_MKFS_OPTIONS", "-O mmp", "mkfs-options", "-O mmp"),
            ("VOLUME_SIZE", "512", "size", "512"),
            ("VOLUME_ORDER", "22", "object-size", "4194304"),
            ("LOG_LEVEL", "3", "log-level", "debug"),
        ] {
            assert_eq!(
                said(&[pool, (variable, text)]).last(),
                Some(&(key, ours.to_owned())),
                "{variable}={text}"
            );
        }
    }

    #[test]
    fn they_mean_nothing_without_one_that_is_theirs_alone() {
        let strays = [("VOLUME_SIZE", "many"), ("LOG_LEVEL", "verbose"), ("MOUNT_OPTIONS", "x")];
        let theirs = read(&environment(&strays));
        assert!(theirs.twins.is_empty() && theirs.errors.is_empty() && theirs.warnings.is_empty());
        let beside: Vec<_> = strays.into_iter().chain([("RBD_CONF_NAMESPACE", "")]).collect();
        assert_eq!(read(&environment(&beside)).errors.len(), 2);
        assert!(is_theirs("LOG_LEVEL") && is_theirs("RBD_CONF_X") && !is_theirs("POOL"));
    }

    #[test]
    fn what_cannot_be_said_is_an_error_that_names_our_setting() {
        for (variable, text, why) in [
            ("MOUNT_OPTIONS", "--verbose", "\"--verbose\" is no mount option"),
            ("MOUNT_OPTIONS", "-o", "\"-o\" is no mount option"),
            ("VOLUME_ORDER", "40", "not an order from 12 to 25"),
            ("LOG_LEVEL", "4", "accepted are 0 to 3"),
        ] {
            let theirs = read(&environment(&[("RBD_CONF_POOL", "p"), (variable, text)]));
            let said = theirs.errors[0].to_string();
            assert!(
                said.contains(variable) && said.contains(why) && said.contains("RBD_DOCKER_PLUGIN_"),
                "{said}"
            );
        }
    }

    #[test]
    fn where_devices_are_is_not_asked() {
        let theirs =
            read(&environment(&[("RBD_CONF_DEVICE_MAP_ROOT", "/dev/rbd"), ("RBD_CONF_COLOUR", "red")]));
        assert_eq!(theirs.warnings.len(), 2);
        assert!(
            theirs.warnings[1].contains("is ignored") && theirs.warnings[0].contains("unknown"),
            "{:?}",
            theirs.warnings
        );
    }
}

//! `check`: whether volumes are available, as one line and an exit status, for Nagios and similar monitors.
//!
//! It takes the place of the script check-ceph-rbd-docker-plugin.sh of rbd-docker-plugin 2.0.1, with its exit status and its variables.

use std::collections::BTreeMap;

use super::{cluster, output};
use crate::config::layers::{Layers, Origin};
use crate::config::{self, Config};
use crate::doctor::brief::{self, Brief, Wrong};
use crate::model::error::Result;

/// What the old script was told, where the settings say nothing.
const VARIABLES: [(&str, &str); 3] =
    [("CEPH_CONF", "config"), ("CEPH_USER", "user"), ("CEPH_KEY", "keyring")];

/// Examines the cluster and prints the line.
pub(super) fn run(flags: &BTreeMap<&'static str, String>) -> Result<u8> {
    let mut said = Layers::gather(flags, &config::environment()?);
    for (variable, key) in VARIABLES {
        if let Some(text) = std::env::var_os(variable).and_then(|text| text.into_string().ok()) {
            said.fall_back(key, &text, Origin::Variable(variable.to_owned()));
        }
    }
    let config = Config::from_layers(&said)?;
    cluster::expect(&config)?;
    output::log_if_told(&config)?;
    let Brief { host, found } = brief::look(config)?;
    let (line, status) = match found {
        Ok(found) => (format!("OK {found}"), 0),
        Err((wrong, found)) => (format!("ERROR {found}"), status(wrong)),
    };
    output::write(&format!("rbd-docker-plugin: {host}: {line}\n"))?;
    Ok(status)
}

/// As the old script has it.
fn status(wrong: Wrong) -> u8 {
    match wrong {
        Wrong::Conf => 1,
        Wrong::Key => 3,
        Wrong::Cluster => 5,
    }
}

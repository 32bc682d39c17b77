//! `check`: whether volumes can be had, as one line and an exit status, for Nagios and its like.
//!
//! It takes the place of the script check-ceph-rbd-docker-plugin.sh of rbd-docker-plugin 2.0.1, with its exit status and its variables.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

use super::doctor::within;
use super::output;
use super::{cluster, explain};
use crate::backend::rbd::admin::Admin;
use crate::backend::rbd::caps;
use crate::backend::rbd::inspect::{self, KeyPlace};
use crate::config::layers::{Layers, Origin};
use crate::config::{self, Config};
use crate::linux::boot;
use crate::model::error::{CallError, DriverError, ErrorKind, OrCall, Result};
use crate::model::text::count;

/// What the old script was told, where the settings say nothing.
const VARIABLES: [(&str, &str); 3] =
    [("CEPH_CONF", "config"), ("CEPH_USER", "user"), ("CEPH_KEY", "keyring")];

/// How much sooner than all of it one request has to be done.
const SOONER: Duration = Duration::from_secs(1);

/// What is wrong, as the exit status says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Conf = 1,
    Key = 3,
    Cluster = 5,
}

/// Looks and tells.
pub(super) fn run(flags: &BTreeMap<&'static str, String>) -> Result<u8> {
    let mut said = Layers::gather(flags, &config::environment()?);
    for (variable, key) in VARIABLES {
        if let Some(text) = std::env::var_os(variable).and_then(|text| text.into_string().ok()) {
            said.fall_back(key, &text, Origin::Variable(variable.to_owned()));
        }
    }
    let mut config = Config::settle(&said)?;
    cluster::expect(&config)?;
    explain(&config)?;
    let limit = config.ceph.timeout;
    // A request that fails in time says why.
    config.ceph.timeout = limit.saturating_sub(SOONER).max(SOONER);
    let found = within(limit, move || look(&config)).unwrap_or_else(|| {
        let found = format!("the cluster does not answer within {} s", limit.as_secs());
        Err((Wrong::Cluster, found))
    });
    let host = boot::hostname()?;
    let (line, status) = match found {
        Ok(found) => (format!("OK {found}"), 0),
        Err((wrong, found)) => (format!("ERROR {found}"), wrong as u8),
    };
    output::write(&format!("rbd-docker-plugin: {host}: {line}\n"))?;
    Ok(status)
}

fn look(config: &Config) -> Result<String, (Wrong, String)> {
    let wrong = |wrong: Wrong| move |e: DriverError| (wrong, e.to_string());
    let conf = &config.ceph.conf;
    File::open(conf).or_call("open", conf.display()).map_err(|e| {
        let error = DriverError::new(ErrorKind::Config, "ceph.conf cannot be read").caused_by(e);
        (Wrong::Conf, error.hint("--config FILE or CEPH_CONF says where it is").to_string())
    })?;
    let key = inspect::key_place(&config.ceph).map_err(|e| {
        let unread = e.source.as_ref().is_some_and(|call| call.call == "rados_conf_read_file");
        wrong(if unread { Wrong::Conf } else { Wrong::Key })(e)
    })?;
    let denied = |e: CallError, pool: &str| caps::explain(&config.ceph, DriverError::from(e)).context(pool);
    let list = || -> Result<String> {
        let admin = Admin::connect(&config.ceph)?;
        let mut found = Vec::new();
        for pool in &config.ceph.pools {
            let namespace = config.ceph.namespace.as_deref().filter(|_| *pool == config.pool);
            let images = admin.open(pool, namespace)?.images().map_err(|e| denied(e, pool))?;
            found.push(format!("{pool}: {}", count(images.len(), "image")));
        }
        Ok(format!("client.{}, {}", config.ceph.user, found.join(", ")))
    };
    list().map_err(|e| match key {
        // Without a key there is a way in only where the cluster asks for none.
        KeyPlace::Missing(why) => wrong(Wrong::Key)(why),
        _ => wrong(Wrong::Cluster)(e),
    })
}

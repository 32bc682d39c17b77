//! Whether volumes are available, in one line.

use std::fs::File;
use std::time::Duration;

use super::step::within;
use crate::backend::rbd::admin::Admin;
use crate::backend::rbd::caps;
use crate::backend::rbd::conf_and_key::{self, KeyPlace};
use crate::config::Config;
use crate::linux::boot;
use crate::model::error::{CallError, DriverError, ErrorKind, OrCall, Result};
use crate::model::text::count;

/// How much sooner than all of it one request has to be done.
const SOONER: Duration = Duration::from_secs(1);

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// The ceph.conf.
    Conf,
    /// The user's key.
    Key,
    /// The cluster, or what it lets the user do.
    Cluster,
}

/// The state of the cluster as seen from this host.
#[derive(Debug)]
pub struct Brief {
    /// The name of this host.
    pub host: String,
    /// The images that are available, or why none is.
    pub found: Result<String, (Wrong, String)>,
}

/// Looks at the cluster of these settings, no longer than one request may take.
pub fn look(mut config: Config) -> Result<Brief> {
    let limit = config.ceph.timeout;
    // A request that fails in time says why.
    config.ceph.timeout = limit.saturating_sub((limit / 4).max(SOONER)).max(SOONER);
    let found = within(limit, move || images(&config)).unwrap_or_else(|| {
        let found = format!("the cluster does not answer within {} s", limit.as_secs());
        Err((Wrong::Cluster, found))
    });
    Ok(Brief { host: boot::hostname()?, found })
}

fn images(config: &Config) -> Result<String, (Wrong, String)> {
    let wrong = |wrong: Wrong| move |e: DriverError| (wrong, e.to_string());
    let conf = &config.ceph.conf;
    File::open(conf).or_call("open", conf.display()).map_err(|e| {
        let error = DriverError::new(ErrorKind::Config, "ceph.conf cannot be read").caused_by(e);
        (Wrong::Conf, error.hint("--config FILE or CEPH_CONF says where it is").to_string())
    })?;
    let key = conf_and_key::key_place(&config.ceph).map_err(|e| {
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

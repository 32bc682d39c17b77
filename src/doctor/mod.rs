//! Looks at everything that volumes need, and says what is wrong and what mends it: the answer of `doctor`, and in one line of `check`.
//!
//! It goes from what everything rests on to what rests on it: settings, cluster, pools, images, the kernel, leftovers, this host's
//! folders, Docker. A step runs on a thread of its own and is given up when it takes too long, so nothing hangs it; what cannot be known
//! because something before it failed is left out. It changes nothing.

#[cfg(feature = "ceph")]
pub mod brief;
#[cfg(feature = "ceph")]
mod cluster;
mod docker;
mod engines;
pub mod finding;
mod folder;
mod host;
#[cfg(feature = "ceph")]
mod kernel;
#[cfg(feature = "ceph")]
mod leftovers;
#[cfg(feature = "ceph")]
mod pools;
mod step;

use std::sync::Arc;

use crate::config::{Backend, Config};
use crate::model::error::{DriverError, Result};
use finding::{Finding, Report};
use step::{LOCAL_LIMIT, geteuid, timed_out, within};

/// Settings that cannot be read at all.
pub fn wrong_settings(e: &DriverError) -> Finding {
    let hint = || "rbd-docker-plugin --help lists what is accepted".to_owned();
    Finding::fail("settings", finding::without_hint(e), e.hint.clone().unwrap_or_else(hint))
}

/// Looks at everything.
pub fn examine(config: &Arc<Config>, report: &mut Report<'_>) -> Result<()> {
    report.add(settings(config))?;
    if geteuid() != 0 {
        let fix = "sudo rbd-docker-plugin doctor";
        report.add([Finding::warn("user", "not root: what only root may see is not known", fix)])?;
    }
    match &config.backend {
        #[cfg(feature = "ceph")]
        Backend::Rbd => {
            let admin = cluster::examine(config, report)?;
            step(config, report, "kernel", kernel::examine)?;
            if let Some(admin) = admin {
                leftovers::examine(config, &admin, report)?;
                // Closing a connection may wait, too; this process ends in any case.
                within(LOCAL_LIMIT, move || drop(admin));
            }
        }
        #[cfg(not(feature = "ceph"))]
        Backend::Rbd => {
            let fix = "build it with the feature ceph, or use --backend local";
            report.add([Finding::fail("backend", "this build has no Ceph support", fix)])?;
        }
        Backend::Local(_) | Backend::Sim => {}
    }
    step(config, report, "host", host::examine)?;
    step(config, report, "docker", docker::examine)?;
    step(config, report, "engines", engines::examine)
}

fn settings(config: &Config) -> Vec<Finding> {
    let found = match &config.backend {
        Backend::Rbd => {
            format!("backend rbd, user client.{}, pools {}", config.ceph.user, config.ceph.pools.join(", "))
        }
        Backend::Local(dir) => format!("backend local, images in {}", dir.display()),
        Backend::Sim => "backend sim, images in memory: for developing clients, nothing is kept".to_owned(),
    };
    let mut findings = vec![Finding::ok("settings", found)];
    #[cfg(feature = "ceph")]
    if config.backend == Backend::Rbd
        && let Err(e) = crate::backend::rbd::RbdBackend::check_words(&config.ceph)
    {
        let fix = e.hint.clone().unwrap_or_else(|| "see --features and --map-options".to_owned());
        findings = vec![Finding::fail("settings", finding::without_hint(&e), fix)];
    }
    let deprecated = |warning: &String| {
        Finding::warn(
            "settings",
            warning.clone(),
            "change it where it is set; rbd-docker-plugin --help lists what there is",
        )
    };
    findings.extend(config.warnings.iter().map(deprecated));
    findings
}

/// One step on this host.
fn step(
    config: &Arc<Config>,
    report: &mut Report<'_>,
    check: &'static str,
    look: fn(&Config) -> Vec<Finding>,
) -> Result<()> {
    let config = Arc::clone(config);
    report.add(
        within(LOCAL_LIMIT, move || look(&config)).unwrap_or_else(|| vec![timed_out(check, LOCAL_LIMIT)]),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::finding::Status;
    use super::*;

    #[test]
    fn what_is_late_has_failed() {
        assert_eq!(timed_out("x", LOCAL_LIMIT).status, Status::Fail);
    }

    #[test]
    fn the_settings_are_told_with_what_is_odd_about_them() {
        let load = |flags: &[(&'static str, &str)]| {
            let flags = flags.iter().map(|&(key, value)| (key, value.to_owned()));
            let flags = flags.chain([("conf-file", "none".to_owned())]).collect();
            settings(&Config::load(&flags, &BTreeMap::new()).unwrap())
        };
        assert_eq!(
            load(&[("pools", "ssd"), ("user", "u")])[0].found,
            "backend rbd, user client.u, pools rbd, ssd"
        );
        let odd = load(&[("remove", "true"), ("backend", "sim")]);
        assert_eq!(odd.iter().map(|f| f.status).collect::<Vec<_>>(), [Status::Ok, Status::Warn]);
        #[cfg(feature = "ceph")]
        assert_eq!(load(&[("features", "nonsense")])[0].status, Status::Fail);
    }
}

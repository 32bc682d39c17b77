//! What `doctor` asks of a cluster: it changes nothing but an object of its own, and waits for nothing longer than one request may take.

use std::time::Instant;

use nix::errno::Errno;
use serde::Deserialize;
use serde_json::json;

use super::admin::Admin;
use super::options::{DEFAULTS, with_defaults};
use super::places::{self, Configured};
use super::session::place;
use super::{caps, header, kinds, map, osdmap, secret};
use crate::ceph::{Locker, Swap, features};
use crate::model::error::{CallError, DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;

pub use super::monitors::{Added, Monitor};

/// The object that [`Admin::may_use`] writes, reads and removes.
const PROBE: &str = "rbd_docker_plugin.doctor";
/// How long its lock would last if nobody removed it.
const PROBE_LASTS: std::time::Duration = std::time::Duration::from_secs(5);
/// No host has this name, so no monitor takes it for an address; but it has the form that `profile rbd` asks for.
const NO_ADDRESS: &str = "rbd-docker-plugin-doctor/1";

/// What the cluster says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// `HEALTH_OK`, `HEALTH_WARN` or `HEALTH_ERR`.
    pub status: String,
    /// What is wrong, one line each.
    pub reasons: Vec<String>,
}

/// What was seen of the images of some pools.
#[derive(Debug, Default)]
pub struct Images {
    /// How many there are.
    pub count: usize,
    /// How many of them were looked at: there may be too many for the time.
    pub looked: usize,
    /// Those with features that the kernel lacks, the names of these, and what would help.
    pub lacking: Vec<(ImageSpec, String, String)>,
    /// Those with an advisory lock that bears the host's name.
    pub locked: Vec<(ImageSpec, Locker)>,
    /// Those that cannot be read, or cannot be used as they are.
    pub damaged: Vec<DriverError>,
    /// Those that are no volumes, as `rbd` names them, and why.
    pub no_volumes: Vec<(String, String)>,
}

impl Admin {
    /// The monitors, from the monmap.
    pub fn monitors(&self) -> Vec<Monitor> {
        self.session.monitors().all().to_vec()
    }

    /// How the kernel is to speak to the monitors in a mapping with these options.
    pub fn kernel_link(&self, map_options: Option<&str>) -> Result<KernelLink> {
        let conf = |key: &str| self.cluster().conf(key).unwrap_or_default();
        let defaults = conf(DEFAULTS);
        let words = with_defaults(map_options.unwrap_or_default(), &defaults)?;
        let monitors = self.session.monitors();
        let (addresses, added) = monitors.for_options(&words, &conf("ms_client_mode"));
        let msgr2 = added.is_some() || wants_msgr2(&words);
        Ok(KernelLink { addresses: addresses.to_vec(), added, msgr2, defaults })
    }

    /// Why kernel clients may hang or fail on this cluster; nothing when all is well.
    pub fn beyond_kernels(&self) -> Result<Option<String>> {
        osdmap::beyond_kernels(self.cluster())
    }

    /// How the cluster is.
    pub fn health(&self) -> Result<Health> {
        parse_health(&self.cluster().mon_command(&json!({"prefix": "health", "format": "json"}))?)
    }

    /// What a pool is marked for: `rbd`, `cephfs`, …
    pub fn applications(&self, pool: &str) -> Result<Vec<String>> {
        let ask = json!({"prefix": "osd pool application get", "pool": pool, "format": "json"});
        let answer = self.cluster().mon_command(&ask).map_err(|e| caps::explain(&self.options, e.into()))?;
        let found: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&answer).map_err(|e| {
                let message =
                    format!("what the monitors say of the applications of {pool} is not understood: {e}");
                DriverError::new(ErrorKind::Failed, message)
            })?;
        Ok(found.into_iter().map(|(application, _)| application).collect())
    }

    /// An error when the namespace that is configured for a pool is not there.
    pub fn require_namespace(&self, pool: &str) -> Result<()> {
        let required = self.open(pool, self.namespace_of(pool)).and_then(|io| places::require_namespace(&io));
        required.map_err(|e| caps::explain(&self.options, e))
    }

    /// The namespace that is configured for a pool.
    pub fn namespace_of(&self, pool: &str) -> Option<&str> {
        Configured::new(&self.options).namespace_of(pool)
    }

    /// Whether this user may write and read in a pool, or in the namespace that is configured for it, call methods there and list images: all on an object of our own, which is
    /// removed again, with the same operations that owner records and heartbeats need. The error names the operation.
    pub fn may_use(&self, pool: &str) -> Result<()> {
        let io = self.open(pool, self.namespace_of(pool))?;
        let done = || -> Result<(), CallError> {
            io.omap_swap(PROBE, &[Swap { key: "probe", expected: None, new: Some(b"probe") }])?;
            match io.omap_get(PROBE, &["probe"]) {
                // Another doctor has just removed it.
                Err(e) if e.errno == Errno::ENOENT => {}
                read => drop(read?),
            }
            io.lock_shared(PROBE, "probe", "doctor", "doctor", "", PROBE_LASTS)?;
            io.images().map(drop)
        };
        let done = done();
        let removed = io.remove_object(PROBE);
        done.and(removed).map_err(|e| caps::explain(&self.options, e.into()))
    }

    /// Whether this user may shut others out. A client may not read its own capabilities (`auth get` is denied under `profile rbd`),
    /// and a short fence of some address would still make a new map for every OSD. So the monitors are asked to fence what is no
    /// address: they look at the capability first (EACCES) and at the address only then (EINVAL), and change nothing.
    pub fn may_fence(&self) -> Result<bool> {
        let ask = json!({"prefix": "osd blocklist", "blocklistop": "add", "addr": NO_ADDRESS, "expire": 1.0});
        match self.cluster().mon_command(&ask) {
            Err(e) if matches!(e.errno, Errno::EACCES | Errno::EPERM) => Ok(false),
            Err(e) if e.errno == Errno::EINVAL => Ok(true),
            answer => Ok(answer.map(|_| true)?),
        }
    }

    /// Looks at the header of every image in these pools and their namespaces, until the time is over. `kernel` are the features
    /// that it has, `host` is what the advisory locks of this host are called.
    pub fn look_at_images(
        &self,
        pools: &[String],
        kernel: Option<u64>,
        host: &str,
        until: Instant,
    ) -> Result<Images> {
        let mut seen = Images::default();
        for pool in pools {
            let places = match places::of_pool(&self.session, pool, self.namespace_of(pool)) {
                Err(e) if e.kind == ErrorKind::NotFound => continue,
                places => places?,
            };
            for place in places {
                let images = match self.session.open(&place).and_then(|io| Ok(io.images()?)) {
                    // Another tenant's.
                    Err(e)
                        if e.kind == ErrorKind::Denied && !Configured::new(&self.options).is_home(&place) =>
                    {
                        continue;
                    }
                    images => images.map_err(|e| caps::explain(&self.options, e))?,
                };
                for image in images {
                    seen.count += 1;
                    let spec = match ImageSpec::new(pool, place.1.as_deref(), &image.name) {
                        Ok(spec) => spec,
                        Err(e) => {
                            let parts = [Some(pool.as_str()), place.1.as_deref(), Some(image.name.as_str())];
                            let named = parts.into_iter().flatten().collect::<Vec<_>>().join("/");
                            seen.no_volumes.push((named, e.message));
                            continue;
                        }
                    };
                    if image.id.is_empty() {
                        seen.no_volumes.push((spec.to_string(), "it is an image of format 1".to_owned()));
                        continue;
                    }
                    if Instant::now() < until {
                        self.look_at(&spec, &image.id, kernel, host, &mut seen)?;
                    }
                }
            }
        }
        Ok(seen)
    }

    fn look_at(
        &self,
        spec: &ImageSpec,
        id: &str,
        kernel: Option<u64>,
        host: &str,
        seen: &mut Images,
    ) -> Result<()> {
        let io = self.session.open(&place(spec))?;
        seen.looked += 1;
        let header = match header::read(&io, id) {
            Ok(Some(header)) => header,
            // Half removed, or removed meanwhile.
            Ok(None) => {
                let why = "it has no header: rbd rm ends its removal";
                seen.no_volumes.push((spec.to_string(), why.to_owned()));
                return Ok(());
            }
            // What the cluster does not answer is no fault of the image.
            Err(e) if e.source.is_some() => return Err(e),
            Err(e) => {
                seen.damaged.push(e.context(spec));
                return Ok(());
            }
        };
        if let Some(trouble) = kinds::trouble(spec, &header, None) {
            seen.damaged.push(trouble.why);
            return Ok(());
        }
        let lacking = kernel.map_or(0, |kernel| header.features & !kernel);
        if lacking != 0 {
            let names = features::told(lacking);
            seen.lacking.push((spec.clone(), names, map::without_features(spec, header.features, lacking)));
        }
        if header.features & features::EXCLUSIVE_LOCK == 0 {
            let lockers = io.lockers(&format!("rbd_header.{id}"), "rbd_lock")?;
            seen.locked.extend(
                lockers.into_iter().filter(|held| held.cookie == host).map(|held| (spec.clone(), held)),
            );
        }
        Ok(())
    }
}

/// How the kernel is to speak to the monitors.
#[derive(Debug)]
pub struct KernelLink {
    /// The addresses that it is given.
    pub addresses: Vec<String>,
    /// An option that nobody gave.
    pub added: Option<Added>,
    /// Whether it is to speak the new protocol.
    pub msgr2: bool,
    /// The cluster's own map options, if it has some.
    pub defaults: String,
}

/// A type of keys by its name.
pub fn key_type(kind: u16) -> String {
    secret::type_name(kind)
}

/// Whether these map options make the kernel speak the new protocol.
fn wants_msgr2(words: &[String]) -> bool {
    let mode = words.iter().find_map(|word| word.strip_prefix("ms_mode="));
    mode.is_some_and(|mode| mode != "legacy")
}

pub(super) fn parse_health(answer: &[u8]) -> Result<Health> {
    #[derive(Deserialize)]
    struct Answer {
        status: String,
        #[serde(default)]
        checks: std::collections::BTreeMap<String, Check>,
    }
    #[derive(Deserialize)]
    struct Check {
        summary: Summary,
        #[serde(default)]
        muted: bool,
    }
    #[derive(Deserialize)]
    struct Summary {
        message: String,
    }
    let answer: Answer = serde_json::from_slice(answer).map_err(|e| {
        DriverError::new(ErrorKind::Failed, format!("the cluster's health is not understood: {e}"))
    })?;
    let reasons = answer.checks.into_iter().filter(|(_, check)| !check.muted);
    let reasons = reasons.map(|(name, check)| format!("{}: {}", name, check.summary.message)).collect();
    Ok(Health { status: answer.status, reasons })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_has_a_word_and_reasons_but_for_those_that_are_muted() {
        let answer = br#"{"status":"HEALTH_WARN","checks":{
            "MON_CLOCK_SKEW":{"severity":"HEALTH_WARN","summary":{"message":"clock skew detected on mon.b","count":1},"muted":false},
            "POOL_NO_REDUNDANCY":{"severity":"HEALTH_WARN","summary":{"message":"1 pool(s)","count":1},"muted":true}},"mutes":[]}"#;
        let health = parse_health(answer).unwrap();
        assert_eq!(health.status, "HEALTH_WARN");
        assert_eq!(health.reasons, ["MON_CLOCK_SKEW: clock skew detected on mon.b"]);
        parse_health(b"[]").unwrap_err();
    }

    #[test]
    fn only_a_mode_asks_for_the_new_protocol() {
        let of = |list: &str| wants_msgr2(&with_defaults(list, "").unwrap());
        assert!(!of("") && !of("queue_depth=4,ms_mode=legacy"));
        assert!(of("queue_depth=4, ms_mode=crc"));
    }
}

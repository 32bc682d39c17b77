//! `lock ls` and `lock break`: who owns which image.

use std::collections::BTreeSet;

use serde::Serialize;

use super::cluster::connect;
use super::output::{self, table};
use super::parts::Parts;
use crate::cli::values::Format;
use crate::config::Config;
use crate::coordination::admin::{Lock, Locks, Unlocked, Watched};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::locker::Locker;
use crate::model::name::{ImageSpec, VolumeName};

/// What `lock ls` answers.
#[derive(Debug, Serialize)]
struct List<'a> {
    locks: &'a [Lock],
    damaged: Vec<String>,
    unseen: Vec<String>,
}

/// What `lock break` and `fence` answer.
#[derive(Debug, Serialize)]
pub(super) struct Freed<'a> {
    pub(super) freed: &'a [Lock],
    pub(super) fenced: Vec<&'a str>,
    pub(super) plugins_fenced: Vec<&'a str>,
    pub(super) fence_days: u64,
    unlocked: &'a [Locker],
    /// What was not seen, and may be of the same host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) unseen: Vec<String>,
}

impl<'a> Freed<'a> {
    /// `host`: with all that is of that host.
    pub(super) fn new(freed: &'a [Lock], host: bool, days: u64) -> Self {
        let once = |addresses: BTreeSet<&'a str>| addresses.into_iter().collect();
        let fenced = once(freed.iter().filter_map(|lock| lock.client_addr.as_deref()).collect());
        let plugins = freed.iter().filter(|lock| lock.takes_plugin(host));
        let plugins_fenced = once(plugins.flat_map(Lock::plugin_addrs).map(String::as_str).collect());
        Self { freed, fenced, plugins_fenced, fence_days: days, unlocked: &[], unseen: Vec::new() }
    }
}

/// All owner records; an error, too, when they are not all.
pub(super) fn ls(parts: &Parts, config: &Config, format: Format) -> Result<()> {
    let locks = connect(parts, config)?.locks(Watched::Asked)?;
    let (damaged, unseen) = not_known(&locks, format);
    output::print(format, &List { locks: &locks.found, damaged, unseen }, || listed(&locks.found))?;
    locks.are_all()
}

/// Records that are not understood, and what else was not seen; a person is told of both.
pub(super) fn not_known(locks: &Locks, format: Format) -> (Vec<String>, Vec<String>) {
    let damaged: Vec<String> = locks.damaged.iter().map(|damaged| damaged.why.to_string()).collect();
    let unseen: Vec<String> = locks.unseen.iter().map(ToString::to_string).collect();
    if format == Format::Text {
        for one in damaged.iter().chain(&unseen) {
            eprintln!("rbd-docker-plugin: {one}");
        }
    }
    (damaged, unseen)
}

/// Frees one image.
pub(super) fn break_one(
    parts: &Parts,
    config: &Config,
    volume: &str,
    force: bool,
    format: Format,
) -> Result<()> {
    let wrong = |e: DriverError| DriverError { kind: ErrorKind::Config, ..e };
    let name: VolumeName = volume.parse().map_err(wrong)?;
    let admin = connect(parts, config)?;
    let spec = admin.resolve(&name)?;
    let days = admin.fence_lasts().as_secs() / 86_400;
    let freed = match admin.break_lock(&spec, force) {
        // Of other plugins there is no record.
        Err(e) if e.kind == ErrorKind::NotFound && e.also.is_empty() => {
            let Unlocked { lockers, fenced } = admin.break_advisory(&spec, force)?.ok_or(e)?;
            let fenced = fenced.iter().map(String::as_str).collect();
            let answer = Freed { fenced, unlocked: &lockers, ..Freed::new(&[], false, days) };
            return output::print(format, &answer, || unlocked(&spec, &answer));
        }
        freed => freed?,
    };
    let answer = Freed::new(&freed, false, days);
    output::print(format, &answer, || {
        format!("{spec} is free.\n\n{}\n{}", listed(&freed), consequences(&answer))
    })
}

fn unlocked(spec: &ImageSpec, answer: &Freed<'_>) -> String {
    let row = |locker: &Locker| vec![locker.client.clone(), locker.address.clone(), locker.cookie.clone()];
    let rows: Vec<Vec<String>> = answer.unlocked.iter().map(row).collect();
    let locks = table(&["LOCKED BY", "ADDRESS", "COOKIE"], &rows);
    let fenced = if answer.fenced.is_empty() {
        "Nobody had it mapped, so nobody was shut out: a host that is only cut off may still write to it when it is back.\n".to_owned()
    } else {
        format!("Shut out of the cluster for {} days: {}.\n", answer.fence_days, answer.fenced.join(", "))
    };
    format!("{spec} is not locked any more.\n\n{locks}\n{fenced}")
}

/// What became of an owner, for its containers.
pub(super) fn consequences(answer: &Freed<'_>) -> String {
    let hosts: BTreeSet<&str> = answer.freed.iter().map(|lock| lock.host.as_str()).collect();
    let hosts = Vec::from_iter(hosts).join(", ");
    let days = answer.fence_days;
    let mut text = String::new();
    if answer.fenced.is_empty() {
        text += &format!(
            "Nothing was mapped. What the plugin on {hosts} is doing to these images, if it runs, fails.\n"
        );
    } else {
        text += &format!(
            "The kernel clients above are shut out of the cluster for {days} days.\n\
             Containers on {hosts} that still use these images get I/O errors from now on, and what they had not yet written is lost:\n\
             stop them there. The plugin there, if it runs, takes the dead mounts down by itself.\n\
             The host itself is not banned: what it maps from now on works.\n"
        );
    }
    if !answer.plugins_fenced.is_empty() {
        let addresses = answer.plugins_fenced.join(", ");
        text += &format!("Shut out too is the plugin there ({addresses}); if it runs, it connects anew.\n");
    }
    text + "Any host can mount these images now.\n"
}

/// Records as a table.
pub(super) fn listed(locks: &[Lock]) -> String {
    if locks.is_empty() {
        return "Nobody owns an image.\n".to_owned();
    }
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let row = |lock: &Lock| {
        vec![
            lock.image.to_string(),
            lock.host.clone(),
            lock.plugin.clone(),
            lock.since.clone(),
            signs(lock),
            or_none(lock.client_addr.as_deref().unwrap_or_default()),
            or_none(&lock.mount_ids.iter().map(|id| short(id)).collect::<Vec<_>>().join(",")),
        ]
    };
    let rows: Vec<Vec<String>> = locks.iter().map(row).collect();
    table(&["IMAGE", "HOST", "PLUGIN", "SINCE", "SIGNS OF LIFE", "KERNEL CLIENT", "MOUNT IDS"], &rows)
}

fn signs(lock: &Lock) -> String {
    let signs = match (lock.alive, lock.watching, lock.making) {
        (true, _, true) => "plugin, making it",
        (true, true, false) => "plugin, mapped",
        (true, false, false) => "plugin",
        (false, true, _) => "mapped",
        (false, false, true) => "none, half made",
        (false, false, false) => "none",
    };
    match &lock.fenced_by {
        Some(entry) => format!("{signs}; blocklisted ({entry})"),
        None => signs.to_owned(),
    }
}

fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An owner record of a host that has, or has not, an image mapped.
    fn lock(image: &str, host: &str, address: Option<&str>) -> Lock {
        let raw = serde_json::json!({
            "host": host, "boot_id": "b", "plugin": "rbd", "root": "/m/rbd", "since": 1_795_180_063_u64,
            "client_addr": address, "mount_ids": ["0123456789abcdef"], "image": image, "plugin_addr": "10.0.0.7:0/30",
        });
        crate::coordination::admin::tests::parsed(&raw)
    }

    #[test]
    fn a_table_of_owners() {
        let mut mapped = lock("rbd/ns/foo", "h1", Some("10.0.0.7:0/31"));
        (mapped.alive, mapped.watching) = (true, true);
        let mut gone = lock("rbd/a", "host-2", None);
        gone.mount_ids.clear();
        assert_eq!(
            listed(&[mapped, gone]),
            "IMAGE       HOST    PLUGIN  SINCE                 SIGNS OF LIFE   KERNEL CLIENT  MOUNT IDS\n\
             rbd/ns/foo  h1      rbd     2026-11-20T13:07:43Z  plugin, mapped  10.0.0.7:0/31  0123456789ab\n\
             rbd/a       host-2  rbd     2026-11-20T13:07:43Z  none            -              -\n"
        );
        assert_eq!(listed(&[]), "Nobody owns an image.\n");
    }

    #[test]
    fn json_keys_stay() {
        let locks =
            [lock("rbd/foo", "h1", Some("10.0.0.7:0/31")), lock("rbd/bar", "h1", Some("10.0.0.7:0/31"))];
        let json = serde_json::to_value(Freed::new(&locks, true, 30)).unwrap();
        assert_eq!(json["fenced"], serde_json::json!(["10.0.0.7:0/31"]));
        assert_eq!(json["plugins_fenced"], serde_json::json!(["10.0.0.7:0/30"]));
        assert_eq!(json["fence_days"], 30);
        assert_eq!(
            json["freed"][0],
            serde_json::json!({
                "image": "rbd/foo", "host": "h1", "plugin": "rbd", "since": "2026-11-20T13:07:43Z",
                "client_addr": "10.0.0.7:0/31", "plugin_addr": "10.0.0.7:0/30", "mount_ids": ["0123456789abcdef"],
                "alive": false, "watching": false, "making": false,
            })
        );
    }
}

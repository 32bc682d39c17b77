//! What an earlier life of this host has left: owner records of another boot, devices without an owner, mounts in the making.

use std::path::Path;
use std::sync::Arc;

use super::finding::{Finding, Report, without_hint};
use super::step::{LOCAL_LIMIT, timed_out, within};
use super::{docker, pools};
use crate::backend::rbd::admin::{Admin, Damaged, Lock, Locks, Watched};
use crate::config::Config;
use crate::linux::krbd::{Kernel, Mapping};
use crate::linux::{boot, mountinfo};
use crate::model::error::Result;

/// How many of a kind are named.
const NAMED: usize = 5;

const AGAIN: &str = "mend what failed above, and look again";

pub(super) fn examine(config: &Arc<Config>, admin: &Arc<Admin>, report: &mut Report<'_>) -> Result<()> {
    let limit = pools::owners_within(config) + LOCAL_LIMIT;
    let (config, admin) = (Arc::clone(config), Arc::clone(admin));
    let found = within(limit, move || look(&config, &admin));
    report.add(found.unwrap_or_else(|| vec![timed_out("leftovers", limit)]))
}

fn look(config: &Config, admin: &Admin) -> Vec<Finding> {
    // While the plugin runs, it is at work on all of that.
    let running = docker::listener(config).is_some();
    let seen = || -> Result<Vec<Finding>> {
        let seen = admin.locks(Watched::Left)?;
        let mut findings = Vec::new();
        findings.extend(seen.are_all().err().map(|e| Finding::warn("leftovers", without_hint(&e), AGAIN)));
        let Locks { found: locks, damaged, left_out, .. } = seen;
        let (host, boot, machine) = (boot::hostname()?, boot::boot_id()?, boot::machine_id());
        let own = |lock: &&Lock| lock.owner.host == host && lock.owner.machine_id == machine && !lock.alive;
        let earlier: Vec<&Lock> =
            locks.iter().filter(own).filter(|lock| lock.owner.boot_id != boot).collect();
        if !running {
            findings.extend(records(&earlier));
            findings.extend(staging(config)?);
        }
        findings.extend(doubles(&locks, &host, &boot, &machine));
        let mut mappings = Kernel::host().list()?;
        mappings.retain(|mapping| !left_out.iter().any(|out| out.pool == mapping.pool));
        findings.extend(devices(&mappings, admin.cluster().fsid(), &locks, &damaged));
        Ok(findings)
    };
    match seen() {
        Ok(findings) if findings.is_empty() => vec![Finding::ok("leftovers", "none of this host")],
        Ok(findings) => findings,
        Err(e) => vec![Finding::warn("leftovers", without_hint(&e), AGAIN)],
    }
}

fn records(earlier: &[&Lock]) -> Option<Finding> {
    (!earlier.is_empty()).then(|| {
        let names = shortened(earlier.iter().map(|lock| lock.image.to_string()).collect());
        let found = format!("owner records of this host from before its restart: {names}");
        Finding::warn(
            "leftovers",
            found,
            "start the plugin, which clears them, or: rbd-docker-plugin lock break IMAGE",
        )
    })
}

/// Hosts that cannot be told from this one: copies of its machine, which each take the other for themselves before a restart.
fn doubles(locks: &[Lock], host: &str, boot_id: &str, machine: &str) -> Option<Finding> {
    let this = |lock: &&Lock| lock.alive && lock.owner.boot_id != boot_id && lock.owner.host == host;
    let part = |id: &str| id.split('.').next().unwrap_or_default().to_owned();
    let double = locks.iter().filter(this).find(|lock| {
        let theirs = part(&lock.owner.machine_id);
        theirs == part(machine) || theirs.is_empty() || machine.is_empty()
    })?;
    let found = format!(
        "a host that lives has this one's name, and its machine id does not tell it apart: it owns {} with boot id {}",
        double.image, double.owner.boot_id
    );
    let fix = "just restarted? Ask again in 30 s. Otherwise, on the copy, without containers and after rbd-docker-plugin unmount --all: \
               hostnamectl set-hostname NAME; rm /etc/machine-id; systemd-machine-id-setup; then restart it";
    Some(Finding::fail("identity", found, fix))
}

/// Devices of this cluster that no owner record speaks of. A record that is not understood speaks of its image.
fn devices(mappings: &[Mapping], fsid: &str, locks: &[Lock], damaged: &[Damaged]) -> Option<Finding> {
    let owned = |mapping: &Mapping| {
        let named =
            |damaged: &Damaged| damaged.is_of(&mapping.pool, mapping.namespace.as_deref(), &mapping.image_id);
        damaged.iter().any(named)
            || locks.iter().any(|lock| {
                lock.image_id.as_deref() == Some(&mapping.image_id)
                    && (lock.image.pool(), lock.image.namespace())
                        == (&mapping.pool, mapping.namespace.as_deref())
            })
    };
    let alone: Vec<&Mapping> = mappings
        .iter()
        .filter(|mapping| mapping.fsid == fsid && mapping.snapshot.is_none() && !owned(mapping))
        .collect();
    (!alone.is_empty()).then(|| {
        let named =
            |mapping: &&Mapping| format!("{} ({}/{})", mapping.path.display(), mapping.pool, mapping.image);
        let found =
            format!("mapped without an owner record: {}", shortened(alone.iter().map(named).collect()));
        let fixes: Vec<String> =
            alone.iter().take(NAMED).map(|mapping| format!("rbd unmap {}", mapping.path.display())).collect();
        Finding::warn("leftovers", found, format!("if nobody needs them: {}", fixes.join("; ")))
    })
}

/// Where filesystems are mounted before they are a volume's.
fn staging(config: &Config) -> Result<Option<Finding>> {
    let folder = config.state.join(&config.name).join("staging");
    let folder = folder.canonicalize().unwrap_or(folder);
    let entries = mountinfo::read(Path::new(mountinfo::OWN))?;
    let mounts: Vec<String> = entries
        .iter()
        .filter(|entry| entry.target.starts_with(&folder))
        .map(|entry| entry.target.display().to_string())
        .collect();
    Ok((!mounts.is_empty()).then(|| {
        let found = format!("volumes that were being made: {}", shortened(mounts));
        Finding::warn("leftovers", found, "start the plugin: it takes them down")
    }))
}

fn shortened(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let rest = if more > 0 { format!(", and {more} more") } else { String::new() };
    names.join(", ") + &rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::admin::tests::{damaged, parsed};

    /// An owner record of boot `b` and plugin `rbd`.
    fn lock(image: &str, host: &str) -> Lock {
        parsed(&serde_json::json!({
            "host": host, "boot_id": "b", "plugin": "rbd", "root": "/m/rbd", "since": 1, "client_addr": null,
            "mount_ids": [], "image": image, "plugin_addr": null,
        }))
    }

    fn mapping(image: &str, id: &str) -> Mapping {
        Mapping {
            id: 3,
            path: "/dev/rbd3".into(),
            number: (250, 0),
            fsid: "f".to_owned(),
            pool: "rbd".to_owned(),
            pool_id: 1,
            namespace: None,
            image: image.to_owned(),
            image_id: id.to_owned(),
            snapshot: None,
            client_addr: String::new(),
            size: 0,
            mark: None,
        }
    }

    #[test]
    fn a_device_without_a_record_is_told_others_are_not() {
        let locks = [lock("rbd/foo", "h")];
        assert_eq!(devices(&[mapping("foo", "1")], "f", &locks, &[]), None);
        assert_eq!(devices(&[mapping("bar", "2")], "another cluster", &locks, &[]), None);
        let snapshot = Mapping { snapshot: Some("s".to_owned()), ..mapping("bar", "2") };
        assert_eq!(devices(&[snapshot], "f", &locks, &[]), None);
        let finding = devices(&[mapping("bar", "2")], "f", &locks, &[]).unwrap();
        assert_eq!(finding.found, "mapped without an owner record: /dev/rbd3 (rbd/bar)");
        let unread = [damaged("rbd", "image.2")];
        assert_eq!(devices(&[mapping("bar", "2")], "f", &locks, &unread), None, "somebody owns it");
        assert!(devices(&[mapping("bar", "3")], "f", &locks, &unread).is_some());
        assert_eq!(finding.fix.as_deref(), Some("if nobody needs them: rbd unmap /dev/rbd3"));
    }

    #[test]
    fn a_copy_of_this_host_that_lives_is_told_and_an_earlier_boot_is_not() {
        let mut other = lock("rbd/foo", "h");
        other.owner.machine_id = "m.firmware".to_owned();
        assert_eq!(doubles(&[other.clone()], "h", "mine", "m"), None, "it does not live");
        other.alive = true;
        assert!(doubles(&[other.clone()], "h", "mine", "m").unwrap().found.contains("rbd/foo"));
        assert_eq!(doubles(&[other.clone()], "h", "b", "m"), None, "it is this host");
        assert_eq!(doubles(&[other.clone()], "h", "mine", "n"), None);
        assert_eq!(doubles(&[other], "another", "mine", "m"), None);
    }

    #[test]
    fn records_of_an_earlier_boot_are_named_but_not_all() {
        let locks: Vec<Lock> = (0..7).map(|n| lock(&format!("rbd/i{n}"), "h")).collect();
        let finding = records(&locks.iter().collect::<Vec<_>>()).unwrap();
        assert!(finding.found.ends_with("rbd/i3, rbd/i4, and 2 more"), "{}", finding.found);
        assert_eq!(records(&[]), None);
    }
}

//! What a refusal by the cluster means: which capability the user lacks, and the command that gives it.
//!
//! The command gives what the settings need and no more: the pools that they name, and the namespace of the first one.

use std::fmt::Write as _;

use nix::errno::Errno;

use crate::linux::krbd;
use crate::model::error::{CallError, DriverError, ErrorKind};
use crate::model::settings;

/// What an error says before it is known which capability it is about.
const UNKNOWN: &str = "the Ceph user lacks a capability";
/// The calls that change something.
const WRITES: &[&str] = &[
    "rados_write_op_operate2",
    "rados_remove",
    "rados_lock_shared",
    "rados_lock_exclusive",
    "rados_unlock",
    "rados_break_lock",
    "rbd_create4",
    "rbd_remove_with_progress",
    "rbd_rename",
    "rbd_open",
];
/// The calls that the monitors answer.
const MONITORS: &[&str] = &["rados_mon_command", "rados_blocklist_add"];

/// A pool, and perhaps a namespace of it, that a user may use.
type Grant<'a> = (&'a str, Option<&'a str>);

/// The command that gives the user of these settings what they need. It replaces what the user has.
pub(crate) fn command(options: &settings::Ceph) -> String {
    format!("ceph auth caps client.{} {}", options.user, needed(options, None))
}

/// What the user of these settings needs, as `ceph auth` takes it.
pub(crate) fn needed(options: &settings::Ceph, more: Option<Grant<'_>>) -> String {
    let mut grants: Vec<Grant<'_>> = Vec::new();
    for pool in &options.pools {
        let first = grants.is_empty();
        grants.push((pool, options.namespace.as_deref().filter(|_| first)));
    }
    grants.extend(more.filter(|(pool, namespace)| {
        !grants.iter().any(|(known, wide)| known == pool && (wide.is_none() || wide == namespace))
    }));
    let all = grants.iter().map(|grant| profile(*grant)).collect::<Vec<_>>().join(", ");
    format!("mon 'profile rbd' osd '{all}' mgr '{all}'")
}

fn profile((pool, namespace): Grant<'_>) -> String {
    let mut text = format!("profile rbd pool={pool}");
    if let Some(namespace) = namespace {
        // Writing to a String cannot fail.
        let _ = write!(text, " namespace={namespace}");
    }
    text
}

/// How a user gets a capability, with a word on what is lost by it.
fn hint(options: &settings::Ceph, more: Option<Grant<'_>>) -> String {
    let user = &options.user;
    format!(
        "ceph auth caps client.{user} {} (this replaces what ceph auth get client.{user} shows)",
        needed(options, more)
    )
}

/// Says of a refusal which capability is missing.
pub(crate) fn explain(options: &settings::Ceph, e: DriverError) -> DriverError {
    let Some(call) = &e.source else { return e };
    if krbd::CALLS.contains(&call.call) && e.kind == ErrorKind::Denied && call.errno == Errno::EACCES {
        let hint = hint(options, None);
        return e.hint(hint);
    }
    // An error that names the capability already keeps its own words.
    if !e.message.contains(UNKNOWN) {
        return e;
    }
    let user = &options.user;
    let (what, hint) = if MONITORS.contains(&call.call) {
        let what = format!("client.{user} may not ask this of the monitors: it lacks mon 'profile rbd'");
        (what, hint(options, None))
    } else {
        let verb = if WRITES.contains(&call.call) { "write to" } else { "read" };
        let grant = grant_for(options, &call.object);
        let what = format!("client.{user} may not {verb} {}", place(grant));
        let home = options.pools.first().map(|pool| (pool.as_str(), options.namespace.as_deref()));
        match home {
            // It is restricted to its namespace on purpose.
            Some((pool, Some(namespace))) if pool == grant.0 && grant.1 != Some(namespace) => {
                (what, format!("the settings name {pool}/{namespace}: what is beside it is not this user's"))
            }
            _ => (format!("{what}: it lacks osd '{}'", profile(grant)), hint(options, Some(grant))),
        }
    };
    DriverError { message: e.message.replace(UNKNOWN, &what), hint: Some(hint), ..e }
}

/// The pool, and the namespace in it, of an object as errors name it: `pool`, `pool/object` or `pool/namespace/object`.
fn grant_for<'a>(options: &'a settings::Ceph, object: &'a str) -> Grant<'a> {
    let parts: Vec<&str> = object.trim_start_matches("pool ").split('/').collect();
    let namespace = match parts[..] {
        [_, namespace, _] => Some(namespace),
        [_, word] => options.namespace.as_deref().filter(|namespace| *namespace == word),
        _ => None,
    };
    (parts.first().copied().unwrap_or_default(), namespace)
}

fn place((pool, namespace): Grant<'_>) -> String {
    match namespace {
        Some(namespace) => format!("namespace {namespace} of pool {pool}"),
        None => format!("pool {pool}"),
    }
}

/// An error for a data pool that the user may not use.
pub(super) fn data_pool(
    options: &settings::Ceph,
    image: &str,
    grant: (&str, Option<&str>),
    e: CallError,
) -> DriverError {
    if !matches!(e.errno, Errno::EPERM | Errno::EACCES) {
        return e.into();
    }
    let (user, pool) = (&options.user, grant.0);
    let verb = if WRITES.contains(&e.call) { "write to" } else { "read" };
    DriverError::new(
        ErrorKind::Denied,
        format!(
            "client.{user} may not {verb} the data pool {pool} of image {image}: it lacks osd '{}'",
            profile(grant)
        ),
    )
    .hint(hint(options, Some(grant)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn options(pools: &[&str], namespace: Option<&str>) -> settings::Ceph {
        settings::Ceph {
            user: "u".to_owned(),
            conf: "/etc/ceph/ceph.conf".into(),
            keyring: None,
            cluster: String::new(),
            pools: pools.iter().map(|&pool| pool.to_owned()).collect(),
            namespace: namespace.map(str::to_owned),
            features: None,
            object_size: None,
            map_options: None,
            takeover: true,
            dead_after: std::time::Duration::from_secs(10),
            owner_wait: Duration::ZERO,
            fence: Duration::from_secs(3600),
            timeout: Duration::from_secs(5),
        }
    }

    fn refused(options: &settings::Ceph, call: &'static str, object: &str) -> String {
        explain(options, CallError::new(call, object, Errno::EPERM).into()).to_string()
    }

    #[test]
    fn a_command_gives_what_the_settings_name_and_no_more() {
        assert_eq!(
            needed(&options(&["vol"], None), None),
            "mon 'profile rbd' osd 'profile rbd pool=vol' mgr 'profile rbd pool=vol'"
        );
        let wide = needed(&options(&["vol", "ssd"], Some("team")), Some(("ec", Some("team"))));
        let all =
            "profile rbd pool=vol namespace=team, profile rbd pool=ssd, profile rbd pool=ec namespace=team";
        assert_eq!(wide, format!("mon 'profile rbd' osd '{all}' mgr '{all}'"));
        let known = needed(&options(&["vol", "ssd"], None), Some(("ssd", None)));
        assert_eq!(known.matches("pool=ssd").count(), 2, "{known}");
    }

    #[test]
    fn a_refusal_names_place_and_capability() {
        let pool = options(&["vol"], None);
        let said = refused(&pool, "rados_write_op_operate2", "vol/x");
        assert!(
            said.starts_with("client.u may not write to pool vol: it lacks osd 'profile rbd pool=vol'"),
            "{said}"
        );
        let said = refused(&pool, "rados_mon_command", "osd blocklist");
        assert!(said.contains("it lacks mon 'profile rbd'"), "{said}");
        let team = options(&["vol"], Some("team"));
        for object in ["vol/team/x", "vol/team"] {
            let said = refused(&team, "rbd_list2", object);
            assert!(said.contains("may not read namespace team of pool vol: it lacks"), "{said}");
            assert!(
                said.contains(
                    "ceph auth caps client.u mon 'profile rbd' osd 'profile rbd pool=vol namespace=team'"
                ),
                "{said}"
            );
        }
        let said = refused(&team, "rbd_list2", "vol/other/x");
        assert!(!said.contains("ceph auth caps"), "another tenant's: {said}");
    }
}

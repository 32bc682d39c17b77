//! Pools, what the user may do in them, and the images there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::finding::{Finding, Report, Status, without_hint};
use super::step::{timed_out, within};
use crate::backend::rbd::admin::{Admin, Watched};
use crate::backend::rbd::caps;
use crate::backend::rbd::inspect::Images;
use crate::config::{self, Config};
use crate::linux::boot;
use crate::linux::krbd::Kernel;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::text::count;

/// How long images are looked at.
const LOOKS: Duration = Duration::from_secs(15);
/// How many images of a kind are named.
const NAMED: usize = 5;

pub(super) fn examine(config: &Arc<Config>, admin: &Arc<Admin>, report: &mut Report<'_>) -> Result<()> {
    // A pool is asked for with a handful of requests, each with its own timeout.
    let limit = config.ceph.timeout * 8;
    let mut usable = Vec::new();
    for name in &config.ceph.pools {
        let (admin, name, config) = (Arc::clone(admin), name.clone(), Arc::clone(config));
        let asked = name.clone();
        let findings = within(limit, move || pool(&admin, &asked, &config.ceph))
            .unwrap_or_else(|| vec![timed_out("pool", limit)]);
        // Where nothing can be read, nothing can be said of images.
        if findings.iter().all(|finding| finding.status != Status::Fail) {
            usable.push(name);
        }
        report.add(findings)?;
    }
    let (asked, options) = (Arc::clone(admin), Arc::clone(config));
    let fencing = within(config.ceph.timeout * 2, move || fencing(asked.may_fence(), &options.ceph));
    report.add([fencing.unwrap_or_else(|| timed_out("fencing", config.ceph.timeout * 2))])?;
    if usable.is_empty() {
        return Ok(());
    }
    let asked = Arc::clone(admin);
    let limit = LOOKS + owners_within(config);
    let seen = within(limit, move || images(&asked, &usable));
    report.add(seen.unwrap_or_else(|| vec![timed_out("images", limit)]))
}

/// How long reading all owner records may take: each pool may be one that does not answer.
pub(super) fn owners_within(config: &Config) -> Duration {
    let pools = u32::try_from(config.ceph.pools.len()).unwrap_or(u32::MAX);
    config.ceph.timeout.saturating_mul(pools.saturating_add(2))
}

fn pool(admin: &Admin, name: &str, options: &config::Ceph) -> Vec<Finding> {
    match admin.require_namespace(name) {
        Ok(()) => {}
        Err(e) if e.kind == ErrorKind::NotFound => {
            let fix = format!(
                "ceph osd pool create {name} && rbd pool init {name}; or name another one: --pool, --pools"
            );
            return vec![Finding::fail("pool", format!("{name} does not exist"), fix)];
        }
        Err(e) if e.kind == ErrorKind::Denied => return vec![capability(Err(e), name, options)],
        Err(e) => return vec![Finding::error("pool", &e, None)],
    }
    let place =
        admin.namespace_of(name).map_or_else(|| name.to_owned(), |namespace| format!("{name}/{namespace}"));
    let marked = admin.applications(name).map_or_else(
        |e| Finding::error("pool", &e, None),
        |applications| application(name, &place, &applications),
    );
    vec![marked, capability(admin.may_use(name), &place, options)]
}

/// What a pool is marked for.
fn application(name: &str, place: &str, applications: &[String]) -> Finding {
    if applications.iter().any(|application| application == "rbd") {
        return Finding::ok("pool", place);
    }
    match applications.first() {
        None => {
            let found = format!("{name} is not marked as a pool for images");
            Finding::warn("pool", found, format!("rbd pool init {name}"))
        }
        Some(other) => {
            let found = format!("{name} is a pool of {other}, not one for images");
            Finding::warn(
                "pool",
                found,
                "name another one: --pool, --pools; ceph osd pool ls detail shows them",
            )
        }
    }
}

fn capability(tried: Result<()>, place: &str, options: &config::Ceph) -> Finding {
    let check = "capabilities";
    let errno = |e: &DriverError| e.source.as_ref().map(|call| call.errno);
    match tried {
        Ok(()) => Finding::ok(check, format!("{place}: read, write, lock, list images")),
        Err(e) if e.kind == ErrorKind::Denied => {
            Finding::fail(check, format!("{place}: {}", without_hint(&e)), caps::command(options))
        }
        Err(e) if errno(&e) == Some(Errno::ETIMEDOUT) => {
            let found = format!("{place}: its OSDs do not answer: {}", without_hint(&e));
            Finding::fail(check, found, "ceph health detail; ceph osd tree")
        }
        Err(e) => Finding::error(check, &e.context(place), None),
    }
}

fn fencing(may: Result<bool>, options: &config::Ceph) -> Finding {
    match may {
        Ok(true) => Finding::ok("fencing", "hosts that died may be shut out"),
        Ok(false) => {
            let found = format!(
                "client.{} may not shut hosts out, for want of mon 'profile rbd': volumes of a host that died stay its own",
                options.user
            );
            Finding::fail("fencing", found, caps::command(options))
        }
        Err(e) => Finding::error("fencing", &e, None),
    }
}

fn images(admin: &Admin, pools: &[String]) -> Vec<Finding> {
    // What the kernel does not say is told where it is looked at.
    let kernel = Kernel::host().supported_features().ok().flatten();
    let host = match boot::hostname() {
        Ok(host) => host,
        Err(e) => return vec![Finding::error("images", &e.into(), None)],
    };
    let looked = admin.look_at_images(pools, kernel, &host, Instant::now() + LOOKS);
    // The lock of an image that this host's plugin has claimed is as it should be.
    match looked.and_then(|seen| Ok((seen, admin.locks(Watched::Left)?))) {
        Ok((mut seen, locks)) => {
            let own =
                |spec: &ImageSpec| locks.found.iter().any(|lock| lock.image == *spec && lock.host == host);
            seen.locked.retain(|(spec, _)| !own(spec));
            let damaged = locks
                .damaged
                .iter()
                .map(|damaged| &damaged.why)
                .chain(&locks.unseen)
                .map(|e| Finding { status: Status::Warn, ..Finding::error("owners", e, None) });
            findings(&seen, kernel.is_some()).into_iter().chain(damaged).collect()
        }
        Err(e) => vec![Finding::error("images", &e, None)],
    }
}

fn findings(seen: &Images, compared: bool) -> Vec<Finding> {
    let mut all = Vec::new();
    let few = |rest: usize| if rest > NAMED { format!(", and {} more", rest - NAMED) } else { String::new() };
    if !seen.lacking.is_empty() {
        let named: Vec<String> =
            seen.lacking.iter().take(NAMED).map(|(spec, names, _)| format!("{spec} ({names})")).collect();
        let fixes: Vec<&str> = seen.lacking.iter().take(NAMED).map(|(_, _, fix)| fix.as_str()).collect();
        let found = format!("this kernel lacks features of {}{}", named.join(", "), few(seen.lacking.len()));
        all.push(Finding::warn("images", found, fixes.join("; ")));
    }
    if !seen.locked.is_empty() {
        let named: Vec<String> = seen.locked.iter().take(NAMED).map(|(spec, _)| spec.to_string()).collect();
        let fixes: Vec<String> = seen
            .locked
            .iter()
            .take(NAMED)
            .map(|(spec, held)| format!("rbd lock remove {spec} {} {}", held.cookie, held.client))
            .collect();
        let found = format!(
            "locks with this host's name, but nobody's here: {}{}",
            named.join(", "),
            few(seen.locked.len())
        );
        let fix = format!("if no old plugin runs here: {}", fixes.join("; "));
        all.push(Finding::warn("locks", found, fix));
    }
    if !seen.no_volumes.is_empty() {
        let named: Vec<String> =
            seen.no_volumes.iter().take(NAMED).map(|(image, why)| format!("{image:?} ({why})")).collect();
        let found = format!("no volumes: {}{}", named.join(", "), few(seen.no_volumes.len()));
        let fix = "rbd rename gives an image another name; docker volume ls does not show these";
        all.push(Finding::warn("images", found, fix));
    }
    for e in seen.damaged.iter().take(NAMED) {
        all.push(Finding { status: Status::Warn, ..Finding::error("images", e, None) });
    }
    if all.is_empty() {
        let part = if seen.looked < seen.count {
            format!(", the first {} looked at", seen.looked)
        } else {
            String::new()
        };
        let fit = if compared { ", all fit for this kernel" } else { "" };
        let fit = if seen.looked == 0 { "" } else { fit };
        all.push(Finding::ok("images", format!("{}{part}{fit}", count(seen.count, "image"))));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceph::Locker;
    use crate::model::error::CallError;

    fn spec(image: &str) -> ImageSpec {
        ImageSpec::new("rbd", None, image).unwrap()
    }

    #[test]
    fn five_images_are_named_with_the_command_for_each() {
        let lacking = |n: usize| {
            let name = format!("i{n}");
            (spec(&name), "journaling".to_owned(), format!("rbd feature disable rbd/{name} journaling"))
        };
        let seen =
            Images { count: 9, looked: 9, lacking: (0..7).map(lacking).collect(), ..Images::default() };
        let [finding] = &findings(&seen, true)[..] else { panic!("one line") };
        assert_eq!(finding.status, Status::Warn);
        assert!(finding.found.ends_with("rbd/i4 (journaling), and 2 more"), "{}", finding.found);
        let fix = finding.fix.as_ref().unwrap();
        assert_eq!(fix.matches("rbd feature disable").count(), 5, "{fix}");
    }

    #[test]
    fn a_leftover_lock_is_told_with_its_end() {
        let locker =
            Locker { client: "client.41".to_owned(), cookie: "h1".to_owned(), address: String::new() };
        let seen = Images { count: 1, looked: 1, locked: vec![(spec("a"), locker)], ..Images::default() };
        let fix = findings(&seen, true).remove(0).fix.unwrap();
        assert_eq!(fix, "if no old plugin runs here: rbd lock remove rbd/a h1 client.41");
    }

    #[test]
    fn images_that_are_no_volumes_are_named_with_the_reason() {
        let no_volumes = vec![("rbd/my vol".to_owned(), "a blank".to_owned())];
        let seen = Images { count: 1, looked: 1, no_volumes, ..Images::default() };
        let finding = findings(&seen, true).remove(0);
        assert_eq!(finding.status, Status::Warn);
        assert_eq!(finding.found, "no volumes: \"rbd/my vol\" (a blank)");
    }

    #[test]
    fn images_that_are_fine_are_counted() {
        let of = |count, looked, compared| {
            findings(&Images { count, looked, ..Images::default() }, compared).remove(0).found
        };
        assert_eq!(of(0, 0, true), "0 images");
        assert_eq!(of(1, 1, true), "1 image, all fit for this kernel");
        assert_eq!(of(9, 4, false), "9 images, the first 4 looked at");
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        let flags = [("conf-file", "none"), ("user", "u"), ("pool", "vol"), ("namespace", "team1")];
        let flags = flags.iter().map(|&(key, value)| (key, value.to_owned())).collect();
        let options = Config::load(&flags, &std::collections::BTreeMap::new()).unwrap().ceph;
        let of = |errno| {
            let e = CallError::new("rados_write_op_operate2", "vol/team1/x", errno);
            capability(Err(e.into()), "vol/team1", &options)
        };
        let command = "ceph auth caps client.u mon 'profile rbd' osd 'profile rbd pool=vol namespace=team1' \
            mgr 'profile rbd pool=vol namespace=team1'";
        assert_eq!(of(Errno::EPERM).fix.as_deref(), Some(command));
        assert!(of(Errno::ETIMEDOUT).found.contains("OSDs do not answer"));
        assert_eq!(fencing(Ok(false), &options).status, Status::Fail);
        assert_eq!(application("p", "p", &["rbd".to_owned()]).status, Status::Ok);
        let other = application("p", "p", &["cephfs".to_owned()]);
        assert!(
            other.found.contains("cephfs") && !other.fix.unwrap().contains("init"),
            "images do not belong there"
        );
    }
}

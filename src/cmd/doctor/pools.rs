//! Pools, what the user may do in them, and the images there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::report::{Finding, Report, Status, said};
use super::{late, within};
use crate::backend::rbd::admin::Admin;
use crate::backend::rbd::inspect::Images;
use crate::cmd::output::count;
use crate::config::Config;
use crate::error::{DriverError, ErrorKind, Result};
use crate::linux::boot;
use crate::linux::krbd::Kernel;
use crate::name::ImageSpec;

/// How long images are looked at.
const LOOKS: Duration = Duration::from_secs(15);
/// How many images of a kind are named.
const NAMED: usize = 5;

pub(super) fn examine(config: &Arc<Config>, admin: &Arc<Admin>, report: &mut Report) -> Result<()> {
    // A pool is asked for with a handful of requests, each with its own timeout.
    let limit = config.ceph.timeout * 8;
    let mut usable = Vec::new();
    for name in &config.ceph.pools {
        let (admin, name, user) = (Arc::clone(admin), name.clone(), config.ceph.user.clone());
        let asked = name.clone();
        let findings =
            within(limit, move || pool(&admin, &asked, &user)).unwrap_or_else(|| vec![late("pool", limit)]);
        // Where nothing can be read, nothing can be said of images.
        if findings.iter().all(|finding| finding.status != Status::Fail) {
            usable.push(name);
        }
        report.add(findings)?;
    }
    let (asked, user) = (Arc::clone(admin), config.ceph.user.clone());
    let fencing = within(config.ceph.timeout * 2, move || fencing(asked.may_fence(), &user));
    report.add([fencing.unwrap_or_else(|| late("fencing", config.ceph.timeout * 2))])?;
    if usable.is_empty() {
        return Ok(());
    }
    let asked = Arc::clone(admin);
    let limit = LOOKS + config.ceph.timeout * 3;
    let seen = within(limit, move || images(&asked, &usable));
    report.add(seen.unwrap_or_else(|| vec![late("images", limit)]))
}

fn pool(admin: &Admin, name: &str, user: &str) -> Vec<Finding> {
    match admin.open(name, None) {
        Ok(_) => {}
        Err(e) if e.kind == ErrorKind::NotFound => {
            let fix = format!(
                "ceph osd pool create {name} && rbd pool init {name}; or name another one: --pool, --pools"
            );
            return vec![Finding::fail("pool", format!("{name} does not exist"), fix)];
        }
        Err(e) => return vec![Finding::error("pool", &e, None)],
    }
    let is_for_images = match admin.is_for_images(name) {
        Ok(true) => Finding::ok("pool", name),
        Ok(false) => {
            let found = format!("{name} is not marked as a pool for images");
            Finding::warn("pool", found, format!("rbd pool init {name}"))
        }
        Err(e) => Finding::error("pool", &e, None),
    };
    vec![is_for_images, capability(admin.may_use(name), name, user)]
}

fn caps(user: &str) -> String {
    format!("ceph auth caps client.{user} mon 'profile rbd' osd 'profile rbd' mgr 'profile rbd'")
}

fn capability(tried: Result<()>, pool: &str, user: &str) -> Finding {
    let check = "capabilities";
    let errno = |e: &DriverError| e.source.as_ref().map(|call| call.errno);
    match tried {
        Ok(()) => Finding::ok(check, format!("{pool}: read, write, lock, list images")),
        Err(e) if e.kind == ErrorKind::Denied => {
            Finding::fail(check, format!("{pool}: {}", said(&e)), caps(user))
        }
        Err(e) if errno(&e) == Some(Errno::EOPNOTSUPP) => {
            let found =
                format!("{pool} is erasure-coded: it can hold the data of images, but not the images");
            Finding::fail(check, found, format!("--pool another one, and volumes with -o data-pool={pool}"))
        }
        Err(e) if errno(&e) == Some(Errno::ETIMEDOUT) => {
            let found = format!("{pool}: its OSDs do not answer: {}", said(&e));
            Finding::fail(check, found, "ceph health detail; ceph osd tree")
        }
        Err(e) => Finding::error(check, &e.context(pool), None),
    }
}

fn fencing(may: Result<bool>, user: &str) -> Finding {
    match may {
        Ok(true) => Finding::ok("fencing", "hosts that died may be shut out"),
        Ok(false) => {
            let found = "this user may not shut hosts out: volumes of a host that died stay its own";
            Finding::fail("fencing", found, caps(user))
        }
        Err(e) => Finding::error("fencing", &e, None),
    }
}

fn images(admin: &Admin, pools: &[String]) -> Vec<Finding> {
    let kernel = Kernel::host().supported_features().ok().flatten();
    let host = boot::hostname().unwrap_or_default();
    let looked = admin.look_at_images(pools, kernel, &host, Instant::now() + LOOKS);
    // The lock of an image that this host's plugin has claimed is as it should be.
    match looked.and_then(|seen| Ok((seen, admin.locks()?))) {
        Ok((mut seen, locks)) => {
            let own =
                |spec: &ImageSpec| locks.found.iter().any(|lock| lock.image == *spec && lock.host == host);
            seen.locked.retain(|(spec, _)| !own(spec));
            let damaged = locks
                .damaged
                .iter()
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
    use crate::error::CallError;

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
        let of = |errno| {
            capability(Err(CallError::new("rados_write_op_operate2", "rbd/x", errno).into()), "rbd", "u")
        };
        assert!(of(Errno::EPERM).fix.unwrap().starts_with("ceph auth caps client.u mon 'profile rbd'"));
        assert!(of(Errno::EOPNOTSUPP).found.contains("erasure-coded"));
        assert!(of(Errno::ETIMEDOUT).found.contains("OSDs do not answer"));
        assert_eq!(fencing(Ok(false), "u").status, Status::Fail);
    }
}

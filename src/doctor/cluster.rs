//! The cluster: configuration, key, connection, monitors, health.

use std::collections::BTreeSet;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::finding::{Finding, Report, Status, without_hint};
use super::pools;
use super::step::{LOCAL_LIMIT, geteuid, timed_out, within};
use crate::backend::rbd::admin::{Admin, Fence, Reach};
use crate::backend::rbd::caps;
use crate::backend::rbd::conf_and_key::{self, KeyPlace};
use crate::backend::rbd::inspect::{Health, KernelLink, Monitor};
use crate::ceph::{self, Versions};
use crate::config::Config;
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};

/// How long a monitor may take to accept a connection.
const KNOCK: Duration = Duration::from_secs(2);

/// The connection, if there is one.
pub(super) fn examine(config: &Arc<Config>, report: &mut Report<'_>) -> Result<Option<Arc<Admin>>> {
    report.add([versions(ceph::versions())])?;
    let given = config.ceph.clone();
    let local = within(LOCAL_LIMIT, move || configuration(&given))
        .unwrap_or_else(|| vec![timed_out("ceph.conf", LOCAL_LIMIT)]);
    let usable = local.iter().all(|finding| finding.status == Status::Ok);
    report.add(local)?;
    if !usable {
        return Ok(None);
    }
    let timeout = config.ceph.timeout;
    let given = config.ceph.clone();
    let missing = match conf_and_key::key_place(&given) {
        Ok(KeyPlace::Missing(why)) => Some(why),
        _ => None,
    };
    // To connect, to ask for the monitors; each as long as one request may take.
    let limit = timeout * 3 + Duration::from_secs(2);
    let admin = match within(limit, move || Admin::connect(&given)) {
        Some(Ok(admin)) => Arc::new(admin),
        Some(Err(e)) => {
            report.add(missing.map(|why| no_key(&config.ceph, &why)))?;
            report.add([not_connected(config, &e)])?;
            return Ok(None);
        }
        None => {
            report.add([timed_out("connection", limit)])?;
            return Ok(None);
        }
    };
    report.add(missing.map(|_| Finding::ok("key", "none, and this cluster asks for none")))?;
    let cluster = admin.cluster();
    report.add([Finding::ok(
        "connection",
        format!("cluster {} as client.{}", cluster.fsid(), cluster.user()),
    )])?;
    let asked = Arc::clone(&admin);
    let limit = timeout * 2;
    let fenced = within(limit, move || asked.fences_of_this_host());
    report.add([fenced.map_or_else(|| timed_out("blocklist", limit), blocklist)])?;
    let all = Arc::clone(&admin);
    let look = within(KNOCK + LOCAL_LIMIT, move || all.monitors().iter().map(monitor).collect::<Vec<_>>());
    report.add(look.unwrap_or_else(|| vec![timed_out("monitor", KNOCK + LOCAL_LIMIT)]))?;
    report.add([kernel_protocol(config, &admin)])?;
    let asked = Arc::clone(&admin);
    let demands = within(timeout * 2, move || asked.beyond_kernels());
    report.add(demands.map_or_else(|| Some(timed_out("osd map", timeout * 2)), beyond_kernels))?;
    let asked = Arc::clone(&admin);
    let health = within(timeout * 2, move || asked.health());
    report.add([health.map_or_else(|| timed_out("health", timeout * 2), health_of)])?;
    pools::examine(config, &admin, report)?;
    Ok(Some(admin))
}

fn versions(found: Versions) -> Finding {
    let parts = |text: &str| text.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<i32>>();
    let (major, minor, extra) = found.librbd;
    if vec![major, minor, extra] < parts(found.headers) {
        let fix = format!("install librbd1 and librados2 with librbd {} or newer", found.headers);
        return Finding::fail("libraries", format!("{found}: older than what this was built for"), fix);
    }
    Finding::ok("libraries", found.to_string())
}

/// What is on this host: ceph.conf, and the key.
fn configuration(options: &crate::config::Ceph) -> Vec<Finding> {
    let conf = &options.conf;
    if let Err(e) = std::fs::File::open(conf).or_call("open", conf.display()) {
        let fix = "copy it from a monitor to /etc/ceph/ceph.conf, or say where it is: --config FILE";
        return vec![unreadable("ceph.conf", e.to_string(), e.errno, fix)];
    }
    let mut findings = vec![Finding::ok("ceph.conf", conf.display().to_string())];
    findings.push(match conf_and_key::key_place(options) {
        Ok(KeyPlace::At(place, _)) => Finding::ok("key", format!("client.{} in {place}", options.user)),
        Ok(KeyPlace::NotAsked) => Finding::ok("key", "auth_client_required asks for none"),
        // Connecting tells whether the cluster asks for one.
        Ok(KeyPlace::Missing(_)) => return findings,
        Err(e) => no_key(options, &e),
    });
    findings
}

fn no_key(options: &crate::config::Ceph, e: &DriverError) -> Finding {
    let errno = e.source.as_ref().map_or(Errno::ENOENT, |call| call.errno);
    let entity = format!("client.{}", options.user);
    let fix = format!(
        "ceph auth get-or-create {entity} {} -o /etc/ceph/ceph.{entity}.keyring",
        caps::needed(options, None)
    );
    unreadable("key", without_hint(e), errno, &fix)
}

/// Root may read it perhaps, and then all is well.
fn unreadable(check: &'static str, found: String, errno: Errno, fix: &str) -> Finding {
    if errno == Errno::EACCES && geteuid() != 0 {
        return Finding::warn(check, found, "sudo rbd-docker-plugin doctor");
    }
    Finding::fail(check, found, fix)
}

fn not_connected(config: &Config, e: &DriverError) -> Finding {
    let conf = config.ceph.conf.display();
    let fix = match e.kind {
        ErrorKind::Denied => Some(format!("compare the key with: ceph auth get client.{}", config.ceph.user)),
        ErrorKind::Unreachable => {
            let hosts = conf_and_key::mon_host(&config.ceph).unwrap_or_else(|| "nothing".to_owned());
            Some(format!(
                "{conf} says mon_host = {hosts}: is that right, do they run, does a firewall stand between? Then: ceph -s"
            ))
        }
        _ => None,
    };
    Finding::error("connection", e, fix)
}

/// Whether a monitor answers at each of its addresses. The client needs one of them only; the kernel may use another one.
fn monitor(monitor: &Monitor) -> Finding {
    let told: Vec<String> =
        monitor.addresses.iter().map(|(protocol, address)| format!("{protocol} {address}")).collect();
    let found = format!("{}: {}", monitor.name, told.join(", "));
    let knocks = monitor.addresses.iter().map(|(_, address)| {
        let target = address.clone();
        std::thread::spawn(move || !answers(&target))
    });
    let knocks: Vec<_> = knocks.collect();
    let silent: BTreeSet<&str> = monitor
        .addresses
        .iter()
        .zip(knocks)
        .filter_map(|((_, address), knock)| knock.join().unwrap_or(true).then_some(address.as_str()))
        .collect();
    if silent.is_empty() {
        return Finding::ok("monitor", found);
    }
    let silent = silent.into_iter().collect::<Vec<_>>().join(", ");
    let fix = "ceph mon stat shows who is missing; if none is, a firewall stands between";
    Finding::warn("monitor", format!("{found}; no answer at {silent}"), fix)
}

fn answers(address: &str) -> bool {
    let mut targets = address.to_socket_addrs().into_iter().flatten();
    targets.any(|target| TcpStream::connect_timeout(&target, KNOCK).is_ok())
}

/// Whether the kernel and the monitors have a protocol in common.
fn kernel_protocol(config: &Config, admin: &Admin) -> Finding {
    match admin.kernel_link(config.ceph.map_options.as_deref()) {
        Ok(link) => protocol(&link, super::kernel::speaks_msgr2()),
        Err(e) => Finding::error("ms_mode", &e, None),
    }
}

fn protocol(link: &KernelLink, speaks_msgr2: Option<bool>) -> Finding {
    let check = "ms_mode";
    let new = link.msgr2;
    let why = link.added.map_or_else(String::new, |added| format!(" ({}: {})", added.word, added.why));
    if link.addresses.is_empty() {
        let (wanted, open) =
            if new { ("v2", "ceph mon enable-msgr2") } else { ("v1", "--map-options ms_mode=prefer-crc") };
        let found = format!(
            "the kernel is to speak {wanted} to the monitors{why}, and none of them has such an address"
        );
        return Finding::fail(check, found, open);
    }
    let port = link.addresses.join(", ");
    let fix = "use a newer kernel, or ms_mode=legacy and monitors with a v1 address";
    match speaks_msgr2 {
        Some(false) if new => {
            let found = format!("the kernel is to speak v2 to {port}{why}, which this kernel does not");
            return Finding::fail(check, found, fix);
        }
        None if new => {
            let found = format!(
                "the kernel is to speak v2 to {port}{why}; whether this old kernel can shows when rbd is loaded"
            );
            return Finding::warn(check, found, "modprobe rbd, and ask again");
        }
        _ => {}
    }
    let defaults = match link.defaults.as_str() {
        "" => String::new(),
        defaults => format!("; rbd_default_map_options = {defaults}"),
    };
    Finding::ok(
        check,
        format!("the kernel speaks {} to {port}{why}{defaults}", if new { "v2" } else { "v1" }),
    )
}

/// What the OSD map asks of clients that kernels cannot do.
fn beyond_kernels(demands: Result<Option<String>>) -> Option<Finding> {
    match demands {
        Ok(why) => Some(Finding::warn(
            "osd map",
            why?,
            "ceph osd dump shows it; librados clients go on, mounts may hang",
        )),
        Err(e) => Some(Finding { status: Status::Warn, ..Finding::error("osd map", &e, None) }),
    }
}

/// Whether this host may use the cluster: a client that is shut out can still ask the monitors, and nothing else.
fn blocklist(fenced: Result<Vec<(String, Fence)>>) -> Finding {
    let fenced = match fenced {
        Ok(fenced) => fenced,
        Err(e) => return Finding::error("blocklist", &e, None),
    };
    let Some((client, fence)) = fenced.first() else {
        return Finding::ok("blocklist", "nothing of this host is on it");
    };
    let whom = match fence.reach {
        Reach::Client => format!("the client {client} of this host is blocklisted"),
        Reach::Host | Reach::Range => {
            format!("this host is blocklisted: {} (its client is {client})", fence.address)
        }
    };
    let more = fenced.len() - 1;
    let rest = if more > 0 { format!(", and {more} more of its clients") } else { String::new() };
    let found = format!("{whom}, until {}{rest}", fence.until);
    Finding::fail("blocklist", found, format!("when it may write again: {}", fence.end()))
}

fn health_of(health: Result<Health>) -> Finding {
    let health = match health {
        Ok(health) => health,
        Err(e) => return Finding::error("health", &e, None),
    };
    let found = if health.reasons.is_empty() {
        health.status.clone()
    } else {
        format!("{}: {}", health.status, health.reasons.join("; "))
    };
    match health.status.as_str() {
        "HEALTH_OK" => Finding::ok("health", found),
        "HEALTH_ERR" => Finding::fail("health", found, "ceph health detail"),
        _ => Finding::warn("health", found, "ceph health detail"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_becomes_a_line() {
        let of = |status: &str, reasons: &[&str]| {
            let reasons = reasons.iter().map(|&reason| reason.to_owned()).collect();
            health_of(Ok(Health { status: status.to_owned(), reasons }))
        };
        assert_eq!(of("HEALTH_OK", &[]), Finding::ok("health", "HEALTH_OK"));
        let skew = of("HEALTH_WARN", &["MON_CLOCK_SKEW: mon.b"]);
        assert_eq!((skew.status, skew.found.as_str()), (Status::Warn, "HEALTH_WARN: MON_CLOCK_SKEW: mon.b"));
        assert_eq!(of("HEALTH_ERR", &["OSD_FULL: 1"]).status, Status::Fail);
    }

    #[test]
    fn a_host_that_is_shut_out_is_told_with_the_way_back() {
        assert_eq!(blocklist(Ok(Vec::new())).status, Status::Ok);
        let fence =
            |address: &str, reach| Fence { address: address.to_owned(), until: "T".to_owned(), reach };
        let client = || "10.0.0.1:0/7".to_owned();
        let finding = blocklist(Ok(vec![(client(), fence("10.0.0.1:0/0", Reach::Host))]));
        assert_eq!(
            finding.found,
            "this host is blocklisted: 10.0.0.1:0/0 (its client is 10.0.0.1:0/7), until T"
        );
        assert_eq!(
            finding.fix.as_deref(),
            Some("when it may write again: ceph osd blocklist rm 10.0.0.1:0/0")
        );
        let one = fence("10.0.0.1:0/7", Reach::Client);
        let finding = blocklist(Ok(vec![(client(), one.clone()), (client(), one)]));
        assert!(
            finding.found.contains("the client 10.0.0.1:0/7")
                && finding.found.ends_with("1 more of its clients")
        );
    }

    #[test]
    fn libraries_older_than_the_headers_fail() {
        let of = |librbd| versions(Versions { librados: (3, 0, 0), librbd, headers: "1.16.0" }).status;
        assert_eq!(of((1, 16, 0)), Status::Ok);
        assert_eq!(of((1, 19, 0)), Status::Ok);
        assert_eq!(of((1, 12, 0)), Status::Fail);
    }

    #[test]
    fn kernel_and_monitors_need_a_common_protocol() {
        let port = ["10.0.0.1:3300".to_owned()];
        let link = |msgr2, addresses: &[String]| KernelLink {
            addresses: addresses.to_vec(),
            added: None,
            msgr2,
            defaults: "queue_depth=64".to_owned(),
        };
        let status = |msgr2, addresses: &[String], speaks| protocol(&link(msgr2, addresses), speaks).status;
        assert_eq!(status(true, &port, Some(true)), Status::Ok);
        assert_eq!(status(true, &port, None), Status::Warn);
        assert_eq!(status(true, &port, Some(false)), Status::Fail);
        assert_eq!(status(false, &port, Some(false)), Status::Ok);
        assert_eq!(protocol(&link(true, &[]), Some(true)).fix.as_deref(), Some("ceph mon enable-msgr2"));
        assert_eq!(status(false, &[], None), Status::Fail);
        assert!(
            protocol(&link(false, &port), None).found.ends_with("rbd_default_map_options = queue_depth=64")
        );
    }

    #[test]
    fn who_does_not_listen_does_not_answer() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let of = |address: &str| {
            monitor(&Monitor { name: "a".to_owned(), addresses: vec![("v2".to_owned(), address.to_owned())] })
        };
        assert_eq!(of(&address), Finding::ok("monitor", format!("a: v2 {address}")));
        drop(listener);
        assert_eq!(of(&address).status, Status::Warn);
        assert_eq!(of("nonsense").status, Status::Warn);
    }
}

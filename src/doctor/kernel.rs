//! What the kernel needs to map images.

use std::fs;

use nix::errno::Errno;

use super::finding::Finding;
use super::step::geteuid;
use crate::backend::rbd::conf_and_key::{self, KeyPlace};
use crate::backend::rbd::inspect;
use crate::ceph::features::told;
use crate::config::Config;
use crate::linux::krbd::Kernel;
use crate::linux::{boot, keyring, krbd};
use crate::model::error::CallError;

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let release = boot::release();
    let mut findings = vec![module(Kernel::host().supported_features(), &release)];
    if findings.iter().all(|finding| finding.fix.is_none()) {
        findings
            .extend(numbers(fs::read_to_string("/sys/module/rbd/parameters/single_major").ok().as_deref()));
        findings.push(sysfs(Kernel::host().is_writable()));
    }
    let kind = match conf_and_key::key_place(&config.ceph) {
        Ok(KeyPlace::At(_, key)) => key.kind(),
        _ => keyring::AES,
    };
    findings.push(keys(keyring::probe(kind), kind));
    findings
}

/// Whether the kernel's client speaks msgr2; nothing when nobody can tell before it is loaded.
pub(super) fn speaks_msgr2() -> Option<bool> {
    let recent = || version(&boot::release()).is_some_and(|version| version >= (5, 11)).then_some(true);
    krbd::kernel_speaks_msgr2().or_else(recent)
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn module(features: Result<Option<u64>, CallError>, release: &str) -> Finding {
    let check = "kernel module";
    match features {
        Ok(Some(features)) => {
            Finding::ok(check, format!("rbd is loaded, Linux {release}, features {}", told(features)))
        }
        Ok(None) if is_installed(release) => {
            let fix = "modprobe rbd && echo rbd > /etc/modules-load.d/rbd.conf";
            Finding::fail(check, "rbd is not loaded", fix)
        }
        Ok(None) => {
            let found = format!("rbd is not loaded, and /lib/modules/{release} does not have it");
            let fix = "install the package of this kernel's further modules (linux-modules-extra-…, kernel-modules), then: modprobe rbd";
            Finding::fail(check, found, fix)
        }
        Err(e) => Finding::error(check, &e.into(), None),
    }
}

fn is_installed(release: &str) -> bool {
    let folder = format!("/lib/modules/{release}");
    let lists = |file: &str| {
        fs::read_to_string(format!("{folder}/{file}")).is_ok_and(|text| text.contains("/block/rbd.ko"))
    };
    lists("modules.dep") || lists("modules.builtin")
}

/// Without `single_major` each device takes a major number of its own, and there are few.
fn numbers(parameter: Option<&str>) -> Option<Finding> {
    parameter.is_some_and(|text| text.trim() == "N").then(|| {
        let found = "rbd.single_major is off: no more than some 200 volumes at a time";
        Finding::warn(
            "devices",
            found,
            "echo 'options rbd single_major=Y' > /etc/modprobe.d/rbd.conf, and restart",
        )
    })
}

fn sysfs(writable: Result<(), CallError>) -> Finding {
    let check = "sysfs";
    match writable {
        Ok(()) => Finding::ok(check, "images can be mapped from here"),
        Err(e) if e.errno == Errno::EACCES && geteuid() != 0 => {
            Finding::warn(check, "only root can map images", "sudo rbd-docker-plugin doctor")
        }
        Err(e) if matches!(e.errno, Errno::EROFS | Errno::EACCES) => {
            let fix = "in a container: run it --privileged, or with /sys mounted writable";
            Finding::fail(check, e.to_string(), fix)
        }
        Err(e) => Finding::error(check, &e.into(), None),
    }
}

fn keys(probed: Result<(), CallError>, kind: u16) -> Finding {
    match probed {
        Err(e) if e.errno == Errno::EOPNOTSUPP => Finding::fail(
            "add_key",
            format!("this kernel does not know keys of type {}", inspect::key_type(kind)),
            "make the user a key of type aes (ceph auth get-or-create --key-type aes, where this Ceph has that option)",
        ),
        Ok(()) => Finding::ok("add_key", "keys can be handed to the kernel"),
        Err(e) => {
            let fix = "in a container: run it --privileged, or with a seccomp profile that allows add_key";
            Finding::fail("add_key", e.to_string(), fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn a_release_begins_with_two_numbers() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.14.0-427.el9.x86_64"), Some((5, 14)));
        assert_eq!(version("linux"), None);
    }

    #[test]
    fn a_missing_module_is_a_failure_with_the_command() {
        let missing = module(Ok(None), "0.0.0-none");
        assert_eq!(missing.status, Status::Fail);
        assert!(missing.fix.unwrap().ends_with("modprobe rbd"));
        assert!(module(Ok(Some(1)), "6.1").found.ends_with("features layering"));
        assert_eq!(module(Err(CallError::new("read", "x", Errno::EINVAL)), "6.1").status, Status::Fail);
    }

    #[test]
    fn what_the_kernel_says_of_the_rest() {
        assert!(numbers(Some("Y\n")).is_none() && numbers(None).is_none());
        assert_eq!(numbers(Some("N\n")).unwrap().status, Status::Warn);
        assert_eq!(sysfs(Ok(())).status, Status::Ok);
        assert_eq!(sysfs(Err(CallError::new("open", "/sys", Errno::EROFS))).status, Status::Fail);
        assert_eq!(keys(Err(CallError::new("add_key", "x", Errno::EPERM)), 1).status, Status::Fail);
        let unknown = keys(Err(CallError::new("add_key", "x", Errno::EOPNOTSUPP)), 2);
        assert_eq!((unknown.status, unknown.found.contains("2 (aes256k)")), (Status::Fail, true));
    }
}

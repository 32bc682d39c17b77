//! Folders, mounts and programs of this host.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::docker;
use super::finding::Finding;
use super::folder::{existing, folder};
use super::step::geteuid;
use crate::config::{Backend, Config};
use crate::linux::boot;
use crate::linux::exec::Programs;
use crate::linux::mountinfo;

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    if config.backend == Backend::Sim {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if let Backend::Local(dir) = &config.backend {
        findings.push(folder("images", dir, "--local-dir names another one"));
        findings.push(loop_devices(Path::new("/dev/loop-control")));
    }
    let root = config.mount.join(&config.name);
    findings.push(folder("mount root", &root, "--mount names another one"));
    findings.extend(propagation(&root));
    findings.push(folder("state", &config.state.join(&config.name), "--state names another one"));
    findings.extend(programs(config, &Programs::find()));
    findings.push(machine_id(&boot::machine_id()));
    findings
}

/// Docker has to see what is mounted below the root: it looks from its own mount namespace.
fn propagation(root: &Path) -> Option<Finding> {
    let check = "propagation";
    let real = existing(root)?.canonicalize().ok()?;
    let entries = match mountinfo::read(Path::new(mountinfo::OWN)) {
        Ok(entries) => entries,
        Err(e) => return Some(Finding::error(check, &e.into(), None)),
    };
    let mount = mountinfo::covering(&entries, &real)?;
    let at = mount.target.display();
    if mount.group.is_some() {
        return Some(Finding::ok(check, format!("shared, at {at}")));
    }
    if docker::engine().is_some_and(same_mounts) {
        return Some(Finding::ok(
            check,
            format!("private at {at}, but Docker is in the same mount namespace"),
        ));
    }
    let found =
        format!("{at} is not shared: a Docker engine in another mount namespace does not see the volumes");
    Some(Finding::warn(check, found, format!("mount --make-rshared {at}")))
}

fn same_mounts(pid: i32) -> bool {
    let namespace = |who: &str| fs::read_link(format!("/proc/{who}/ns/mnt")).ok();
    namespace("self").is_some_and(|own| namespace(&pid.to_string()) == Some(own))
}

fn loop_devices(control: &Path) -> Finding {
    match access(control, AccessFlags::W_OK) {
        Ok(()) => Finding::ok("loop devices", control.display().to_string()),
        Err(Errno::EACCES) if geteuid() != 0 => {
            Finding::warn("loop devices", "only root can attach them", "sudo rbd-docker-plugin doctor")
        }
        Err(errno) => {
            let found = format!("{}: {}", control.display(), errno.desc());
            Finding::fail("loop devices", found, "modprobe loop; in a container: run it --privileged")
        }
    }
}

fn programs(config: &Config, programs: &Programs) -> Vec<Finding> {
    let own = format!("mkfs.{}", config.fs);
    let missing = programs.missing();
    if missing.is_empty() {
        return vec![Finding::ok("programs", "mkfs and checkers of ext4, xfs, btrfs")];
    }
    let finding = |program: &crate::linux::exec::Program| {
        let package = program.package();
        let fix = format!("apt install {package}, or dnf install {package}");
        if config.create && program.name() == own {
            Finding::fail("programs", format!("{program} is missing: no volume can be created"), fix)
        } else {
            Finding::warn("programs", format!("{program} is missing: volumes that need it fail"), fix)
        }
    };
    missing.iter().map(finding).collect()
}

fn machine_id(id: &str) -> Finding {
    if id.is_empty() {
        let found =
            "/etc/machine-id is missing or empty: a host of the same name would be taken for this one";
        return Finding::warn(
            "machine id",
            found,
            "systemd-machine-id-setup; in a container: -v /etc/machine-id:/etc/machine-id:ro",
        );
    }
    Finding::ok("machine id", id)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn what_is_missing_comes_with_its_package() {
        let load = |create: &str| {
            let flags = [("create", create), ("conf-file", "none"), ("fs", "xfs")];
            Config::load(&flags.map(|(k, v)| (k, v.to_owned())).into(), &Default::default()).unwrap()
        };
        let missing = programs(&load("true"), &Programs::default());
        let failed: Vec<_> = missing.iter().filter(|finding| finding.status == Status::Fail).collect();
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].fix.as_deref(), Some("apt install xfsprogs, or dnf install xfsprogs"));
        assert!(programs(&load("false"), &Programs::default()).iter().all(|f| f.status == Status::Warn));
        assert_eq!([machine_id("").status, machine_id("7").status], [Status::Warn, Status::Ok]);
        assert_eq!(loop_devices(Path::new("/nonexistent")).status, Status::Fail);
    }
}

//! The other side: the programs that rbd-docker-plugin 2.0.1 runs for each request, in its order, with its options.

use std::fs;
use std::process::{Command, Stdio};

const TARGET: &str = "/disk/theirs";

/// It keeps the device of a mounted volume in memory.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    device: String,
}

/// A program that must succeed; what it wrote to stdout.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// `CEPH_CONF` says which cluster.
fn rbd(args: &[&str]) -> String {
    run("rbd", &[&["--pool", "rbd", "--id", "docker"], args].concat())
}

fn host() -> String {
    nix::unistd::gethostname().unwrap().to_string_lossy().into_owned()
}

fn unlock(image: &str) {
    let list = rbd(&["lock", "ls", image]);
    let line = list.lines().find(|line| line.contains(&host())).unwrap();
    rbd(&["lock", "rm", image, &host(), line.split_ascii_whitespace().next().unwrap()]);
}

impl Programs {
    pub(crate) fn mount(&mut self, image: &str) {
        self.get(image);
        rbd(&["lock", "add", image, &host()]);
        self.device = rbd(&["map", image]);
        let kind = run("blkid", &["-o", "value", "-s", "TYPE", &self.device]);
        fs::create_dir_all(TARGET).unwrap();
        run("mount", &["-t", &kind, &self.device, TARGET]);
    }

    pub(crate) fn unmount(&self, image: &str) {
        run("umount", &[TARGET]);
        rbd(&["unmap", &self.device]);
        unlock(image);
    }

    pub(crate) fn create(&self, image: &str) {
        let known = Command::new("rbd").args(["--pool", "rbd", "--id", "docker", "info", image]).output();
        assert!(!known.unwrap().status.success());
        // Its own option would be the cluster's default features, which it cannot map while it holds its lock.
        rbd(&["create", "--image-format", "2", "--size", "512", "--image-feature", "layering", image]);
        rbd(&["lock", "add", image, &host()]);
        let device = rbd(&["map", image]);
        run("mkfs.ext4", &[&device]);
        rbd(&["unmap", &device]);
        unlock(image);
    }

    pub(crate) fn get(&self, image: &str) {
        rbd(&["info", image]);
    }

    /// How many.
    pub(crate) fn list(&self) -> usize {
        rbd(&["ls"]).lines().count()
    }
}

//! `make bench`: what the plugin costs, each figure beside the floor of the same work done bare, in the same run on the same
//! images, or beside its limit. Timings are medians; only the ratios mean something on another machine.
//!
//! ```text
//! speed --bench [PART…]   measures: local, orphans, cluster, many; all of them without a name
//! ```
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "../../tests/local/child.rs"]
#[allow(dead_code, reason = "the local tier uses all of it")]
mod child;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod cost;
mod crowd;
#[path = "../../tests/common/daemon.rs"]
mod daemon;
#[path = "../../tests/common/fake_kernel.rs"]
mod fake_kernel;
mod local;
mod many;
mod orphans;
#[path = "../../tests/common/reads.rs"]
mod reads;
mod table;

use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A part of the table: its name, and what measures it below a folder.
type Part = (&'static str, fn(&Path));

const PARTS: [Part; 4] = [
    ("local", local::measure),
    ("orphans", orphans::measure),
    ("cluster", cluster::measure),
    ("many", many::measure),
];

fn main() -> ExitCode {
    if let Some(code) = child::run() {
        return code;
    }
    // `cargo test --benches` and the like ask for nothing to be measured.
    let arguments: Vec<String> = std::env::args().collect();
    let asked = |word: &str| arguments.iter().any(|argument| argument == word);
    if !asked("--bench") {
        return ExitCode::SUCCESS;
    }
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
        println!("skipped: measuring mounts needs root and loop devices");
        return ExitCode::SUCCESS;
    }
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();

    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let calm = calm(dir.path());
    table::head();
    let some = PARTS.iter().any(|(name, _)| asked(name));
    for (name, measure) in PARTS.iter().filter(|(name, _)| !some || asked(name)) {
        let dir = calm.target.join(name);
        fs::create_dir_all(dir.join("run")).unwrap();
        // The default folder of the socket is on one, too.
        mount(Some("tmpfs"), &dir.join("run"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        measure(&dir);
        nix::mount::umount(&dir.join("run")).unwrap();
    }
    // The Ceph client of the stand-in for the kernel has a socket there until this process ends, and with it the loop device goes.
    nix::mount::umount2(&calm.target, nix::mount::MntFlags::MNT_DETACH).unwrap();
    ExitCode::SUCCESS
}

/// A filesystem that nobody else uses. On the machine's own one ext4 passes over every inode that was deleted in the last minutes
/// when it looks for a free one, and on a machine that has just built and tested something that takes milliseconds.
fn calm(dir: &Path) -> local::Bare {
    let (image, target) = (dir.join("calm.img"), dir.join("calm"));
    File::create(&image).unwrap().set_len(8 << 30).unwrap();
    let mkfs = std::process::Command::new("mkfs.ext4").arg("-q").arg(&image).status().unwrap();
    assert!(mkfs.success());
    fs::create_dir(&target).unwrap();
    local::Bare::mount(&image, &target)
}

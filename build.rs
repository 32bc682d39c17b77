//! Binds the kernel headers that `wrapper.h` names, and stamps the revision the binary was built from.
#![allow(clippy::print_stdout, reason = "cargo reads a build script's orders from its standard output")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, panic};

/// What to install where the headers or libclang are missing.
const NEEDED: &str = "the build needs libclang and the kernel's headers:
  Debian, Ubuntu:    apt-get install libclang-dev linux-libc-dev libblkid-dev pkg-config
  Fedora, RHEL, ...: dnf install clang-devel kernel-headers libblkid-devel pkgconf";

/// The environment variable that overrides the revision, and under which the code finds it.
const REVISION: &str = "RBD_DOCKER_PLUGIN_REVISION";

fn main() -> ExitCode {
    stamp_revision();
    match bind_headers() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}\n\n{NEEDED}");
            ExitCode::FAILURE
        }
    }
}

fn bind_headers() -> Result<(), String> {
    println!("cargo::rerun-if-changed=wrapper.h");
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?;
    let out = PathBuf::from(out);
    let builder = bindgen::Builder::default()
        .header("wrapper.h")
        .allowlist_type("loop_config|loop_info64")
        .allowlist_var("LOOP_(CONFIGURE|CLR_FD|GET_STATUS64|CTL_GET_FREE)")
        .allowlist_var("LO_(FLAGS_.*|NAME_SIZE)")
        .allowlist_var("BLK(GETSIZE64|ROGET)")
        .allowlist_var("(EXT4|XFS)_SUPER_MAGIC|BTRFS_CSUM_SIZE")
        .clang_macro_fallback()
        .clang_macro_fallback_build_dir(&out)
        .derive_default(true)
        .layout_tests(true)
        .generate_comments(false)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()));
    // Without libclang bindgen panics instead of returning an error.
    let bindings = panic::catch_unwind(panic::AssertUnwindSafe(|| builder.generate()))
        .map_err(|_| "libclang was not found".to_owned())?
        .map_err(|e| format!("wrapper.h cannot be bound: {e}"))?;
    bindings.write_to_file(out.join("uapi.rs")).map_err(|e| format!("uapi.rs cannot be written: {e}"))
}

fn stamp_revision() {
    println!("cargo::rerun-if-env-changed={REVISION}");
    println!("cargo::rerun-if-changed=build.rs");
    let revision = match env::var(REVISION) {
        Ok(given) if !given.trim().is_empty() => given.trim().to_owned(),
        _ => git_revision().unwrap_or_else(|| "unknown".to_owned()),
    };
    println!("cargo::rustc-env={REVISION}={revision}");
}

/// `git rev-parse` of the checked-out commit, when this folder is the top of a work tree: a source archive unpacked somewhere
/// inside another repository must not be stamped with that one's commit.
fn git_revision() -> Option<String> {
    let top = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from)?;
    if top.canonicalize().ok()? != here.canonicalize().ok()? {
        return None;
    }
    let mut watched = vec!["HEAD".to_owned(), "index".to_owned(), "packed-refs".to_owned()];
    watched.extend(git(&["symbolic-ref", "-q", "HEAD"]));
    for name in &watched {
        // A watched file that does not exist would make cargo run this script every time.
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|p| Path::new(p).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some();
    Some(if dirty { format!("{commit}-dirty") } else { commit })
}

/// What git says; nothing when it says nothing or fails.
fn git(args: &[&str]) -> Option<String> {
    // Without optional locks: `git status` would refresh the index, and with it what cargo watches.
    let output = Command::new("git")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .args(args)
        .output()
        .ok()
        .filter(|o| o.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

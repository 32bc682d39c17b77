//! A folder that the plugin writes to.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::finding::Finding;
use super::step::geteuid;

/// Whether a folder is there, or can be made, and be written to.
pub(super) fn folder(check: &'static str, path: &Path, other: &str) -> Finding {
    let Some(there) = existing(path) else {
        return Finding::fail(check, format!("{} is no path", path.display()), other);
    };
    if !there.is_dir() {
        return Finding::fail(check, format!("{} is no folder", there.display()), other);
    }
    match access(&there, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) if there == path => Finding::ok(check, path.display().to_string()),
        Ok(()) => Finding::ok(check, format!("{}, to be made", path.display())),
        Err(Errno::EACCES) if geteuid() != 0 => {
            let found = format!("{}: only root can write there", there.display());
            Finding::warn(check, found, "sudo rbd-docker-plugin doctor")
        }
        Err(errno) => {
            Finding::fail(check, format!("{} cannot be written to: {}", there.display(), errno.desc()), other)
        }
    }
}

/// The folder itself, or the nearest one above it.
pub(super) fn existing(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|path| path.symlink_metadata().is_ok()).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::finding::Status;
    use super::*;

    #[test]
    fn a_folder_is_there_or_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| folder("x", &dir.path().join(path), "elsewhere");
        assert_eq!(at(""), Finding::ok("x", format!("{}/", dir.path().display())));
        assert!(at("a/b").found.ends_with("a/b, to be made"));
        fs::write(dir.path().join("f"), "").unwrap();
        assert_eq!((at("f").status, at("f/g").status), (Status::Fail, Status::Fail));
        assert_eq!(at("f/g").fix.as_deref(), Some("elsewhere"));
    }
}

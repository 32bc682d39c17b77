//! Small files that must survive a crash whole: the old content or the new one, never a mixture, never an empty file.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Gid, chown};

use crate::model::error::{CallError, OrCall};

/// Replaces a file, durably: [`replace`], and fsync of the folder.
pub fn save(path: &Path, content: &[u8]) -> Result<(), CallError> {
    replace(path, content).and_then(|()| sync_folder(path))
}

/// Replaces a file (mode 0600): write beside it, fsync, rename over it. Killed at any point it leaves the old file, and at most
/// one `.<name>.tmp` that the next call overwrites. Two calls for one path must not overlap.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), CallError> {
    let temporary = beside(path, "tmp")?;
    let result = write(&temporary, content)
        .and_then(|()| fs::rename(&temporary, path).or_call("rename", path.display()));
    if result.is_err() {
        // The first failure is the one to tell; what stays here is overwritten by the next call.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Adds to the end of a file (mode 0600), which is made if it is not there. Killed, a part may be missing; so may all of it without power.
pub fn append(path: &Path, content: &[u8]) -> Result<(), CallError> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path).or_call("open", path.display())?;
    file.write_all(content).or_call("write", path.display())
}

/// Makes a file (mode 0600), durably, unless it is there: of several plugins that do it at once, on one host or many, one wins,
/// and all find its content afterwards. `own` is a word that no other has. Killed it may leave one `.<name>.<own>.tmp`.
pub fn make(path: &Path, own: &str, content: &[u8]) -> Result<(), CallError> {
    let temporary = beside(path, &format!("{own}.tmp"))?;
    let linked = write(&temporary, content).and_then(|()| match fs::hard_link(&temporary, path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Ok(()) => sync_folder(path),
        // Some network filesystems have no hard links. The last one wins there.
        Err(_) => {
            fs::rename(&temporary, path).or_call("rename", path.display()).and_then(|()| sync_folder(path))
        }
    });
    // What stays here is in nobody's way.
    let _ = fs::remove_file(&temporary);
    linked
}

/// Reads a file; nothing when it is not there.
pub fn load(path: &Path) -> Result<Option<Vec<u8>>, CallError> {
    match fs::read(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        content => content.or_call("read", path.display()).map(Some),
    }
}

/// Reads an attribute in sysfs. It is no longer than a page, and one read gives all of it: another one, to see that it ends there, would
/// double what a look at hundreds of devices costs.
pub fn attribute(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut text = vec![0; 4096];
    let mut length = 0;
    loop {
        match file.read(&mut text[length..]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(read) => {
                length += read;
                if length < text.len() || read == 0 {
                    break;
                }
                text.resize(2 * length, 0);
            }
        }
    }
    Ok(String::from_utf8_lossy(&text[..length]).trim_end_matches('\n').to_owned())
}

/// The names of the files in a folder, hidden ones left out; none when it is not there.
pub fn names(folder: &Path) -> Result<Vec<String>, CallError> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.or_call("readdir", folder.display())?,
    };
    let entries = entries.collect::<io::Result<Vec<_>>>().or_call("readdir", folder.display())?;
    let names = entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| !name.starts_with('.')).collect())
}

/// Makes a folder, with its parents, that nobody but root passes, and a group if one is given. A folder that is there is closed as
/// well; parents that are there stay as they are.
pub fn make_closed(folder: &Path, group: Option<Gid>) -> Result<(), CallError> {
    let made: Vec<&Path> = folder.ancestors().skip(1).take_while(|path| !path.exists()).collect();
    fs::create_dir_all(folder).or_call("mkdir", folder.display())?;
    let mode = if group.is_some() { 0o710 } else { 0o700 };
    for path in made.into_iter().rev().chain([folder]) {
        let is = fs::metadata(path).or_call("stat", path.display())?;
        if let Some(group) = group.filter(|group| group.as_raw() != is.gid()) {
            chown(path, None, Some(group)).or_call("chown", path.display())?;
        }
        if is.mode() & 0o7777 != mode {
            fs::set_permissions(path, Permissions::from_mode(mode)).or_call("chmod", path.display())?;
        }
    }
    Ok(())
}

/// The folders above one that members of a group cannot pass.
pub fn impassable(folder: &Path, group: u32) -> Vec<PathBuf> {
    let passable = |path: &Path| {
        fs::metadata(path).is_ok_and(|is| {
            let bit = if is.gid() == group { 0o010 } else { 0o001 };
            is.mode() & bit != 0
        })
    };
    folder.ancestors().skip(1).filter(|path| !passable(path)).map(Path::to_owned).collect()
}

/// Removes a file, durably; what is not there is success.
pub fn forget(path: &Path) -> Result<(), CallError> {
    remove(path).and_then(|()| sync_folder(path))
}

/// Removes a file; what is not there is success.
pub fn remove(path: &Path) -> Result<(), CallError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.or_call("unlink", path.display()),
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), CallError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .or_call("open", path.display())?;
    file.write_all(content).or_call("write", path.display())?;
    file.sync_all().or_call("fsync", path.display())
}

fn beside(path: &Path, ending: &str) -> Result<PathBuf, CallError> {
    let name = path.file_name().ok_or_else(|| CallError::new("open", path.display(), Errno::EISDIR))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(ending);
    Ok(path.with_file_name(hidden))
}

fn sync_folder(path: &Path) -> Result<(), CallError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder).and_then(|f| f.sync_all()).or_call("fsync", folder.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_attribute_is_read_whole_and_without_its_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("size");
        for length in [0, 1, 4095, 4096, 4097, 20_000] {
            let text = "x".repeat(length);
            fs::write(&path, format!("{text}\n")).unwrap();
            assert_eq!(attribute(&path).unwrap(), text);
        }
        assert_eq!(attribute(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn save_replaces_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        save(&path, b"one").unwrap();
        save(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_save_keeps_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::create_dir(&path).unwrap();
        assert_eq!(save(&path, b"x").unwrap_err().errno, Errno::EISDIR);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn of_several_that_make_a_file_one_wins_and_all_succeed() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let path = dir.path().join(format!("state{round}"));
            let together = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for own in 0..8 {
                    let (path, together) = (&path, &together);
                    scope.spawn(move || {
                        together.wait();
                        make(path, &own.to_string(), own.to_string().as_bytes()).unwrap();
                    });
                }
            });
            let made = fs::read(&path).unwrap();
            make(&path, "late", b"late").unwrap();
            assert_eq!(fs::read(&path).unwrap(), made, "it is there already");
            assert_eq!(made.len(), 1);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 50, "nothing is left beside them");
    }

    #[test]
    fn forgetting_twice_is_success_and_a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        save(&path, b"x").unwrap();
        forget(&path).unwrap();
        forget(&path).unwrap();
        let e = save(&dir.path().join("no/such"), b"x").unwrap_err();
        assert_eq!((e.call, e.errno), ("open", Errno::ENOENT));
    }
}

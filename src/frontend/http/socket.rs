//! The socket's life: claim its name, bind it, remove it.
//!
//! [`Claim::take`] comes first, before the driver touches anything: whoever holds the lock file `<name>.lock` is the one plugin
//! of that name. The socket is bound under another name, given group and mode, and then renamed into place: whoever
//! finds it, finds it ready. The lock file stays behind; removing it would let two plugins lock two different files.
//!
//! A socket that systemd has bound and passed ([`Claim::take_passed`]) is systemd's: its file is neither bound over nor removed, and who
//! connects while no plugin runs waits in it for the next one.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind as IoKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::model::error::{CallError, DriverError, ErrorKind, OrCall, Result};

/// What `sun_path` holds, without its final NUL.
pub(crate) const SUN_PATH_MAX: usize = 107;

/// Device and number.
type Inode = (u64, u64);

/// The right to be the plugin of a name, for as long as it lives.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    temporary: PathBuf,
    passed: Option<UnixListener>,
    _lock: Flock<File>,
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    pub(crate) socket: UnixListener,
    /// Whether it goes on listening without this process.
    pub(super) outlives_us: bool,
}

/// A bound socket. Dropping it leaves the file; [`Socket::remove`] takes it away.
#[derive(Debug)]
pub struct Socket {
    listener: Option<Listener>,
    /// Of the file that this process has made.
    inode: Option<Inode>,
    claim: Claim,
}

impl Claim {
    /// Claims `<dir>/<name>.sock`, making the folder if need be. `InUse` when another process serves it.
    pub fn take(dir: &Path, name: &str) -> Result<Self> {
        let claim = Self::hold(dir, name)?;
        let path = &claim.path;
        match path.symlink_metadata() {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(DriverError::new(
                    ErrorKind::InUse,
                    format!("{} is there and is not a socket", path.display()),
                )
                .hint("move it away"));
            }
            Ok(_) => refuse_if_served(path)?,
            Err(_) => {}
        }
        Ok(claim)
    }

    /// Claims `<dir>/<name>.sock`, which is bound already and listens as this socket.
    pub fn take_passed(dir: &Path, name: &str, passed: UnixListener) -> Result<Self> {
        let claim = Self::hold(dir, name)?;
        refuse_another(&passed, &claim.path)?;
        Ok(Self { passed: Some(passed), ..claim })
    }

    /// Claims the name alone, to serve nothing: no other plugin of this name runs meanwhile.
    pub fn hold(dir: &Path, name: &str) -> Result<Self> {
        if !dir.is_dir() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(dir)
                .or_call("mkdir", dir.display())
                .map_err(|e| socket_error(e, dir))?;
        }
        let path = dir.join(format!("{name}.sock"));
        // Not `.sock`, so that Docker does not take it for a driver; no longer than the name it will have.
        let temporary = dir.join(format!(".{name}.new"));
        if path.as_os_str().len() > SUN_PATH_MAX {
            return Err(DriverError::new(
                ErrorKind::Config,
                format!(
                    "{}: the path of a socket cannot be longer than {SUN_PATH_MAX} bytes",
                    path.display()
                ),
            )
            .hint("see --plugins and --name"));
        }
        let lock = lock(&dir.join(format!("{name}.lock")))?;
        Ok(Self { path, temporary, passed: None, _lock: lock })
    }

    /// Puts the socket in place, for root and the group; one that was passed is in place.
    pub fn bind(self, gid: u32) -> Result<Socket> {
        self.bind_with(gid, 0o660)
    }

    /// Puts the socket in place, for this user alone.
    pub fn bind_private(self) -> Result<Socket> {
        self.bind_with(nix::unistd::getegid().as_raw(), 0o600)
    }

    fn bind_with(mut self, gid: u32, mode: u32) -> Result<Socket> {
        let failed = |e| socket_error(e, &self.path);
        let (socket, inode) = match self.passed.take() {
            Some(passed) => {
                passed.set_nonblocking(true).or_call("ioctl", self.path.display()).map_err(failed)?;
                (passed, None)
            }
            None => self.place(gid, mode).map(|(socket, inode)| (socket, Some(inode))).map_err(failed)?,
        };
        Ok(Socket { listener: Some(Listener { socket, outlives_us: inode.is_none() }), inode, claim: self })
    }

    fn place(&self, gid: u32, mode: u32) -> std::result::Result<(UnixListener, Inode), CallError> {
        let at = &self.temporary;
        match std::fs::remove_file(at) {
            Err(e) if e.kind() == IoKind::NotFound => {}
            removed => removed.or_call("unlink", at.display())?,
        }
        let listener = UnixListener::bind(at).or_call("bind", at.display())?;
        listener.set_nonblocking(true).or_call("ioctl", at.display())?;
        std::os::unix::fs::chown(at, None, Some(gid)).or_call("chown", at.display())?;
        std::fs::set_permissions(at, Permissions::from_mode(mode)).or_call("chmod", at.display())?;
        let inode = inode(at).or_call("stat", at.display())?;
        std::fs::rename(at, &self.path).or_call("rename", self.path.display())?;
        Ok((listener, inode))
    }
}

impl Socket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.claim.path
    }

    /// The listener, once.
    pub fn listener(&mut self) -> Option<Listener> {
        self.listener.take()
    }

    /// Removes the file, if this process has made it and it is still this socket's, and gives the name back.
    pub fn remove(self) {
        let Some(ours) = self.inode else { return };
        if inode(self.path()).is_ok_and(|there| there == ours) {
            if let Err(e) = std::fs::remove_file(self.path()) {
                tracing::warn!("cannot remove {}: {e}", self.path().display());
            }
        } else {
            tracing::warn!("{} is not our socket any more and stays", self.path().display());
        }
    }
}

fn inode(path: &Path) -> std::io::Result<Inode> {
    path.symlink_metadata().map(|m| (m.dev(), m.ino()))
}

fn socket_error(e: CallError, path: &Path) -> DriverError {
    DriverError::from(e).context(format!("cannot serve {}", path.display()))
}

fn already_served(path: &Path, who: &str) -> DriverError {
    DriverError::new(ErrorKind::InUse, format!("{} is served by {who}", path.display()))
        .hint("stop it first, or give this one another --name")
}

/// Takes the lock and leaves our process id in it, for the error of the next one.
fn lock(path: &Path) -> Result<Flock<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .or_call("open", path.display())
        .map_err(|e| socket_error(e, path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let note = lock
                .set_len(0)
                .and_then(|()| lock.seek(SeekFrom::Start(0)))
                .and_then(|_| writeln!(lock, "{}", std::process::id()));
            if let Err(e) = note {
                tracing::debug!("cannot write to {}: {e}", path.display());
            }
            Ok(lock)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let who = match file.read_to_string(&mut pid) {
                Ok(n) if n > 1 => format!("another rbd-docker-plugin, process {}", pid.trim()),
                _ => "another rbd-docker-plugin".to_owned(),
            };
            Err(already_served(&path.with_extension("sock"), &who))
        }
        Err((_, errno)) => Err(socket_error(CallError::new("flock", path.display(), errno), path)),
    }
}

/// A socket that is there may be replaced only when the kernel says that nobody listens.
fn refuse_if_served(path: &Path) -> Result<()> {
    match UnixStream::connect(path) {
        Err(e) if matches!(e.kind(), IoKind::ConnectionRefused | IoKind::NotFound) => Ok(()),
        Ok(_) => Err(already_served(path, "another process")),
        // A full backlog says EAGAIN: somebody listens, but does not accept.
        Err(e) if e.kind() == IoKind::WouldBlock => Err(already_served(path, "another, busy process")),
        Err(e) => Err(e).or_call("connect", path.display()).map_err(|e| socket_error(e, path)),
    }
}

/// A socket that was passed has to be the one where Docker finds the plugin of this name.
fn refuse_another(passed: &UnixListener, path: &Path) -> Result<()> {
    let address = passed.local_addr().or_call("getsockname", path.display());
    let bound = address.map_err(|e| socket_error(e, path))?.as_pathname().map(Path::to_owned);
    let real = |path: &Path| path.canonicalize().ok();
    let wrong = match bound {
        Some(bound) if real(&bound).is_some_and(|bound| Some(bound) == real(path)) => return Ok(()),
        Some(bound) if bound == path => {
            let message =
                format!("systemd listens on {}, but that file is not there any more", path.display());
            let hint = "restart the socket unit: systemctl restart rbd-docker-plugin.socket";
            return Err(DriverError::new(ErrorKind::Config, message).hint(hint));
        }
        Some(bound) => bound.display().to_string(),
        None => "a socket without a path".to_owned(),
    };
    let message = format!("systemd passes the socket {wrong}, and this plugin serves {}", path.display());
    let hint = format!(
        "set ListenStream={} in the socket unit, or --plugins and --name to what it says",
        path.display()
    );
    Err(DriverError::new(ErrorKind::Config, message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid() -> u32 {
        nix::unistd::getegid().as_raw()
    }

    #[test]
    fn a_socket_is_there_with_group_and_mode_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("new/plugins");
        let socket = Claim::take(&dir, "n").unwrap().bind(gid()).unwrap();
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o755);
        let there = socket.path().metadata().unwrap();
        assert_eq!((there.permissions().mode() & 0o777, there.gid()), (0o660, gid()));
        assert!(UnixStream::connect(socket.path()).is_ok());
        let path = socket.path().to_owned();
        socket.remove();
        assert!(!path.exists());
        assert!(!dir.join(".n.new").exists());
    }

    #[test]
    fn a_second_one_of_the_same_name_is_refused_and_disturbs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let first = Claim::take(folder.path(), "n").unwrap();
        let e = Claim::take(folder.path(), "n").unwrap_err();
        assert_eq!(e.kind, ErrorKind::InUse);
        assert!(
            e.message.contains(&format!(
                "n.sock is served by another rbd-docker-plugin, process {}",
                std::process::id()
            )),
            "{e}"
        );
        let socket = first.bind(gid()).unwrap();
        assert!(Claim::take(folder.path(), "n").is_err());
        Claim::take(folder.path(), "m").unwrap();
        assert!(UnixStream::connect(socket.path()).is_ok());
    }

    #[test]
    fn a_stale_socket_is_replaced_a_served_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.sock");
        let foreign = UnixListener::bind(&path).unwrap();
        let e = Claim::take(folder.path(), "n").unwrap_err();
        assert!(e.message.ends_with("n.sock is served by another process"), "{e}");
        drop(foreign);
        drop(UnixListener::bind(folder.path().join(".n.new")).unwrap());
        let socket = Claim::take(folder.path(), "n").unwrap().bind(gid()).unwrap();
        assert!(UnixStream::connect(socket.path()).is_ok());
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.sock");
        std::fs::write(&path, "data").unwrap();
        assert!(Claim::take(folder.path(), "n").unwrap_err().message.ends_with("is not a socket"));
        std::fs::remove_file(&path).unwrap();
        let socket = Claim::take(folder.path(), "n").unwrap().bind(gid()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "data").unwrap();
        socket.remove();
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn a_passed_socket_is_served_as_it_is_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.sock");
        let passed = UnixListener::bind(&path).unwrap();
        let systemds = passed.try_clone().unwrap();
        let before = inode(&path).unwrap();
        let mut socket = Claim::take_passed(folder.path(), "n", passed).unwrap().bind(gid()).unwrap();
        assert!(Claim::hold(folder.path(), "n").is_err(), "its name is taken");
        assert!(socket.listener().unwrap().outlives_us);
        socket.remove();
        assert_eq!(inode(&path).unwrap(), before);
        assert!(UnixStream::connect(&path).is_ok());
        drop(systemds);
    }

    #[test]
    fn a_passed_socket_of_another_path_is_refused_by_both_names() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("n.sock"), folder.path().join("other.sock"));
        let refused = |passed: &UnixListener, parts: &[&str]| {
            let e = Claim::take_passed(folder.path(), "n", passed.try_clone().unwrap()).unwrap_err();
            assert_eq!(e.kind, ErrorKind::Config);
            assert!(parts.iter().all(|part| e.to_string().contains(part)), "{e}");
        };
        let passed = UnixListener::bind(&other).unwrap();
        let ours = path.display().to_string();
        refused(&passed, &[&other.display().to_string(), &ours, &format!("ListenStream={ours}"), "--name"]);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        let passed = UnixListener::bind(link.join("n.sock")).unwrap();
        assert!(Claim::take_passed(folder.path(), "n", passed).is_ok(), "another spelling of the same file");
        std::fs::remove_file(&path).unwrap();
        let passed = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        refused(&passed, &["not there any more", "systemctl restart"]);
    }

    #[test]
    fn a_path_too_long_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let e = Claim::take(folder.path(), &"n".repeat(110)).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Config);
        assert!(e.to_string().contains("longer than 107 bytes"), "{e}");
    }
}

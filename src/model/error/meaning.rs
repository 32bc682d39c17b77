//! What a failed call means for whoever asked: the same errno means different things to different calls.
//!
//! A cause that the call itself does not tell is called a guess. No hint changes data.

use nix::errno::Errno;

use super::{CallError, DriverError, ErrorKind as K};

/// Kind, sentence, and the next step where there is one.
type Meaning = (K, String, Option<&'static str>);

fn meaning(kind: K, message: impl Into<String>, hint: &'static str) -> Meaning {
    (kind, message.into(), Some(hint).filter(|hint| !hint.is_empty()))
}

impl From<CallError> for DriverError {
    fn from(e: CallError) -> Self {
        let is_ceph = e.call.starts_with("rados_") || e.call.starts_with("rbd_") && e.call != "rbd_add";
        let found = if is_ceph { of_ceph(&e) } else { of_mount(&e) };
        let (kind, message, hint) = found.or_else(|| of_storage(&e, is_ceph)).unwrap_or_else(|| of_any(&e));
        let mut error = Self::new(kind, message).caused_by(e);
        error.hint = hint.map(str::to_owned);
        error
    }
}

/// Calls of librados and librbd.
fn of_ceph(e: &CallError) -> Option<Meaning> {
    let object = &e.object;
    Some(match (e.call, e.errno) {
        (_, Errno::ENOSPC | Errno::EDQUOT) => meaning(
            K::NoSpace,
            format!("no space left in the cluster for {object}: it, the pool, or a quota is full"),
            "ceph df and ceph osd pool get-quota POOL show which; make room there and try again",
        ),
        (_, Errno::ESHUTDOWN) => meaning(
            K::Unreachable,
            "this client was fenced: it is on the cluster's blocklist",
            "it connects anew by itself; ceph osd blocklist ls shows who else is",
        ),
        ("rados_connect", Errno::ETIMEDOUT) => meaning(
            K::Unreachable,
            "no monitor of the Ceph cluster answered",
            "check mon_host in ceph.conf, the network, and ceph -s",
        ),
        ("rados_connect", Errno::EACCES | Errno::EPERM) => meaning(
            K::Denied,
            "the Ceph cluster rejects the user or its key",
            "compare the keyring with: ceph auth get client.USER",
        ),
        ("rados_connect" | "rados_conf_read_file", Errno::ENOENT) => meaning(
            K::Config,
            "the Ceph configuration names no monitor, or no keyring with the user's key",
            "check mon_host and keyring in ceph.conf, and the files' readability; rbd-docker-plugin doctor says which it is",
        ),
        ("rados_connect", Errno::EINVAL | Errno::EIO | Errno::EOPNOTSUPP) => meaning(
            if e.errno == Errno::EIO { K::Unreachable } else { K::Failed },
            "librados refuses what it was given to connect with: perhaps the key, or an address of a monitor",
            "rbd-docker-plugin doctor looks at each; a key that a newer Ceph has made may be of a type that this librados does not know",
        ),
        ("rados_conf_read_file", _) => meaning(
            K::Config,
            format!("the Ceph configuration {object} cannot be read"),
            "check its path, its mode and its lines",
        ),
        ("rados_ioctx_create", Errno::ENOENT) => meaning(
            K::NotFound,
            "the pool or namespace does not exist",
            "ceph osd pool ls shows the pools; ceph osd pool create POOL and rbd pool init POOL make one",
        ),
        ("rbd_open" | "rbd_open_read_only" | "rbd_remove_with_progress" | "rbd_rename", Errno::ENOENT) => {
            meaning(K::NotFound, "the image does not exist", "")
        }
        ("rbd_create4", Errno::EINVAL | Errno::ENOSYS | Errno::EDOM) => meaning(
            K::Invalid,
            "the cluster refused the image's size, features or layout",
            "see features, object-size and stripe-unit",
        ),
        ("rbd_create4", Errno::ENOENT) => {
            meaning(K::Invalid, "a pool or namespace of the image does not exist: perhaps the data pool", "")
        }
        (call, Errno::EROFS) if call.starts_with("rbd_") => meaning(
            K::InUse,
            "the image cannot be written to: its exclusive lock is held and not given up, or it is not primary here",
            "perhaps it is mapped with lock=exclusive: unmount it first; rbd info shows whether it is primary",
        ),
        (_, Errno::EPERM | Errno::EACCES) => meaning(
            K::Denied,
            "the Ceph user lacks a capability",
            "it needs mon 'profile rbd', osd 'profile rbd' and mgr 'profile rbd' (ceph auth caps)",
        ),
        (
            _,
            Errno::ETIMEDOUT
            | Errno::ENOTCONN
            | Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::ECONNREFUSED,
        ) => meaning(
            K::Unreachable,
            "the Ceph cluster does not answer",
            "ceph -s shows what is down; it is tried again by itself",
        ),
        (_, Errno::EIO) => meaning(
            K::Unreachable,
            format!("the cluster could not read or write {object}"),
            "ceph health detail names damaged or missing objects, and placement groups that are down",
        ),
        (_, Errno::EOPNOTSUPP) => meaning(
            K::Failed,
            format!("the pool of {object} does not support what images need"),
            "perhaps it is erasure-coded: name such a pool as data-pool, beside a replicated pool for the images",
        ),
        (_, Errno::EBUSY) => meaning(
            K::Failed,
            format!("{object} is in use by another client of the cluster"),
            "rbd status IMAGE and rbd lock ls IMAGE show whose it is",
        ),
        (_, Errno::EEXIST) => {
            meaning(K::Failed, format!("{object} is there already"), "rbd ls shows what is there")
        }
        (_, Errno::EBADMSG) => meaning(
            K::Failed,
            format!("what the cluster holds of {object} is not understood"),
            "the object may be damaged, or written by a newer version of Ceph: ceph health detail",
        ),
        _ => return None,
    })
}

/// mount(2) and umount2(2), and what comes right before and after them.
fn of_mount(e: &CallError) -> Option<Meaning> {
    let object = &e.object;
    Some(match (e.call, e.errno) {
        ("mount", Errno::EUCLEAN | Errno::EBADMSG) => meaning(
            K::NeedsRepair,
            "Image filesystem has errors, requires manual repairs",
            "run the filesystem's own checker on the unmounted image",
        ),
        ("mount", Errno::EINVAL) => meaning(
            K::Failed,
            format!("the kernel refused to mount {object}: its filesystem, or a mount option"),
            "the kernel log (dmesg) names the reason",
        ),
        ("mount", Errno::EACCES | Errno::EROFS) => meaning(
            K::Failed,
            format!("the device is read-only: {object}"),
            "mount the volume read-only, or make its image writable",
        ),
        ("mount", Errno::ENODEV) => meaning(
            K::MissingTool,
            format!("the kernel does not know the filesystem of {object}"),
            "load its kernel module (modprobe xfs, btrfs or ext4); small kernels have it in a package of its own, such as linux-modules-extra",
        ),
        ("mount", Errno::EBUSY) => meaning(
            K::InUse,
            format!("{object}: the device or the mountpoint is in use"),
            "lsblk shows what the device is part of, findmnt what is mounted",
        ),
        ("mount", Errno::EEXIST) => meaning(
            K::InUse,
            format!("{object}: a filesystem with the same UUID is mounted already"),
            "unmount the other one first; findmnt shows what is mounted",
        ),
        ("mount", Errno::EIO) => meaning(
            K::Unreachable,
            format!("the kernel could not read or write the device: {object}"),
            "the storage may be away: the kernel log (dmesg) and ceph -s tell more",
        ),
        ("mount" | "umount2", Errno::EPERM) => meaning(
            K::Denied,
            format!("the kernel does not let this process mount: {object}"),
            "the plugin needs root and CAP_SYS_ADMIN in the host's user namespace; in a container: --privileged",
        ),
        ("mount" | "read" | "open", Errno::ESHUTDOWN) => meaning(
            K::Unreachable,
            format!("the device behind {object} was shut out: its client is on the cluster's blocklist"),
            "ceph osd blocklist ls shows it; unmount the volume and mount it again",
        ),
        ("umount2" | "LOOP_CLR_FD" | "rbd_remove" | "rmdir" | "flock", Errno::EBUSY | Errno::EWOULDBLOCK) => {
            meaning(K::InUse, format!("{object} is still in use"), "")
        }
        ("add_key", Errno::UnknownErrno | Errno::EOPNOTSUPP) => meaning(
            K::Failed,
            "the kernel does not know keys of this type",
            "make one that it knows: ceph auth get-or-create with --key-type aes; or use a newer kernel",
        ),
        ("add_key", Errno::EDQUOT) => meaning(
            K::NoSpace,
            "the kernel's keyring of this user is full",
            "raise /proc/sys/kernel/keys/root_maxkeys and root_maxbytes",
        ),
        _ => return None,
    })
}

/// What storage answers, whoever asked it.
fn of_storage(e: &CallError, is_ceph: bool) -> Option<Meaning> {
    let object = &e.object;
    let is_device = object.starts_with("/dev/");
    Some(match e.errno {
        Errno::ENOSPC | Errno::EDQUOT => meaning(
            K::NoSpace,
            format!("no space left for {object}"),
            "free some space, or extend the storage, and try again",
        ),
        Errno::ESHUTDOWN => meaning(
            K::Unreachable,
            format!("the storage of {object} was shut down, or this client was fenced"),
            "ceph osd blocklist ls shows whether it was",
        ),
        Errno::EPERM | Errno::EACCES if is_device => meaning(
            K::Denied,
            format!("{object} may not be used"),
            "perhaps the Ceph user lacks a capability on the image's data pool; otherwise the plugin needs root and CAP_SYS_ADMIN",
        ),
        Errno::EIO if is_device => meaning(
            K::Unreachable,
            format!("{object} gives an I/O error"),
            "perhaps its storage does not answer, or the Ceph user may not read the data pool: dmesg and ceph -s tell more",
        ),
        Errno::EIO => meaning(
            K::Unreachable,
            format!("an I/O error at {object}"),
            "perhaps its storage does not answer: dmesg tells more",
        ),
        Errno::ENXIO | Errno::ENODEV if is_device => meaning(
            K::Unreachable,
            format!("{object} is a device without anything behind it any more"),
            "it was unmapped or its storage is gone: try again",
        ),
        Errno::ESTALE | Errno::ENXIO | Errno::ETIMEDOUT => meaning(
            K::Unreachable,
            format!("the storage of {object} does not answer"),
            if is_ceph { "ceph -s shows what is down" } else { "dmesg tells more" },
        ),
        _ => return None,
    })
}

/// The rest: what happened is named, and nothing is guessed.
fn of_any(e: &CallError) -> Meaning {
    let CallError { call, object, errno } = e;
    match errno {
        Errno::EPERM | Errno::EACCES => meaning(
            K::Denied,
            format!("permission denied: {call} of {object}"),
            "the plugin needs to run as root with CAP_SYS_ADMIN; in a container its seccomp profile, and on a host SELinux or AppArmor, \
             may forbid it too",
        ),
        Errno::EBUSY => meaning(
            K::Failed,
            format!("{object} is in use by something else"),
            "lsblk and findmnt show by what",
        ),
        Errno::EEXIST => meaning(K::Failed, format!("{object} is there already"), ""),
        Errno::ENOENT => meaning(K::Failed, format!("{object} is not there"), ""),
        Errno::EROFS => {
            meaning(K::Failed, format!("{object} is on a read-only filesystem"), "remount it writable")
        }
        Errno::EMFILE | Errno::ENFILE => meaning(
            K::Failed,
            format!("too many files are open for {object}"),
            "raise LimitNOFILE of the plugin's unit",
        ),
        Errno::ENOMEM | Errno::EAGAIN => meaning(
            K::Failed,
            format!("the kernel lacks memory or threads for {call} of {object}"),
            "free shows the memory that is left",
        ),
        Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::UnknownErrno => meaning(
            K::Failed,
            format!("{call} of {object} is not supported by this kernel, or by what {object} is on"),
            "",
        ),
        _ => meaning(K::Failed, format!("{call} of {object} failed"), ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(call: &'static str, object: &str, errno: Errno) -> DriverError {
        CallError::new(call, object, errno).into()
    }

    /// Every arm, by something that happens: call, object, errno, kind, and what the error says.
    #[test]
    fn what_each_failure_is_called() {
        use Errno as E;
        for (call, object, errno, kind, says) in [
            ("rbd_create4", "rbd/a", E::ENOSPC, K::NoSpace, "no space left in the cluster for rbd/a"),
            ("rados_write_op_operate2", "rbd/o", E::EDQUOT, K::NoSpace, "a quota is full"),
            ("rados_mon_command", "osd dump", E::ESHUTDOWN, K::Unreachable, "this client was fenced"),
            (
                "rados_connect",
                "ceph.conf",
                E::ETIMEDOUT,
                K::Unreachable,
                "no monitor of the Ceph cluster answered",
            ),
            ("rados_connect", "ceph.conf", E::EACCES, K::Denied, "rejects the user or its key"),
            ("rados_connect", "ceph.conf", E::ENOENT, K::Config, "names no monitor, or no keyring"),
            ("rados_connect", "ceph.conf", E::EINVAL, K::Failed, "perhaps the key, or an address"),
            ("rados_connect", "ceph.conf", E::EIO, K::Unreachable, "perhaps the key"),
            (
                "rados_conf_read_file",
                "/etc/ceph/x",
                E::EACCES,
                K::Config,
                "configuration /etc/ceph/x cannot be read",
            ),
            ("rados_ioctx_create", "pool x", E::ENOENT, K::NotFound, "the pool or namespace does not exist"),
            ("rbd_open", "rbd/a", E::ENOENT, K::NotFound, "the image does not exist"),
            ("rbd_create4", "rbd/a", E::EINVAL, K::Invalid, "refused the image's size, features or layout"),
            (
                "rbd_create4",
                "rbd/a",
                E::ENOENT,
                K::Invalid,
                "a pool or namespace of the image does not exist",
            ),
            ("rbd_rename", "rbd/a", E::EROFS, K::InUse, "exclusive lock is held"),
            ("rbd_list2", "rbd", E::EPERM, K::Denied, "the Ceph user lacks a capability"),
            ("rbd_open", "rbd/a", E::ETIMEDOUT, K::Unreachable, "the Ceph cluster does not answer"),
            ("rbd_open", "rbd/a", E::EIO, K::Unreachable, "could not read or write rbd/a"),
            ("rbd_create4", "ecp/a", E::EOPNOTSUPP, K::Failed, "perhaps it is erasure-coded"),
            (
                "rbd_remove_with_progress",
                "rbd/a",
                E::EBUSY,
                K::Failed,
                "in use by another client of the cluster",
            ),
            ("rbd_rename", "rbd/b", E::EEXIST, K::Failed, "rbd/b is there already"),
            ("rados_read", "rbd/o", E::EBADMSG, K::Failed, "is not understood"),
            ("mount", "/dev/rbd0 on /m", E::EUCLEAN, K::NeedsRepair, "requires manual repairs"),
            ("mount", "/dev/rbd0 on /m", E::EINVAL, K::Failed, "its filesystem, or a mount option"),
            ("mount", "/dev/rbd0 on /m", E::EROFS, K::Failed, "the device is read-only"),
            ("mount", "/dev/rbd0 on /m", E::ENODEV, K::MissingTool, "modprobe"),
            ("mount", "/dev/rbd0 on /m", E::EBUSY, K::InUse, "the device or the mountpoint is in use"),
            ("mount", "/dev/rbd0 on /m", E::EEXIST, K::InUse, "the same UUID"),
            ("mount", "/dev/rbd0 on /m", E::EIO, K::Unreachable, "could not read or write the device"),
            ("mount", "/dev/rbd0 on /m", E::EPERM, K::Denied, "CAP_SYS_ADMIN"),
            ("mount", "/dev/rbd0 on /m", E::ESHUTDOWN, K::Unreachable, "blocklist"),
            ("umount2", "/m", E::EBUSY, K::InUse, "/m is still in use"),
            ("add_key", "client.a", E::UnknownErrno, K::Failed, "ENOTSUPP (524)"),
            ("add_key", "client.a", E::EDQUOT, K::NoSpace, "root_maxkeys"),
            ("write", "/var/x", E::ENOSPC, K::NoSpace, "no space left for /var/x"),
            ("fsync", "/m/x", E::ESHUTDOWN, K::Unreachable, "was shut down"),
            ("read", "/dev/rbd0", E::EPERM, K::Denied, "perhaps the Ceph user lacks a capability"),
            ("read", "/dev/rbd0", E::EIO, K::Unreachable, "/dev/rbd0 gives an I/O error"),
            ("readdir", "/m", E::EIO, K::Unreachable, "perhaps its storage does not answer"),
            ("BLKGETSIZE64", "/dev/rbd0", E::ENXIO, K::Unreachable, "without anything behind it"),
            ("statvfs", "/m", E::ESTALE, K::Unreachable, "the storage of /m does not answer"),
            ("open", "/run/x", E::EACCES, K::Denied, "permission denied: open of /run/x"),
            ("open", "/dev/rbd0", E::EBUSY, K::Failed, "/dev/rbd0 is in use by something else"),
            ("mkdir", "/m/x", E::EEXIST, K::Failed, "/m/x is there already"),
            ("open", "/run/x", E::ENOENT, K::Failed, "/run/x is not there"),
            ("mkdir", "/m/x", E::EROFS, K::Failed, "on a read-only filesystem"),
            ("open", "/run/x", E::EMFILE, K::Failed, "LimitNOFILE"),
            ("clone", "a thread", E::EAGAIN, K::Failed, "lacks memory or threads"),
            ("fsetxattr", "/m", E::EOPNOTSUPP, K::Failed, "not supported by this kernel"),
            ("ioctl", "/m", E::UnknownErrno, K::Failed, "ENOTSUPP (524)"),
            ("rename", "/m/x", E::EXDEV, K::Failed, "rename of /m/x failed: rename(/m/x)"),
        ] {
            let e = told(call, object, errno);
            assert!(e.kind == kind && e.to_string().contains(says), "{call} {errno}: {:?} {e}", e.kind);
        }
    }

    #[test]
    fn no_failure_is_told_without_its_object_or_with_advice_that_could_destroy_data() {
        let calls = [
            "mount",
            "umount2",
            "open",
            "read",
            "write",
            "rmdir",
            "flock",
            "statvfs",
            "LOOP_CLR_FD",
            "BLKGETSIZE64",
            "rbd_add",
            "rbd_remove",
            "rados_connect",
            "rados_conf_read_file",
            "rados_ioctx_create",
            "rados_read",
            "rbd_open",
            "rbd_create4",
            "rbd_list2",
            "rbd_rename",
            "add_key",
            "blkid_do_safeprobe",
            "anything",
        ];
        for call in calls {
            for errno in (0..134).map(Errno::from_raw) {
                for object in ["/dev/rbd7", "/m/x", "rbd/a"] {
                    let e = told(call, object, errno);
                    let text = e.to_string();
                    assert!(text.contains(object) && text.contains(call), "{text}");
                    assert!(!e.message.is_empty() && !text.contains("the operation failed"), "{text}");
                    let known = call == "mount" && matches!(errno, Errno::EUCLEAN | Errno::EBADMSG);
                    for word in
                        ["repair", "fsck", "rm ", "mkfs", " -L", "--force", "wipefs", "--yes-i-really"]
                    {
                        assert!(known || !text.contains(word), "{call} {errno}: {word} in {text}");
                    }
                }
            }
        }
    }
}

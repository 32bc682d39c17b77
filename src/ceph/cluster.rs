//! A client of a cluster: settings, connection, and what the monitors answer.
#![allow(unsafe_code)]

use std::ffi::c_char;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use librbd_sys as sys;
use nix::errno::Errno;
use tracing::debug;

use super::bounded::bounded;
use super::call::{Answer, Fit, c_string, check, fit, plain_address, string, strings, text};
use super::{IoCtx, Result};
use crate::model::error::CallError;

/// Who connects to what.
#[derive(Debug, Clone)]
pub struct Connect {
    /// The cluster's ceph.conf.
    pub conf: PathBuf,
    /// The user, with or without `client.`.
    pub user: String,
    /// The user's keyring, if it is another one than the conf file says.
    pub keyring: Option<PathBuf>,
    /// The cluster's name, which the conf file may refer to as `$cluster`; empty means `ceph`.
    pub cluster: String,
    /// How long a monitor or an OSD may take for one answer, in whole seconds (rounded up).
    pub timeout: Duration,
}

/// What the cluster holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterUsage {
    /// Of all devices.
    pub total: u64,
    /// Copies included.
    pub used: u64,
    /// Copies included.
    pub available: u64,
}

/// A connected client. Clones are the same client; the last one to go closes the connection.
#[derive(Debug, Clone)]
pub struct Cluster(Arc<Client>);

/// The settings of a client that does not connect.
#[derive(Debug)]
pub struct Conf(Handle);

#[derive(Debug)]
struct Client {
    handle: Handle,
    user: String,
    fsid: String,
    timeout: Duration,
    /// Dropped last: once the client has shut down.
    life: Arc<()>,
}

/// An owned `rados_t`, connected or not.
#[derive(Debug)]
struct Handle(sys::rados_t);

// SAFETY: a `rados_t` belongs to no thread.
unsafe impl Send for Handle {}
// SAFETY: librados does its own locking, and we change no settings once it is connected.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: ours, made by rados_create2, and what was made from it keeps it, so nothing of that is left.
        unsafe { sys::rados_shutdown(self.0) }
    }
}

impl Conf {
    /// Reads the conf file as [`Cluster::connect`] does.
    pub fn read(options: &Connect) -> Result<Self> {
        let user = options.user.strip_prefix("client.").unwrap_or(&options.user);
        let handle = Handle::create(options, user, &format!("cluster (client.{user})"))?;
        handle.read(options)?;
        Ok(Self(handle))
    }

    /// A setting; nothing when there is no setting of that name.
    pub fn get(&self, key: &str) -> Option<String> {
        self.0.get(key)
    }
}

impl Cluster {
    /// Connects, at the latest when the timeout is over. Reads the conf file and the keyring that it names, but not the environment.
    pub fn connect(options: &Connect) -> Result<Self> {
        let user = options.user.strip_prefix("client.").unwrap_or(&options.user);
        let object = format!("cluster (client.{user})");
        let handle = Handle::create(options, user, &object)?;
        handle.read(options)?;
        let seconds = options.timeout.as_secs() + u64::from(options.timeout.subsec_nanos() > 0);
        let timeout = Duration::from_secs(seconds.max(1));
        for key in ["client_mount_timeout", "rados_mon_op_timeout", "rados_osd_op_timeout"] {
            handle.set(key, &timeout.as_secs().to_string())?;
        }
        // A conf file is written for daemons: what it says of logs and sockets is not for a library inside another program.
        for key in ["log_file", "admin_socket"] {
            handle.set(key, "")?;
        }
        // Nobody ever reads the lines that librados keeps for when it crashes: they are half a megabyte.
        handle.set("log_max_recent", "1")?;
        for key in ["log_to_stderr", "err_to_stderr", "log_to_syslog", "err_to_syslog"] {
            handle.set(key, "false")?;
        }
        // SAFETY: the handle is live and not connected yet.
        let rc = unsafe { sys::rados_connect(handle.0) };
        check("rados_connect", &object, rc.into())?;
        let fsid = handle.fsid(&object)?;
        Ok(Self(Arc::new(Client { handle, user: user.to_owned(), fsid, timeout, life: Arc::default() })))
    }

    /// The cluster's id.
    pub fn fsid(&self) -> &str {
        &self.0.fsid
    }

    /// The user, without `client.`.
    pub fn user(&self) -> &str {
        &self.0.user
    }

    /// The address of this client, as the blocklist takes it: `10.0.0.7:0/3120`.
    pub fn addresses(&self) -> Result<String> {
        let mut answer = Answer::new();
        // SAFETY: the handle is live; librados stores a string of its own, which the answer frees.
        let rc = unsafe { sys::rados_getaddrs(self.raw(), &raw mut answer.data) };
        check("rados_getaddrs", self.object(), rc.into())?;
        // SAFETY: null, or the string just stored.
        let address = unsafe { text(answer.data) };
        let address = address.map(|address| plain_address(&address));
        address.ok_or_else(|| CallError::new("rados_getaddrs", self.object(), Errno::EILSEQ))
    }

    /// The number of this client: `client.<number>` in lists of lockers.
    pub fn instance_id(&self) -> u64 {
        // SAFETY: the handle is live.
        unsafe { sys::rados_get_instance_id(self.raw()) }
    }

    /// What is gone when this client has shut down, and can send nothing any more.
    pub fn life(&self) -> Weak<()> {
        Arc::downgrade(&self.0.life)
    }

    /// A setting as this client uses it; nothing when there is no setting of that name.
    pub fn conf(&self, key: &str) -> Option<String> {
        self.0.handle.get(key)
    }

    /// A command for the monitors, such as `{"prefix": "mon dump", "format": "json"}`; what they say beside the answer goes
    /// to the log.
    pub fn mon_command(&self, command: &serde_json::Value) -> Result<Vec<u8>> {
        let prefix = command["prefix"].as_str().unwrap_or("?");
        let line = c_string("rados_mon_command", command.to_string())?;
        let mut lines = [line.as_ptr()];
        let (mut answer, mut words) = (Answer::new(), Answer::new());
        // SAFETY: the handle is live, one line that ends with a zero byte, no input; librados stores buffers of its own, which the
        // answers free.
        let rc = unsafe {
            sys::rados_mon_command(
                self.raw(),
                lines.as_mut_ptr(),
                lines.len(),
                ptr::null(),
                0,
                &raw mut answer.data,
                &raw mut answer.length,
                &raw mut words.data,
                &raw mut words.length,
            )
        };
        if words.length > 0 {
            debug!(prefix, rc, "the monitors say: {}", String::from_utf8_lossy(&words.to_vec()));
        }
        check("rados_mon_command", prefix, rc.into())?;
        Ok(answer.to_vec())
    }

    /// The names of all pools.
    pub fn pools(&self) -> Result<Vec<String>> {
        fit("rados_pool_list", self.object(), 1024, |room| {
            let mut names = vec![0_u8; room];
            // SAFETY: the handle is live, and `room` bytes may be written.
            let rc = unsafe { sys::rados_pool_list(self.raw(), names.as_mut_ptr().cast::<c_char>(), room) };
            match usize::try_from(rc) {
                Err(_) => Fit::Failed(rc.into()),
                Ok(needs) if needs > room => Fit::Needs(needs),
                Ok(_) => {
                    let mut names = strings(&names, usize::MAX);
                    // The list ends with an empty name.
                    names.truncate(names.iter().position(String::is_empty).unwrap_or(names.len()));
                    Fit::Fits(names)
                }
            }
        })
    }

    /// The name of a pool, as this client's map has it.
    pub fn pool_name(&self, id: i64) -> Result<String> {
        let call = "rados_pool_reverse_lookup";
        fit(call, format_args!("pool {id}"), 128, |room| {
            let mut name = vec![0_u8; room];
            // SAFETY: the handle is live, and `room` bytes may be written.
            let rc = unsafe {
                sys::rados_pool_reverse_lookup(self.raw(), id, name.as_mut_ptr().cast::<c_char>(), room)
            };
            match rc {
                0.. => Fit::Fits(string(&name)),
                _ if rc == -libc::ERANGE => Fit::Needs(0),
                _ => Fit::Failed(rc.into()),
            }
        })
    }

    /// A pool, or a namespace in it. A missing pool is `ENOENT`; whether the namespace exists is not asked.
    pub fn ioctx(&self, pool: &str, namespace: Option<&str>) -> Result<IoCtx> {
        let (name, namespace) = (pool.to_owned(), namespace.map(str::to_owned));
        // It waits for the latest map before it says that there is no such pool.
        bounded(self, self.timeout(), "rados_ioctx_create", &format!("pool {pool}"), move |cluster| {
            IoCtx::new(cluster, &name, namespace.as_deref())
        })
    }

    /// Shuts a client out of the cluster, and returns when this client knows of it: the OSDs that get anything from us afterwards
    /// learn of it at the latest then.
    pub fn blocklist(&self, address: &str, lasts: Duration) -> Result<()> {
        let call = "rados_blocklist_add";
        // librados pastes it into a command as it is.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"[]:./_-%".contains(&b);
        if address.is_empty() || !address.bytes().all(plain) {
            return Err(CallError::new(call, address.escape_debug(), Errno::EINVAL));
        }
        let mut writable = c_string(call, address)?.into_bytes_with_nul();
        // Nothing means an hour to Ceph.
        let seconds = u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX).max(1);
        let object = address.to_owned();
        // A command, which ends, and then the wait for the map.
        bounded(self, self.timeout() * 2, call, address, move |cluster| {
            // SAFETY: the handle is live, and the address ends with a zero byte.
            let rc = unsafe {
                sys::rados_blocklist_add(cluster.raw(), writable.as_mut_ptr().cast::<c_char>(), seconds)
            };
            check(call, object, rc.into()).map(drop)
        })
    }

    /// Waits until this client has the newest map of the cluster, so that what it sends carries every OSD to that map.
    pub fn wait_for_latest_osdmap(&self) -> Result<()> {
        let call = "rados_wait_for_latest_osdmap";
        bounded(self, self.timeout(), call, &self.object(), move |cluster| {
            // SAFETY: the handle is live.
            let rc = unsafe { sys::rados_wait_for_latest_osdmap(cluster.raw()) };
            check(call, cluster.object(), rc.into()).map(drop)
        })
    }

    /// How full the cluster is.
    pub fn usage(&self) -> Result<ClusterUsage> {
        let mut stat = sys::rados_cluster_stat_t::default();
        // SAFETY: the handle is live, and one structure is written.
        let rc = unsafe { sys::rados_cluster_stat(self.raw(), &raw mut stat) };
        check("rados_cluster_stat", self.object(), rc.into())?;
        let bytes = |kib: u64| kib.saturating_mul(1024);
        Ok(ClusterUsage { total: bytes(stat.kb), used: bytes(stat.kb_used), available: bytes(stat.kb_avail) })
    }

    /// The handle, for calls only: this cluster closes it.
    pub(super) fn raw(&self) -> sys::rados_t {
        self.0.handle.0
    }

    pub(super) fn timeout(&self) -> Duration {
        self.0.timeout
    }

    fn object(&self) -> String {
        format!("cluster {} (client.{})", self.0.fsid, self.0.user)
    }
}

impl Handle {
    fn create(options: &Connect, user: &str, object: &str) -> Result<Self> {
        let call = "rados_create2";
        let cluster = if options.cluster.is_empty() { "ceph" } else { &options.cluster };
        let cluster = c_string(call, cluster)?;
        let name = c_string(call, format!("client.{user}"))?;
        let mut handle = ptr::null_mut();
        // SAFETY: one handle is stored, and both names end with a zero byte.
        let rc = unsafe { sys::rados_create2(&raw mut handle, cluster.as_ptr(), name.as_ptr(), 0) };
        check(call, object, rc.into())?;
        Ok(Self(handle))
    }

    fn read(&self, options: &Connect) -> Result<()> {
        let call = "rados_conf_read_file";
        let path = c_string(call, options.conf.as_os_str().as_bytes())?;
        // SAFETY: the handle is live and not connected, and the path ends with a zero byte.
        let rc = unsafe { sys::rados_conf_read_file(self.0, path.as_ptr()) };
        check(call, options.conf.display(), rc.into())?;
        match &options.keyring {
            Some(path) => self.set("keyring", &path.to_string_lossy()),
            None => Ok(()),
        }
    }

    fn set(&self, key: &str, value: &str) -> Result<()> {
        let call = "rados_conf_set";
        let (name, value) = (c_string(call, key)?, c_string(call, value)?);
        // SAFETY: the handle is live and not connected, and both strings end with a zero byte.
        let rc = unsafe { sys::rados_conf_set(self.0, name.as_ptr(), value.as_ptr()) };
        check(call, key, rc.into()).map(drop)
    }

    fn get(&self, key: &str) -> Option<String> {
        let name = c_string("rados_conf_get", key).ok()?;
        let value = fit("rados_conf_get", key, 256, |room| {
            let mut value = vec![0_u8; room];
            // SAFETY: the handle is live, the name ends with a zero byte, and `room` bytes may be written.
            let rc = unsafe {
                sys::rados_conf_get(self.0, name.as_ptr(), value.as_mut_ptr().cast::<c_char>(), room)
            };
            match rc {
                0 => Fit::Fits(string(&value)),
                _ if rc == -libc::ENAMETOOLONG => Fit::Needs(0),
                _ => Fit::Failed(rc.into()),
            }
        });
        value.ok()
    }

    fn fsid(&self, object: &str) -> Result<String> {
        fit("rados_cluster_fsid", object, 64, |room| {
            let mut fsid = vec![0_u8; room];
            // SAFETY: the handle is live, and `room` bytes may be written.
            let rc = unsafe { sys::rados_cluster_fsid(self.0, fsid.as_mut_ptr().cast::<c_char>(), room) };
            match rc {
                0.. => Fit::Fits(string(&fsid)),
                _ if rc == -libc::ERANGE => Fit::Needs(0),
                _ => Fit::Failed(rc.into()),
            }
        })
    }
}

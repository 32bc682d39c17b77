//! Mapping.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use super::sysfs::{self, HEAD, Sysfs};
use super::{Failure, Identity, Maker, Mapping, Request, by_deadline, remove};
use crate::linux::keyring::{self, Key};
use crate::linux::kmsg;
use crate::model::deadline::Deadline;
use crate::model::error::CallError;

pub(super) const CALL: &str = "rbd_add";

/// sysfs cuts a longer write off without a word, and `config_info` has to show all of it.
const LONGEST: usize = 4000;

/// How long something that must not stay mapped is tried to be unmapped.
const UNDO: Duration = Duration::from_secs(120);

/// Mappings that are being made, also by threads that were left behind.
static UNDER_WAY: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static ENDED: Condvar = Condvar::new();

pub(super) fn map(
    sysfs: &Arc<Sysfs>,
    request: Request<'_>,
    identity: Identity<'_>,
    maker: &Maker,
    deadline: Deadline,
) -> Result<Mapping, Failure> {
    let log = kmsg::Mark::now();
    try_map(sysfs, request, identity, maker, deadline)
        .map_err(|error| Failure { error, kernel: log.of_ceph() })
}

fn try_map(
    sysfs: &Arc<Sysfs>,
    request: Request<'_>,
    identity: Identity<'_>,
    maker: &Maker,
    deadline: Deadline,
) -> Result<Mapping, CallError> {
    let object = request.to_string();
    let mark = maker.fresh_mark()?;
    let line = line(&request, &mark).map_err(|errno| CallError::new(CALL, &object, errno))?;
    let turn = Turn::take(format!("{}/{object}", identity.fsid), deadline)
        .ok_or_else(|| CallError::new(CALL, &object, Errno::ETIMEDOUT))?;
    let adding = Adding {
        sysfs: Arc::clone(sysfs),
        object: object.clone(),
        line,
        mark,
        key: request.key.map(|key| (key_name(request.user), key.clone())),
        wanted: Wanted::new(request, identity),
    };
    let work = {
        let adding = adding.clone();
        move || adding.run()
    };
    // The turn goes with the thread, and ends with what that has to take away.
    by_deadline(
        CALL,
        &object,
        deadline,
        move || work().map(|mapping| (mapping, turn)),
        move |(mapping, turn)| {
            adding.undo(mapping.id);
            drop(turn);
        },
    )
    .map(|(mapping, _)| mapping)
}

/// All that the thread needs.
#[derive(Debug, Clone)]
struct Adding {
    sysfs: Arc<Sysfs>,
    object: String,
    line: String,
    mark: String,
    key: Option<(String, Key)>,
    wanted: Wanted,
}

impl Adding {
    fn run(&self) -> Result<Mapping, CallError> {
        if let Some((name, key)) = &self.key
            && self.sysfs.takes_keys()
        {
            keyring::give(name, key)?;
        }
        let control = self.sysfs.control(sysfs::ADD)?;
        let before = self.sysfs.ids()?;
        sysfs::write(control, &self.line, CALL, &self.object)?;
        let id = find(&self.sysfs, &before, &self.mark)?.ok_or_else(|| self.failed(Errno::ENODEV))?;
        self.verified(id).inspect_err(|_| self.undo(id))
    }

    fn verified(&self, id: u32) -> Result<Mapping, CallError> {
        let mapping = self.sysfs.mapping(id)?.ok_or_else(|| self.failed(Errno::ENODEV))?;
        if let Some(difference) = self.wanted.difference(&mapping) {
            return Err(CallError::new(CALL, format!("{}: {difference}", self.object), Errno::ESTALE));
        }
        self.sysfs.ensure_node(&mapping)?;
        Ok(mapping)
    }

    /// Nobody has the device but those who look at every new one.
    fn undo(&self, id: u32) {
        match remove::remove(&self.sysfs, id, false, Deadline::after(UNDO)) {
            Ok(()) => tracing::info!(image = self.object, device = id, "unmapped again"),
            Err(e) => tracing::error!(image = self.object, device = id, "cannot be unmapped again: {e}"),
        }
    }

    fn failed(&self, errno: Errno) -> CallError {
        CallError::new(CALL, &self.object, errno)
    }
}

/// The device that came with the write.
pub(super) fn find(sysfs: &Sysfs, before: &BTreeSet<u32>, mark: &str) -> Result<Option<u32>, CallError> {
    for &id in sysfs.ids()?.difference(before) {
        if sysfs.attribute(id, "config_info")?.is_some_and(|line| line.ends_with(mark)) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// What the device has to be.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    fsid: String,
    pool_id: i64,
    namespace: Option<String>,
    image_id: String,
    snapshot: Option<String>,
}

impl Wanted {
    pub(super) fn new(request: Request<'_>, identity: Identity<'_>) -> Self {
        Self {
            fsid: identity.fsid.to_owned(),
            pool_id: identity.pool_id,
            namespace: identity.namespace.map(str::to_owned),
            image_id: identity.image_id.to_owned(),
            snapshot: request.snapshot.map(str::to_owned),
        }
    }

    /// What is not as it should be.
    pub(super) fn difference(&self, found: &Mapping) -> Option<String> {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| HEAD.to_owned());
        let pairs = [
            ("cluster", self.fsid.clone(), found.fsid.clone()),
            ("pool id", self.pool_id.to_string(), found.pool_id.to_string()),
            ("namespace", or_none(&self.namespace), or_none(&found.namespace)),
            ("image id", self.image_id.clone(), found.image_id.clone()),
            ("snapshot", or_none(&self.snapshot), or_none(&found.snapshot)),
        ];
        let different = pairs.into_iter().find(|(_, wanted, found)| wanted != found);
        different.map(|(what, wanted, found)| format!("{what} {found}, not {wanted}"))
    }
}

/// The line for the kernel. It reads four or five words and leaves the rest alone, but shows all of it in `config_info`: there the mark tells
/// our device from those that others map at the same time.
pub(super) fn line(request: &Request<'_>, mark: &str) -> Result<String, Errno> {
    let is_word = |text: &str| {
        !text.is_empty() && !text.bytes().any(|b| b.is_ascii_whitespace() || b == 0x0b || b == 0)
    };
    let is_item = |text: &str| is_word(text) && !text.contains(',');
    let Request { monitors, user, options, pool, namespace, image, snapshot, .. } = *request;
    let words = [pool, image].into_iter().chain(snapshot).all(is_word);
    let mut items = monitors.iter().chain(options).map(String::as_str).chain([user]).chain(namespace);
    if !words || !items.all(is_item) || monitors.is_empty() || snapshot == Some(HEAD) {
        return Err(Errno::EINVAL);
    }
    let mut list = vec![format!("name={user}")];
    list.extend(request.key.map(|_| format!("key={}", key_name(user))));
    list.extend(options.iter().cloned());
    list.extend(namespace.map(|namespace| format!("_pool_ns={namespace}")));
    let snapshot = snapshot.unwrap_or(HEAD);
    let line = format!("{} {} {pool} {image} {snapshot} {mark}", monitors.join(","), list.join(","));
    if line.len() > LONGEST { Err(Errno::E2BIG) } else { Ok(line) }
}

fn key_name(user: &str) -> String {
    format!("client.{user}")
}

/// `pool/namespace/image@snapshot`
impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.pool)?;
        if let Some(namespace) = self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(self.image)?;
        self.snapshot.map_or(Ok(()), |snapshot| write!(f, "@{snapshot}"))
    }
}

/// The right to map one image. A second mapping of an image whose first was left behind would fight it for the image's lock, and
/// would only add another thread that hangs.
#[derive(Debug)]
pub(super) struct Turn(String);

impl Turn {
    /// Waits for those before; nothing at the deadline.
    pub(super) fn take(object: String, deadline: Deadline) -> Option<Self> {
        let taken = |all: &mut BTreeSet<String>| all.contains(&object);
        let (mut all, _) = ENDED
            .wait_timeout_while(crate::lock(&UNDER_WAY), deadline.left(), taken)
            .unwrap_or_else(PoisonError::into_inner);
        all.insert(object.clone()).then(|| Self(object))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        crate::lock(&UNDER_WAY).remove(&self.0);
        ENDED.notify_all();
    }
}

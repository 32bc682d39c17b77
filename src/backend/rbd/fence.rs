//! Following an owner that is gone, and shutting it out first.
//!
//! An owner on another host is followed only with two independent signs, both for [`CONFIRM`] on end and by the clocks of the OSDs
//! and of this host alone: its heartbeat has run out, and nothing with its recorded address watches the image. Then its recorded
//! address is put on the cluster's blocklist, and only then is its record replaced: from there on nothing that it still has in
//! memory can reach the disk. A plugin that is merely stopped keeps its volumes: the kernel goes on watching.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::beats;
use super::link::Session;
use super::owner::{OwnerRecord, in_use};
use super::{RbdBackend, advisory, header};
use crate::ceph::{Cluster, Image, IoCtx};
use crate::lock;
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};
use crate::model::name::ImageSpec;
use crate::model::owner::Owner;
use crate::telemetry::count::{Count, count};

/// For how long both signs must be seen. Longer than a heartbeat takes to come back when the cluster itself was away.
const CONFIRM: Duration = Duration::from_secs(10);
/// How long the pause between two looks may be. Whatever showed a sign of life in between still shows it: a heartbeat counts for
/// [`beats::LASTS`], and a watch for longer. So one slow round of requests does not begin the confirmation anew.
const GAP: Duration = Duration::from_secs(15);
const _: () = assert!(GAP.as_secs() < beats::LASTS.as_secs());

/// How many clients are shut out at a time.
const AT_ONCE: usize = 16;

/// Whose record it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Follow {
    /// Our own, of this boot.
    Ours,
    /// Of somebody who is shut out: it may be replaced.
    After,
}

/// What the owner of a record is called among the suspects.
pub(super) fn suspect(record: &OwnerRecord) -> String {
    format!("{} {}", record.image, beats::cookie(&record.owner))
}

/// An owner that seems dead.
#[derive(Debug)]
struct Suspect {
    /// When the first look that saw no sign of life had ended.
    since: Instant,
    /// When the last look began.
    last: Instant,
}

/// Owners that seem dead, by image.
#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<HashMap<String, Suspect>>);

impl Suspects {
    /// One more look, begun at `looked`, at an owner that shows no sign of life; whether it has been long enough. Forgets
    /// whoever was not looked at for too long.
    fn confirm(&self, who: &str, looked: Instant) -> bool {
        let mut suspects = lock(&self.0);
        suspects.retain(|_, suspect| suspect.last.elapsed() < GAP);
        let suspect =
            suspects.entry(who.to_owned()).or_insert_with(|| Suspect { since: Instant::now(), last: looked });
        suspect.last = looked;
        looked.saturating_duration_since(suspect.since) >= CONFIRM
    }

    pub(super) fn clear(&self, who: &str) {
        lock(&self.0).remove(who);
    }
}

/// Shuts clients out of the cluster, and makes sure that we and whoever connects from now on know it. Many at a time: each waits for the monitors to
/// agree, which they do once a second or so.
pub(crate) fn shut_out(cluster: &Cluster, addresses: &BTreeSet<String>, lasts: Duration) -> Result<()> {
    let addresses: Vec<&String> = addresses.iter().collect();
    for some in addresses.chunks(AT_ONCE) {
        let done: Vec<Result<()>> = std::thread::scope(|scope| {
            let fence = |address| {
                let thread = std::thread::Builder::new().name("fence".to_owned());
                thread
                    .spawn_scoped(scope, move || shut_one_out(cluster, address, lasts))
                    .or_call("clone", address)
            };
            let threads: Vec<_> = some.iter().map(|address| fence(address)).collect();
            let died = || Err(DriverError::new(ErrorKind::Failed, "a thread that fences died"));
            threads.into_iter().map(|thread| thread?.join().unwrap_or_else(|_| died())).collect()
        });
        done.into_iter().collect::<Result<()>>()?;
    }
    Ok(cluster.wait_for_latest_osdmap()?)
}

fn shut_one_out(cluster: &Cluster, address: &str, lasts: Duration) -> Result<()> {
    cluster.blocklist(address, lasts).map_err(|e| {
        let missing = matches!(e.errno, Errno::EACCES | Errno::EPERM);
        let error = DriverError::from(e);
        if missing { error.context(format_args!("cannot fence {address}")) } else { error }
    })?;
    count(Count::Fence);
    tracing::warn!(address, days = lasts.as_secs() / 86_400, "fenced");
    Ok(())
}

impl RbdBackend {
    /// Whether a record may be replaced by ours; an owner that is gone is shut out first. `InUse` while it lives or may live.
    pub(super) fn may_follow(
        &self,
        session: &Session,
        io: &IoCtx,
        spec: &ImageSpec,
        record: &OwnerRecord,
    ) -> Result<Follow> {
        if self.is_own(record) {
            return Ok(Follow::Ours);
        }
        let owner = &record.owner;
        let who = beats::cookie(owner);
        // Whether it is dead is asked for each image: one may be unmapped while another is in use.
        let suspect = suspect(record);
        let looked = Instant::now();
        if beats::alive(io)?.contains(&who) {
            self.suspects.clear(&suspect);
            let read_only = || {
                let id = header::id(io, spec.image()).ok()??;
                let stored = header::read(io, &id).ok()??.record?;
                Some(stored.record.options.read_only)
            };
            let hint = if owner.same_plugin(&self.identity) {
                "that is this host before its restart, or a copy of it that lives; it is known when its heartbeat has run out"
            } else if read_only().flatten() == Some(true) {
                "a read-only volume, too, is for one host at a time: unmount the volume there"
            } else {
                "unmount the volume there"
            };
            return Err(in_use(spec, owner).hint(hint));
        }
        // Without all ids, a copy of this host cannot be told from this one before its restart.
        if !owner.same_plugin(&self.identity) || !owner.surely_same_host(&self.identity) {
            self.refuse_unless_dead(io, spec, owner, (&suspect, looked))?;
        }
        shut_out(&session.cluster, &record.addresses(), self.options.fence)?;
        Ok(Follow::After)
    }

    /// The owner's heart does not beat. Is that all?
    fn refuse_unless_dead(
        &self,
        io: &IoCtx,
        spec: &ImageSpec,
        owner: &Owner,
        (who, looked): (&str, Instant),
    ) -> Result<()> {
        if owner.boot_id == self.identity.boot_id
            && let Some(device) = self.local_mapping(spec)?
        {
            return Err(in_use(spec, owner).hint(format!(
                "that plugin is not running, but the image is on {}: start it",
                device.path.display()
            )));
        }
        let watchers = watchers(io, spec)?;
        let watching = match &owner.client_addr {
            Some(address) => watchers.contains(address),
            // It died before it wrote its address down, and may have mapped the image: any watcher may be it.
            None => !watchers.is_empty(),
        };
        if watching {
            self.suspects.clear(who);
            return Err(in_use(spec, owner).hint(
                "that plugin is not running, but its host still uses the image: start the plugin there",
            ));
        }
        if !self.options.takeover {
            return Err(in_use(spec, owner).hint(format!(
                "that host shows no sign of life; with --takeover never it is for you to say so: rbd-docker-plugin lock break {spec}"
            )));
        }
        if !self.suspects.confirm(who, looked) {
            return Err(in_use(spec, owner).hint(format!(
                "that host shows no sign of life; it is fenced and followed when that has lasted {} s",
                CONFIRM.as_secs()
            )));
        }
        Ok(())
    }

    /// `InUse` when somebody outside of all plugins has a free image mapped or open for writing.
    pub(super) fn refuse_if_used(
        &self,
        session: &Session,
        io: &IoCtx,
        spec: &ImageSpec,
        id: &str,
    ) -> Result<()> {
        self.refuse_if_mapped_by_hand(io, spec, id)?;
        self.refuse_if_watched(session, io, spec, id)?;
        advisory::refuse_if_locked(io, spec, id)
    }

    /// Mappings of this host are not meant here.
    fn refuse_if_watched(&self, session: &Session, io: &IoCtx, spec: &ImageSpec, id: &str) -> Result<()> {
        let watchers = self.opened.watchers(io, spec, id)?;
        if watchers.is_empty() {
            return Ok(());
        }
        let here = self.addresses(session)?;
        let own = session.cluster.addresses()?;
        match watchers.iter().find(|address| !here.contains(address) && !own.contains(address.as_str())) {
            Some(address) => Err(DriverError::new(
                ErrorKind::InUse,
                format!("{spec} is mapped or open at {address}, not by a plugin of this kind"),
            )
            .hint(format!(
                "unmap it there; rbd status {spec} shows who has it open. If no host has, it may be (a guess) an rbd-mirror daemon, which opens what it mirrors and comes back by itself: rbd mirror image status {spec}; such an image can be mounted when the daemon is stopped or the image's mirroring is disabled"
            ))),
            None => Ok(()),
        }
    }
}

/// The addresses that watch an image: of everybody who has it mapped, or open for writing.
pub(super) fn watchers(io: &IoCtx, spec: &ImageSpec) -> Result<Vec<String>> {
    let image = match Image::open_read_only(io, spec.image()) {
        Err(e) if e.errno == Errno::ENOENT => return Ok(Vec::new()),
        image => image?,
    };
    Ok(image.watchers()?.into_iter().map(|watcher| watcher.address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ago(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap()
    }

    /// Suspects of whom one was seen first and last so many seconds ago.
    fn seen(since: u64, last: u64) -> Suspects {
        let suspect = Suspect { since: ago(since), last: ago(last) };
        Suspects(Mutex::new(HashMap::from([("a".to_owned(), suspect)])))
    }

    #[test]
    fn a_suspect_is_confirmed_only_by_looking_all_the_time() {
        let suspects = Suspects::default();
        assert!(!suspects.confirm("a", Instant::now()), "the first look");
        assert!(seen(11, 1).confirm("a", Instant::now()));
        assert!(!seen(60, 16).confirm("a", Instant::now()), "it may have lived in between");
        let suspects = seen(60, 1);
        suspects.clear("a");
        assert!(!suspects.confirm("a", Instant::now()), "it has lived since");
    }

    #[test]
    fn a_round_of_slow_requests_does_not_begin_the_confirmation_anew() {
        assert!(seen(20, 8).confirm("a", ago(6)), "the looks took 6 s each, with 2 s between them");
        assert!(!seen(12, 10).confirm("a", ago(8)), "the second look began 4 s after the first had ended");
    }

    #[test]
    fn suspects_that_nobody_looks_at_are_forgotten() {
        let suspects = seen(60, 16);
        suspects.confirm("b", Instant::now());
        assert_eq!(lock(&suspects.0).keys().collect::<Vec<_>>(), ["b"]);
    }
}

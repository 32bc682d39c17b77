//! Taking over from an owner that is gone, and shutting it out first.
//!
//! An owner on another host is followed only with two independent signs, neither of which rests on the clock of any host but this one:
//!
//! * its heartbeat has run out, by the clock of the OSD: it was not renewed for as long as `--dead-after` says;
//! * its kernel's client is silent for as long: it does not watch the image, or watches it and leaves all questions unanswered. A kernel
//!   answers as long as its host runs, in milliseconds, whatever its plugin does; one that is frozen or without power does not.
//!
//! Then its recorded addresses are put on the cluster's blocklist, and only then is its record replaced: from there on nothing that it
//! still has in memory can reach the disk. A plugin that is merely stopped keeps its volumes: its kernel goes on answering.
//!
//! After an outage of the cluster itself, heartbeats and watches are missing until the hosts are back. Silence counts only from the first
//! look that the cluster answers, so a host has `--dead-after` to come back.

use std::time::{Duration, Instant};

use super::heartbeat::{self, cookie};
use super::kv::{ClusterKv, Mappings, place};
use super::owners::Owners;
use super::record::{OwnerRecord, in_use};
use super::suspects::suspect;
use crate::model::error::Result;
use crate::model::name::ImageSpec;

/// So many questions in a row a kernel leaves unanswered before it counts as dead. A live one answers in some milliseconds; with storage that is
/// slow, or on a host that is busy, in seconds.
const QUESTIONS: u32 = 2;

/// An earlier boot of a host is gone with its kernel, so it is shut out no longer: its requests that are on their way end within minutes.
const EARLIER_BOOT: Duration = Duration::from_secs(3600);

/// What is advised where an owner lives.
pub const UNMOUNT_THERE: &str = "unmount the volume there";

/// Whose record it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Takeover {
    /// Our own, of this boot.
    NotNeeded,
    /// Of somebody who is shut out: it may be replaced.
    OwnerFenced,
}

/// What one look at an owner's kernel has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It answers, or something does that may be it.
    Alive,
    /// It was asked and did not answer, from the first moment to the second.
    Unanswered(Instant, Instant),
    /// It does not watch the image, at some moment between these two.
    NoWatch(Instant, Instant),
}

impl Owners {
    /// Whether a record may be replaced by ours; an owner that is gone is shut out first. `InUse` while it lives or may live.
    pub(super) fn take_over(
        &self,
        kv: &dyn ClusterKv,
        mappings: &dyn Mappings,
        spec: &ImageSpec,
        id: Option<&str>,
        record: &OwnerRecord,
    ) -> Result<Takeover> {
        if self.is_own(record) {
            return Ok(Takeover::NotNeeded);
        }
        let owner = &record.owner;
        // Without all ids, a copy of this host cannot be told from this one before its restart.
        let earlier_boot = owner.same_plugin(&self.identity) && owner.surely_same_host(&self.identity);
        let beats = || -> Result<bool> { Ok(heartbeat::alive(kv, &place(spec))?.contains(&cookie(owner))) };
        let beat = beats()?;
        let silence = if earlier_boot { None } else { Some(self.silence(kv, spec, id, record, beat)?) };
        // A question takes seconds: meanwhile it may have run out, or have begun to beat again.
        let beats = if silence.flatten().is_some() { beats()? } else { beat };
        if beats {
            let hint = if owner.same_plugin(&self.identity) {
                "that is this host before its restart, or a copy of it that lives; it is known when its heartbeat has run out"
            } else {
                UNMOUNT_THERE
            };
            return Err(in_use(spec, owner).hint(hint));
        }
        if let Some(silence) = silence {
            self.refuse_unless_dead(mappings, spec, id, record, silence)?;
        }
        let lasts = if earlier_boot { EARLIER_BOOT.min(self.settings.fence) } else { self.settings.fence };
        kv.shut_out(&record.addresses(), lasts)?;
        Ok(Takeover::OwnerFenced)
    }

    /// For how long the owner's kernel has been silent; nothing when it answers. It is asked while the heart still beats, too: a host
    /// that has just died is silent long before its heartbeat has run out.
    fn silence(
        &self,
        kv: &dyn ClusterKv,
        spec: &ImageSpec,
        id: Option<&str>,
        record: &OwnerRecord,
        beats: bool,
    ) -> Result<Option<Duration>> {
        let who = suspect(record);
        if beats && self.suspects.has_answered(&who, kv.now()) {
            return Ok(None);
        }
        let gap = self.settings.dead_after * 3 / 2;
        match ask(kv, spec, id, record, self.settings.dead_after / QUESTIONS)? {
            Answer::Alive => {
                self.suspects.note_answer(&who, kv.now());
                Ok(None)
            }
            // Nothing is mapped yet, or not any more: the heartbeat alone counts.
            Answer::NoWatch(..) if beats => {
                self.suspects.clear(&who);
                Ok(None)
            }
            Answer::Unanswered(from, to) => Ok(Some(self.suspects.note_silence(&who, (from, to), gap))),
            // For how long before and after, is not known.
            Answer::NoWatch(from, to) => Ok(Some(self.suspects.note_silence(&who, (to, from), gap))),
        }
    }

    /// The owner's heart does not beat. Is that all?
    fn refuse_unless_dead(
        &self,
        mappings: &dyn Mappings,
        spec: &ImageSpec,
        id: Option<&str>,
        record: &OwnerRecord,
        silence: Option<Duration>,
    ) -> Result<()> {
        let owner = &record.owner;
        if owner.boot_id == self.identity.boot_id
            && let Some(id) = id
            && let Some(mapping) = mappings.of(&place(spec), id)?
        {
            return Err(in_use(spec, owner).hint(format!(
                "that plugin is not running, but the image is on {}: start it",
                mapping.device
            )));
        }
        let Some(silence) = silence else {
            return Err(in_use(spec, owner).hint(
                "that plugin is not running, but its host still uses the image: start the plugin there",
            ));
        };
        if !self.settings.takeover {
            return Err(in_use(spec, owner).hint(format!(
                "that host shows no sign of life; with --takeover never it is for you to say so: rbd-docker-plugin lock break {spec}"
            )));
        }
        if silence < self.settings.dead_after {
            return Err(in_use(spec, owner).hint(format!(
                "that host shows no sign of life; it is fenced and its volume taken over when that has lasted {} s",
                self.settings.dead_after.as_secs()
            )));
        }
        Ok(())
    }
}

/// Asks the kernel that a record names for a sign of life. A record without one: its owner died before it wrote the address down, and may
/// have mapped the image, so any client that watches it may be its kernel.
fn ask(
    kv: &dyn ClusterKv,
    spec: &ImageSpec,
    id: Option<&str>,
    record: &OwnerRecord,
    patience: Duration,
) -> Result<Answer> {
    let (asked, watchers) = match id {
        Some(id) => (kv.now(), kv.watchers(spec, id)?),
        None => (kv.now(), Vec::new()),
    };
    let named = |address: &String| record.owner.client_addr.as_ref().is_none_or(|named| named == address);
    let may_be_it: Vec<&String> = watchers.iter().filter(|address| named(address)).collect();
    let Some(id) = id.filter(|_| !may_be_it.is_empty()) else {
        return Ok(Answer::NoWatch(asked, kv.now()));
    };
    let asked = kv.now();
    let answering = kv.answering_watchers(spec, id, patience)?;
    if may_be_it.into_iter().any(|address| answering.contains(address)) {
        Ok(Answer::Alive)
    } else {
        Ok(Answer::Unanswered(asked, kv.now()))
    }
}

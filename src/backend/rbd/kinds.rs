//! The kinds of images that a pool can hold, and what keeps one of them from being mounted or removed.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use nix::errno::Errno;

use super::header::Header;
use super::{inside, map};
use crate::ceph::{IoCtx, Snapshot, SnapshotOf, features};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::image::{ImageInfo, Trouble};
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::size::Size;

/// What the header object of an image of format 1 begins with.
const FORMAT_1: &[u8] = b"<<< Rados Block Device Image >>>";
/// Where it has its order and its size.
const FORMAT_1_ORDER: usize = 76;
const FORMAT_1_SIZE: usize = 80;

/// Features that come with something else, and that nobody asks for by name.
const IMPLIED: u64 = features::STRIPING | features::DATA_POOL | features::STATES;

/// The features that somebody has chosen, out of those that an image has.
pub(super) fn chosen(bits: u64) -> String {
    let mut names = features::names(bits & !IMPLIED);
    names.sort_unstable();
    names.join(",")
}

/// What an image is, in the words of the options that make such a one.
pub(super) fn is(io: &IoCtx, header: &Header) -> ImageOptions {
    let (unit, count) = header.striping.unwrap_or((header.object_size.as_bytes(), 1));
    // A pool that was removed has no name any more; then its number has to do.
    let pool = |id| io.cluster().pool_name(id).unwrap_or_else(|_| format!("pool {id}"));
    ImageOptions {
        size: Some(header.size),
        features: Some(chosen(header.features)),
        object_size: Some(header.object_size),
        stripe_unit: Some(Size::bytes(unit)),
        stripe_count: Some(count),
        data_pool: Some(header.data_pool.map_or_else(|| io.pool().to_owned(), pool)),
        ..ImageOptions::default()
    }
}

/// What else there is to show of an image.
pub(super) fn details(io: &IoCtx, header: &Header, is: &ImageOptions) -> BTreeMap<&'static str, String> {
    let mut details = BTreeMap::from([
        ("features", features::names(header.features).join(",")),
        ("object-size", header.object_size.to_string()),
        ("cluster", io.cluster().fsid().to_owned()),
    ]);
    if let Some((unit, count)) = header.striping {
        details.insert("stripe-unit", Size::bytes(unit).to_string());
        details.insert("stripe-count", count.to_string());
    }
    if let (Some(_), Some(pool)) = (header.data_pool, &is.data_pool) {
        details.insert("data-pool", pool.clone());
    }
    details
}

/// What keeps an image from being mounted.
pub(super) fn trouble(spec: &ImageSpec, header: &Header, kernel: Option<u64>) -> Option<Trouble> {
    let has = |feature: u64| header.features & feature != 0;
    if let Some(damage) = &header.damage {
        let why = damage.clone().context(spec);
        return Some(Trouble { why, removable: false });
    }
    if has(features::MIGRATING) {
        return Some(Trouble { why: migrating(spec), removable: false });
    }
    if has(features::NON_PRIMARY) {
        return Some(Trouble { why: not_primary(spec), removable: false });
    }
    if has(features::DIRTY_CACHE) {
        let why = failed(format!("{spec} has writes in the persistent cache of a librbd client")).hint(
            format!("end that client cleanly, so that it writes them back; rbd status {spec} shows where"),
        );
        return Some(Trouble { why, removable: false });
    }
    if header.size.as_bytes() == 0 {
        let why =
            failed(format!("{spec} has no size")).hint(format!("give it one: rbd resize {spec} --size 1G"));
        return Some(Trouble { why, removable: true });
    }
    let lacking = kernel.map_or(0, |kernel| header.features & !kernel);
    (lacking != 0).then(|| Trouble { why: map::lacks(spec, header.features, lacking), removable: true })
}

fn failed(message: String) -> DriverError {
    DriverError::new(ErrorKind::Failed, message)
}

fn in_use(message: String) -> DriverError {
    DriverError::new(ErrorKind::InUse, message)
}

fn migrating(spec: &ImageSpec) -> DriverError {
    in_use(format!("{spec} is being migrated"))
        .hint(format!("rbd migration execute {spec} and rbd migration commit {spec} end that"))
}

fn not_primary(spec: &ImageSpec) -> DriverError {
    failed(format!("{spec} is not primary here: another site writes it")).hint(format!(
        "mount it at its own site; or make it primary here, when it is demoted there: rbd mirror image promote {spec}"
    ))
}

/// An image of format 1, if there is one of this name: only its header object bears the name.
pub(super) fn format_1(io: &IoCtx, spec: &ImageSpec) -> Result<Option<ImageInfo>> {
    let header = match io.read(&format!("{}.rbd", spec.image()), FORMAT_1_SIZE + 8) {
        Err(e) if e.errno == Errno::ENOENT => return Ok(None),
        header => header?,
    };
    if !header.starts_with(FORMAT_1) {
        return Ok(None);
    }
    let size = header.get(FORMAT_1_SIZE..).and_then(|rest| rest.first_chunk::<8>());
    let size = size.map(|bytes| Size::bytes(u64::from_le_bytes(*bytes)));
    let object_size = header.get(FORMAT_1_ORDER).filter(|order| **order < 64);
    let is = ImageOptions {
        size,
        object_size: object_size.map(|order| Size::bytes(1 << order)),
        ..ImageOptions::default()
    };
    let why = failed(format!("{spec} is an image of format 1, which has no place for the plugin's records"))
        .hint(format!(
            "rbd migration prepare {spec}, then rbd migration execute and commit, make it one of format 2"
        ));
    Ok(Some(ImageInfo {
        size: Some(size.unwrap_or(Size::bytes(0))),
        record: None,
        created: UNIX_EPOCH,
        allocated: None,
        id: None,
        is,
        trouble: Some(Trouble { why, removable: false }),
        details: BTreeMap::from([("format", "1".to_owned())]),
    }))
}

/// An image whose name is gone, if there is one that was called so: the pool's directory lists it.
pub(super) fn nameless(io: &IoCtx, spec: &ImageSpec) -> Result<Option<ImageInfo>> {
    let Some((id, header)) = inside::nameless(io, spec)? else { return Ok(None) };
    let is = is(io, &header);
    let details = details(io, &header, &is);
    Ok(Some(ImageInfo {
        size: Some(header.size),
        record: None,
        created: header.created,
        allocated: None,
        id: None,
        is,
        trouble: Some(Trouble { why: inside::lost_its_name(spec, &id), removable: false }),
        details,
    }))
}

/// An error that says what an image has that keeps it from being removed, as librbd will say it, but with names.
pub(super) fn refuse_unless_removable(io: &IoCtx, spec: &ImageSpec, header: &Header) -> Result<()> {
    let refused = trouble(spec, header, None).filter(|trouble| !trouble.removable);
    if let Some(trouble) = refused {
        return Err(trouble.why);
    }
    let image = inside::open(io, spec)?;
    let mirrored = image.mirrored()?;
    if mirrored.is_some_and(|mirrored| !mirrored.primary) {
        return Err(not_primary(spec));
    }
    refuse_snapshots(spec, &image.snapshots()?, || Ok(image.children()?))?;
    if let Some(group) = image.group()? {
        return Err(in_use(format!("{spec} is in the group {group}"))
            .hint(format!("take it out first: rbd group image remove {group} {spec}")));
    }
    drop(image);
    let watchers = inside::watchers(io, spec)?;
    if watchers.is_empty() {
        return Ok(());
    }
    let mirror = match mirrored {
        Some(_) => "; it is mirrored, so that may be rbd-mirror: rbd mirror image disable ends that",
        None => "",
    };
    Err(in_use(format!("{spec} is mapped or open at {}", shortened(&watchers)))
        .hint(format!("unmap it there{mirror}; rbd status {spec} shows who has it open")))
}

fn refuse_snapshots(
    spec: &ImageSpec,
    snapshots: &[Snapshot],
    children: impl FnOnce() -> Result<Vec<String>>,
) -> Result<()> {
    // Those of rbd-mirror go with the image.
    let kept: Vec<&Snapshot> = snapshots.iter().filter(|snap| snap.of != SnapshotOf::Mirror).collect();
    if kept.is_empty() {
        return Ok(());
    }
    let names = |of: SnapshotOf| -> Vec<String> {
        kept.iter().filter(|snap| snap.of == of).map(|snap| snap.name.clone()).collect()
    };
    let children = children()?;
    if !children.is_empty() {
        return Err(in_use(format!(
            "{spec} has {} clone(s) that need its snapshots: {}",
            children.len(),
            shortened(&children)
        ))
        .hint("remove the clones first, or give them data of their own: rbd flatten CLONE"));
    }
    let user = names(SnapshotOf::User);
    if !user.is_empty() {
        let protected: Vec<&str> =
            kept.iter().filter(|snap| snap.protected).map(|snap| snap.name.as_str()).collect();
        let unprotect = match protected.first() {
            Some(first) => format!("rbd snap unprotect {spec}@{first}, for each protected one, and then "),
            None => String::new(),
        };
        let marked = user.iter().map(|name| match protected.contains(&name.as_str()) {
            true => format!("{name} (protected)"),
            false => name.clone(),
        });
        return Err(in_use(format!(
            "{spec} has {} snapshot(s): {}",
            user.len(),
            shortened(&marked.collect::<Vec<_>>())
        ))
        .hint(format!("{unprotect}rbd snap purge {spec} removes them, if they are not needed")));
    }
    let group = names(SnapshotOf::Group);
    if !group.is_empty() {
        return Err(in_use(format!("{spec} has {} snapshot(s) of a group", group.len())).hint(format!(
            "rbd snap ls --all {spec} names them; rbd group snap remove GROUP@SNAPSHOT removes one, if it is not needed"
        )));
    }
    Err(in_use(format!("{spec} has {} snapshot(s) that rbd snap ls does not show", kept.len()))
        .hint(format!("rbd snap ls --all {spec} shows them")))
}

/// The first few names of a list.
pub(super) fn shortened(names: &[String]) -> String {
    let more = if names.len() > 4 { ", …" } else { "" };
    format!("{}{more}", names.iter().take(4).cloned().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(features: u64) -> Header {
        Header {
            size: Size::mib(64),
            object_size: Size::mib(4),
            features,
            striping: None,
            data_pool: None,
            created: UNIX_EPOCH,
            record: None,
            damage: None,
        }
    }

    fn spec() -> ImageSpec {
        ImageSpec::new("vol", None, "v").unwrap()
    }

    fn told(features: u64) -> (String, bool) {
        let trouble = trouble(&spec(), &header(features), Some(features::LAYERING)).unwrap();
        (trouble.why.to_string(), trouble.removable)
    }

    #[test]
    fn each_kind_has_its_own_way_out() {
        assert!(trouble(&spec(), &header(features::LAYERING), Some(features::LAYERING)).is_none());
        for (bits, parts, removable) in [
            (features::MIGRATING, ["is being migrated", "rbd migration execute vol/v"], false),
            (features::NON_PRIMARY, ["is not primary here", "rbd mirror image promote vol/v"], false),
            (features::DIRTY_CACHE, ["persistent cache", "rbd status vol/v"], false),
            (features::OBJECT_MAP, ["lacks: object-map", "rbd feature disable vol/v object-map"], true),
            (features::JOURNALING, ["journaling", "ends its mirroring"], true),
            (1 << 60, ["lacks", "newer kernel"], true),
        ] {
            let (said, may) = told(bits | features::LAYERING);
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
            assert_eq!(may, removable, "{said}");
        }
    }

    #[test]
    fn what_was_chosen_leaves_out_what_comes_with_other_options() {
        let bits = features::LAYERING | features::EXCLUSIVE_LOCK | features::STRIPING | features::DATA_POOL;
        assert_eq!(chosen(bits), "exclusive-lock,layering");
    }

    #[test]
    fn snapshots_are_told_by_whose_they_are() {
        let snap = |name: &str, of, protected| Snapshot { name: name.to_owned(), of, protected };
        let said = |snaps: &[Snapshot], children: &[&str]| {
            let children = children.iter().map(|child| (*child).to_owned()).collect();
            refuse_snapshots(&spec(), snaps, || Ok(children)).map_err(|e| e.to_string())
        };
        said(&[snap(".mirror.x", SnapshotOf::Mirror, false)], &[]).unwrap();
        let protected = said(&[snap("s", SnapshotOf::User, true)], &[]).unwrap_err();
        assert!(protected.contains("1 snapshot(s): s (protected)"), "{protected}");
        assert!(protected.contains("rbd snap unprotect vol/v@s"), "{protected}");
        let cloned = said(&[snap("u-u-i-d", SnapshotOf::Trash, false)], &["vol/k"]).unwrap_err();
        assert!(cloned.contains("1 clone(s) that need its snapshots: vol/k"), "{cloned}");
        let group = said(&[snap(".group.1", SnapshotOf::Group, false)], &[]).unwrap_err();
        assert!(group.contains("rbd group snap remove"), "{group}");
    }
}

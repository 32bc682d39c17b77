//! Path, Get and List: no guard, no waiting, and never "not found" because something is away.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::Driver;
use super::api::Volume;
use super::naming::ShownNames;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::image::{ImageInfo, Listing};
use crate::model::name::{ImageSpec, VolumeName};
use crate::model::options::ImageOptions;
use crate::model::size::Size;
use crate::model::time::{rfc3339, seconds};

/// A List of so many takes memory that is worth giving back.
const MANY: usize = 1000;

impl Driver {
    /// See [`VolumeDriver::path`](super::api::VolumeDriver::path).
    pub(super) fn path(&self, name: &str) -> Result<Option<PathBuf>> {
        let volume: VolumeName = name.parse()?;
        let spec = match self.resolve(&volume) {
            Err(e) => {
                return self.mounted_as(&volume, |_| true).ok_or(e).map(|v| Some(v.refs.mountpoint.clone()));
            }
            found => found?,
        };
        if let Some(mounted) = self.table.get(&spec) {
            return Ok(Some(mounted.refs.mountpoint.clone()));
        }
        self.existing(name, &spec).map(|_| None)
    }

    /// See [`VolumeDriver::get`](super::api::VolumeDriver::get).
    pub(super) fn get(&self, name: &str) -> Result<Volume> {
        let volume: VolumeName = name.parse()?;
        // Of all names one is read, however many there are. It is bound to an image of its own name.
        let bound = match volume.pool() {
            Some(pool) => self.binding_beside(&volume.in_pool(pool)?),
            None => self.kind.binding(volume.image()),
        };
        let answer = bound.and_then(|bound| {
            let spec = self.resolve_bound(bound.as_ref(), &volume)?;
            let shown = self.shown_bound(bound.as_ref(), &spec);
            let info = match self.existing(name, &spec) {
                Err(e) if e.kind == ErrorKind::NotFound && self.table.get(&spec).is_some() => {
                    let why = self.kind.whereabouts(&spec);
                    return Ok((self.describe_vanished(name, &spec, why), shown));
                }
                info => info?,
            };
            self.was_looked_up(volume.image(), bound.as_ref());
            Ok((self.describe(name, &spec, &info), shown))
        });
        match answer {
            Ok((volume, shown)) => {
                self.cache.put(&volume, shown != name);
                Ok(volume)
            }
            Err(e) if matches!(e.kind, ErrorKind::NotFound | ErrorKind::Invalid) => Err(e),
            // Docker throws its record of the volume away on any other answer.
            Err(e) => match self.cache.get(name, &e) {
                Some(mut known) => {
                    tracing::warn!(error = %e, "answered from the cache");
                    let mounted = match self.resolve(&volume) {
                        Ok(spec) => self.table.get(&spec),
                        Err(_) => self.mounted_as(&volume, |_| true),
                    };
                    known.mountpoint = mounted.map(|mounted| mounted.refs.mountpoint.clone());
                    Ok(known)
                }
                None => Err(DriverError { kind: ErrorKind::Unreachable, ..e }),
            },
        }
    }

    /// See [`VolumeDriver::list`](super::api::VolumeDriver::list).
    pub(super) fn list(&self) -> Result<Vec<Volume>> {
        let listed = self.kind.list().and_then(|listing| match self.shown_names() {
            // Nobody was told of other names yet; or they are in the pool that is left out, and what is listed is of others.
            Err(e)
                if self.cache.all(&e).is_empty()
                    || listing.left_out.iter().any(|out| out.pool == self.settings.pool) =>
            {
                tracing::warn!(error = %e, "listed by their images: bare names cannot be read");
                Ok((ShownNames::default(), listing))
            }
            names => Ok((names?, listing)),
        });
        let (names, Listing { specs, left_out }) = match listed {
            Ok(listed) => listed,
            Err(e) => {
                let known = self.cache.all(&e);
                if known.is_empty() {
                    return Err(e);
                }
                tracing::warn!(error = %e, "listed from the cache");
                return Ok(known);
            }
        };
        self.was_answered(&names.bindings);
        let making = self.entries.those(|entry| entry.making);
        // Containers use what is mounted, even when its image is under this name no more.
        let mut specs = specs;
        let mounted = self.table.all();
        let unseen = |spec: &&ImageSpec| left_out.iter().any(|left_out| left_out.covers(spec));
        let mounted = mounted.iter().map(|volume| &volume.refs.spec);
        let mut unlisted: HashSet<&ImageSpec> = mounted.filter(|spec| !unseen(spec)).collect();
        if !unlisted.is_empty() {
            specs.iter().for_each(|spec| {
                unlisted.remove(spec);
            });
        }
        specs.extend(unlisted.into_iter().cloned());
        let mut volumes: Vec<Volume> = specs
            .iter()
            .filter(|spec| !making.contains(spec))
            .map(|spec| Volume {
                name: names.of(spec),
                mountpoint: self.table.get(spec).map(|mounted| mounted.refs.mountpoint.clone()),
                ..Volume::default()
            })
            .collect();
        let spec_of = |name: &str| {
            name.parse().and_then(|name: VolumeName| self.resolve_by(&names.bindings, &name)).ok()
        };
        // What cannot be seen now is not gone.
        let unseen = left_out.iter().flat_map(|left_out| {
            self.cache.those(&left_out.why, |name| spec_of(name).is_some_and(|spec| left_out.covers(&spec)))
        });
        volumes.extend(unseen);
        // Most Lists are like the one before, and nobody asks.
        let all = LazyCell::new(|| specs.iter().collect::<HashSet<&ImageSpec>>());
        let known = |name: &str| {
            let may_be = |spec: &ImageSpec| {
                all.contains(spec) || left_out.iter().any(|left_out| left_out.covers(spec))
            };
            spec_of(name).is_some_and(|spec| may_be(&spec))
        };
        self.cache.set_names(volumes.iter().map(|volume| volume.name.as_str()), known);
        if volumes.len() >= MANY {
            self.host.trim_soon();
        }
        Ok(volumes)
    }

    /// The image, if it is a volume.
    pub(super) fn existing(&self, name: &str, spec: &ImageSpec) -> Result<ImageInfo> {
        match self.kind.info(spec)? {
            Some(info) if !info.is_half_made() => Ok(info),
            _ => Err(missing(name)),
        }
    }

    /// What is mounted here, although there is no image of this name any more.
    fn describe_vanished(&self, name: &str, spec: &ImageSpec, why: Option<String>) -> Volume {
        let info = ImageInfo {
            size: None,
            record: None,
            created: SystemTime::UNIX_EPOCH,
            allocated: None,
            id: None,
            is: ImageOptions::default(),
            trouble: None,
            details: BTreeMap::new(),
        };
        let mut volume = self.describe(name, spec, &info);
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        volume.created_at = None;
        for gone in ["made-by", "size", "allocated"] {
            volume.status.remove(gone);
        }
        volume.status.insert("health".to_owned(), json!("degraded"));
        let reason = format!("{spec} is mounted here, but there is no image of this name any more{why}");
        volume.status.insert("reason".to_owned(), json!(reason));
        volume
    }

    fn describe(&self, name: &str, spec: &ImageSpec, info: &ImageInfo) -> Volume {
        let mounted = self.table.get(spec);
        let mut status = Map::new();
        let mut put = |key: &str, value: Value| status.insert(key.to_owned(), value);
        put("backend", json!(self.kind.name()));
        put("image", json!(spec.to_string()));
        put("size", json!(info.size.map(|size| size.to_string())));
        put("allocated", json!(info.allocated.map(Size::as_bytes)));
        if let Some(id) = &info.id {
            put("image-id", json!(id));
        }
        for (key, value) in &info.details {
            put(key, json!(value));
        }
        let mut health = "ok";
        if let Some(trouble) = &info.trouble {
            health = "unusable";
            put("reason", json!(trouble.why.to_string()));
        }
        for (key, value) in self.kind.describe(info) {
            put(key, value);
        }
        let is_ours = info.record.as_ref().is_some_and(|record| !record.adopted);
        put("made-by", json!(if is_ours { "this plugin" } else { "somebody else" }));
        match self.kind.owner(spec, info.id.as_deref()) {
            Ok(Some(owner)) => {
                put("owner", json!(owner.to_string()));
            }
            Ok(None) => {}
            Err(e) => {
                health = "degraded";
                put("reason", json!(e.to_string()));
            }
        }
        if let Some(mounted) = &mounted {
            put("device", json!(mounted.attached.source));
            put("fstype", json!(mounted.attached.fstype));
            put("read-only", json!(mounted.attached.read_only));
            put("mounts", json!(mounted.refs.total()));
            put("mounted-since", json!(rfc3339(mounted.refs.since)));
            if let Some(usage) = self.new_usage_of(mounted) {
                put("used", json!(usage.used));
                put("available", json!(usage.available));
            }
            put("mount-ids", json!(mounted.refs.counts()));
        }
        if self.is_unsettled(spec) {
            health = "unsettled";
            put("reason", json!("an earlier operation could not be undone yet; it is tried again"));
        }
        if let Some(why) = self.entries.read(spec, |entry| entry.lost.clone()) {
            health = "fenced";
            put("reason", json!(why));
        }
        put("health", json!(health));
        let created = info.record.as_ref().map_or_else(|| seconds(info.created), |record| record.created);
        Volume {
            name: name.to_owned(),
            mountpoint: mounted.map(|mounted| mounted.refs.mountpoint.clone()),
            created_at: Some(rfc3339(created)),
            status,
        }
    }
}

pub(super) fn missing(name: &str) -> DriverError {
    DriverError::new(ErrorKind::NotFound, format!("Image {name} does not exist"))
}

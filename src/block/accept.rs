//! Create of a volume that is there: what it is asked to be is compared with what it *is*. What differs is refused, each by name; what
//! cannot be honoured any more is refused, too. So nothing false is ever recorded, and what an earlier version has recorded falsely is
//! corrected when the truth is seen.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Block;
use crate::driver::kind::{Undo, Volumes};
use crate::model::create_options::{SMALL, small};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::filesystem::{Content, Filesystem};
use crate::model::image::ImageInfo;
use crate::model::mount_options;
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::record::{Record, Stage};
use crate::model::time::seconds;

/// What is known of an image's data.
#[derive(Debug)]
enum Holds {
    /// A filesystem that this plugin has made, or found and recorded.
    Recorded,
    /// A filesystem of which there is no record.
    Found(Filesystem),
    /// Something else.
    Data(String),
    /// Nothing: it will be formatted when it is first mounted.
    Nothing,
    /// Nobody has looked.
    Unknown,
}

/// Options that count once, when the filesystem is made.
fn of_filesystem(options: &ImageOptions) -> ImageOptions {
    ImageOptions {
        fstype: options.fstype,
        mkfs_options: options.mkfs_options.clone(),
        uid: options.uid,
        gid: options.gid,
        mode: options.mode,
        ..ImageOptions::default()
    }
}

/// Options that count whenever the image is mapped and mounted.
fn of_mounts(options: &ImageOptions) -> ImageOptions {
    ImageOptions {
        mount_options: options.mount_options.clone(),
        read_only: options.read_only,
        map_options: options.map_options.clone(),
        lock: options.lock,
        ..ImageOptions::default()
    }
}

/// Options that say how the image is made.
fn of_image(options: &ImageOptions) -> ImageOptions {
    ImageOptions {
        size: options.size,
        features: options.features.as_deref().map(chosen),
        object_size: options.object_size,
        stripe_unit: options.stripe_unit,
        stripe_count: options.stripe_count,
        data_pool: options.data_pool.clone(),
        ..ImageOptions::default()
    }
}

/// A list of features as the image has it in the end: some come with other options, some with each other.
fn chosen(list: &str) -> String {
    let mut words: Vec<&str> =
        list.split(',').filter(|word| !matches!(*word, "striping" | "data-pool")).collect();
    if words.contains(&"object-map") {
        words.push("fast-diff");
    }
    words.sort_unstable();
    words.dedup();
    words.join(",")
}

/// What of `asked` differs from `have`, by option. What was not asked for does not differ.
fn differences(have: &ImageOptions, asked: &ImageOptions) -> BTreeMap<&'static str, String> {
    let (have, want) = (have.shown(), asked.shown());
    let differing = want.into_iter().filter(|(key, value)| have.get(key) != Some(value));
    let told = |(key, value)| {
        let is = have.get(key).map_or("not set", String::as_str);
        (key, format!("{key} is {is}, not {value}"))
    };
    differing.map(told).collect()
}

/// What of the options for a filesystem cannot be had, on an image that holds one which this plugin did not make.
fn too_late(found: &Filesystem, asked: &ImageOptions) -> BTreeMap<&'static str, String> {
    let shown = asked.shown().into_iter();
    let differing = shown.filter(|(key, value)| *key != "fstype" || *value != found.type_name);
    let told = |(key, value): (&'static str, String)| match key {
        "fstype" => (key, format!("fstype is {}, not {value}", found.type_name)),
        _ => (
            key,
            format!(
                "{key}={value} cannot be honoured: it is set when a filesystem is made, and the image has one"
            ),
        ),
    };
    differing.map(told).collect()
}

/// The record with what is known to be so in place of what was once asked for.
fn corrected(record: &Record, info: &ImageInfo, found: Option<&Filesystem>) -> Record {
    let mut record = record.clone();
    let (options, is) = (&mut record.options, &info.is);
    options.size = info.size.or(options.size);
    // Only what was asked for is on record at all.
    if options.features.is_some() && is.features.is_some() {
        options.features.clone_from(&is.features);
    }
    options.object_size = options.object_size.and(is.object_size).or(options.object_size);
    options.stripe_unit = options.stripe_unit.and(is.stripe_unit).or(options.stripe_unit);
    options.stripe_count = options.stripe_count.and(is.stripe_count).or(options.stripe_count);
    if options.data_pool.is_some() && is.data_pool.is_some() {
        options.data_pool.clone_from(&is.data_pool);
    }
    let Some(found) = found else { return record };
    // Never formatted by this plugin, or by somebody else since.
    let was_asked = record.adopted && record.stage == Stage::Creating;
    if was_asked || options.fstype.is_some_and(|kind| kind != found.kind) {
        options.fstype = Some(found.kind);
        options.mkfs_options = Vec::new();
        (options.uid, options.gid, options.mode) = (None, None, None);
        if was_asked {
            record.stage = Stage::Ready;
        }
    }
    record
}

impl ImageInfo {
    /// The options of the volume that hold, as far as they are known: what was only asked for is left out.
    fn options_that_hold(&self) -> Option<BTreeMap<&'static str, String>> {
        let record = self.record.as_ref()?;
        let mut options = corrected(record, self, None).options;
        if record.adopted && record.stage != Stage::Ready {
            options = of_mounts(&options);
            options.size = self.size;
        }
        Some(options.shown())
    }

    /// The options that will hold once the image is formatted.
    fn options_to_come(&self) -> Option<BTreeMap<&'static str, String>> {
        let record = self.record.as_ref().filter(|record| record.adopted && record.stage != Stage::Ready)?;
        Some(of_filesystem(&record.options).shown()).filter(|options| !options.is_empty())
    }
}

impl Block {
    /// See [`Kind::describe`](crate::driver::kind::Kind::describe).
    pub(super) fn describe(info: &ImageInfo) -> BTreeMap<&'static str, Value> {
        let mut shown = BTreeMap::new();
        let Some(record) = &info.record else { return shown };
        shown.insert("options", json!(info.options_that_hold()));
        if let Some(to_come) = info.options_to_come() {
            shown.insert("when-formatted", json!(to_come));
        }
        if record.stage == Stage::Ready {
            shown.insert("fstype", json!(record.options.fstype));
        }
        if let (true, Some(size)) = (record.options.bare_size, info.size.filter(|size| *size < SMALL)) {
            shown.insert("warning", json!(small(size)));
        }
        shown
    }

    /// Accepts what is so already, refuses what is not, and records what can still be honoured.
    pub(super) fn accept(
        &self,
        name: &str,
        spec: &ImageSpec,
        info: &ImageInfo,
        mut asked: ImageOptions,
        volumes: &dyn Volumes,
    ) -> Result<()> {
        let record = info.record.as_ref();
        let recorded = record.map(|record| record.options.clone()).unwrap_or_default();
        if recorded.read_only.is_none() {
            asked.read_only = asked.read_only.filter(|read_only| *read_only);
        }
        asked.bare_size = false;
        if asked == ImageOptions::default() {
            return Ok(());
        }
        let (once, mounts) = (of_filesystem(&asked), of_mounts(&asked));
        let look = once != ImageOptions::default() || mounts != ImageOptions::default();
        let holds = self.holds(spec, record, look)?;
        let mut differ = differences(&of_image(&info.is), &of_image(&asked));
        differ.extend(match &holds {
            Holds::Found(found) => too_late(found, &once),
            Holds::Data(what) => once
                .shown()
                .into_iter()
                .map(|(key, value)| {
                    (key, format!("{key}={value} cannot be honoured: the image holds {what}"))
                })
                .collect(),
            Holds::Nothing if record.is_none() => BTreeMap::new(),
            _ => differences(&of_filesystem(&recorded), &once),
        });
        if record.is_some() {
            differ.extend(differences(&of_mounts(&recorded), &mounts));
        }
        if !differ.is_empty() {
            let how: Vec<String> = differ.into_values().collect();
            return Err(DriverError::new(
                ErrorKind::AlreadyExists,
                format!("volume {name:?} exists with other options: {}", how.join(", ")),
            )
            .hint("leave the options out, or choose another name"));
        }
        let Some(record) = record else {
            let to_keep = mounts != ImageOptions::default()
                || (once != ImageOptions::default() && matches!(holds, Holds::Nothing));
            return if to_keep {
                self.adopt_image(name, spec, info, &asked, &holds, volumes)
            } else {
                Ok(())
            };
        };
        let found = match &holds {
            Holds::Found(found) => Some(found),
            _ => None,
        };
        self.correct(spec, record, info, found, volumes);
        Ok(())
    }

    /// What an image holds; looked for where the record does not say it.
    fn holds(&self, spec: &ImageSpec, record: Option<&Record>, look: bool) -> Result<Holds> {
        let recorded = match record {
            Some(record) if record.adopted => match record.stage {
                Stage::Ready => return Ok(Holds::Recorded),
                // Its mkfs died, and will be run again.
                Stage::Formatting { .. } => return Ok(Holds::Nothing),
                Stage::Creating => true,
            },
            Some(_) => return Ok(Holds::Recorded),
            None => false,
        };
        if !look && !recorded {
            return Ok(Holds::Unknown);
        }
        Ok(match self.store.content(spec)? {
            Content::Filesystem(found) => Holds::Found(found),
            Content::Foreign(what) => Holds::Data(what),
            Content::Nothing if self.store.is_untouched(spec)? => Holds::Nothing,
            Content::Nothing => Holds::Data("data that is no filesystem".to_owned()),
        })
    }

    /// Records the options of an image that somebody else made.
    fn adopt_image(
        &self,
        name: &str,
        spec: &ImageSpec,
        info: &ImageInfo,
        asked: &ImageOptions,
        holds: &Holds,
        volumes: &dyn Volumes,
    ) -> Result<()> {
        if let Some(trouble) = info.trouble.as_ref().filter(|trouble| !trouble.removable) {
            return Err(trouble.why.clone());
        }
        let mut options = of_mounts(asked);
        options.mount_options = self.mount_options(asked);
        options.size = info.size;
        let mut stage = Stage::Creating;
        match holds {
            Holds::Found(found) => {
                stage = Stage::Ready;
                options.fstype = Some(found.kind);
            }
            Holds::Nothing => {
                let once = of_filesystem(asked);
                options = ImageOptions {
                    fstype: once.fstype,
                    mkfs_options: once.mkfs_options,
                    uid: once.uid,
                    gid: once.gid,
                    mode: once.mode,
                    ..options
                };
            }
            _ => {}
        }
        let record = Record::new(stage, true, seconds(info.created), options);
        match holds {
            Holds::Nothing => self.check_format(&record)?,
            _ => {
                mount_options::parse(record.options.mount_options.as_deref().unwrap_or_default()).map(drop)?
            }
        }
        // Another host may have adopted it since we looked.
        let there = self.under_claim(spec, volumes, || match self.store.info(spec)? {
            Some(info) if info.record.is_some() => Ok(Some(info)),
            _ => self.store.write_record(spec, &record).map(|()| None),
        })?;
        there.map_or(Ok(()), |info| self.accept(name, spec, &info, asked.clone(), volumes))
    }

    /// Writes the truth in place of what the record says, if nobody else uses the image: they do it at their next Mount.
    fn correct(
        &self,
        spec: &ImageSpec,
        record: &Record,
        info: &ImageInfo,
        found: Option<&Filesystem>,
        volumes: &dyn Volumes,
    ) {
        let truth = corrected(record, info, found);
        if truth == *record {
            return;
        }
        let written = self.under_claim(spec, volumes, || {
            let same = self.store.info(spec)?.is_some_and(|info| info.record.as_ref() == Some(record));
            if same { self.store.write_record(spec, &truth) } else { Ok(()) }
        });
        match written {
            Ok(()) => tracing::info!(image = %spec, "its record says now what the image is"),
            Err(e) => tracing::debug!(image = %spec, error = %e, "its record stays as it is"),
        }
    }

    /// The same of an image that is claimed already.
    pub(super) fn correct_claimed(
        &self,
        spec: &ImageSpec,
        record: &Record,
        info: &ImageInfo,
        found: &Filesystem,
    ) {
        let truth = corrected(record, info, Some(found));
        if truth == *record {
            return;
        }
        match self.store.write_record(spec, &truth) {
            Ok(()) => tracing::info!(image = %spec, "its record says now what the image is"),
            // The mount does not rest on it.
            Err(e) => tracing::warn!(image = %spec, error = %e, "its record could not be corrected"),
        }
    }

    /// Does something with an image that must be nobody else's meanwhile.
    fn under_claim<T>(
        &self,
        spec: &ImageSpec,
        volumes: &dyn Volumes,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if volumes.is_mounted(spec) {
            return act();
        }
        let mut undo = Undo::default();
        let result = (|| {
            undo.push("release the image", || self.store.release(spec));
            self.store.claim(spec)?;
            let done = act()?;
            self.store.release(spec)?;
            Ok(done)
        })();
        result.map_err(|e| {
            let undone = undo.run(e);
            if !undone.whole {
                volumes.mark_unsettled(spec);
            }
            undone.error
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::model::filesystem::FsKind;
    use crate::model::size::Size;

    fn options() -> ImageOptions {
        ImageOptions {
            size: Some(Size::mib(64)),
            fstype: Some(FsKind::Xfs),
            uid: Some(999),
            mode: Some(0o700),
            features: Some("layering".to_owned()),
            mount_options: Some("noatime".to_owned()),
            ..ImageOptions::default()
        }
    }

    fn record(stage: Stage) -> Record {
        Record::new(stage, true, 1, options())
    }

    fn info(record: Record) -> ImageInfo {
        ImageInfo {
            size: Some(Size::mib(128)),
            record: Some(record),
            created: UNIX_EPOCH,
            allocated: None,
            id: None,
            is: ImageOptions {
                size: Some(Size::mib(128)),
                features: Some("exclusive-lock,layering".to_owned()),
                ..ImageOptions::default()
            },
            trouble: None,
            details: BTreeMap::new(),
        }
    }

    fn ext4() -> Filesystem {
        Filesystem { kind: FsKind::Ext4, type_name: "ext4".to_owned(), uuid: None }
    }

    #[test]
    fn what_was_asked_of_an_image_with_data_is_not_kept() {
        let truth = corrected(&record(Stage::Creating), &info(record(Stage::Creating)), Some(&ext4()));
        assert_eq!(truth.stage, Stage::Ready);
        assert_eq!(
            truth.options,
            ImageOptions {
                size: Some(Size::mib(128)),
                fstype: Some(FsKind::Ext4),
                features: Some("exclusive-lock,layering".to_owned()),
                mount_options: Some("noatime".to_owned()),
                ..ImageOptions::default()
            }
        );
    }

    #[test]
    fn what_this_plugin_has_set_stays() {
        let xfs = Filesystem { kind: FsKind::Xfs, type_name: "xfs".to_owned(), uuid: None };
        let truth = corrected(&record(Stage::Ready), &info(record(Stage::Ready)), Some(&xfs));
        assert_eq!((truth.options.uid, truth.options.mode), (Some(999), Some(0o700)));
        let again = corrected(&record(Stage::Ready), &info(record(Stage::Ready)), Some(&ext4()));
        assert_eq!(
            (again.options.fstype, again.options.uid),
            (Some(FsKind::Ext4), None),
            "made anew by hand"
        );
    }

    #[test]
    fn what_is_to_come_is_not_shown_as_what_is() {
        let blank = info(record(Stage::Creating));
        let holds = blank.options_that_hold().unwrap();
        assert_eq!(holds.get("fstype"), None);
        assert_eq!(holds.get("size").map(String::as_str), Some("128M"));
        assert_eq!(blank.options_to_come().unwrap()["fstype"], "xfs");
        assert_eq!(info(record(Stage::Ready)).options_to_come(), None);
    }

    #[test]
    fn features_that_come_with_others_are_no_difference() {
        assert_eq!(chosen("exclusive-lock,object-map"), "exclusive-lock,fast-diff,object-map");
        assert_eq!(chosen("data-pool,layering,striping"), "layering");
    }
}

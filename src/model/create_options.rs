//! The options of `docker volume create -o key=value`.
//!
//! An unknown or malformed option is an error that lists the valid ones: an option that is silently dropped is a volume that is
//! not what its user thinks it is. An empty value means "not given".

use std::collections::BTreeMap;

use crate::model::error::{DriverError, Result};
use crate::model::name;
use crate::model::options::ImageOptions;
use crate::model::size::Size;
use crate::model::text;

/// The options and what they take, for errors and help.
pub const VALID: &str = "size=<MiB, or a number with K, M, G, T>, pool=<name>, fstype=<ext4|xfs|btrfs>, mkfs-options=<words>, \
     mount-options=<a,b=c>, uid=<number>, gid=<number>, mode=<octal>, read-only=<true|false>, \
     namespace=<name>, features=<a,b>, object-size=<bytes, or with K, M>, stripe-unit=<bytes, or with K, M>, \
     stripe-count=<number>, data-pool=<name>, map-options=<a,b=c>, lock=<cooperative|exclusive> (those from namespace on are for images in Ceph)";

/// A bare number below this is worth a word: other plugins take it for GiB.
pub const SMALL: Size = Size::mib(100);

/// What is said of a small volume whose size was a bare number.
pub fn small(size: Size) -> String {
    format!("it has {size} only: a size without a unit is in MiB; where GiB were meant, say so: size=16G")
}

/// Parsed options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Where to make the image; not kept with it.
    pub pool: Option<String>,
    /// In which namespace of the pool.
    pub namespace: Option<String>,
    /// What stays with the image.
    pub image: ImageOptions,
}

impl Options {
    /// Parses what Docker sent.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<Self> {
        let mut options = Self::default();
        let mut seen = BTreeMap::new();
        for (key, value) in given.iter().filter(|(_, value)| !value.trim().is_empty()) {
            let value = value.trim();
            let canonical = canonical(key).ok_or_else(|| unknown(key))?;
            if let Some(other) = seen.insert(canonical, key) {
                return Err(bad(format!("options {other:?} and {key:?} mean the same")));
            }
            let set = match key.as_str() {
                "order" => objects_of(value).and_then(|size| options.set(canonical, &size)),
                _ => options.set(canonical, value),
            };
            set.map_err(|e| {
                bad(format!("option {key}={}: {}", value.replace(char::is_control, "?"), e.message))
            })?;
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let image = &mut self.image;
        match key {
            "size" => {
                let size = value.parse()?;
                image.size = Some(size);
                image.bare_size = size < SMALL && value.bytes().all(|b| b.is_ascii_digit());
            }
            "fstype" => image.fstype = Some(value.parse()?),
            "mkfs-options" => {
                image.mkfs_options =
                    shell_words::split(value).map_err(|e| DriverError::invalid(e.to_string()))?;
            }
            "mount-options" => image.mount_options = Some(value.to_owned()),
            "uid" => image.uid = Some(number(value, 10, u32::MAX - 1, "a number such as 1000")?),
            "gid" => image.gid = Some(number(value, 10, u32::MAX - 1, "a number such as 1000")?),
            "mode" => image.mode = Some(number(value, 8, 0o7777, "octal permission bits such as 0750")?),
            "read-only" => image.read_only = Some(boolean(value)?),
            "features" => image.features = Some(words(value)?),
            "object-size" => image.object_size = Some(bytes(value)?),
            "stripe-unit" => image.stripe_unit = Some(bytes(value)?),
            "stripe-count" => {
                image.stripe_count = Some(number(value, 10, 1 << 16, "a number such as 4")?.into())
            }
            "map-options" => image.map_options = Some(value.to_owned()),
            "lock" => image.lock = Some(value.parse()?),
            "data-pool" => {
                name::check_part("pool name", value)?;
                image.data_pool = Some(value.to_owned());
            }
            "namespace" => {
                name::check_part("namespace name", value)?;
                self.namespace = Some(value.to_owned());
            }
            _ => {
                name::check_part("pool name", value)?;
                self.pool = Some(value.to_owned());
            }
        }
        Ok(())
    }
}

/// The spelling we use for a key that Docker sent; the camel-case ones are those of wetopi/rbd and ceph-csi.
fn canonical(key: &str) -> Option<&'static str> {
    Some(match key {
        "size" => "size",
        "pool" => "pool",
        "fstype" => "fstype",
        "mkfs-options" | "mkfsOptions" => "mkfs-options",
        "mount-options" | "mountOptions" => "mount-options",
        "uid" => "uid",
        "gid" => "gid",
        "mode" => "mode",
        "read-only" => "read-only",
        "namespace" | "radosNamespace" => "namespace",
        "features" | "imageFeatures" => "features",
        "object-size" | "objectSize" | "order" => "object-size",
        "stripe-unit" | "stripeUnit" => "stripe-unit",
        "stripe-count" | "stripeCount" => "stripe-count",
        "data-pool" | "dataPool" => "data-pool",
        "map-options" | "mapOptions" => "map-options",
        "lock" => "lock",
        _ => return None,
    })
}

fn unknown(key: &str) -> DriverError {
    let known = VALID.split(">, ").filter_map(|option| Some(option.split_once('=')?.0));
    match text::nearest(key, known) {
        Some(near) => bad(format!("unknown option {key:?}: did you mean {near}?")),
        None => bad(format!("unknown option {key:?}")),
    }
}

/// The object size of an order, in bytes: librbd takes orders from 12 to 25.
pub fn objects_of(order: &str) -> Result<String> {
    let order = number(order, 10, 25, "an order from 12 to 25: objects of 2^order bytes")?;
    if order < 12 {
        return Err(DriverError::invalid("not an order from 12 to 25: objects of 2^order bytes"));
    }
    Ok((1_u64 << order).to_string())
}

fn bad(message: String) -> DriverError {
    DriverError::invalid(message).hint(format!("valid options: {VALID}"))
}

fn number(value: &str, radix: u32, max: u32, accepted: &str) -> Result<u32> {
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    u32::from_str_radix(value, radix)
        .ok()
        .filter(|n| digits && *n <= max)
        .ok_or_else(|| DriverError::invalid(format!("not {accepted}")))
}

/// A sorted list of names, so that two lists of the same names are equal.
fn words(value: &str) -> Result<String> {
    let mut words: Vec<&str> = value.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    if words.iter().any(|word| !word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')) {
        return Err(DriverError::invalid("not a list of names such as layering,exclusive-lock"));
    }
    words.sort_unstable();
    words.dedup();
    Ok(words.join(","))
}

/// A size as Ceph writes object sizes: a bare number is bytes.
pub fn bytes(value: &str) -> Result<Size> {
    match value.parse::<u64>() {
        Ok(bytes) => Ok(Size::bytes(bytes)),
        Err(_) => value.parse(),
    }
}

fn boolean(value: &str) -> Result<bool> {
    match value {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(DriverError::invalid("neither true nor false")),
    }
}

impl ImageOptions {
    /// Those that are set, as `docker volume inspect` shows them.
    pub fn shown(&self) -> BTreeMap<&'static str, String> {
        let mut shown = BTreeMap::new();
        let mut put = |key, value: Option<String>| value.map(|value| shown.insert(key, value));
        put("size", self.size.map(|size| size.to_string()));
        put("fstype", self.fstype.map(|fs| fs.to_string()));
        put("mkfs-options", (!self.mkfs_options.is_empty()).then(|| shell_words::join(&self.mkfs_options)));
        put("mount-options", self.mount_options.clone());
        put("uid", self.uid.map(|uid| uid.to_string()));
        put("gid", self.gid.map(|gid| gid.to_string()));
        put("mode", self.mode.map(|mode| format!("{mode:04o}")));
        put("read-only", self.read_only.map(|read_only| read_only.to_string()));
        put("features", self.features.clone());
        put("object-size", self.object_size.map(|size| size.to_string()));
        put("stripe-unit", self.stripe_unit.map(|size| size.to_string()));
        put("stripe-count", self.stripe_count.map(|count| count.to_string()));
        put("data-pool", self.data_pool.clone());
        put("map-options", self.map_options.clone());
        put("lock", self.lock.map(|lock| lock.to_string()));
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::filesystem::FsKind;
    use crate::model::options::LockMode;
    use proptest::prelude::proptest;

    fn parse(pairs: &[(&str, &str)]) -> Result<Options> {
        Options::parse(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn every_option_and_its_other_spelling() {
        let options = parse(&[
            ("size", "2G"),
            ("pool", "p2"),
            ("fstype", "ext4"),
            ("mkfsOptions", "-O mmp -L 'my label'"),
            ("mountOptions", "noatime,discard"),
            ("uid", "1000"),
            ("gid", "0"),
            ("mode", "0750"),
            ("read-only", "true"),
            ("namespace", "tenant"),
            ("imageFeatures", "layering, exclusive-lock,layering"),
            ("object-size", "1M"),
            ("stripe-unit", "65536"),
            ("stripe-count", "4"),
            ("dataPool", "ec"),
            ("map-options", "queue_depth=64,notrim"),
            ("lock", "exclusive"),
        ])
        .unwrap();
        assert_eq!(options.pool.as_deref(), Some("p2"));
        assert_eq!(options.namespace.as_deref(), Some("tenant"));
        assert_eq!(
            options.image,
            ImageOptions {
                size: Some(Size::mib(2048)),
                fstype: Some(FsKind::Ext4),
                mkfs_options: ["-O", "mmp", "-L", "my label"].map(str::to_owned).to_vec(),
                mount_options: Some("noatime,discard".to_owned()),
                uid: Some(1000),
                gid: Some(0),
                mode: Some(0o750),
                read_only: Some(true),
                features: Some("exclusive-lock,layering".to_owned()),
                object_size: Some(Size::bytes(1 << 20)),
                stripe_unit: Some(Size::bytes(65536)),
                stripe_count: Some(4),
                data_pool: Some("ec".to_owned()),
                map_options: Some("queue_depth=64,notrim".to_owned()),
                lock: Some(LockMode::Exclusive),
                bare_size: false,
            }
        );
        assert_eq!(parse(&[("order", "22")]).unwrap(), parse(&[("objectSize", "4M")]).unwrap());
        assert_eq!(parse(&[("size", ""), ("pool", " ")]).unwrap(), Options::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_the_valid_options() {
        for (pairs, part) in [
            (&[("siez", "1")][..], "unknown option \"siez\": did you mean size?"),
            (&[("mountoptions", "1")], "did you mean mount-options?"),
            (&[("zzz", "1")], "unknown option \"zzz\"; valid"),
            (&[("order", "11")], "option order=11: not an order from 12 to 25"),
            (&[("order", "26")], "option order=26"),
            (&[("order", "22"), ("object-size", "4M")], "mean the same"),
            (&[("Size", "1")], "unknown option \"Size\""),
            (&[("size", "big")], "option size=big: invalid size"),
            (&[("size", "0")], "option size=0"),
            (&[("fstype", "ntfs")], "option fstype=ntfs: unknown filesystem"),
            (&[("pool", "a/b")], "option pool=a/b"),
            (&[("uid", "root")], "option uid=root: not a number"),
            (&[("uid", "+1")], "option uid=+1"),
            (&[("uid", "4294967295")], "option uid=4294967295"),
            (&[("mode", "9")], "option mode=9: not octal"),
            (&[("mode", "17777")], "option mode=17777"),
            (&[("read-only", "maybe")], "neither true nor false"),
            (&[("mode", "9\n7")], "option mode=9?7: not octal"),
            (&[("mkfs-options", "'open")], "option mkfs-options='open"),
            (&[("lock", "both")], "option lock=both: neither cooperative nor exclusive"),
            (&[("features", "a/b")], "option features=a/b"),
            (&[("stripe-count", "-1")], "option stripe-count=-1"),
            (&[("object-size", "big")], "option object-size=big"),
            (&[("mkfs-options", "-q"), ("mkfsOptions", "-q")], "mean the same"),
        ] {
            let e = parse(pairs).unwrap_err().to_string();
            assert!(e.contains(part), "{pairs:?}: {e}");
            assert!(e.contains("valid options: size="), "{pairs:?}: {e}");
        }
    }

    #[test]
    fn a_small_number_without_a_unit_is_remarked() {
        let bare = |size: &str| parse(&[("size", size)]).unwrap().image.bare_size;
        assert!(bare("16") && bare(" 99 "));
        assert!(!bare("16M") && !bare("100") && !bare("16G"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(key in "[a-zA-Z-]{0,14}", value in ".*") {
            let _ = Options::parse(&BTreeMap::from([(key, value)]));
        }
    }
}

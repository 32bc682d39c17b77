//! What may be asked of an image and of its mapping, and what becomes of it.

use super::RbdBackend;
use crate::ceph::features;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::options::{ImageOptions, LockMode};
use crate::model::size::Size;

/// Words for the kernel that stand alone.
const FLAGS: &[&str] = &[
    "crc",
    "nocrc",
    "cephx_require_signatures",
    "nocephx_require_signatures",
    "cephx_sign_messages",
    "nocephx_sign_messages",
    "tcp_nodelay",
    "notcp_nodelay",
    "rxbounce",
    "lock_on_read",
    "notrim",
    "abort_on_full",
    "noshare",
];
/// Words for the kernel with a value.
const VALUES: &[&str] = &[
    "ip",
    "mount_timeout",
    "osdkeepalive",
    "osd_idle_ttl",
    "osd_request_timeout",
    "ms_mode",
    "crush_location",
    "read_from_replica",
    "queue_depth",
    "lock_timeout",
    "alloc_size",
    "compression_hint",
];
/// How long the kernel waits for the exclusive lock; what holds it longer is a live owner.
const LOCK_TIMEOUT: &str = "lock_timeout=30";
/// What object sizes librbd takes.
const OBJECT_SIZES: std::ops::RangeInclusive<u64> = 4096..=32 << 20;

/// Refuses what can be refused without a cluster.
pub(super) fn check(options: &ImageOptions) -> Result<()> {
    layout(options)?;
    if let Some(list) = &options.features {
        parse_features(list)?;
    }
    if let Some(words) = &options.map_options {
        check_map_options(words)?;
    }
    Ok(())
}

/// Refuses words that the kernel does not know, or that would undo what keeps data safe.
pub(super) fn check_map_options(words: &str) -> Result<()> {
    for word in words.split(',').filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        // Never the value: it may be a key.
        let bad = |why: &str| {
            Err(DriverError::invalid(format!(
                "map option {:?}: {why}",
                name.replace(|c: char| !c.is_ascii_graphic(), "?")
            ))
            .hint(format!("accepted are {}, {}=…", FLAGS.join(", "), VALUES.join("=…, "))))
        };
        match (name, value) {
            ("exclusive", None) => return bad("say -o lock=exclusive instead"),
            ("ro" | "read_only", None) => return bad("say -o read-only=true instead"),
            ("share", None) => return bad("one fenced volume would take all others with it"),
            ("name" | "secret" | "key" | "fsid" | "_pool_ns", _) => return bad("the plugin sets it itself"),
            (name, None) if FLAGS.contains(&name) => {}
            (name, Some(value)) if VALUES.contains(&name) => {
                let fits = !value.is_empty()
                    && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:|[]".contains(&b));
                if !fits {
                    return bad("its value is empty, or has characters that no value has");
                }
            }
            _ => return bad("not known"),
        }
    }
    Ok(())
}

/// What the ceph.conf, or the cluster, says of every mapping, for `rbd map` too.
pub(super) const DEFAULTS: &str = "rbd_default_map_options";

/// The words of a list, and those of the cluster's defaults that say something else.
pub(super) fn with_defaults(given: &str, defaults: &str) -> Result<Vec<String>> {
    let words = |list: &str| -> Vec<String> {
        let words = list.split([',', ' ']).filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    let mut all = words(given);
    for word in words(defaults) {
        if all.iter().any(|other| about(other) == about(&word)) {
            continue;
        }
        check_map_options(&word).map_err(|e| {
            let error = e.context(format!("{DEFAULTS} in ceph.conf or in the cluster"));
            DriverError { kind: ErrorKind::Config, ..error }
        })?;
        all.push(word);
    }
    Ok(all)
}

/// What a word is about: `crc` and `nocrc` are about the same.
fn about(word: &str) -> &str {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    name.strip_prefix("no").unwrap_or(name)
}

/// Refuses a stripe unit that does not divide the objects.
pub(super) fn refuse_unless_divided(object: Size, unit: u64) -> Result<()> {
    if object.as_bytes().is_multiple_of(unit) {
        return Ok(());
    }
    Err(DriverError::invalid(format!("the object size, {object}, is not a multiple of stripe-unit"))
        .hint("give a stripe-unit that divides object-size, such as 64K"))
}

/// Order, stripe unit and stripe count; how large objects are that nobody has given a size, the cluster says.
pub(super) fn layout(options: &ImageOptions) -> Result<(Option<u8>, Option<u64>, Option<u64>)> {
    let order = match options.object_size.map(Size::as_bytes) {
        None => None,
        Some(size) if size.is_power_of_two() && OBJECT_SIZES.contains(&size) => {
            u8::try_from(size.trailing_zeros()).ok()
        }
        Some(_) => {
            return Err(DriverError::invalid("object-size is not a power of two from 4K to 32M")
                .hint("the default is 4M"));
        }
    };
    match (options.stripe_unit.map(Size::as_bytes), options.stripe_count) {
        (None, None) => Ok((order, None, None)),
        (Some(0), Some(_)) | (Some(_), Some(0)) => {
            Err(DriverError::invalid("a stripe-unit or stripe-count is 0")
                .hint("give a stripe-unit that divides object-size, such as 64K, and a count from 1"))
        }
        (Some(unit), Some(count)) => {
            options.object_size.map_or(Ok(()), |object| refuse_unless_divided(object, unit))?;
            Ok((order, Some(unit), Some(count)))
        }
        _ => {
            Err(DriverError::invalid("stripe-unit and stripe-count belong together")
                .hint("give both, or none"))
        }
    }
}

/// The features of a list that somebody has given.
pub(super) fn parse_features(list: &str) -> Result<u64> {
    let hint = "features are layering, exclusive-lock, object-map, fast-diff, deep-flatten, journaling";
    let bits = features::parse(list)
        .map_err(|unknown| DriverError::invalid(format!("feature {unknown:?} is not known")).hint(hint))?;
    if bits & features::STATES != 0 {
        let states = features::told(bits & features::STATES);
        let message = format!("feature {states} is a state of an image: nobody can choose it");
        return Err(DriverError::invalid(message).hint(hint));
    }
    refuse_without_base(bits)?;
    Ok(bits)
}

/// Refuses features that rest on others that are not there.
pub(super) fn refuse_without_base(bits: u64) -> Result<()> {
    let Some((feature, needs)) = features::orphan(bits) else { return Ok(()) };
    let (feature, needs) = (features::told(feature), features::told(needs));
    Err(DriverError::invalid(format!("feature {feature} needs {needs}")).hint("name both"))
}

impl RbdBackend {
    /// The options with the settings' object size, where they have none.
    pub(super) fn with_object_size(&self, options: &ImageOptions) -> ImageOptions {
        let object_size = options.object_size.or(self.options.object_size);
        ImageOptions { object_size, ..options.clone() }
    }

    /// The options of a mapping; `defaults` are the cluster's.
    pub(super) fn map_options(
        &self,
        options: &ImageOptions,
        defaults: &str,
        has: u64,
        spec: &ImageSpec,
    ) -> Result<Vec<String>> {
        let given = options.map_options.as_ref().or(self.options.map_options.as_ref());
        let mut words = with_defaults(given.map_or("", String::as_str), defaults)?;
        if !words.iter().any(|word| word == "noshare") {
            words.push("noshare".to_owned());
        }
        let has_lock = has & features::EXCLUSIVE_LOCK != 0;
        if has_lock && !words.iter().any(|word| word.starts_with("lock_timeout=")) {
            words.push(LOCK_TIMEOUT.to_owned());
        }
        if options.lock == Some(LockMode::Exclusive) {
            if !has_lock {
                return Err(DriverError::new(
                    ErrorKind::Invalid,
                    format!("{spec} has lock=exclusive, and not the feature exclusive-lock"),
                )
                .hint(format!("rbd feature enable {spec} exclusive-lock")));
            }
            words.push("exclusive".to_owned());
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_options_are_a_list_of_what_is_allowed() {
        for fine in [
            "",
            "queue_depth=64,notrim",
            "ms_mode=prefer-crc",
            "crush_location=host:a|rack:b",
            "ip=[2001:db8::1]",
        ] {
            check_map_options(fine).unwrap();
        }
        for (wrong, why) in [
            ("secret=AQ==", "itself"),
            ("key=client.admin", "itself"),
            ("share", "fenced"),
            ("exclusive", "lock=exclusive"),
            ("ro", "read-only"),
            ("bogus", "not known"),
            ("queue_depth", "not known"),
            ("queue_depth=", "value"),
            ("ip=1 rbd evil", "value"),
        ] {
            let e = check_map_options(wrong).unwrap_err().to_string();
            assert!(e.contains(why), "{wrong}: {e}");
        }
    }

    #[test]
    fn what_is_given_wins_over_the_defaults_of_the_cluster() {
        let of = |given, defaults| with_defaults(given, defaults).unwrap().join(",");
        assert_eq!(of("", "ms_mode=secure, queue_depth=64"), "ms_mode=secure,queue_depth=64");
        assert_eq!(
            of("ms_mode=crc,notrim", "ms_mode=secure,queue_depth=64"),
            "ms_mode=crc,notrim,queue_depth=64"
        );
        assert_eq!(of("crc", "nocrc"), "crc");
        let e = with_defaults("", "share").unwrap_err();
        assert!(e.kind == ErrorKind::Config && e.to_string().contains(DEFAULTS), "{e}");
    }

    fn options(object: Option<u64>, unit: Option<u64>, count: Option<u64>) -> ImageOptions {
        ImageOptions {
            object_size: object.map(Size::bytes),
            stripe_unit: unit.map(Size::bytes),
            stripe_count: count,
            ..ImageOptions::default()
        }
    }

    #[test]
    fn layouts() {
        assert_eq!(
            layout(&options(Some(1 << 20), Some(65536), Some(4))).unwrap(),
            (Some(20), Some(65536), Some(4))
        );
        assert_eq!(layout(&options(None, None, None)).unwrap(), (None, None, None));
        for wrong in [
            options(Some(5000), None, None),
            options(Some(64 << 20), None, None),
            options(None, Some(65536), None),
            options(None, None, Some(4)),
            options(Some(4 << 20), Some(65537), Some(4)),
            options(None, Some(0), Some(4)),
            options(None, Some(65536), Some(0)),
        ] {
            layout(&wrong).unwrap_err();
        }
    }

    #[test]
    fn features_need_each_other() {
        assert_eq!(parse_features("layering").unwrap(), features::LAYERING);
        for (wrong, why) in
            [("object-map", "exclusive-lock"), ("fast-diff,exclusive-lock", "object-map"), ("magic", "magic")]
        {
            assert!(parse_features(wrong).unwrap_err().to_string().contains(why), "{wrong}");
        }
        for state in ["operations", "migrating", "non-primary", "dirty-cache"] {
            let e = parse_features(&format!("layering,{state}")).unwrap_err().to_string();
            assert!(e.contains(state) && e.contains("nobody can choose it"), "{e}");
        }
    }
}

//! What may be asked of an image and of its mapping, and what becomes of it.

use nix::errno::Errno;

use super::RbdBackend;
use crate::ceph::{Cluster, CreateOptions, IoCtx, features};
use crate::model::error::{CallError, DriverError, ErrorKind, Result};
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
/// The data pool of images of which nobody says another one.
const DATA_POOL: &str = "rbd_default_data_pool";
/// What else the cluster may set for new images, and what it is where nobody has.
const USUAL: [(&str, &str); 3] =
    [("rbd_default_order", "22"), ("rbd_default_stripe_unit", "0"), ("rbd_default_stripe_count", "0")];
/// The order of an image, unless somebody says otherwise.
const DEFAULT_ORDER: u8 = 22;
/// So many objects an object map can hold.
const MOST_MAPPED: u64 = 256_000_000;
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

/// Order, stripe unit and stripe count.
fn layout(options: &ImageOptions) -> Result<(Option<u8>, Option<u64>, Option<u64>)> {
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
    let object = options.object_size.map_or(4 << 20, Size::as_bytes);
    match (options.stripe_unit.map(Size::as_bytes), options.stripe_count) {
        (None, None) => Ok((order, None, None)),
        (Some(unit), Some(count)) if unit > 0 && count > 0 && object.is_multiple_of(unit) => {
            Ok((order, Some(unit), Some(count)))
        }
        (Some(_), Some(_)) => {
            Err(DriverError::invalid("the object size is not a multiple of stripe-unit, or a count is 0")
                .hint("give a stripe-unit that divides object-size, such as 64K"))
        }
        _ => {
            Err(DriverError::invalid("stripe-unit and stripe-count belong together")
                .hint("give both, or none"))
        }
    }
}

fn known(list: &str) -> Result<u64> {
    features::parse(list).map_err(|unknown| {
        DriverError::invalid(format!("feature {unknown:?} is not known"))
            .hint("features are layering, exclusive-lock, object-map, fast-diff, deep-flatten, journaling")
    })
}

fn parse_features(list: &str) -> Result<u64> {
    let bits = known(list)?;
    refuse_without_base(bits)?;
    Ok(bits)
}

/// Refuses features that rest on others that are not there.
fn refuse_without_base(bits: u64) -> Result<()> {
    for (feature, needs) in [
        (features::OBJECT_MAP, features::EXCLUSIVE_LOCK),
        (features::FAST_DIFF, features::OBJECT_MAP),
        (features::JOURNALING, features::EXCLUSIVE_LOCK),
    ] {
        if bits & feature != 0 && bits & needs == 0 {
            return Err(DriverError::invalid(format!(
                "feature {} needs {}",
                features::names(feature).join(","),
                features::names(needs).join(",")
            ))
            .hint("name both"));
        }
    }
    Ok(())
}

/// Without a feature, those that rest on it are not possible either.
fn without_orphans(mut bits: u64) -> u64 {
    if bits & features::EXCLUSIVE_LOCK == 0 {
        bits &= !(features::OBJECT_MAP | features::JOURNALING);
    }
    if bits & features::OBJECT_MAP == 0 {
        bits &= !features::FAST_DIFF;
    }
    bits
}

/// What the cluster gives to images of which nobody says anything: as `rbd create` finds it, in the pool first (`rbd config pool set`),
/// then in ceph.conf and in the monitors' configuration.
struct Defaults<'a> {
    cluster: &'a Cluster,
    /// The pool's own settings count in its namespaces, too. None for a user who may not read them: librbd goes on without, then.
    pool: Option<IoCtx>,
}

impl<'a> Defaults<'a> {
    fn of(io: &'a IoCtx) -> Result<Self> {
        let cluster = io.cluster();
        Ok(Self { cluster, pool: Some(cluster.ioctx(io.pool(), None)?) })
    }

    fn get(&mut self, key: &str) -> Result<Option<String>> {
        let of_pool = match self.pool.as_ref().map(|pool| pool.pool_setting(key)) {
            Some(Err(e)) if matches!(e.errno, Errno::EPERM | Errno::EACCES) => {
                self.pool = None;
                None
            }
            found => found.transpose()?.flatten(),
        };
        Ok(of_pool.or_else(|| self.cluster.conf(key)).filter(|value| !value.is_empty()))
    }

    fn features(&mut self) -> Result<Option<u64>> {
        let key = "rbd_default_features";
        let Some(text) = self.get(key)? else { return Ok(None) };
        // As names or as a number.
        let bits = match text.parse() {
            Ok(bits) => bits,
            Err(_) => known(&text).map_err(|e| of_default(e, key, &text))?,
        };
        // librbd takes it in silence, and leaves it out.
        let bits = if bits & features::OBJECT_MAP == 0 { bits & !features::FAST_DIFF } else { bits };
        refuse_without_base(bits).map_err(|e| of_default(e, key, &text))?;
        Ok(Some(bits))
    }
}

fn of_default(e: DriverError, key: &str, value: &str) -> DriverError {
    DriverError { kind: ErrorKind::Config, ..e }
        .context(format_args!("{key}={value}, which the cluster sets for new images"))
        .hint(format!("mend it (ceph config get client {key}; rbd config pool get POOL {key}), or give options of your own"))
}

/// How a new image is to be made, and by which options of the cluster.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) layout: CreateOptions,
    /// What the cluster sets, as `key=value`.
    defaults: Vec<String>,
}

impl Plan {
    /// Why librbd has refused it.
    pub(super) fn explain(&self, spec: &ImageSpec, size: Size, e: CallError) -> DriverError {
        if !matches!(e.errno, Errno::EINVAL | Errno::EDOM | Errno::ENOSYS | Errno::ENOENT) {
            return e.into();
        }
        let order = self.layout.order.unwrap_or(DEFAULT_ORDER);
        let objects = size.as_bytes() >> order;
        let has_map = self.layout.features.is_none_or(|bits| bits & features::OBJECT_MAP != 0);
        if has_map && objects > MOST_MAPPED {
            return DriverError::invalid(format!(
                "{spec} would have {objects} objects, more than an object map can hold"
            ))
            .hint("leave object-map and fast-diff out (features=layering,exclusive-lock), or give a larger object-size")
            .caused_by(e);
        }
        let by = match self.defaults.is_empty() {
            true => String::new(),
            false => format!("; the cluster sets {}", self.defaults.join(", ")),
        };
        DriverError::invalid(format!("the cluster refused the size, features or layout of {spec}{by}"))
            .hint("see features, object-size, stripe-unit, stripe-count and data-pool")
            .caused_by(e)
    }
}

impl RbdBackend {
    /// The options with the settings' object size, where they have none.
    pub(super) fn with_object_size(&self, options: &ImageOptions) -> ImageOptions {
        let object_size = options.object_size.or(self.options.object_size);
        ImageOptions { object_size, ..options.clone() }
    }

    /// How a new image is to be made.
    pub(super) fn create_options(
        &self,
        io: &IoCtx,
        spec: &ImageSpec,
        options: &ImageOptions,
    ) -> Result<Plan> {
        let (order, stripe_unit, stripe_count) = layout(&self.with_object_size(options))?;
        let kernel = self.kernel.supported_features()?;
        let mut defaults = Defaults::of(io)?;
        let wanted = match options.features.as_ref().or(self.options.features.as_ref()) {
            Some(list) => {
                let bits = parse_features(list)?;
                let lacking = kernel.map_or(0, |kernel| bits & !kernel);
                if lacking != 0 {
                    return Err(DriverError::invalid(format!(
                        "this kernel cannot map images with {}",
                        features::names(lacking).join(", ")
                    ))
                    .hint("leave that feature out, or use a newer kernel"));
                }
                Some(bits)
            }
            None => defaults.features()?.map(|bits| {
                let fit = without_orphans(kernel.map_or(bits, |kernel| bits & kernel));
                if fit != bits {
                    let left_out = features::names(bits & !fit).join(",");
                    tracing::info!(image = %spec, left_out, "made without features that this kernel lacks");
                }
                fit
            }),
        };
        let mut set = Vec::new();
        if options.data_pool.is_none()
            && let Some(pool) = defaults.get(DATA_POOL)?
        {
            io.cluster().ioctx(&pool, None).map_err(|e| {
                let missing = DriverError::invalid(format!("it names the pool {pool}, which does not exist"));
                of_default(missing.caused_by(e), DATA_POOL, &pool)
            })?;
            set.push(format!("{DATA_POOL}={pool}"));
        }
        for (key, usual) in USUAL {
            set.extend(
                defaults.get(key)?.filter(|value| value != usual).map(|value| format!("{key}={value}")),
            );
        }
        let layout = CreateOptions {
            features: wanted,
            order,
            stripe_unit,
            stripe_count,
            data_pool: options.data_pool.clone(),
        };
        Ok(Plan { layout, defaults: set })
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
            options(None, Some(65537), Some(4)),
            options(None, Some(0), Some(4)),
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
        let all = features::LAYERING | features::EXCLUSIVE_LOCK | features::OBJECT_MAP | features::FAST_DIFF;
        assert_eq!(without_orphans(all & !features::EXCLUSIVE_LOCK), features::LAYERING);
        assert_eq!(without_orphans(all), all);
    }
}

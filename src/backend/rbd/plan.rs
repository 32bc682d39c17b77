//! How a new image is made: as `rbd create` would make it, without what this kernel cannot map. What somebody has named is never left
//! out in silence.

use nix::errno::Errno;

use super::RbdBackend;
use super::options::{layout, parse_features, refuse_unless_divided, refuse_without_base};
use crate::ceph::{Cluster, CreateOptions, IoCtx, features};
use crate::model::create_options::bytes;
use crate::model::error::{CallError, DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::size::Size;

/// The data pool of images of which nobody says another one.
const DEFAULT_DATA_POOL: &str = "rbd_default_data_pool";
const DEFAULT_ORDER: &str = "rbd_default_order";
const DEFAULT_STRIPE_UNIT: &str = "rbd_default_stripe_unit";
const DEFAULT_STRIPE_COUNT: &str = "rbd_default_stripe_count";
/// What the cluster may set for new images, and what it is where nobody has.
const USUAL: [(&str, &str); 5] = [
    ("rbd_default_format", "2"),
    (DEFAULT_DATA_POOL, ""),
    (DEFAULT_ORDER, "22"),
    (DEFAULT_STRIPE_UNIT, "0"),
    (DEFAULT_STRIPE_COUNT, "0"),
];
/// The order of an image, unless somebody says otherwise.
const ORDER: u8 = 22;
/// So many objects an object map can hold.
const MOST_MAPPED: u64 = 256_000_000;

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
        let found = of_pool.or_else(|| self.cluster.conf(key)).map(|value| value.trim().to_owned());
        Ok(found.filter(|value| !value.is_empty()))
    }

    /// A number; nothing, too, where librbd would find none.
    fn number(&mut self, key: &str) -> Result<Option<u64>> {
        Ok(self.get(key)?.and_then(|value| bytes(&value).ok()).map(Size::as_bytes))
    }

    fn features(&mut self) -> Result<u64> {
        let key = "rbd_default_features";
        let Some(text) = self.get(key)? else { return Ok(features::DEFAULT) };
        let bits = read_features(&text);
        refuse_without_base(bits).map_err(|e| of_default(e, key, &text))?;
        Ok(bits)
    }

    /// What is set to something else than usual, as `key=value`.
    fn unusual(mut self) -> Result<Vec<String>> {
        let mut unusual = Vec::new();
        for (key, usual) in USUAL {
            let value = self.get(key)?.filter(|value| value != usual);
            unusual.extend(value.map(|value| format!("{key}={value}")));
        }
        Ok(unusual)
    }
}

/// The features that a default names, or their number. librbd leaves out in silence what it does not know, and fast-diff without an
/// object map; what is a state of an image it refuses or leaves out.
fn read_features(text: &str) -> u64 {
    let named = || text.split(',').filter_map(|word| features::bit(word.trim()).ok());
    let bits = text.parse().unwrap_or_else(|_| named().fold(0, |bits, bit| bits | bit)) & !features::STATES;
    if bits & features::OBJECT_MAP == 0 { bits & !features::FAST_DIFF } else { bits }
}

pub(super) fn of_default(e: DriverError, key: &str, value: &str) -> DriverError {
    DriverError { kind: ErrorKind::Config, ..e }
        .context(format_args!("{key}={value}, which the cluster sets for new images"))
        .hint(format!("mend it (ceph config get client {key}; rbd config pool get POOL {key}), or give options of your own"))
}

/// Another pool for the data of a new image.
#[derive(Debug)]
pub(super) struct DataPool {
    pub(super) name: String,
    /// The setting of the cluster that names it; if none, an option does.
    pub(super) default: Option<&'static str>,
}

/// How a new image is to be made.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) layout: CreateOptions,
    pub(super) data_pool: Option<DataPool>,
}

impl Plan {
    /// Why librbd has refused it.
    pub(super) fn explain(&self, io: &IoCtx, spec: &ImageSpec, size: Size, e: CallError) -> DriverError {
        if !matches!(e.errno, Errno::EINVAL | Errno::EDOM | Errno::ENOSYS | Errno::ENOENT) {
            return e.into();
        }
        let objects = size.as_bytes() >> self.layout.order.unwrap_or(ORDER);
        let has_map = self.layout.features.is_none_or(|bits| bits & features::OBJECT_MAP != 0);
        if has_map && objects > MOST_MAPPED {
            return DriverError::invalid(format!(
                "{spec} would have {objects} objects, more than an object map can hold"
            ))
            .hint("leave object-map and fast-diff out (features=layering,exclusive-lock), or give a larger object-size")
            .caused_by(e);
        }
        // Only more to say: what it failed with is known.
        let by = match Defaults::of(io).and_then(Defaults::unusual) {
            Ok(set) if !set.is_empty() => format!("; the cluster sets {}", set.join(", ")),
            _ => String::new(),
        };
        DriverError::invalid(format!("the cluster refused the size, features or layout of {spec}{by}"))
            .hint("see features, object-size, stripe-unit, stripe-count and data-pool")
            .caused_by(e)
    }
}

/// Refuses features that somebody has named and that the kernel lacks, with those that librbd adds to them.
fn refuse_lacking(named: u64, kernel: u64, whose: &str) -> Result<()> {
    let lacking = features::completed(named) & !kernel;
    if lacking == 0 {
        return Ok(());
    }
    let mut names = features::names(lacking & named);
    if lacking & !named != 0 {
        names.push("fast-diff (which comes with object-map)");
    }
    let out = features::told(named & !features::possible(named, kernel));
    Err(cannot_map(&names.join(",")).hint(format!("leave {out} out{whose}, or use a newer kernel")))
}

fn cannot_map(features: &str) -> DriverError {
    DriverError::invalid(format!("this kernel cannot map images with {features}"))
}

fn left_out(spec: &ImageSpec, bits: u64) {
    let left_out = features::told(bits);
    tracing::info!(image = %spec, left_out, "made without features that this kernel lacks");
}

/// Order, stripe unit and stripe count.
type Layout = (Option<u8>, Option<u64>, Option<u64>);

/// The layout that is asked for, and none in stripes where the kernel cannot map that.
fn plain_layout(
    spec: &ImageSpec,
    options: &ImageOptions,
    kernel: u64,
    defaults: &mut Defaults<'_>,
) -> Result<Layout> {
    let given = layout(options)?;
    let mappable = kernel & features::STRIPING != 0;
    if mappable && given.1.is_none() {
        return Ok(given);
    }
    let order = match given.0 {
        Some(order) => order,
        None => defaults.number(DEFAULT_ORDER)?.and_then(|order| u8::try_from(order).ok()).unwrap_or(ORDER),
    };
    // What is no order is refused by librbd.
    let Some(object) = 1_u64.checked_shl(order.into()) else { return Ok(given) };
    if let Some(unit) = given.1 {
        refuse_unless_divided(Size::bytes(object), unit)?;
    }
    let striped = |unit: u64, count: u64| ![0, object].contains(&unit) || count > 1;
    match given {
        _ if mappable => Ok(given),
        (_, Some(unit), Some(count)) if striped(unit, count) => {
            Err(cannot_map("striping").hint("leave stripe-unit and stripe-count out, or use a newer kernel"))
        }
        (_, Some(_), Some(_)) => Ok(given),
        _ => {
            let unit = defaults.number(DEFAULT_STRIPE_UNIT)?.unwrap_or(0);
            let count = defaults.number(DEFAULT_STRIPE_COUNT)?.unwrap_or(0);
            if !striped(unit, count) {
                return Ok(given);
            }
            left_out(spec, features::STRIPING);
            Ok((Some(order), Some(object), Some(1)))
        }
    }
}

/// The pool of the data, if it is another one. Where data goes is nothing to be changed in silence: also a default is refused.
fn data_pool(
    io: &IoCtx,
    options: &ImageOptions,
    kernel: u64,
    defaults: &mut Defaults<'_>,
) -> Result<Option<DataPool>> {
    let found = match &options.data_pool {
        Some(name) => Some(DataPool { name: name.clone(), default: None }),
        None => {
            let found = defaults.get(DEFAULT_DATA_POOL)?;
            found.map(|name| DataPool { name, default: Some(DEFAULT_DATA_POOL) })
        }
    };
    let Some(found) = found.filter(|found| found.name != io.pool()) else { return Ok(None) };
    if kernel & features::DATA_POOL != 0 {
        return Ok(Some(found));
    }
    let refused = cannot_map("data-pool");
    Err(match found.default {
        None => refused.hint("leave data-pool out, or use a newer kernel"),
        Some(key) => of_default(refused, key, &found.name).hint(format!(
            "-o data-pool={} keeps the data in the pool of the image; or use a newer kernel",
            io.pool()
        )),
    })
}

impl RbdBackend {
    /// How a new image is to be made.
    pub(super) fn plan(&self, io: &IoCtx, spec: &ImageSpec, options: &ImageOptions) -> Result<Plan> {
        // Without the module rbd nothing is mapped at all.
        let kernel = self.kernel.supported_features()?.unwrap_or(u64::MAX);
        let mut defaults = Defaults::of(io)?;
        let named = match (&options.features, &self.options.features) {
            (Some(list), _) => Some((list, "")),
            (None, Some(list)) => Some((list, " of --features")),
            (None, None) => None,
        };
        let wanted = match named {
            Some((list, whose)) => {
                let bits = parse_features(list)?;
                refuse_lacking(bits, kernel, whose)?;
                bits
            }
            None => {
                let bits = features::completed(defaults.features()?);
                let possible = features::possible(bits, kernel);
                if possible != bits {
                    left_out(spec, bits & !possible);
                }
                possible
            }
        };
        let (order, stripe_unit, stripe_count) =
            plain_layout(spec, &self.with_object_size(options), kernel, &mut defaults)?;
        let data_pool = data_pool(io, options, kernel, &mut defaults)?;
        let layout = CreateOptions {
            features: Some(wanted),
            order,
            stripe_unit,
            stripe_count,
            data_pool: options.data_pool.clone(),
        };
        Ok(Plan { layout, data_pool })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_is_read_as_librbd_reads_it() {
        assert_eq!(read_features("61"), features::DEFAULT);
        assert_eq!(read_features("layering, exclusive-lock ,from-the-future"), 5);
        assert_eq!(read_features("layering,fast-diff"), features::LAYERING);
        assert_eq!(read_features("layering,migrating"), features::LAYERING);
        assert_eq!(read_features("0x3d"), 0);
    }

    #[test]
    fn what_is_refused_says_what_to_leave_out() {
        let all = features::DEFAULT | features::JOURNALING;
        let said = |list: &str, lacking: u64| {
            let named = features::parse(list).unwrap();
            refuse_lacking(named, all & !lacking, "").map_err(|e| e.to_string())
        };
        said("layering,exclusive-lock", features::FAST_DIFF).unwrap();
        for (list, lacking, parts) in [
            (
                "exclusive-lock,object-map,journaling",
                features::FAST_DIFF | features::JOURNALING,
                [
                    "with journaling,fast-diff (which comes with object-map)",
                    "leave object-map,journaling out",
                ],
            ),
            (
                "layering,exclusive-lock,object-map,fast-diff",
                features::FAST_DIFF,
                ["with fast-diff;", "leave object-map,fast-diff out"],
            ),
            (
                "layering,exclusive-lock,journaling",
                features::EXCLUSIVE_LOCK,
                ["with exclusive-lock;", "leave exclusive-lock,journaling out"],
            ),
        ] {
            let e = said(list, lacking).unwrap_err();
            assert!(parts.iter().all(|part| e.contains(part)), "{e}");
        }
    }
}

//! The families of metrics that are made anew for each answer.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{Moment, epoch_seconds};
use crate::model::block_io::BlockIo;
use crate::model::filesystem::Usage;
use crate::model::overview::MountView;
use crate::model::version::version;
use crate::telemetry::count::{Count, counted};

/// Labels of one sample.
type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for Moment {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.plugin(&mut families)?;
        self.counts(&mut families)?;
        self.volumes(&mut families)?;
        self.devices(&mut families)
    }
}

impl Moment {
    fn plugin(&self, to: &mut Families<'_>) -> fmt::Result {
        let of = &self.overview;
        let (version, backend) = (version(), of.backend);
        let build = [(vec![("version", version), ("backend", backend)], 1.0)];
        to.gauges("build_info", "Version and backend, always 1", build)?;
        to.gauge("start_time_seconds", "When the plugin began to serve", epoch_seconds(self.started))?;
        to.gauge("backend_up", "Whether the storage answers", truth(of.away.is_none()))?;
        let pools = of.pools.iter().map(|(pool, why)| (vec![("pool", pool.as_str())], truth(why.is_none())));
        to.gauges("pool_up", "Whether the pool answers", pools)?;
        to.gauge("ready", "Whether operations can succeed", truth(of.not_ready.is_empty()))?;
        let running = |number: fn(&(u64, std::time::Duration)) -> f64| {
            self.running.iter().map(move |(operation, run)| (vec![("operation", *operation)], number(run)))
        };
        to.gauges("operations_in_flight", "Operations that are running", running(|run| whole(run.0)))?;
        let oldest = running(|run| run.1.as_secs_f64());
        to.gauges("operations_oldest_seconds", "How long the oldest running operation has been", oldest)?;
        to.gauge("mapped_devices", "Devices of this host with images behind them", of.devices as f64)?;
        to.gauge("unsettled_volumes", "Volumes with something left to undo", of.unsettled as f64)?;
        to.gauge("fenced_volumes", "Volumes taken away and not mounted again", of.fenced as f64)?;
        let age = of.cache_age.as_secs_f64();
        to.gauge("cache_age_seconds", "Since the storage last answered List or Get", age)?;
        let beats =
            of.heartbeats.iter().map(|(pool, age)| (vec![("pool", pool.as_str())], age.as_secs_f64()));
        to.gauges("heartbeat_age_seconds", "Since the plugin last showed the others that it lives", beats)
    }

    fn counts(&self, to: &mut Families<'_>) -> fmt::Result {
        for (name, help, what) in [
            ("ceph_reconnects", "Times that the cluster was there again", Count::Reconnect),
            ("fences", "Clients of others that were shut out of the cluster", Count::Fence),
            ("takeovers", "Images taken over from owners that were gone", Count::Takeover),
            ("lost_volumes", "Mounted volumes that were taken away from this host", Count::Lost),
            ("unmount_busy_retries", "Unmounts tried again because it was busy", Count::BusyUnmount),
            ("unmap_busy_retries", "Unmaps tried again because it was busy", Count::BusyUnmap),
        ] {
            to.counters(name, help, [(Labels::new(), counted(what) as f64)])?;
        }
        Ok(())
    }

    fn volumes(&self, to: &mut Families<'_>) -> fmt::Result {
        let of = |number: fn(&MountView) -> Option<f64>| {
            self.overview
                .mounts
                .iter()
                .filter_map(move |mount| Some((vec![("volume", mount.volume.as_str())], number(mount)?)))
        };
        to.gauges("mounts", "Uses of a mounted volume", of(|mount| Some(whole(mount.mounts))))?;
        for (name, help, number) in USAGE {
            let of = self.overview.mounts.iter().filter_map(|mount| {
                Some((vec![("volume", mount.volume.as_str())], number(mount.usage.as_ref()?)?))
            });
            to.gauges(name, help, of)?;
        }
        let age = of(|mount| Some(mount.usage_age_seconds));
        to.gauges("volume_usage_age_seconds", "Since the filesystem last said how full it is", age)
    }

    fn devices(&self, to: &mut Families<'_>) -> fmt::Result {
        let names: Vec<(String, &MountView, BlockIo)> = self
            .overview
            .mounts
            .iter()
            .filter_map(|mount| {
                let device = mount.device.file_name()?.to_string_lossy().into_owned();
                Some((device, mount, mount.io?))
            })
            .collect();
        let of = |number: fn(&BlockIo) -> f64| {
            names.iter().map(move |(device, mount, io)| {
                (vec![("volume", mount.volume.as_str()), ("device", device.as_str())], number(io))
            })
        };
        for (name, help, number) in IO {
            to.counters(name, help, of(number))?;
        }
        to.gauges("device_in_flight", "Requests under way", of(|io| whole(io.in_flight)))
    }
}

type OfUsage = (&'static str, &'static str, fn(&Usage) -> Option<f64>);

const USAGE: [OfUsage; 6] = [
    ("volume_size_bytes", "Size of the filesystem", |usage| Some(whole(usage.size))),
    ("volume_used_bytes", "Bytes in use", |usage| Some(whole(usage.used))),
    ("volume_available_bytes", "Bytes that an ordinary process can still write", |usage| {
        Some(whole(usage.available))
    }),
    // Where a filesystem has no fixed number of them, they do not run out.
    ("volume_inodes", "Inodes of the filesystem", |usage| (usage.inodes > 0).then(|| whole(usage.inodes))),
    ("volume_inodes_used", "Inodes in use", |usage| (usage.inodes > 0).then(|| whole(usage.inodes_used))),
    ("volume_read_only", "Whether the filesystem has made itself read-only after an error", |usage| {
        Some(truth(usage.failed))
    }),
];

type OfIo = (&'static str, &'static str, fn(&BlockIo) -> f64);

const IO: [OfIo; 7] = [
    ("device_reads", "Reads completed", |io| whole(io.reads)),
    ("device_read_bytes", "Bytes read", |io| whole(io.read_bytes)),
    ("device_read_seconds", "Time that all reads took together", |io| seconds(io.read_ms)),
    ("device_writes", "Writes completed", |io| whole(io.writes)),
    ("device_written_bytes", "Bytes written", |io| whole(io.written_bytes)),
    ("device_write_seconds", "Time that all writes took together", |io| seconds(io.write_ms)),
    ("device_busy_seconds", "Time in which a request was under way", |io| seconds(io.busy_ms)),
];

/// Writes one family after the other; one without samples, too, so that it is known.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauges(name, help, [(Labels::new(), value)])
    }

    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, samples.into_iter().map(|(l, v)| (l, ConstGauge::new(v))))
    }

    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let samples = samples.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.family(name, help, MetricType::Counter, samples)
    }

    fn family<'l>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl Iterator<Item = (Labels<'l>, impl EncodeMetric)>,
    ) -> fmt::Result {
        let help = format!("{help}.");
        let mut family = self.0.encode_descriptor(name, &help, None, kind)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                return value.encode(family);
            }
            value.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// Exact up to 2^53, and nobody needs more.
fn whole(number: u64) -> f64 {
    number as f64
}

fn seconds(ms: u64) -> f64 {
    whole(ms) / 1000.0
}

//! How long operations took.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::model::error::ErrorKind;

/// The result of what did not fail.
pub const OK: &str = "ok";

/// Seconds: from an answer out of memory to the two minutes that Docker waits.
const BUCKETS: [f64; 14] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// How long operations took, by operation and result.
#[derive(Debug, Clone)]
pub struct Durations(Family<Labels, Histogram>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    operation: &'static str,
    result: &'static str,
}

impl Default for Durations {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(BUCKETS)))
    }
}

impl Durations {
    /// Registers them as a metric of this name.
    pub fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.0.clone());
    }

    /// One more has ended.
    pub fn observe(&self, operation: &'static str, failure: Option<ErrorKind>, elapsed: Duration) {
        let result = failure.map_or(OK, ErrorKind::name);
        self.0.get_or_create(&Labels { operation, result }).observe(elapsed.as_secs_f64());
    }
}

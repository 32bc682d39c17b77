//! The metrics, as Prometheus reads them. docs/metrics.md says what each means.
//!
//! Nothing is registered for good: each answer is made from one look at the driver ([`Overview`]), at the running operations, at what was
//! [counted](crate::telemetry::count) and at the [`Durations`]. So what is unmounted is gone from the next answer.

mod families;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use crate::model::overview::Overview;
use crate::telemetry::durations::Durations;

/// What every name begins with.
const PREFIX: &str = "rbd_docker_plugin";
/// All that an answer is made from.
#[derive(Debug)]
pub(super) struct Moment {
    /// The driver.
    pub overview: Overview,
    /// Of each operation that is running, how many there are and how long the oldest has been.
    pub running: BTreeMap<&'static str, (u64, Duration)>,
    /// When this process began to serve.
    pub started: SystemTime,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Prometheus text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Form {
    /// What a client that says this in `Accept` understands.
    pub(super) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The content type.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The whole answer.
pub(super) fn render(moment: Moment, durations: &Durations, form: Form) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    let help = "How long the operations that Docker asked for took";
    durations.register(&mut registry, "operation_duration_seconds", help);
    registry.register_collector(Box::new(moment));
    let mut answer = String::new();
    text::encode(&mut answer, &registry)?;
    Ok(match form {
        Form::OpenMetrics => answer,
        Form::Prometheus => to_prometheus(&answer),
    })
}

/// What the older format writes otherwise: the name of a counter with its ending, and no mark of the end.
fn to_prometheus(text: &str) -> String {
    let mut answer = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let is_counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF"), ..) => {}
            (Some("#"), Some(what), Some(name), Some(rest))
                if is_counter(line) || lines.peek().is_some_and(|next| is_counter(next)) =>
            {
                answer += &format!("# {what} {name}_total {rest}\n");
            }
            _ => {
                answer += line;
                answer.push('\n');
            }
        }
    }
    answer
}

fn epoch_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_by_their_samples() {
        let open = "# HELP a_b Some text of it.\n# TYPE a_b counter\na_b_total{x=\"y z\"} 1\n\
                    # HELP c Other.\n# TYPE c gauge\nc 2\n# EOF\n";
        let expected = "# HELP a_b_total Some text of it.\n# TYPE a_b_total counter\na_b_total{x=\"y z\"} 1\n\
                        # HELP c Other.\n# TYPE c gauge\nc 2\n";
        assert_eq!(to_prometheus(open), expected);
        // A sample is no comment, whatever follows it.
        assert_eq!(to_prometheus("c 2\n# TYPE d counter\n"), "c 2\n# TYPE d_total counter\n");
    }

    #[test]
    fn the_form_that_is_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        assert_eq!(Form::accepted(prometheus), Form::OpenMetrics);
        assert_eq!(Form::accepted("*/*"), Form::Prometheus);
    }
}

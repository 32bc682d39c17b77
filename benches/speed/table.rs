//! The table that is printed.

use std::time::Duration;

use crate::common::shown;

pub(crate) fn head() {
    println!("| what | measured | floor | ratio or limit | |\n|---|---|---|---|---|");
}

fn row(what: &str, measured: &str, floor: &str, limit: &str, kept: bool) {
    let kept = if kept { "kept" } else { "missed" };
    println!("| {what} | {measured} | {floor} | {limit} | {kept} |");
}

/// What has no limit.
pub(crate) fn told(what: &str, measured: &str) {
    println!("| {what} | {measured} | | | |");
}

/// What cannot be measured on this machine.
pub(crate) fn skipped(what: &str, why: &str) {
    println!("| {what} | skipped: {why} | | | |");
}

/// A number that may be at most so large.
pub(crate) fn at_most(what: &str, measured: f64, limit: f64, unit: &str) {
    let precision = if limit < 10.0 { 2 } else { 1 };
    let shown = format!("{measured:.precision$} {unit}");
    at_most_shown(what, (measured, &shown), limit, unit);
}

/// The same of one that is shown with something else.
pub(crate) fn at_most_shown(what: &str, (measured, shown): (f64, &str), limit: f64, unit: &str) {
    let precision = if limit < 10.0 { 2 } else { 1 };
    row(what, shown, "", &format!("at most {limit:.precision$} {unit}"), measured <= limit);
}

/// A time that may be at most so long.
pub(crate) fn within(what: &str, measured: Duration, floor: &str, limit: Duration) {
    let limit_shown = format!("at most {} ms", limit.as_millis());
    row(what, &shown(measured), floor, &limit_shown, measured <= limit);
}

/// A time beside the one of a floor.
pub(crate) fn compared(what: &str, measured: Duration, floor: (Duration, &str), limit: f64) {
    let ratio = measured.as_secs_f64() / floor.0.as_secs_f64();
    let floor = format!("{}{}", shown(floor.0), floor.1);
    row(what, &shown(measured), &floor, &format!("{ratio:.2} × (at most {limit} ×)"), ratio <= limit);
}

//! `df`: how full the mounted volumes are.

use serde::Serialize;

use super::output::{self, bytes, table};
use crate::cli::values::Format;
use crate::cmd::admin_client::AdminClient;
use crate::config::Config;
use crate::frontend::admin::view::{MountView, Mounts};
use crate::model::error::Result;

/// An answer that is older is said to be.
const OLD_SECONDS: f64 = 30.0;

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Row<'a> {
    volume: &'a str,
    size: Option<u64>,
    used: Option<u64>,
    available: Option<u64>,
    used_percent: Option<u64>,
    inodes_used_percent: Option<u64>,
    failed: bool,
    age_seconds: f64,
    mountpoint: String,
}

impl<'a> Row<'a> {
    fn of(mount: &'a MountView) -> Self {
        let usage = mount.usage.as_ref();
        Self {
            volume: &mount.volume,
            size: usage.map(|usage| usage.size),
            used: usage.map(|usage| usage.used),
            available: usage.map(|usage| usage.available),
            // As df(1) does: what is kept for root counts as neither.
            used_percent: usage.and_then(|usage| percent(usage.used, usage.used + usage.available)),
            inodes_used_percent: usage.and_then(|usage| percent(usage.inodes_used, usage.inodes)),
            failed: usage.is_some_and(|usage| usage.failed),
            age_seconds: mount.usage_age_seconds,
            mountpoint: mount.mountpoint.display().to_string(),
        }
    }

    fn is_old(&self) -> bool {
        self.age_seconds > OLD_SECONDS
    }
}

#[derive(Debug, Serialize)]
struct Answer<'a> {
    volumes: Vec<Row<'a>>,
}

pub(super) fn run(config: &Config, format: Format) -> Result<()> {
    let answer: Mounts = AdminClient::new(config)?.get("/v1/mounts")?;
    let rows: Vec<Row<'_>> = answer.mounts.iter().map(Row::of).collect();
    let answer = Answer { volumes: rows };
    output::print(format, &answer, || listed(&answer.volumes))
}

fn listed(rows: &[Row<'_>]) -> String {
    let size = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), bytes);
    let share = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number}%"));
    let line = |row: &Row<'_>| {
        let mark = if row.is_old() { "*" } else { "" };
        vec![
            row.volume.to_owned() + mark,
            size(row.size),
            size(row.used),
            size(row.available),
            share(row.used_percent),
            share(row.inodes_used_percent),
            row.mountpoint.clone(),
        ]
    };
    let lines: Vec<Vec<String>> = rows.iter().map(line).collect();
    let header = ["VOLUME", "SIZE", "USED", "AVAIL", "USE%", "INODES%", "MOUNTED ON"];
    let mut text = table(&header, &lines);
    for row in rows.iter().filter(|row| row.is_old()) {
        text += &format!("* {}: its storage has not answered for {:.0} s\n", row.volume, row.age_seconds);
    }
    for row in rows.iter().filter(|row| row.failed) {
        text += &format!(
            "! {}: its filesystem has made itself read-only after an error, see dmesg\n",
            row.volume
        );
    }
    text
}

/// Rounded up: full is 100, and what is in use is not 0.
fn percent(part: u64, whole: u64) -> Option<u64> {
    let percent =
        (u128::from(part) * 100).checked_add(u128::from(whole.checked_sub(1)?))? / u128::from(whole);
    u64::try_from(percent).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_up() {
        assert_eq!([percent(0, 10), percent(1, 1000), percent(10, 10)], [Some(0), Some(1), Some(100)]);
        assert_eq!(percent(0, 0), None);
        assert_eq!(percent(u64::MAX, u64::MAX), Some(100));
    }

    #[test]
    fn what_is_old_or_failed_is_said_to_be() {
        let row = |age_seconds, failed| Row {
            volume: "v",
            size: Some(1 << 30),
            used: Some(1 << 20),
            available: Some(1000 << 20),
            used_percent: Some(1),
            inodes_used_percent: None,
            failed,
            age_seconds,
            mountpoint: "/m/v".to_owned(),
        };
        assert_eq!(
            listed(&[row(1.0, false)]),
            "VOLUME  SIZE  USED  AVAIL  USE%  INODES%  MOUNTED ON\nv       1.0G  1.0M  1.0G   1%    -        /m/v\n"
        );
        assert!(listed(&[row(31.4, false)]).ends_with("* v: its storage has not answered for 31 s\n"));
        assert!(listed(&[row(1.0, true)]).contains("! v: its filesystem"));
    }
}

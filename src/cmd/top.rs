//! `top`: what the mounted volumes read and write, and what is running.
//!
//! On a terminal it goes on until it is interrupted; elsewhere one table is all.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::output::{self, bytes, table};
use crate::cli::values::Format;
use crate::cmd::admin_client::AdminClient;
use crate::config::Config;
use crate::frontend::admin::view::{MountView, Mounts, OperationView, Running};
use crate::model::error::{OrCall, Result};

/// To the upper left, and away with what is there.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Serialize)]
struct Table<'a> {
    volumes: Vec<Row<'a>>,
    operations: &'a [OperationView],
}

/// What a volume's device has done, per second.
#[derive(Debug, Serialize)]
struct Row<'a> {
    volume: &'a str,
    device: String,
    reads: f64,
    writes: f64,
    read_bytes: f64,
    written_bytes: f64,
    read_ms: Option<f64>,
    write_ms: Option<f64>,
    in_flight: u64,
    busy_percent: f64,
}

pub(super) fn run(config: &Config, interval: Duration, once: bool, format: Format) -> Result<()> {
    let client = AdminClient::new(config)?;
    let live = !once && format == Format::Text && io::stdout().is_terminal();
    client.runtime().block_on(async {
        let interrupted = async { tokio::signal::ctrl_c().await.or_call("sigaction", "SIGINT") };
        tokio::select! {
            caught = interrupted => Ok(caught?),
            done = look(&client, interval, live, format) => done,
        }
    })
}

async fn look(client: &AdminClient, interval: Duration, live: bool, format: Format) -> Result<()> {
    let mut before: Mounts = client.page("/v1/mounts").await?;
    let mut at = Instant::now();
    loop {
        tokio::time::sleep(interval).await;
        let now: Mounts = client.page("/v1/mounts").await?;
        let running: Running = client.page("/v1/operations").await?;
        let passed = at.elapsed();
        at = Instant::now();
        let volumes = now.mounts.iter().filter_map(|mount| row(&before.mounts, mount, passed)).collect();
        let answer = Table { volumes, operations: &running.operations };
        let text = output::answer(format, &answer, || render(&answer));
        let is_read = output::write_if_read(&if live { format!("{CLEAR}{text}") } else { text })?;
        if !live || !is_read {
            return Ok(());
        }
        before = now;
    }
}

/// Nothing for a volume that was not mounted before, or not on this device.
fn row<'a>(before: &[MountView], now: &'a MountView, passed: Duration) -> Option<Row<'a>> {
    let same = |mount: &&MountView| {
        (&mount.image, &mount.device, mount.since) == (&now.image, &now.device, now.since)
    };
    let (then, io) = (before.iter().find(same)?.io?, now.io?);
    let since = |now: u64, then: u64| now.saturating_sub(then) as f64;
    let per_second = |now: u64, then: u64| since(now, then) / passed.as_secs_f64();
    let each = |ms: f64, count: f64| (count > 0.0).then(|| ms / count);
    Some(Row {
        volume: &now.volume,
        device: now.device.file_name()?.to_string_lossy().into_owned(),
        reads: per_second(io.reads, then.reads),
        writes: per_second(io.writes, then.writes),
        read_bytes: per_second(io.read_bytes, then.read_bytes),
        written_bytes: per_second(io.written_bytes, then.written_bytes),
        read_ms: each(since(io.read_ms, then.read_ms), since(io.reads, then.reads)),
        write_ms: each(since(io.write_ms, then.write_ms), since(io.writes, then.writes)),
        in_flight: io.in_flight,
        busy_percent: (per_second(io.busy_ms, then.busy_ms) / 10.0).min(100.0),
    })
}

fn render(answer: &Table<'_>) -> String {
    let ms = |each: Option<f64>| each.map_or_else(|| "-".to_owned(), |each| format!("{each:.1}"));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "as many bytes as a device can do in a second"
    )]
    let rate = |number: f64| bytes(number.round() as u64);
    let line = |row: &Row<'_>| {
        vec![
            row.volume.to_owned(),
            row.device.clone(),
            format!("{:.0}", row.reads),
            format!("{:.0}", row.writes),
            rate(row.read_bytes),
            rate(row.written_bytes),
            ms(row.read_ms),
            ms(row.write_ms),
            row.in_flight.to_string(),
            format!("{:.0}%", row.busy_percent),
        ]
    };
    let rows: Vec<Vec<String>> = answer.volumes.iter().map(line).collect();
    let header = ["VOLUME", "DEVICE", "R/S", "W/S", "RB/S", "WB/S", "R MS", "W MS", "QUEUE", "BUSY"];
    let mut text = table(&header, &rows);
    if !answer.operations.is_empty() {
        let line = |running: &OperationView| {
            vec![
                running.number.to_string(),
                running.operation.clone(),
                running.volume.clone().unwrap_or_else(|| "-".to_owned()),
                format!("{:.1} s", running.seconds),
            ]
        };
        let rows: Vec<Vec<String>> = answer.operations.iter().map(line).collect();
        text += "\n";
        text += &table(&["NUMBER", "OPERATION", "VOLUME", "FOR"], &rows);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(reads: u64, read_ms: u64) -> MountView {
        let io = serde_json::json!({"reads": reads, "read_bytes": reads * 4096, "read_ms": read_ms, "writes": 0,
            "written_bytes": 0, "write_ms": 0, "in_flight": 1, "busy_ms": read_ms});
        let view = serde_json::json!({"volume": "v", "image": "rbd/v", "mountpoint": "/m", "device": "/dev/rbd0",
            "device_bytes": 1, "fstype": "ext4", "read_only": false, "since": 7, "mount_ids": {}, "mounts": 1,
            "usage": null, "usage_age_seconds": 0.0, "io": io});
        serde_json::from_value(view).unwrap()
    }

    #[test]
    fn rates_are_the_difference_of_two_looks() {
        let (before, now) = (mount(100, 50), mount(300, 1050));
        let row = row(&[before], &now, Duration::from_secs(2)).unwrap();
        assert_eq!((row.reads, row.read_bytes, row.busy_percent), (100.0, 409_600.0, 50.0));
        assert_eq!((row.read_ms, row.write_ms, row.in_flight), (Some(5.0), None, 1));
        let text = render(&Table { volumes: vec![row], operations: &[] });
        assert!(text.ends_with("v       rbd0    100  0    400K  0     5.0   -     1      50%\n"), "{text}");
    }

    #[test]
    fn what_was_mounted_meanwhile_has_no_rate_yet() {
        assert!(row(&[], &mount(1, 1), Duration::from_secs(1)).is_none());
        let earlier = MountView { since: 6, ..mount(0, 0) };
        assert!(row(&[earlier], &mount(1, 1), Duration::from_secs(1)).is_none());
    }
}

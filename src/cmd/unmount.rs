//! `unmount --all`: the volumes of a plugin that has stopped are given back, for a host that goes down.
//!
//! The work is done by a second process, a copy of this one. A thread that hangs in the kernel, as an unmount does while its storage is
//! away, keeps its process from ending: so that one ends later, and the command on time. Until then the second process holds the plugin's
//! name: nothing else begins to work on what it may still be changing.

use std::io;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::output::{self, table};
use crate::cli::values::Format;
use crate::config::Config;
use crate::daemon::assemble;
use crate::driver::Released;
use crate::frontend::http::socket::Claim;
use crate::linux::fork::{self, Fork, Second};
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};
use crate::model::text::count;

/// What the storage may hang up besides the volumes is waited for a little longer than for them.
const GRACE: Duration = Duration::from_secs(2);

/// How often to see whether the work is done.
const POLL: Duration = Duration::from_millis(10);

#[derive(Debug, Serialize)]
struct Answer {
    volumes: Vec<Volume>,
    /// Why it is not known which images this plugin owns.
    unknown: Option<String>,
}

#[derive(Debug, Serialize)]
struct Volume {
    image: String,
    released: bool,
    /// Whether somebody uses it.
    held: bool,
    error: Option<String>,
}

/// Has it done by a second process, within the time.
pub(super) fn all(config: &Config, timeout: Duration, format: Format) -> Result<u8> {
    let second = match fork::fork()? {
        Fork::Second => return work(config, timeout, format),
        Fork::First(second) => second,
    };
    let Second { child, stdout, stderr } = second;
    let told =
        [thread::spawn(|| pass_on(stdout, io::stdout())), thread::spawn(|| pass_on(stderr, io::stderr()))];
    let deadline = Deadline::after(timeout + GRACE * 2);
    while !deadline.left().is_zero() {
        if let Some(status) = child.ended()? {
            told.into_iter().for_each(|thread| drop(thread.join()));
            return Ok(status);
        }
        thread::sleep(POLL);
    }
    // It has said already what is left.
    let message = format!("process {child} hangs in the kernel, and goes on when the storage is back");
    Err(DriverError::new(ErrorKind::Timeout, message).hint("until then no plugin of this name starts"))
}

/// A reader who has left is no failure.
fn pass_on(mut from: impl io::Read, mut to: impl io::Write) {
    let _ = io::copy(&mut from, &mut to).and_then(|_| to.flush());
}

/// Does it.
fn work(config: &Config, timeout: Duration, format: Format) -> Result<u8> {
    assemble::check(config)?;
    let _claim = Claim::hold(&config.plugins, &config.name).map_err(|e| match e.kind {
        ErrorKind::InUse => {
            e.hint("unmount --all is for one that has stopped: systemctl stop rbd-docker-plugin")
        }
        _ => e,
    })?;
    let answer = Answer::of(within(timeout, config.clone())?);
    output::print(format, &answer, || answer.text())?;
    Ok(if answer.is_whole() { 0 } else { 1 })
}

/// Opening the store may hang as well.
fn within(timeout: Duration, config: Config) -> Result<Released> {
    let deadline = Deadline::after(timeout);
    let (done, wait) = sync_channel(1);
    let work = move || drop(done.send(assemble::release_all(&config, deadline)));
    thread::Builder::new()
        .name("release".to_owned())
        .spawn(work)
        .or_call("clone", "the thread that unmounts")?;
    wait.recv_timeout(deadline.left() + GRACE).unwrap_or_else(|_| {
        let message = format!("the storage did not answer within {} s: nothing is known", timeout.as_secs());
        Err(DriverError::new(ErrorKind::Timeout, message).hint("rbd-docker-plugin doctor says what hangs"))
    })
}

impl Answer {
    fn of(released: Released) -> Self {
        let volume = |(image, result): (_, Result<()>)| Volume {
            image: crate::model::name::ImageSpec::to_string(&image),
            released: result.is_ok(),
            held: result.as_ref().is_err_and(|e| e.kind == ErrorKind::InUse),
            error: result.err().map(|e| e.to_string()),
        };
        Self {
            volumes: released.volumes.into_iter().map(volume).collect(),
            unknown: released.unknown.map(|e| e.to_string()),
        }
    }

    fn is_whole(&self) -> bool {
        self.unknown.is_none() && self.volumes.iter().all(|volume| volume.released)
    }

    fn text(&self) -> String {
        let mut text = match self.volumes.iter().filter(|volume| volume.released).count() {
            0 if self.volumes.is_empty() => "Nothing was mounted.\n".to_owned(),
            released => {
                let left = self.volumes.len() - released;
                format!("{} given back, {left} left.\n", count(released, "volume"))
            }
        };
        if !self.volumes.is_empty() {
            let row = |volume: &Volume| {
                vec![
                    volume.image.clone(),
                    volume.error.clone().unwrap_or_else(|| "any host can mount it now".to_owned()),
                ]
            };
            text += &format!(
                "\n{}",
                table(&["IMAGE", "RESULT"], &self.volumes.iter().map(row).collect::<Vec<_>>())
            );
        }
        if let Some(why) = &self.unknown {
            text += &format!("\nThere may be more that this plugin owns: {why}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::name::ImageSpec;

    fn answer(volumes: Vec<(&str, Result<()>)>, unknown: Option<&str>) -> Answer {
        let spec = |image| ImageSpec::new("rbd", None, image).unwrap();
        let volumes: BTreeMap<_, _> =
            volumes.into_iter().map(|(image, result)| (spec(image), result)).collect();
        Answer::of(Released {
            volumes,
            unknown: unknown.map(|why| DriverError::new(ErrorKind::Unreachable, why)),
        })
    }

    #[test]
    fn for_people() {
        assert_eq!(answer(vec![], None).text(), "Nothing was mounted.\n");
        let held =
            Err(DriverError::new(ErrorKind::InUse, "/m/b is still in use by sleep (pid 7, root directory)"));
        let some = answer(vec![("a", Ok(())), ("b", held)], Some("no monitor answered"));
        assert_eq!(
            some.text(),
            "1 volume given back, 1 left.\n\n\
             IMAGE  RESULT\n\
             rbd/a  any host can mount it now\n\
             rbd/b  /m/b is still in use by sleep (pid 7, root directory)\n\n\
             There may be more that this plugin owns: no monitor answered\n"
        );
    }

    #[test]
    fn for_programs_and_by_the_exit_status() {
        let late = || Err(DriverError::new(ErrorKind::Timeout, "late"));
        let held = || Err(DriverError::new(ErrorKind::InUse, "held"));
        assert_eq!(
            serde_json::to_value(answer(vec![("a", Ok(())), ("b", held()), ("c", late())], None)).unwrap(),
            serde_json::json!({"unknown": null, "volumes": [
                {"image": "rbd/a", "released": true, "held": false, "error": null},
                {"image": "rbd/b", "released": false, "held": true, "error": "held"},
                {"image": "rbd/c", "released": false, "held": false, "error": "late"},
            ]})
        );
        for (volumes, unknown, whole) in [
            (vec![], None, true),
            (vec![("a", Ok(()))], None, true),
            (vec![("a", Ok(())), ("b", held())], None, false),
            (vec![("a", late())], None, false),
            (vec![], Some("away"), false),
        ] {
            assert_eq!(answer(volumes, unknown).is_whole(), whole);
        }
    }
}

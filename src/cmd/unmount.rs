//! `unmount --all`: the volumes of a plugin that has stopped are given back, for a host that goes down.

use std::time::Duration;

use serde::Serialize;

use super::output::{self, table};
use super::parts::Parts;
use crate::cli::values::Format;
use crate::config::Config;
use crate::model::error::{ErrorKind, Result};
use crate::model::name::ImageSpec;
use crate::model::released::Released;
use crate::model::text::count;

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

/// Has it done, tells, and says by its exit status whether all is given back.
pub(super) fn all(parts: &Parts, config: &Config, timeout: Duration, format: Format) -> Result<u8> {
    (parts.release_all)(config, timeout, &|released| {
        let answer = Answer::of(released);
        output::print(format, &answer, || answer.text())?;
        Ok(if answer.is_whole() { 0 } else { 1 })
    })
}

impl Answer {
    fn of(released: Released) -> Self {
        let volume = |(image, result): (ImageSpec, Result<()>)| Volume {
            image: image.to_string(),
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
    use crate::model::error::DriverError;

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
    fn text_form() {
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

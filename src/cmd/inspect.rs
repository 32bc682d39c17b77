//! `inspect`: what is known of volumes.

use serde_json::{Map, Value};

use super::output;
use crate::cli::values::Format;
use crate::cmd::admin_client::AdminClient;
use crate::config::Config;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::VolumeName;

/// Those that are there are shown, whatever became of the others.
pub(super) fn run(config: &Config, volumes: &[String], format: Format) -> Result<u8> {
    for volume in volumes {
        let name: Result<VolumeName> = volume.parse();
        name.map_err(|e| DriverError { kind: ErrorKind::Config, ..e })?;
    }
    let client = AdminClient::new(config)?;
    let mut found: Vec<Value> = Vec::new();
    let mut status = 0;
    for volume in volumes {
        let answer: Result<Map<String, Value>> = client.get(&format!("/v1/volumes/{volume}"));
        match answer {
            Ok(mut answer) => found.push(answer.remove("Volume").unwrap_or_default()),
            Err(e) => {
                eprintln!("rbd-docker-plugin: {volume}: {e}");
                status = 1;
            }
        }
    }
    output::print(format, &found, || found.iter().map(describe).collect::<Vec<_>>().join("\n"))?;
    Ok(status)
}

/// One line for each thing that is known, its status included.
fn describe(volume: &Value) -> String {
    let mut lines: Vec<(String, String)> = Vec::new();
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for (key, value) in volume.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(below) if key == "Status" => {
                lines.extend(below.iter().map(|(key, value)| (key.clone(), plain(value))));
            }
            _ => lines.push((key.to_lowercase(), plain(value))),
        }
    }
    lines.sort_by_key(|(key, _)| key != "name");
    let width = lines.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
    lines.iter().map(|(key, value)| format!("{key:<width$}  {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_comes_first() {
        let volume =
            serde_json::json!({"CreatedAt": "x", "Name": "v", "Status": {"size": "1G", "mounts": 2}});
        assert_eq!(describe(&volume), "name       v\ncreatedat  x\nmounts     2\nsize       1G\n");
    }
}

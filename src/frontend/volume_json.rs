//! A volume as JSON, as `docker volume inspect` has it: what Docker's Get and List and the admin socket answer.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::driver::api::Volume;

/// See the module.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VolumeJson<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mountpoint: Option<String>,
    // Docker cannot decode an empty one.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a Map<String, Value>>,
}

impl<'a> From<&'a Volume> for VolumeJson<'a> {
    fn from(volume: &'a Volume) -> Self {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        Self {
            name: &volume.name,
            mountpoint: volume.mountpoint.as_ref().map(text),
            created_at: volume.created_at.as_deref(),
            status: Some(&volume.status).filter(|status| !status.is_empty()),
        }
    }
}

/// One volume, as the answer to the question for it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OneVolume<'a> {
    volume: VolumeJson<'a>,
}

impl<'a> From<&'a Volume> for OneVolume<'a> {
    fn from(volume: &'a Volume) -> Self {
        Self { volume: volume.into() }
    }
}

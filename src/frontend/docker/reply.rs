//! Replies: always JSON, always ended by a newline, errors always `{"Err": …}`.

use std::path::Path;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::driver::api::Volume;
use crate::frontend::volume_json::{OneVolume, VolumeJson};
use crate::model::settings::Scope;

/// What Docker's own helper answers with.
const TYPE: HeaderValue = HeaderValue::from_static("application/vnd.docker.plugins.v1.1+json");

pub(super) type Reply = Response<Full<Bytes>>;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
enum View<'a> {
    Implements([&'a str; 1]),
    Mountpoint(String),
    Volumes(Vec<VolumeJson<'a>>),
    Capabilities(Capabilities),
    Err(&'a str),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Capabilities {
    scope: Scope,
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn json(view: &impl Serialize) -> Bytes {
    // Strings and maps of strings always serialize; should that ever change, Docker still hears of an error.
    let mut body = serde_json::to_vec(view)
        .unwrap_or_else(|_| br#"{"Err":"the reply cannot be written as JSON"}"#.to_vec());
    body.push(b'\n');
    body.into()
}

/// `{}`.
pub(super) fn empty() -> Bytes {
    Bytes::from_static(b"{}\n")
}

/// The answer to Activate.
pub(super) fn implements() -> Bytes {
    json(&View::Implements(["VolumeDriver"]))
}

/// The answer to Capabilities.
pub(super) fn capabilities(scope: Scope) -> Bytes {
    json(&View::Capabilities(Capabilities { scope }))
}

/// The answer to Mount and Path; not mounted is the empty path.
pub(super) fn mountpoint(path: Option<&Path>) -> Bytes {
    json(&View::Mountpoint(path.map_or_else(String::new, text)))
}

/// The answer to Get.
pub(super) fn volume(volume: &Volume) -> Bytes {
    json(&OneVolume::from(volume))
}

/// The answer to List.
pub(super) fn volumes(volumes: &[Volume]) -> Bytes {
    json(&View::Volumes(volumes.iter().map(VolumeJson::from).collect()))
}

/// A 200.
pub(super) fn ok(body: Bytes) -> Reply {
    respond(StatusCode::OK, body)
}

/// An error that Docker shows to its user.
pub(super) fn error(status: StatusCode, message: &str) -> Reply {
    respond(status, json(&View::Err(message)))
}

/// An error after which the rest of the request is not read.
pub(super) fn last_error(status: StatusCode, message: &str) -> Reply {
    let mut reply = error(status, message);
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

fn respond(status: StatusCode, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, TYPE);
    reply
}

//! The pages: what is asked by path, answered from memory.
//!
//! ```text
//! /healthz /readyz /metrics                       on every address
//! /v1/status /v1/volumes /v1/volumes/NAME
//! /v1/mounts /v1/operations                       on the socket alone
//! ```

use std::collections::BTreeMap;
use std::process;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::metrics::{self, Form, Moment};
use super::store_questions::StoreQuestions;
use super::view::{Mounts, OperationView, Refusal, Running, Status, VolumeView, Volumes};
use crate::driver::api::{DriverStatus, Volume};
use crate::frontend::http::operations::{Operations, UnderWay};
use crate::frontend::volume_json::OneVolume;
use crate::model::error::{DriverError, ErrorKind};
use crate::model::overview::{MountView, Overview};
use crate::model::size::Size;
use crate::model::time;
use crate::model::version::version;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// All is well.
const OK: &str = "ok\n";
/// Why an answer is what was known before.
const SILENT: &str = "the storage does not answer";

type Page = Response<Full<Bytes>>;

/// Which pages there are at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    All,
    /// Those that name no more than Prometheus has to know.
    Public,
}

/// The state that the pages show.
#[derive(Debug)]
pub(super) struct Pages {
    name: String,
    started: SystemTime,
    driver: Arc<dyn DriverStatus>,
    operations: Arc<Operations>,
    questions: StoreQuestions,
}

impl Pages {
    pub(super) fn new(name: String, driver: Arc<dyn DriverStatus>, operations: Arc<Operations>) -> Self {
        Self { name, started: SystemTime::now(), driver, operations, questions: StoreQuestions::default() }
    }

    pub(super) async fn answer(&self, request: &Request<Incoming>, which: Which) -> Page {
        let path = request.uri().path();
        let known = matches!(path, "/healthz" | "/readyz" | "/metrics")
            || (which == Which::All
                && (matches!(path, "/v1/status" | "/v1/volumes" | "/v1/mounts" | "/v1/operations")
                    || path.starts_with("/v1/volumes/")));
        if !known {
            return refuse(StatusCode::NOT_FOUND, format!("no such page: {path}"));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut page = refuse(StatusCode::METHOD_NOT_ALLOWED, format!("{path} can only be read (GET)"));
            page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return page;
        }
        match path {
            "/healthz" => page(StatusCode::OK, TEXT, OK),
            "/readyz" => self.ready(which),
            "/metrics" => self.metrics(request),
            "/v1/status" => json(StatusCode::OK, &self.status()),
            "/v1/mounts" => json(StatusCode::OK, &Mounts { mounts: self.driver.overview().mounts }),
            "/v1/operations" => json(StatusCode::OK, &self.running()),
            "/v1/volumes" => json(StatusCode::OK, &self.volumes().await),
            _ => self.volume(path.strip_prefix("/v1/volumes/").unwrap_or_default()).await,
        }
    }

    /// The reasons name keys and hosts: they are not for everybody. One pool that is silent does not keep the others from being used.
    fn ready(&self, which: Which) -> Page {
        let Overview { not_ready: reasons, pools, .. } = self.driver.overview();
        if reasons.is_empty() {
            let silent = pools.into_iter().filter_map(|(_, why)| why).filter(|_| which == Which::All);
            page(StatusCode::OK, TEXT, silent.fold(OK.to_owned(), |told, why| told + &why + "\n"))
        } else {
            let told = match which {
                Which::All => reasons.join("\n"),
                Which::Public => "not ready; the admin socket and the log say why".to_owned(),
            };
            page(StatusCode::SERVICE_UNAVAILABLE, TEXT, told + "\n")
        }
    }

    fn metrics(&self, request: &Request<Incoming>) -> Page {
        let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let form = Form::accepted(accept.unwrap_or_default());
        let mut running: BTreeMap<&'static str, (u64, Duration)> = BTreeMap::new();
        for under_way in self.operations.under_way().into_values() {
            let (count, oldest) = running.entry(under_way.operation).or_default();
            *count += 1;
            *oldest = (*oldest).max(under_way.since.elapsed());
        }
        let moment = Moment { overview: self.driver.overview(), running, started: self.started };
        match metrics::render(moment, self.operations.durations(), form) {
            Ok(text) => page(StatusCode::OK, form.content_type(), text),
            Err(e) => {
                refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics cannot be written: {e}"))
            }
        }
    }

    fn status(&self) -> Status {
        let of = self.driver.overview();
        let Overview {
            backend,
            away,
            not_ready,
            devices,
            unsettled,
            fenced,
            left_out,
            not_known,
            mounts,
            ..
        } = of;
        Status {
            name: self.name.clone(),
            version: version().to_owned(),
            pid: process::id(),
            started: time::rfc3339(time::seconds(self.started)),
            backend: backend.to_owned(),
            away,
            ready: not_ready.is_empty(),
            reasons: not_ready,
            left_out,
            not_known,
            mounted: mounts.len(),
            operations: self.operations.running(),
            devices,
            unsettled,
            fenced,
        }
    }

    fn running(&self) -> Running {
        let view = |(number, under_way): (u64, UnderWay)| OperationView {
            number,
            operation: under_way.operation.to_owned(),
            volume: under_way.volume,
            seconds: under_way.since.elapsed().as_secs_f64(),
        };
        Running { operations: self.operations.under_way().into_iter().map(view).collect() }
    }

    async fn volumes(&self) -> Volumes {
        let away = self.driver.overview().away;
        let listed = match away {
            Some(why) => Err(why),
            None => {
                let driver = Arc::clone(&self.driver);
                match self.questions.ask(move || driver.list()).await {
                    Some(Ok(listed)) => Ok(listed),
                    Some(Err(e)) => Err(e.to_string()),
                    None => Err(SILENT.to_owned()),
                }
            }
        };
        let (listed, mut degraded) = match listed {
            Ok(listed) => (listed, None),
            Err(why) => (self.driver.known_volumes(&why), Some(why)),
        };
        // The driver itself may have answered from its cache.
        let reason = listed.iter().find_map(|volume| volume.status.get("reason")?.as_str());
        degraded = degraded.or_else(|| reason.map(str::to_owned));
        let mounts = self.driver.overview().mounts;
        let mut volumes: Vec<VolumeView> =
            listed.into_iter().map(|volume| self.view(volume.name, &mounts)).collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        let left_out = self.driver.overview().left_out;
        Volumes { volumes, degraded, left_out, no_volumes: self.driver.no_volumes() }
    }

    fn view(&self, name: String, mounts: &[MountView]) -> VolumeView {
        let image = self.driver.image_of(&name).map(|spec| spec.to_string());
        let mount = mounts.iter().find(|mount| Some(&mount.image) == image.as_ref());
        let size = mount.and_then(|mount| mount.device_bytes).map(|bytes| Size::bytes(bytes).to_string());
        VolumeView {
            size: size.or_else(|| self.driver.known_size(&name)),
            mountpoint: mount.map(|mount| mount.mountpoint.clone()),
            mounts: mount.map_or(0, |mount| mount.mounts),
            name,
            image,
        }
    }

    async fn volume(&self, name: &str) -> Page {
        let found = match self.driver.overview().away {
            Some(why) => self.known(name, &why),
            None => {
                let (driver, asked) = (Arc::clone(&self.driver), name.to_owned());
                match self.questions.ask(move || driver.get(&asked)).await {
                    Some(answer) => answer,
                    None => self.known(name, SILENT),
                }
            }
        };
        match found {
            Ok(volume) => json(StatusCode::OK, &OneVolume::from(&volume)),
            Err(e) => {
                let status = match e.kind {
                    ErrorKind::NotFound => StatusCode::NOT_FOUND,
                    ErrorKind::Invalid => StatusCode::BAD_REQUEST,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                };
                refuse(status, e.to_string())
            }
        }
    }

    /// A volume as it was last seen, and its mount.
    fn known(&self, name: &str, why: &str) -> Result<Volume, DriverError> {
        let image = self.driver.image_of(name).map(|spec| spec.to_string());
        let mount =
            self.driver.overview().mounts.into_iter().find(|mount| Some(&mount.image) == image.as_ref());
        let known = self.driver.known_volume(name, why);
        let mut volume = match (known, &mount) {
            (Some(known), _) => known,
            (None, Some(_)) => Volume { name: name.to_owned(), ..Volume::default() },
            (None, None) => return Err(DriverError::new(ErrorKind::Unreachable, why)),
        };
        volume.mountpoint = mount.map(|mount| mount.mountpoint);
        Ok(volume)
    }
}

fn json(status: StatusCode, view: &impl Serialize) -> Page {
    let mut body = serde_json::to_vec(view).unwrap_or_default();
    body.push(b'\n');
    page(status, JSON, body)
}

fn refuse(status: StatusCode, error: String) -> Page {
    json(status, &Refusal { error })
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    page
}

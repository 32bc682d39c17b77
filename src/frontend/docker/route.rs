//! From an HTTP request to a reply: path, body, operation.
//!
//! The method, the Host header and the content type are not looked at: Docker's own helper does not, and some Docker of the
//! last ten years got each of them wrong.

use std::sync::Arc;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::ACCEPT;

use super::Docker;
use super::engine::engine;
use super::protocol::{self, BadBody};
use super::reply::{self, Reply};
use super::request::Request;
use crate::driver::api::VolumeDriver;
use crate::frontend::http::peer::Peer;
use crate::frontend::http::server::{Limits, Service};

/// A request that must not be answered: the connection breaks instead.
#[derive(Debug, thiserror::Error)]
#[error("the request must not be answered")]
pub struct Unanswered;

#[derive(Debug, Clone, Copy)]
enum Endpoint {
    Activate,
    Deactivate,
    Create,
    Remove,
    Mount,
    Unmount,
    Path,
    Get,
    List,
    Capabilities,
}

impl Service for Docker {
    type Error = Unanswered;

    async fn answer(
        self: Arc<Self>,
        request: hyper::Request<Incoming>,
        peer: Arc<Peer>,
    ) -> Result<Reply, Unanswered> {
        answer(&self, request, peer).await
    }
}

async fn answer(
    docker: &Docker,
    request: hyper::Request<Incoming>,
    peer: Arc<Peer>,
) -> Result<Reply, Unanswered> {
    let Some(endpoint) = endpoint(request.uri().path()) else {
        tracing::warn!(path = request.uri().path(), "unknown path");
        let message = format!("no such request: {}", request.uri().path());
        return Ok(reply::last_error(StatusCode::NOT_FOUND, &message));
    };
    let from_docker = request
        .headers()
        .get(ACCEPT)
        .is_some_and(|accept| accept.to_str().is_ok_and(|accept| accept.contains("docker.plugins")));
    let body = match read(request.into_body(), &docker.limits).await {
        Ok(body) => body,
        Err((status, message)) => {
            tracing::warn!(?endpoint, "{message}");
            return Ok(reply::last_error(status, &message));
        }
    };
    let request = match understand(endpoint, &body, &*docker.driver) {
        Ok(Understood::Operation(request)) => request,
        Ok(Understood::Ready(body)) => return Ok(reply::ok(body)),
        // A Get that Docker sends again without its body: any answer would make it forget the volume's labels and options.
        Err(BadBody::Empty) if from_docker && matches!(endpoint, Endpoint::Get) => {
            tracing::warn!("Get without a body, not answered, so that Docker keeps what it knows");
            return Err(Unanswered);
        }
        Err(e) => {
            tracing::warn!(?endpoint, "{e}");
            return Ok(reply::error(StatusCode::BAD_REQUEST, &e.to_string()));
        }
    };
    let driver = Arc::clone(&docker.driver);
    let (operation, stat) = (request.operation(), docker.stat);
    let work = move |waits: &dyn Fn() -> bool| request.perform(&*driver, || engine(&peer, stat), waits);
    match docker.operations.run(operation, work).await {
        Some(Ok(body)) => Ok(reply::ok(body)),
        Some(Err(e)) => Ok(reply::error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string())),
        None => Err(Unanswered),
    }
}

fn endpoint(path: &str) -> Option<Endpoint> {
    Some(match path {
        "/Plugin.Activate" => Endpoint::Activate,
        "/Plugin.Deactivate" => Endpoint::Deactivate,
        "/VolumeDriver.Create" => Endpoint::Create,
        "/VolumeDriver.Remove" => Endpoint::Remove,
        "/VolumeDriver.Mount" => Endpoint::Mount,
        "/VolumeDriver.Unmount" => Endpoint::Unmount,
        "/VolumeDriver.Path" => Endpoint::Path,
        "/VolumeDriver.Get" => Endpoint::Get,
        "/VolumeDriver.List" => Endpoint::List,
        "/VolumeDriver.Capabilities" => Endpoint::Capabilities,
        _ => return None,
    })
}

enum Understood {
    Operation(Request),
    Ready(Bytes),
}

fn understand(endpoint: Endpoint, body: &[u8], driver: &dyn VolumeDriver) -> Result<Understood, BadBody> {
    Ok(Understood::Operation(match endpoint {
        Endpoint::Activate => return Ok(Understood::Ready(reply::implements())),
        Endpoint::Deactivate => return Ok(Understood::Ready(reply::empty())),
        Endpoint::Create => Request::Create(protocol::parse_create(body)?),
        Endpoint::Remove => Request::Remove(protocol::parse_name(body)?),
        Endpoint::Mount => Request::Mount(protocol::parse_mount(body)?),
        Endpoint::Unmount => Request::Unmount(protocol::parse_mount(body)?),
        Endpoint::Path => Request::Path(protocol::parse_name(body)?),
        Endpoint::Get => Request::Get(protocol::parse_name(body)?),
        Endpoint::List => Request::List,
        // Asked all the time, and needs no thread.
        Endpoint::Capabilities => {
            return Ok(Understood::Ready(reply::capabilities(driver.scope())));
        }
    }))
}

/// The whole body, within the limits of size and time.
async fn read(body: Incoming, limits: &Limits) -> Result<Bytes, (StatusCode, String)> {
    let too_large = || {
        (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request body is larger than {} bytes", limits.body_bytes),
        )
    };
    let most = u64::try_from(limits.body_bytes).unwrap_or(u64::MAX);
    if body.size_hint().lower() > most {
        return Err(too_large());
    }
    match tokio::time::timeout(limits.body_time, Limited::new(body, limits.body_bytes).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(e)) => Err((StatusCode::BAD_REQUEST, format!("the request body cannot be read: {e}"))),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the request body did not come in time".to_owned())),
    }
}

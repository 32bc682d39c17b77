//! The client of the admin socket, on which the running plugin answers the commands.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyperlocal::{UnixClientExt, UnixConnector, Uri};
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use crate::config::Config;
use crate::frontend::admin::view::Refusal;
use crate::frontend::http::socket::SUN_PATH_MAX;
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};

/// How long to wait for a page: far longer than any takes.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const MAX_ANSWER: usize = 256 << 20;

/// A client of one plugin.
#[derive(Debug)]
pub struct AdminClient {
    socket: PathBuf,
    path: SocketPath,
    start: String,
    runtime: Runtime,
    client: Client<UnixConnector, Full<Bytes>>,
}

/// A path to a socket that connect(2) takes: it has no room for one like that of a managed plugin's folder on the host.
#[derive(Debug)]
struct SocketPath {
    path: PathBuf,
    _folder: Option<File>,
}

impl SocketPath {
    fn to(socket: &Path) -> Self {
        let long = socket.as_os_str().len() > SUN_PATH_MAX;
        let folder = socket.parent().filter(|_| long).and_then(|folder| File::open(folder).ok());
        let path = match (&folder, socket.file_name()) {
            (Some(folder), Some(name)) => {
                Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)
            }
            _ => socket.to_owned(),
        };
        Self { path, _folder: folder }
    }
}

impl AdminClient {
    /// A client of the plugin that the settings name.
    pub fn new(config: &Config) -> Result<Self> {
        let Some(folder) = &config.admin else {
            let message =
                "this command asks the plugin on its admin socket, and these settings say --admin none";
            return Err(
                DriverError::new(ErrorKind::Config, message).hint("--admin names the folder of the socket")
            );
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .or_call("epoll_create", "the admin socket")?;
        let socket = folder.join(format!("{}.sock", config.name));
        Ok(Self {
            path: SocketPath::to(&socket),
            socket,
            start: format!(
                "start it: systemctl start rbd-docker-plugin, or rbd-docker-plugin --name {}; --name and --admin say which one is meant",
                config.name
            ),
            runtime,
            client: Client::unix(),
        })
    }

    /// The runtime of this client, for a command that waits for other things as well.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Reads a page, and blocks this thread until it is there.
    pub fn get<T: DeserializeOwned>(&self, page: &str) -> Result<T> {
        self.runtime.block_on(self.page(page))
    }

    /// Reads a page.
    pub async fn page<T: DeserializeOwned>(&self, page: &str) -> Result<T> {
        let failed = |why: &str| {
            DriverError::new(
                ErrorKind::Failed,
                format!("the plugin on {}: {page}: {why}", self.socket.display()),
            )
        };
        let answer = async {
            let uri: hyper::Uri = Uri::new(&self.path.path, page).into();
            let answer = self.client.get(uri).await.map_err(|e| self.unreached(&e))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok::<_, DriverError>((status, body.map_err(|e| failed(&e.to_string()))?.to_bytes()))
        };
        let late = |_| failed(&format!("no answer within {} s", TIMEOUT.as_secs()));
        let (status, body) = tokio::time::timeout(TIMEOUT, answer).await.map_err(late)??;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|e| failed(&format!("is not understood: {e}")));
        }
        let kind = match status {
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            StatusCode::BAD_REQUEST => ErrorKind::Invalid,
            StatusCode::SERVICE_UNAVAILABLE => ErrorKind::Unreachable,
            _ => ErrorKind::Failed,
        };
        let said =
            serde_json::from_slice(&body).map_or_else(|_| status.to_string(), |said: Refusal| said.error);
        Err(DriverError::new(kind, said))
    }

    fn unreached(&self, e: &(dyn std::error::Error + 'static)) -> DriverError {
        let mut cause = Some(e);
        let mut kind = None;
        while let Some(e) = cause {
            kind = kind.or_else(|| e.downcast_ref::<io::Error>().map(io::Error::kind));
            cause = e.source();
        }
        let socket = self.socket.display();
        match kind {
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => DriverError::new(
                ErrorKind::Unreachable,
                format!("the plugin does not run: nobody answers on {socket}"),
            )
            .hint(self.start.clone()),
            Some(io::ErrorKind::PermissionDenied) => {
                DriverError::new(ErrorKind::Denied, format!("{socket} may not be used"))
                    .hint("run this as root")
            }
            _ => DriverError::new(ErrorKind::Failed, format!("{socket}: {e}")),
        }
    }
}

//! What the plugin tells of itself: health, metrics, and what is mounted, on a socket of its own beside Docker's.
//!
//! It has a thread of its own, so nothing that a client does here is felt by Docker. No page waits for storage: what is in memory is told
//! at once ([`DriverStatus::overview`]), and the two pages that ask the store ([`pages`]) fall back to what is known when it does not answer
//! within a second. The commands `ls`, `inspect`, `df` and `top` are its clients.

mod metrics;
mod pages;
mod server;
mod store_questions;
pub mod view;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::driver::api::DriverStatus;
use crate::frontend::http::operations::Operations;
use crate::frontend::http::socket::{Claim, Socket};
use crate::model::error::{OrCall, Result};
use pages::{Pages, Which};

const HINT: &str = "--admin names another folder for the admin socket, --admin none does without";

/// How long to wait before binding an address again that could not be bound.
const RETRY: Duration = Duration::from_secs(2);

/// Where to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The plugin's name, which is that of the socket.
    pub name: String,
    /// Folder of the socket, if there is to be one.
    pub folder: Option<PathBuf>,
    /// Where metrics and health are served, too.
    pub metrics_address: Option<SocketAddr>,
}

/// The right to the places to serve at.
#[derive(Debug)]
pub struct Admin {
    settings: Settings,
    claim: Option<Claim>,
}

impl Admin {
    /// Takes the socket that the settings name. Before anything else is touched: what cannot be served is told at the start.
    pub fn claim(settings: Settings) -> Result<Self> {
        let claim = settings.folder.as_ref().map(|folder| Claim::take(folder, &settings.name));
        Ok(Self { claim: claim.transpose().map_err(|e| e.hint(HINT))?, settings })
    }

    /// Begins to serve.
    pub fn serve(self, driver: Arc<dyn DriverStatus>, operations: Arc<Operations>) -> Result<Serving> {
        let Settings { name, metrics_address: address, .. } = self.settings;
        let mut socket = self.claim.map(Claim::bind_private).transpose().map_err(|e| e.hint(HINT))?;
        let listener = socket.as_mut().and_then(Socket::listener).map(|listener| listener.socket);
        let (stop, stopped) = oneshot::channel();
        if listener.is_some() || address.is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .or_call("epoll_create", "the admin socket")?;
            if let Some(socket) = &socket {
                tracing::info!("metrics, health and admin commands on {}", socket.path().display());
            }
            let pages = Arc::new(Pages::new(name, driver, operations));
            let work = async move {
                if let Some(listener) = listener {
                    let pages = Arc::clone(&pages);
                    tokio::spawn(async move { log_failure(server::unix(listener, pages, Which::All).await) });
                }
                if let Some(address) = address {
                    tokio::spawn(async move {
                        let listener = bound(address).await;
                        tracing::info!("metrics and health on {address}");
                        log_failure(server::serve(&listener, &pages, Which::Public).await);
                    });
                }
                drop(stopped.await);
            };
            std::thread::Builder::new()
                .name("admin".to_owned())
                .spawn(move || runtime.block_on(work))
                .or_call("clone", "the admin thread")?;
        }
        Ok(Serving { socket, _stop: stop })
    }
}

/// A listener at an address that may be another's, or not this host's yet: volumes are served without it meanwhile.
async fn bound(address: SocketAddr) -> TcpListener {
    let mut is_logged = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(e) if !is_logged => {
                tracing::error!(
                    "cannot serve metrics on {address}: {e}; tried again every {} s. --metrics-address names another address and port",
                    RETRY.as_secs()
                );
                is_logged = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn log_failure(served: std::io::Result<()>) {
    if let Err(e) = served {
        tracing::error!("the admin pages are not served: {e}");
    }
}

/// Serves until it is ended.
#[derive(Debug)]
pub struct Serving {
    socket: Option<Socket>,
    _stop: oneshot::Sender<()>,
}

impl Serving {
    /// Ends it and removes the socket.
    pub fn end(self) {
        if let Some(socket) = self.socket {
            socket.remove();
        }
    }
}

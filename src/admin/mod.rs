//! What the plugin tells of itself: health, metrics, and what is mounted, on a socket of its own beside Docker's.
//!
//! It has a thread of its own, so nothing that a client does here is felt by Docker. No page waits for storage: what is in memory is told
//! at once ([`Driver::overview`]), and the two pages that ask the store ([`pages`]) fall back to what is known when it does not answer
//! within a second. The commands `ls`, `inspect`, `df` and `top` are its clients ([`client`]).

mod ask;
pub mod client;
mod pages;
mod server;
pub mod view;

use std::net::TcpListener;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::config::Config;
use crate::driver::Driver;
use crate::error::{DriverError, ErrorKind, OrCall, Result};
use crate::plugin::operations::Operations;
use crate::plugin::socket::{Claim, Socket};
use pages::{Pages, Which};

const HINT: &str = "--admin names another folder for the admin socket, --admin none does without";

/// The right to the places to serve at.
#[derive(Debug)]
pub struct Admin {
    claim: Option<Claim>,
    tcp: Option<TcpListener>,
}

impl Admin {
    /// Takes the places that the settings name. Before anything else is touched: what cannot be served is told at the start.
    pub fn claim(config: &Config) -> Result<Self> {
        let claim = config.admin.as_ref().map(|folder| Claim::take(folder, &config.name));
        let tcp = config.metrics_address.map(|address| {
            let bound = TcpListener::bind(address).and_then(|tcp| tcp.set_nonblocking(true).map(|()| tcp));
            bound.or_call("bind", address).map_err(|e| {
                DriverError::new(ErrorKind::Failed, format!("cannot serve metrics on {address}"))
                    .hint("--metrics-address names another address and port, or nothing")
                    .caused_by(e)
            })
        });
        Ok(Self { claim: claim.transpose().map_err(|e| e.hint(HINT))?, tcp: tcp.transpose()? })
    }

    /// Begins to serve.
    pub fn serve(
        self,
        config: &Config,
        driver: &Arc<Driver>,
        operations: &Arc<Operations>,
    ) -> Result<Serving> {
        let mut socket = self.claim.map(Claim::bind_private).transpose().map_err(|e| e.hint(HINT))?;
        let listener = socket.as_mut().and_then(Socket::listener).map(|listener| listener.socket);
        let (stop, stopped) = oneshot::channel();
        if listener.is_some() || self.tcp.is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .or_call("epoll_create", "the admin socket")?;
            if let Some(socket) = &socket {
                tracing::info!("metrics, health and admin commands on {}", socket.path().display());
            }
            if let Some(address) = config.metrics_address {
                tracing::info!("metrics and health on {address}");
            }
            let pages = Arc::new(Pages::new(config, Arc::clone(driver), Arc::clone(operations)));
            let work = async move {
                if let Some(listener) = listener {
                    let pages = Arc::clone(&pages);
                    tokio::spawn(async move { told(server::unix(listener, pages, Which::All).await) });
                }
                if let Some(listener) = self.tcp {
                    tokio::spawn(async move { told(server::tcp(listener, pages, Which::Public).await) });
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

fn told(served: std::io::Result<()>) {
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

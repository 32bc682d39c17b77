//! Docker's requests as operations on the driver.

use hyper::body::Bytes;

use super::protocol::{CreateRequest, MountRequest, NameRequest};
use super::reply;
use crate::driver::api::{Client, VolumeDriver};
use crate::frontend::http::operations::Operation;
use crate::model::error::{ErrorKind, Result};

/// A request that was understood.
#[derive(Debug)]
pub(super) enum Request {
    Create(CreateRequest),
    Remove(NameRequest),
    Mount(MountRequest),
    Unmount(MountRequest),
    Path(NameRequest),
    Get(NameRequest),
    List,
}

impl Request {
    /// What is known of it before it runs.
    pub(super) fn operation(&self) -> Operation {
        /// Docker takes any answered error of Get for "no such volume" and forgets the volume's labels and options, so only an error
        /// that means it is answered.
        fn forgets(kind: ErrorKind) -> bool {
            !matches!(kind, ErrorKind::NotFound | ErrorKind::Invalid)
        }
        let (name, volume) = match self {
            Self::Create(r) => ("Create", Some(&r.name)),
            Self::Remove(r) => ("Remove", Some(&r.name)),
            Self::Mount(r) => ("Mount", Some(&r.name)),
            Self::Unmount(r) => ("Unmount", Some(&r.name)),
            Self::Path(r) => ("Path", Some(&r.name)),
            Self::Get(r) => ("Get", Some(&r.name)),
            Self::List => ("List", None),
        };
        let mount_id = match self {
            Self::Mount(r) | Self::Unmount(r) => Some(r.id.clone()),
            _ => None,
        };
        let changes = matches!(self, Self::Create(_) | Self::Remove(_) | Self::Mount(_) | Self::Unmount(_));
        Operation {
            name,
            volume: volume.cloned(),
            mount_id,
            changes,
            // Docker sends an Unmount once: a client that left while it waited would have sent it for nothing.
            limited: changes && !matches!(self, Self::Unmount(_)),
            unanswered: if matches!(self, Self::Get(_)) { forgets } else { |_| false },
        }
    }

    /// Does it, and answers with the body of the reply. `engine` is who asks, if it is a Docker engine.
    pub(super) fn perform(
        &self,
        driver: &dyn VolumeDriver,
        engine: impl FnOnce() -> Option<Client>,
        waits: &dyn Fn() -> bool,
    ) -> Result<Bytes> {
        match self {
            Self::Create(r) => driver.create(&r.name, &r.options).map(|()| reply::empty()),
            Self::Remove(r) => driver.remove(&r.name).map(|()| reply::empty()),
            Self::Mount(r) => {
                driver.mount(&r.name, &r.id, engine(), waits).map(|at| reply::mountpoint(Some(&at)))
            }
            Self::Unmount(r) => driver.unmount(&r.name, &r.id).map(|()| reply::empty()),
            Self::Path(r) => driver.path(&r.name).map(|at| reply::mountpoint(at.as_deref())),
            Self::Get(r) => driver.get(&r.name).map(|volume| reply::volume(&volume)),
            Self::List => driver.list().map(|volumes| reply::volumes(&volumes)),
        }
    }
}

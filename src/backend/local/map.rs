//! Image files as loop devices.

use std::fs::{self, OpenOptions};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::LocalBackend;
use crate::backend::{Device, Mapper};
use crate::linux::loopdev::{self, Backing};
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, OrCall, Result};
use crate::model::name::ImageSpec;

/// How long a device may stay open after our unmount: udev and blkid look at it for a moment.
const SETTLES: Duration = Duration::from_secs(5);

impl LocalBackend {
    /// The image file's identity; nothing when it is not there.
    pub(super) fn backing(&self, spec: &ImageSpec) -> Result<Option<Backing>> {
        let path = self.paths.image(spec);
        match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.paths.is_there().map(|()| None),
            found => Ok(Some(Backing::from(&found.or_call("stat", path.display())?))),
        }
    }
}

impl Mapper for LocalBackend {
    fn map(&self, spec: &ImageSpec) -> Result<Device> {
        let path = self.paths.image(spec);
        let image = OpenOptions::new().read(true).write(true).open(&path).or_call("open", path.display())?;
        let attached = loopdev::attach(&image, &path, false)?;
        Ok(Device { path: attached.path, number: attached.number, hold: Some(Arc::new(attached.hold)) })
    }

    fn unmap(&self, spec: &ImageSpec, device: Device) -> Result<()> {
        let Device { path, hold, .. } = device;
        drop(hold);
        let Some(backing) = self.backing(spec)? else { return Ok(()) };
        loopdev::detach(&path, backing, Deadline::after(SETTLES)).map_err(|e| {
            let busy = e.errno == nix::errno::Errno::EBUSY;
            let error = DriverError::from(e);
            if !busy {
                return error;
            }
            DriverError {
                kind: ErrorKind::InUse,
                message: format!("{spec}: its device is still open"),
                ..error
            }
            .hint("another mount namespace may still have it mounted")
        })
    }

    /// Nobody can take an image of this backend over while it is mapped; the last close detaches the device.
    fn abandon(&self, spec: &ImageSpec, device: Device) -> Result<()> {
        self.unmap(spec, device)
    }

    fn mapping(&self, spec: &ImageSpec) -> Result<Option<Device>> {
        let Some(backing) = self.backing(spec)? else { return Ok(None) };
        let found = loopdev::find(backing, &self.paths.image(spec))?;
        Ok(found.map(|found| Device { path: found.path, number: found.number, hold: None }))
    }
}

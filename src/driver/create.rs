//! Create: the volume, by its kind, and its name.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use super::undo::Undo;
use super::{Driver, LONG};
use crate::model::create_options::{Options, small};
use crate::model::deadline::Deadline;
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::image::ImageInfo;
use crate::model::name::{ImageSpec, VolumeName};
use crate::model::record::Record;

/// How often to look whether another plugin has made the image.
const POLL: Duration = Duration::from_millis(100);

impl Driver {
    /// See [`VolumeDriver::create`](super::api::VolumeDriver::create).
    pub(super) fn create(&self, name: &str, options: &BTreeMap<String, String>) -> Result<()> {
        let (until, deadline) = self.deadlines(LONG);
        let volume: VolumeName = name.parse()?;
        let Options { pool, namespace, image: asked } = Options::parse(options)?;
        self.kind.check_options(&asked)?;
        let (spec, bind) = self.target(&volume, pool.as_deref(), namespace.as_deref())?;
        Self::is_about(&spec);
        let guard = self.guards.lock(&spec, until)?;
        self.restore_if_unsettled(&spec)?;
        let found = self.kind.info(&spec)?;
        if found.is_none()
            && pool.is_none()
            && namespace.is_none()
            && spec != self.at_home(&volume)?
            && volume.pool().is_none()
        {
            // Its image is gone: removed by a plugin that died before it took the name away, or by hand.
            tracing::warn!(image = %spec, "does not exist any more, its name is free again");
            self.unbind(&spec)?;
            drop(guard);
            return self.create(name, options);
        }
        match &found {
            Some(info) if !info.is_half_made() => self.kind.accept(name, &spec, info, asked, self)?,
            _ if !self.settings.create => {
                return Err(DriverError::new(
                    ErrorKind::NotAllowed,
                    format!("Ceph RBD Image not found: {name}"),
                )
                .hint("this plugin was started without --create, so it only uses images that are there"));
            }
            _ => {
                let record = self.kind.plan(&asked, volume.size())?;
                if let (true, Some(size)) = (record.options.bare_size, record.options.size) {
                    tracing::warn!(image = %spec, "{}", small(size));
                }
                let shown_later = Making::begin(self, &spec);
                let made_meanwhile = self.make(&spec, record, deadline)?;
                drop(shown_later);
                if let Some(info) = made_meanwhile {
                    self.kind.accept(name, &spec, &info, asked, self)?;
                }
            }
        }
        if let Some(bare) = bind {
            self.kind.bind(&bare, &spec)?;
            self.was_bound(&bare, &spec);
        }
        self.cache.add(&self.shown_name(&spec)?);
        Ok(())
    }

    /// Claims the image; while another plugin is making it (Swarm sends Create to many hosts), waits for it to be made.
    fn claim_or_see_made(&self, spec: &ImageSpec, deadline: Deadline) -> Result<()> {
        let until = deadline.at_most(self.settings.wait);
        loop {
            match self.kind.claim(spec) {
                Err(e) if e.kind == ErrorKind::InUse && !until.left().is_zero() => {
                    if self.kind.info(spec)?.is_some_and(|info| !info.is_half_made()) {
                        return Ok(());
                    }
                    sleep(POLL.min(until.left()));
                }
                answer => return answer,
            }
        }
    }

    /// Makes the image; what a Create that died has left of it goes first. One that another host has made since we looked is left
    /// alone, and answered.
    fn make(&self, spec: &ImageSpec, record: Record, deadline: Deadline) -> Result<Option<ImageInfo>> {
        let mut undo = Undo::default();
        let result = (|| {
            undo.push("release the image", || self.kind.release(spec));
            self.claim_or_see_made(spec, deadline)?;
            match self.kind.info(spec)? {
                Some(info) if !info.is_half_made() => return Ok(Some(info)),
                Some(_) if self.kind.stray(spec)?.is_some() => {
                    return Err(DriverError::new(
                        ErrorKind::InUse,
                        format!("{spec} was left half made, and somebody has mapped it"),
                    )
                    .hint("unmap it, then try again"));
                }
                Some(half) => {
                    let stage = half.record.as_ref().map(|record| &record.stage);
                    tracing::warn!(image = %spec, ?stage, "clearing what a Create left half made");
                    self.kind.clear(spec, &half)?;
                }
                None => {}
            }
            self.kind.provision(spec, record, &mut undo, deadline)?;
            Ok(None)
        })();
        match result {
            Ok(there) => {
                self.kind.release(spec).inspect_err(|_| self.mark_unsettled(spec))?;
                Ok(there)
            }
            Err(e) => Err(self.undo(spec, undo, e)),
        }
    }
}

/// An image that is being made, until dropped.
struct Making<'a> {
    driver: &'a Driver,
    spec: ImageSpec,
}

impl<'a> Making<'a> {
    fn begin(driver: &'a Driver, spec: &ImageSpec) -> Self {
        driver.entries.change(spec, |entry| entry.making = true);
        Self { driver, spec: spec.clone() }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.driver.entries.change(&self.spec, |entry| entry.making = false);
    }
}

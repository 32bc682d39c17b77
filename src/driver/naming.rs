//! From Docker's names to images and back.
//!
//! A bare name means the image of that name in the default pool and namespace, unless `docker volume create -o pool=P` bound it to another
//! one. An image shows under one name only: the one bound to it, else the bare one when that means it, else its whole spec.

use std::collections::HashMap;

use super::Driver;
use crate::model::bindings::{Bindings, look_up};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::{ImageSpec, VolumeName};

impl Driver {
    /// The image that a name means.
    pub(super) fn resolve(&self, name: &VolumeName) -> Result<ImageSpec> {
        match name.pool() {
            Some(pool) => name.in_pool(pool),
            None => self.resolve_bound(self.kind.binding(name.image())?.as_ref(), name),
        }
    }

    /// The same by bindings that were read just now.
    pub(super) fn resolve_by(&self, bindings: &Bindings, name: &VolumeName) -> Result<ImageSpec> {
        let bound = if name.pool().is_none() { look_up(bindings, name.image())? } else { None };
        self.resolve_bound(bound, name)
    }

    /// The same by what the bare name is bound to.
    pub(super) fn resolve_bound(&self, bound: Option<&ImageSpec>, name: &VolumeName) -> Result<ImageSpec> {
        match bound {
            Some(bound) if name.pool().is_none() => Ok(bound.clone()),
            _ => self.at_home(name),
        }
    }

    /// The image that a name means when nothing is bound to it.
    pub(super) fn at_home(&self, name: &VolumeName) -> Result<ImageSpec> {
        name.in_place(&self.settings.pool, self.settings.namespace.as_deref())
    }

    /// The image that a Create means, and the name to bind to it when the name alone would not find it again.
    pub(super) fn target(
        &self,
        name: &VolumeName,
        pool: Option<&str>,
        namespace: Option<&str>,
    ) -> Result<(ImageSpec, Option<String>)> {
        if pool.is_none() && namespace.is_none() {
            return Ok((self.resolve(name)?, None));
        }
        if let Some(named) = name.pool() {
            let spec = name.in_pool(named)?;
            let same = |what: &str, named: Option<&str>, given: Option<&str>| match given {
                Some(given) if named != Some(given) => Err(DriverError::invalid(format!(
                    "the name says {what} {:?} and the option says {what} {given:?}",
                    named.unwrap_or_default()
                ))
                .hint(format!("give the {what} once"))),
                _ => Ok(()),
            };
            same("pool", Some(named), pool)?;
            same("namespace", spec.namespace(), namespace)?;
            return Ok((spec, None));
        }
        let bound = self.kind.binding(name.image())?;
        let default = self.at_home(name)?;
        let pool = pool.unwrap_or(&self.settings.pool);
        let at_home = self.settings.namespace.as_deref().filter(|_| pool == self.settings.pool);
        let wanted = ImageSpec::new(pool, namespace.or(at_home), name.image())?;
        let taken = |spec: &ImageSpec| {
            DriverError::new(
                ErrorKind::AlreadyExists,
                format!("{:?} is the volume {spec} already", name.image()),
            )
            .hint(format!("use the name {wanted} for the other one"))
        };
        match bound {
            Some(bound) if bound == wanted => Ok((wanted, None)),
            Some(bound) => Err(taken(&bound)),
            None if wanted == default => Ok((wanted, None)),
            None => match self.kind.info(&default)? {
                Some(info) if !info.is_half_made() => Err(taken(&default)),
                _ => Ok((wanted, Some(name.image().to_owned()))),
            },
        }
    }

    /// What the bare name of an image is bound to. Where that cannot be looked up, an image of another pool than that of the names shows
    /// under its spec: what is bound to it is not known, and not needed to use it.
    pub(super) fn binding_beside(&self, spec: &ImageSpec) -> Result<Option<ImageSpec>> {
        match self.kind.binding(spec.image()) {
            Err(e) if e.kind == ErrorKind::Unreachable && spec.pool() != self.settings.pool => Ok(None),
            bound => bound,
        }
    }

    /// The name under which an image shows.
    pub(super) fn shown_name(&self, spec: &ImageSpec) -> Result<String> {
        Ok(self.shown_bound(self.binding_beside(spec)?.as_ref(), spec))
    }

    /// The same by what the image's bare name is bound to.
    pub(super) fn shown_bound(&self, bound: Option<&ImageSpec>, spec: &ImageSpec) -> String {
        let home = (self.settings.pool.as_str(), self.settings.namespace.as_deref());
        match bound {
            Some(bound) if bound == spec => spec.image().to_owned(),
            None if (spec.pool(), spec.namespace()) == home => spec.image().to_owned(),
            _ => spec.to_string(),
        }
    }

    /// The same by bindings that are known.
    pub(super) fn shown_by(&self, bindings: &Bindings, spec: &ImageSpec) -> String {
        look_up(bindings, spec.image())
            .map_or_else(|_| spec.to_string(), |bound| self.shown_bound(bound, spec))
    }

    /// The names under which images show; while they cannot be read, as they were read last.
    pub(super) fn shown_names(&self) -> Result<ShownNames> {
        let bindings = match self.kind.bindings() {
            Ok(bindings) => bindings,
            Err(e) => self.kind.known_bindings().map_err(|_| e)?,
        };
        Ok(ShownNames {
            home: Some((self.settings.pool.clone(), self.settings.namespace.clone())),
            by_spec: bindings
                .iter()
                .filter_map(|(name, bound)| Some((bound.image()?.clone(), name.clone())))
                .collect(),
            bindings,
        })
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ShownNames {
    /// Where bare names are; none while it is not known what they are bound to: then every image shows under its spec, which is right in
    /// any case.
    home: Option<(String, Option<String>)>,
    pub(super) bindings: std::sync::Arc<Bindings>,
    by_spec: HashMap<ImageSpec, String>,
}

impl ShownNames {
    pub(super) fn of(&self, spec: &ImageSpec) -> String {
        let home = self.home.as_ref().map(|(pool, namespace)| (pool.as_str(), namespace.as_deref()));
        shown(spec, self.by_spec.get(spec).map(String::as_str), &self.bindings, home)
    }
}

/// The name bound to an image; else the bare one, if that means it; else its spec.
fn shown(
    spec: &ImageSpec,
    bound: Option<&str>,
    bindings: &Bindings,
    home: Option<(&str, Option<&str>)>,
) -> String {
    let bare = Some((spec.pool(), spec.namespace())) == home && !bindings.contains_key(spec.image());
    match bound {
        Some(bound) => bound.to_owned(),
        None if bare => spec.image().to_owned(),
        None => spec.to_string(),
    }
}

//! The registry of bare names that `-o pool=` bound to an image elsewhere: one omap in the default pool and
//! namespace, the same for all hosts that have them as their defaults.

use std::sync::{Arc, Mutex};

use super::kv::{ClusterKv, Keys, Place, Swap};
use crate::lock;
use crate::model::bindings::{Bindings, Bound, look_up};
use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;

/// The object of the registry.
pub const OBJECT: &str = "rbd_docker_plugin.names";
const ATTEMPTS: u32 = 20;

/// See the module.
#[derive(Debug)]
pub struct Names {
    home: Place,
    /// What was read last, for when the cluster is away.
    last: Mutex<Option<Arc<Bindings>>>,
}

impl Names {
    /// The registry of the hosts whose bare names are in this place.
    pub fn new(home: Place) -> Self {
        Self { home, last: Mutex::default() }
    }

    /// All of them. While the cluster is away, as they were read last: a name that is bound is never bound to another image.
    pub fn all<K: ClusterKv>(&self, kv: Result<K>) -> Result<Arc<Bindings>> {
        let found = kv.and_then(|kv| {
            let found = understood(kv.keys(&self.home, OBJECT)?);
            if found.is_empty() && lock(&self.last).as_ref().is_some_and(|last| !last.is_empty()) {
                kv.require_place(&self.home)?;
            }
            Ok(found)
        });
        match found {
            Ok(read) => {
                let read = Arc::new(read);
                let before = lock(&self.last).replace(Arc::clone(&read)).unwrap_or_default();
                let unread = |(name, bound): &(&String, &Bound)| {
                    **bound == Bound::Unread && before.get(*name) != Some(&Bound::Unread)
                };
                for (name, _) in read.iter().filter(unread) {
                    tracing::warn!(
                        name,
                        "the registry of names holds something that is no image for this name"
                    );
                }
                Ok(read)
            }
            Err(e) if e.kind == ErrorKind::Unreachable => lock(&self.last).clone().ok_or(e),
            Err(e) => Err(without_pool(e)),
        }
    }

    /// The image that one name is bound to: one key is read. While the cluster is away, as it was read last.
    pub fn one<K: ClusterKv>(&self, kv: Result<K>, name: &str) -> Result<Option<ImageSpec>> {
        let found = kv.and_then(|kv| {
            let found = read_one(&kv, &self.home, name)?;
            if found.is_none() && lock(&self.last).as_ref().is_some_and(|last| last.contains_key(name)) {
                kv.require_place(&self.home)?;
            }
            Ok(found)
        });
        match found {
            Ok(found) => {
                let bound = found.clone().map(Bound::To);
                if let Some(last) = lock(&self.last).as_mut()
                    && last.get(name) != bound.as_ref()
                {
                    let last = Arc::make_mut(last);
                    match bound {
                        Some(bound) => last.insert(name.to_owned(), bound),
                        None => last.remove(name),
                    };
                }
                Ok(found)
            }
            Err(e) if e.kind == ErrorKind::Unreachable => {
                let last = lock(&self.last).clone().ok_or(e)?;
                Ok(look_up(&last, name)?.cloned())
            }
            Err(e) => Err(without_pool(e)),
        }
    }

    /// All of them, as they were read last.
    pub fn known(&self) -> Option<Arc<Bindings>> {
        lock(&self.last).clone()
    }

    /// Binds a name; `AlreadyExists` when it is bound to another image.
    pub fn bind(&self, kv: &dyn ClusterKv, name: &str, spec: &ImageSpec) -> Result<()> {
        let target = spec.to_string();
        for _ in 0..ATTEMPTS {
            match read_one(kv, &self.home, name)? {
                Some(bound) if bound == *spec => return Ok(()),
                Some(bound) => {
                    return Err(DriverError::new(
                        ErrorKind::AlreadyExists,
                        format!("{name:?} is the volume {bound} already"),
                    ));
                }
                None => {}
            }
            let swap = Swap { key: name, expected: None, new: Some(target.as_bytes()) };
            if kv.swap(&self.home, OBJECT, &[swap])? {
                return Ok(());
            }
        }
        Err(DriverError::new(ErrorKind::Busy, format!("the name {name:?} keeps changing")))
    }

    /// Takes the binding of a name to this image back.
    pub fn unbind(&self, kv: &dyn ClusterKv, name: &str, spec: &ImageSpec) -> Result<()> {
        let target = spec.to_string();
        // Whoever has bound it to another image meanwhile keeps that.
        let swap = Swap { key: name, expected: Some(target.as_bytes()), new: None };
        kv.swap(&self.home, OBJECT, &[swap])?;
        Ok(())
    }
}

/// Without its pool nothing is known of a name; it is not known to be free.
fn without_pool(e: DriverError) -> DriverError {
    let kind = if e.kind == ErrorKind::NotFound { ErrorKind::Config } else { e.kind };
    DriverError { kind, ..e }
}

/// One name of the registry.
pub fn read_one(kv: &dyn ClusterKv, home: &Place, name: &str) -> Result<Option<ImageSpec>> {
    let hint = format!(
        "it is damaged, or written by a newer version of the plugin: rados -p {} listomapvals {OBJECT} shows it",
        home.0
    );
    let found = understood(kv.some_keys(home, OBJECT, &[name])?);
    Ok(look_up(&found, name).map_err(|e| e.hint(hint))?.cloned())
}

fn understood(found: Keys) -> Bindings {
    let bound = |target| String::from_utf8(target).ok().and_then(|text| ImageSpec::try_from(text).ok());
    found.into_iter().map(|(name, target)| (name, bound(target).map_or(Bound::Unread, Bound::To))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_a_binding_all_the_same() {
        let found = [("a", &b"other/a"[..]), ("b", b"{\"v\":2}"), ("c", b"\xff"), ("d", b"")];
        let found = found.map(|(name, target)| (name.to_owned(), target.to_vec()));
        let to = Bound::To(ImageSpec::new("other", None, "a").unwrap());
        let all = [("a", to), ("b", Bound::Unread), ("c", Bound::Unread), ("d", Bound::Unread)];
        assert_eq!(understood(found.into()), all.map(|(name, bound)| (name.to_owned(), bound)).into());
    }
}

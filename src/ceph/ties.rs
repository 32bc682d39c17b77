//! What an image is tied to: snapshots, clones, a group, a mirror. Each of them keeps it from being removed.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::mem::size_of;

use librbd_sys as sys;
use nix::errno::Errno;

use super::call::{Fit, c_string, check, fit, string, text};
use super::{Image, IoCtx, Result};

/// A snapshot of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Who made it.
    pub of: SnapshotOf,
    /// Whether it is protected, for clones of format 1.
    pub protected: bool,
}

/// Who a snapshot belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SnapshotOf {
    /// Whoever made it: `rbd snap ls` shows these.
    User,
    /// A snapshot of a whole group.
    Group,
    /// Removed by its user, and kept for the sake of clones.
    Trash,
    /// rbd-mirror.
    Mirror,
    /// Something that these headers do not know.
    Unknown,
}

/// What mirroring makes of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mirrored {
    /// Whether it may be written here.
    pub primary: bool,
}

impl Image {
    /// Its snapshots, those too that `rbd snap ls` does not show.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let found = fit("rbd_snap_list", self.object(), 16, |room| {
            let mut found = vec![sys::rbd_snap_info_t::default(); room];
            let Ok(mut count) = c_int::try_from(room) else { return Fit::Failed(-i64::from(libc::ERANGE)) };
            // SAFETY: the image is open, and `count` entries may be written.
            let rc = unsafe { sys::rbd_snap_list(self.raw(), found.as_mut_ptr(), &raw mut count) };
            match usize::try_from(rc) {
                Ok(listed) => {
                    // SAFETY: librbd has stored a string in each.
                    let name = |snap: &sys::rbd_snap_info_t| unsafe { text(snap.name) };
                    let listed = found.iter().take(listed);
                    let names =
                        listed.map(|snap| (snap.id, name(snap).unwrap_or_default())).collect::<Vec<_>>();
                    // SAFETY: librbd has filled the entries, the last one with a null pointer, and they are freed here only.
                    unsafe { sys::rbd_snap_list_end(found.as_mut_ptr()) }
                    Fit::Fits(names)
                }
                Err(_) if rc == -libc::ERANGE => Fit::Needs(usize::try_from(count).unwrap_or(0)),
                Err(_) => Fit::Failed(rc.into()),
            }
        })?;
        found.into_iter().map(|(id, name)| self.snapshot(id, name)).collect()
    }

    fn snapshot(&self, id: u64, name: String) -> Result<Snapshot> {
        use sys::rbd_snap_namespace_type_t as T;
        let mut kind = T::RBD_SNAP_NAMESPACE_TYPE_USER;
        // SAFETY: the image is open, and one value is stored.
        let rc = unsafe { sys::rbd_snap_get_namespace_type(self.raw(), id, &raw mut kind) };
        check("rbd_snap_get_namespace_type", self.object(), rc.into())?;
        let of = match kind {
            T::RBD_SNAP_NAMESPACE_TYPE_USER => SnapshotOf::User,
            T::RBD_SNAP_NAMESPACE_TYPE_GROUP => SnapshotOf::Group,
            T::RBD_SNAP_NAMESPACE_TYPE_TRASH => SnapshotOf::Trash,
            T::RBD_SNAP_NAMESPACE_TYPE_MIRROR => SnapshotOf::Mirror,
            _ => SnapshotOf::Unknown,
        };
        let mut protected = 0;
        if of == SnapshotOf::User {
            let call = "rbd_snap_is_protected";
            let c_name = c_string(call, name.clone())?;
            // SAFETY: the image is open, the name ends with a zero byte, and one number is stored.
            let rc = unsafe { sys::rbd_snap_is_protected(self.raw(), c_name.as_ptr(), &raw mut protected) };
            check(call, self.object(), rc.into())?;
        }
        Ok(Snapshot { name, of, protected: protected != 0 })
    }

    /// The clones of all its snapshots, as `pool/image` or `pool/namespace/image`.
    pub fn children(&self) -> Result<Vec<String>> {
        fit("rbd_list_children3", self.object(), 16, |room| {
            let mut found = vec![sys::rbd_linked_image_spec_t::default(); room];
            let mut count = room;
            // SAFETY: the image is open, and `count` entries may be written.
            let rc = unsafe { sys::rbd_list_children3(self.raw(), found.as_mut_ptr(), &raw mut count) };
            match rc {
                0.. => {
                    let names = found.iter().take(count).map(linked).collect();
                    // SAFETY: librbd has filled so many entries with strings of its own, and they are freed here only.
                    unsafe { sys::rbd_linked_image_spec_list_cleanup(found.as_mut_ptr(), count) }
                    Fit::Fits(names)
                }
                _ if rc == -libc::ERANGE => Fit::Needs(count),
                _ => Fit::Failed(rc.into()),
            }
        })
    }

    /// The group that it is in, as `pool/group`.
    pub fn group(&self) -> Result<Option<String>> {
        let mut found = sys::rbd_group_info_t::default();
        let size = size_of::<sys::rbd_group_info_t>();
        // SAFETY: the image is open, and one structure of that size is stored.
        let rc = unsafe { sys::rbd_get_group(self.raw(), &raw mut found, size) };
        check("rbd_get_group", self.object(), rc.into())?;
        // SAFETY: librbd has stored a string, an empty one without a group.
        let name = unsafe { text(found.name) }.filter(|name| !name.is_empty());
        let pool = self.io().cluster().pool_name(found.pool);
        // SAFETY: filled by librbd, and freed here only.
        unsafe { sys::rbd_group_info_cleanup(&raw mut found, size) };
        Ok(name.map(|name| match pool {
            Ok(pool) => format!("{pool}/{name}"),
            Err(_) => name,
        }))
    }

    /// Whether it is mirrored, and is what here.
    pub fn mirrored(&self) -> Result<Option<Mirrored>> {
        let mut found = sys::rbd_mirror_image_info_t::default();
        let size = size_of::<sys::rbd_mirror_image_info_t>();
        // SAFETY: the image is open, and one structure of that size is stored.
        let rc = unsafe { sys::rbd_mirror_image_get_info(self.raw(), &raw mut found, size) };
        match check("rbd_mirror_image_get_info", self.object(), rc.into()) {
            Err(e) if e.errno == Errno::ENOENT => return Ok(None),
            done => drop(done?),
        }
        let enabled = found.state != sys::rbd_mirror_image_state_t::RBD_MIRROR_IMAGE_DISABLED;
        let primary = found.primary;
        // SAFETY: filled by librbd, and freed here only.
        unsafe { sys::rbd_mirror_image_get_info_cleanup(&raw mut found) };
        Ok(enabled.then_some(Mirrored { primary }))
    }

    /// Bytes of it; what lies behind its end is left out.
    pub fn read(&self, at: u64, most: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0_u8; most];
        // SAFETY: the image is open, and `most` bytes may be written.
        let rc = unsafe { sys::rbd_read2(self.raw(), at, most, bytes.as_mut_ptr().cast::<c_char>(), 0) };
        let read = check("rbd_read2", self.object(), rc as i64)?;
        bytes.truncate(usize::try_from(read).unwrap_or(most));
        Ok(bytes)
    }
}

fn linked(found: &sys::rbd_linked_image_spec_t) -> String {
    // SAFETY: librbd has stored a string in each of the three.
    let [pool, namespace, name] =
        [found.pool_name, found.pool_namespace, found.image_name].map(|part| unsafe { text(part) });
    let parts = [pool, namespace, name].into_iter().flatten().filter(|part| !part.is_empty());
    let trash = if found.trash { " (in the trash)" } else { "" };
    format!("{}{trash}", parts.collect::<Vec<_>>().join("/"))
}

/// An image in the trash of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trashed {
    /// What `rbd trash restore` wants to know.
    pub id: String,
    /// What it was called.
    pub name: String,
    /// Whether it is there because it is being migrated.
    pub migrating: bool,
}

impl IoCtx {
    /// What is in the trash.
    pub fn trash(&self) -> Result<Vec<Trashed>> {
        fit("rbd_trash_list", self.place(), 64, |room| {
            let mut found = vec![sys::rbd_trash_image_info_t::default(); room];
            let mut count = room;
            // SAFETY: the handle is live, and `count` entries may be written.
            let rc = unsafe { sys::rbd_trash_list(self.raw(), found.as_mut_ptr(), &raw mut count) };
            match rc {
                0.. => {
                    let names = found.iter().take(count).map(trashed).collect();
                    // SAFETY: librbd has filled so many entries with strings of its own, and they are freed here only.
                    unsafe { sys::rbd_trash_list_cleanup(found.as_mut_ptr(), count) }
                    Fit::Fits(names)
                }
                _ if rc == -libc::ERANGE => Fit::Needs(count),
                _ => Fit::Failed(rc.into()),
            }
        })
    }

    /// What `rbd config pool set` has set for the pool.
    pub fn pool_setting(&self, key: &str) -> Result<Option<String>> {
        let call = "rbd_pool_metadata_get";
        let c_key = c_string(call, format!("conf_{key}"))?;
        let found = fit(call, self.named(key), 256, |room| {
            let mut value = vec![0_u8; room];
            let mut length = room;
            // SAFETY: the handle is live, the key ends with a zero byte, and `length` bytes may be written.
            let rc = unsafe {
                sys::rbd_pool_metadata_get(
                    self.raw(),
                    c_key.as_ptr(),
                    value.as_mut_ptr().cast::<c_char>(),
                    &raw mut length,
                )
            };
            match rc {
                0.. => Fit::Fits(string(&value)),
                _ if rc == -libc::ERANGE => Fit::Needs(length),
                _ => Fit::Failed(rc.into()),
            }
        });
        match found {
            Err(e) if e.errno == Errno::ENOENT => Ok(None),
            found => found.map(Some),
        }
    }
}

fn trashed(found: &sys::rbd_trash_image_info_t) -> Trashed {
    // SAFETY: librbd has stored a string in it.
    let id = unsafe { text(found.id) }.unwrap_or_default();
    // SAFETY: as for the id.
    let name = unsafe { text(found.name) }.unwrap_or_default();
    let migrating = found.source == sys::rbd_trash_image_source_t::RBD_TRASH_IMAGE_SOURCE_MIGRATION;
    Trashed { id, name, migrating }
}

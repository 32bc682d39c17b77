//! What a Create or a Remove that died has left: an image in the midst of being made, or of being deleted.

use nix::errno::Errno;

use super::Block;
use crate::backend::Device;
use crate::model::error::{CallError, DriverError, ErrorKind, Result};
use crate::model::filesystem::{Content, MountFlags};
use crate::model::name::ImageSpec;
use crate::model::record::{Record, Stage};

impl Block {
    /// Makes a half-made image blank again, or takes it away when it is ours, provided that nobody else's data can be on it.
    /// The caller has claimed it.
    pub(super) fn clear_half_made(
        &self,
        spec: &ImageSpec,
        record: &mut Record,
        has_image: bool,
    ) -> Result<()> {
        let refuse = |found: &str| {
            Err(DriverError::new(
                ErrorKind::ForeignData,
                format!("{spec} was left half made, and holds {found} that this plugin did not write"),
            )
            .hint("look at it, then format or remove it yourself"))
        };
        match &record.stage {
            _ if !has_image => {}
            // Being deleted: only the image itself can be missing, see ImageStore::remove.
            Stage::Ready => {}
            Stage::Creating if self.store.is_untouched(spec)? => {}
            Stage::Creating => return refuse("data"),
            Stage::Formatting { uuid } => {
                let device = self.store.map(spec)?;
                let found = self.look_for_data(spec, &device, uuid);
                self.store.unmap(spec, device)?;
                if let Some(what) = found? {
                    return refuse(&what);
                }
            }
        }
        // Whatever was being deleted is deleted.
        if !record.adopted || !has_image {
            return self.store.remove(spec);
        }
        self.store.discard(spec)?;
        record.stage = Stage::Creating;
        self.store.write_record(spec, record)
    }

    /// What an image that died while it was formatted holds beyond what mkfs wrote: another filesystem, or files.
    fn look_for_data(&self, spec: &ImageSpec, device: &Device, uuid: &String) -> Result<Option<String>> {
        let filesystem = match self.disks.probe(device, None)? {
            Content::Nothing => return Ok(None),
            Content::Filesystem(found) if found.uuid.as_ref() == Some(uuid) => found,
            other => return Ok(Some(other.to_string())),
        };
        let staging = self.staging(spec);
        let flags = MountFlags { options: String::new(), read_only: true };
        self.host.make_dir(&staging)?;
        let empty = match self.disks.mount(device, &filesystem, &staging, &flags) {
            Ok(_) => self.disks.is_empty(&staging),
            // mkfs did not get far enough for anybody to have used it.
            Err(e) if is_damage(&e) => Ok(true),
            Err(e) => Err(e),
        };
        let empty = empty.map_err(|e| {
            e.context(format_args!("it cannot be seen whether {spec}, left half made, holds files"))
        });
        self.host.unmount(&staging)?;
        self.host.remove_dir(&staging)?;
        Ok((!empty?).then(|| "files".to_owned()))
    }
}

/// Whether a filesystem was not mounted because the kernel or its checker has found it incomplete or damaged. Any other failure (no memory,
/// no answer of the storage, a kernel that does not know it) says nothing about what it holds.
fn is_damage(e: &DriverError) -> bool {
    let refused = |call: &CallError| matches!(call.errno, Errno::EINVAL | Errno::EUCLEAN | Errno::EBADMSG);
    e.kind == ErrorKind::NeedsRepair && e.source.as_ref().is_some_and(refused)
}

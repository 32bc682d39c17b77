//! Images in the cluster, and the record kept in the metadata of each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nix::errno::Errno;

use super::glance::glance;
use super::header::{self, Stored};
use super::link::{Place, Session, place};
use super::owned::needs_advisory_lock;
use super::places::{self, Configured};
use super::{RbdBackend, inside, kinds, options};
use crate::backend::{Device, ImageStore, Look};
use crate::ceph::{Image, ImageName, IoCtx};
use crate::coordination::record::taken_away;
use crate::model::bindings::Bindings;
use crate::model::error::{CallError, DriverError, ErrorKind, Result};
use crate::model::filesystem::Content;
use crate::model::image::{ImageInfo, Listing, NoVolume};
use crate::model::name::ImageSpec;
use crate::model::options::ImageOptions;
use crate::model::owner::Owner;
use crate::model::record::{Record, Stage};
use crate::model::size::Size;

/// How often a long removal says how far it is.
const TELLS: Duration = Duration::from_secs(10);

/// The directory of a pool's trash. librbd removes images by way of it, and makes it when it is first needed; in a full pool it cannot, and
/// then says of the image that it is not there (measured on 16.2). So it is made before there is anything to remove.
const TRASH: &str = "rbd_trash";

impl RbdBackend {
    /// The pool of an image; none when there is no such pool, and none is expected.
    fn pool_of(&self, session: &Session, spec: &ImageSpec) -> Result<Option<IoCtx>> {
        match session.of(spec) {
            Err(e)
                if e.kind == ErrorKind::NotFound && !self.options.pools.iter().any(|p| p == spec.pool()) =>
            {
                Ok(None)
            }
            // A pool of ours that is gone is a mistake of somebody, and no reason to forget its volumes.
            Err(e) if e.kind == ErrorKind::NotFound => Err(DriverError { kind: ErrorKind::Config, ..e }),
            io => io.map(Some),
        }
    }

    /// See [`ImageStore::may_exist`].
    fn look(&self, spec: &ImageSpec) -> Result<bool> {
        let session = self.link.session()?;
        let Some(io) = self.pool_of(&session, spec)? else { return Ok(false) };
        match header::id(&io, spec.image())? {
            Some(id) => {
                self.seen.note(spec, &id, None);
                Ok(true)
            }
            // Whether the pool is there as well, or an image of the old format.
            None => Ok(self.info_of(spec)?.is_some_and(|info| !info.is_half_made())),
        }
    }

    fn info_of(&self, spec: &ImageSpec) -> Result<Option<ImageInfo>> {
        let session = self.link.session()?;
        let Some(io) = self.pool_of(&session, spec)? else { return Ok(None) };
        let seen = self.seen.of(spec);
        let id = match &seen {
            Some((id, _)) => Some(id.clone()),
            None => header::id(&io, spec.image())?,
        };
        let Some(id) = id else {
            // In a pool that was deleted, everything is "not found".
            match session.still(&place(spec), &io) {
                // A pool that is configured is missed; a namespace that is not, may be gone.
                Err(e)
                    if e.kind == ErrorKind::Config
                        && !Configured::new(&self.options).is_home(&place(spec))
                        && (!self.options.pools.iter().any(|pool| pool == spec.pool())
                            || session.cluster.ioctx(spec.pool(), None).is_ok()) =>
                {
                    return Ok(None);
                }
                still => still?,
            }
            // Claimed and perhaps begun, but not there.
            return match self.owners.making(&self.cluster()?, spec)? {
                Some(record) => Ok(Some(half_made(record, None))),
                None => match kinds::nameless(&io, spec)? {
                    None => kinds::format_1(&io, spec),
                    found => Ok(found),
                },
            };
        };
        let header = match seen {
            Some((_, header)) => Some(header),
            None => header::read(&io, &id)?,
        };
        let Some(header) = header else {
            self.catalogue.forget(spec, &id);
            // The name is there and the header is not: a Create or a removal died inside librbd. Nothing is left to adopt.
            let gone = Record::new(Stage::Ready, false, 0, ImageOptions::default());
            let record = self.owners.making(&self.cluster()?, spec)?.unwrap_or(gone);
            return Ok(Some(half_made(record, None)));
        };
        let (record, removing) = match &header.record {
            Some(stored) => (Some(stored.record.clone()), stored.removing),
            // Made by a Create that died before it could write the record.
            None if header.damage.is_none() => (self.owners.making(&self.cluster()?, spec)?, false),
            None => (None, false),
        };
        let is = kinds::is(&io, &header);
        let details = kinds::details(&io, &header, &is);
        let info = ImageInfo {
            size: (!removing).then_some(header.size),
            record,
            created: header.created,
            allocated: None,
            id: Some(id),
            is,
            trouble: kinds::trouble(spec, &header, self.kernel.supported_features()?),
            details,
        };
        if let (true, Some(id)) = (info.is_half_made(), &info.id) {
            self.catalogue.forget(spec, id);
        }
        Ok(Some(info))
    }

    fn make(&self, spec: &ImageSpec, size: Size, record: &Record) -> Result<()> {
        self.seen.forget(spec);
        let session = self.link.session()?;
        let io = session.of(spec)?;
        session.kernel_key()?;
        let plan = self.plan(&io, spec, &record.options)?;
        self.check_new_data_pool(&session, &io, spec, &plan)?;
        if header::id(&io, spec.image())?.is_some() {
            return Err(DriverError::new(ErrorKind::AlreadyExists, format!("{spec} exists")));
        }
        if !self.owners.holds_name(spec) {
            // The claim was on an image that has been cleared away since.
            self.claim_image(spec)?;
        }
        let kv = self.cluster()?;
        let noted = |making: Option<&Record>| match self.owners.note_making(&kv, spec, making) {
            Ok(false) => Err(taken_away(spec)),
            noted => noted.map(drop),
        };
        io.create_object(TRASH)?;
        noted(Some(record))?;
        let mut made = io.create_image(spec.image(), size.as_bytes(), &plan.layout);
        if made.as_ref().is_err_and(|e| e.errno == Errno::EEXIST) && inside::clear_entry(&io, spec)? {
            made = io.create_image(spec.image(), size.as_bytes(), &plan.layout);
        }
        match made {
            Ok(()) => {}
            Err(e) if e.errno == Errno::EEXIST => {
                noted(None)?;
                return Err(DriverError::new(ErrorKind::AlreadyExists, format!("{spec} exists")));
            }
            // The pools are there: the namespace was removed this moment.
            Err(e) if e.errno == Errno::ENOENT => {
                places::require_namespace(&io)?;
                return Err(plan.explain(&io, spec, size, e));
            }
            Err(e) => return Err(plan.explain(&io, spec, size, e)),
        }
        let gone = || DriverError::new(ErrorKind::Failed, format!("{spec} was removed while it was made"));
        let id = header::id(&io, spec.image())?.ok_or_else(gone)?;
        self.owners.claim_made(&kv, spec, &id)?;
        header::write_record(
            &io,
            &id,
            &Stored { record: record.clone(), image: id.clone(), removing: false },
        )?;
        noted(None)?;
        match header::read(&io, &id)? {
            Some(header) => {
                let needs_lock = needs_advisory_lock(header.features);
                self.owners.complete_claim(&kv, &self.host(&kv), spec, &id, needs_lock)?;
                self.seen.note(spec, &id, Some(header));
                Ok(())
            }
            None => Err(gone()),
        }
    }

    fn write(&self, spec: &ImageSpec, record: &Record, removing: bool) -> Result<()> {
        self.seen.forget(spec);
        let kv = self.cluster()?;
        match self.owners.own_id(&kv, spec)? {
            Some(id) => {
                let stored = Stored { record: record.clone(), image: id.clone(), removing };
                Ok(header::write_record(&kv.session.of(spec)?, &id, &stored)?)
            }
            None => self.owners.note_making(&kv, spec, Some(record)).map(drop),
        }
    }

    fn delete(&self, spec: &ImageSpec) -> Result<()> {
        self.seen.forget(spec);
        let kv = self.cluster()?;
        let io = kv.session.of(spec)?;
        let header = match self.owners.own_id(&kv, spec)? {
            Some(id) => header::read(&io, &id)?,
            None => None,
        };
        let record = header.as_ref().map(|header| {
            header.record.clone().map_or_else(
                || Record::new(Stage::Ready, true, 0, ImageOptions::default()),
                |stored| stored.record,
            )
        });
        if let (Some(record), Some(header)) = (&record, &header) {
            kinds::refuse_unless_removable(&io, spec, header)?;
            self.write(spec, record, true)?;
        } else if let Some(trouble) = kinds::format_1(&io, spec)?.and_then(|info| info.trouble) {
            return Err(trouble.why);
        }
        if header.is_none() {
            inside::refuse_nameless(&io, spec)?;
        }
        let mut told = Instant::now();
        // Also where only a name is left, or nothing: librbd goes on with a removal that died.
        let removed = io.remove_image(spec.image(), &mut |done| {
            if told.elapsed() >= TELLS {
                told = Instant::now();
                tracing::info!(image = %spec, "removing: {:.0} %", done * 100.0);
            }
        });
        match (removed, &record) {
            (Ok(()), _) => {}
            // In a full pool where nothing was ever removed, librbd says so of an image that is there, see `TRASH`.
            (Err(e), Some(record))
                if e.errno == Errno::ENOENT && header::id(&io, spec.image())?.is_some() =>
            {
                let error =
                    DriverError::new(ErrorKind::NoSpace, format!("{spec} was not removed: its pool is full"))
                        .hint("raise the pool's quota or add storage, and try again")
                        .caused_by(e);
                return Err(match self.write(spec, record, false) {
                    Ok(()) => error,
                    Err(failure) => error.also(failure),
                });
            }
            (Err(e), _) if e.errno == Errno::ENOENT => {}
            (Err(e), Some(record)) => return Err(self.not_removed(&io, spec, record, header.as_ref(), e)),
            (Err(e), None) => return Err(e.into()),
        }
        self.owners.note_making(&kv, spec, None).map(drop)
    }

    /// A refusal leaves the image whole; then it must not count as half removed.
    fn not_removed(
        &self,
        io: &IoCtx,
        spec: &ImageSpec,
        record: &Record,
        header: Option<&header::Header>,
        e: CallError,
    ) -> DriverError {
        let refused = matches!(
            e.errno,
            Errno::EBUSY
                | Errno::ENOTEMPTY
                | Errno::EROFS
                | Errno::ECHILD
                | Errno::EMLINK
                | Errno::EINVAL
                | Errno::EOPNOTSUPP
        );
        let why = header.map_or(Ok(()), |header| kinds::refuse_unless_removable(io, spec, header));
        let error = match why {
            Err(better) if refused => better.caused_by(e),
            _ => DriverError::from(e),
        };
        match refused.then(|| self.write(spec, record, false)) {
            Some(Err(failure)) => error.also(failure),
            _ => error,
        }
    }
}

fn half_made(record: Record, size: Option<Size>) -> ImageInfo {
    let created = UNIX_EPOCH + Duration::from_secs(record.created);
    ImageInfo {
        size,
        record: Some(record),
        created,
        allocated: None,
        id: None,
        is: ImageOptions::default(),
        trouble: None,
        details: BTreeMap::new(),
    }
}

impl ImageStore for RbdBackend {
    fn info(&self, spec: &ImageSpec) -> Result<Option<ImageInfo>> {
        self.link.heed(self.info_of(spec))
    }

    fn reachable(&self) -> Result<()> {
        self.link.session().map(drop)
    }

    fn may_exist(&self, spec: &ImageSpec) -> Result<bool> {
        self.link.heed(self.look(spec))
    }

    fn check_options(&self, options: &ImageOptions) -> Result<()> {
        options::check(&self.with_object_size(options))
    }

    fn list(&self) -> Result<Listing> {
        let listed = || {
            let session = self.link.session()?;
            // Without them, the configured pools are listed all the same; whoever asks for the names is told why they are not known.
            let bound = self.names.all(self.cluster()).ok().or_else(|| self.names.known());
            let bound = bound.unwrap_or_default();
            let configured = Configured::new(&self.options);
            let volumes = |io: &IoCtx, place: &Place, images: &[ImageName]| {
                self.catalogue.volumes(place, images, |images| glance(io, images), |spec| self.info_of(spec))
            };
            let heed = |e| self.link.heed_error(e);
            let listing = self.omitted.list(&session, &configured, &bound, &volumes, &heed);
            self.catalogue.listed();
            listing
        };
        self.link.heed(listed())
    }

    fn create(&self, spec: &ImageSpec, size: Size, record: &Record) -> Result<()> {
        self.link.heed(self.make(spec, size, record))
    }

    fn write_record(&self, spec: &ImageSpec, record: &Record) -> Result<()> {
        self.link.heed(self.write(spec, record, false))
    }

    fn is_untouched(&self, spec: &ImageSpec) -> Result<bool> {
        self.link.heed(self.link.session().and_then(|session| inside::is_untouched(&session.of(spec)?, spec)))
    }

    fn content(&self, spec: &ImageSpec) -> Result<Content> {
        self.link.heed(self.link.session().and_then(|session| inside::content(&session.of(spec)?, spec)))
    }

    fn whereabouts(&self, spec: &ImageSpec) -> Option<String> {
        let io = self.link.session().and_then(|session| session.of(spec)).ok()?;
        inside::whereabouts(&io, spec)
    }

    fn discard(&self, spec: &ImageSpec) -> Result<()> {
        let discarded = || {
            let kv = self.cluster()?;
            self.owners.own_id(&kv, spec)?;
            Ok(Image::open(&kv.session.of(spec)?, spec.image())?.discard_all()?)
        };
        self.link.heed(discarded())
    }

    fn no_volumes(&self) -> Vec<NoVolume> {
        self.catalogue.no_volumes()
    }

    fn remove(&self, spec: &ImageSpec) -> Result<()> {
        self.link.heed(self.delete(spec))
    }

    fn rename(&self, from: &ImageSpec, to: &ImageSpec) -> Result<()> {
        let renamed = || {
            self.seen.forget(from);
            self.seen.forget(to);
            let kv = self.cluster()?;
            let io = kv.session.of(from)?;
            if self.owners.own_id(&kv, from)?.is_none() {
                return Err(DriverError::new(ErrorKind::NotFound, format!("{from} does not exist")));
            }
            match io.rename_image(from.image(), to.image()) {
                Err(e) if e.errno == Errno::EEXIST => {
                    return Err(DriverError::new(ErrorKind::AlreadyExists, format!("{to} exists")));
                }
                renamed => renamed?,
            }
            self.owners.renamed(&kv, from, to)
        };
        self.link.heed(renamed())
    }

    fn claim(&self, spec: &ImageSpec) -> Result<()> {
        self.link.heed(self.claim_image(spec))
    }

    fn release(&self, spec: &ImageSpec) -> Result<()> {
        self.link.heed(self.release_image(spec))
    }

    fn owner(&self, spec: &ImageSpec, id: Option<&str>) -> Result<Option<Owner>> {
        self.link.heed(self.owner_of(spec, id))
    }

    fn is_copy(&self, spec: &ImageSpec, of: &Device) -> Result<bool> {
        self.link.heed(self.is_kin(spec, of))
    }

    fn owned(&self) -> Result<Listing> {
        self.link.heed(self.find_own())
    }

    fn leftovers(&self) -> Result<Vec<ImageSpec>> {
        self.link.heed(self.find_leftovers())
    }

    fn look(&self, mounted: &[ImageSpec]) -> Result<Look> {
        self.look_at(mounted)
    }

    fn mend(&self, spec: &ImageSpec) -> Result<Option<String>> {
        self.link.heed(self.mend_record(spec))
    }

    fn note_uses(&self, spec: &ImageSpec, ids: &[String]) -> Result<()> {
        self.link.heed(self.cluster().and_then(|kv| self.owners.note_ids(&kv, spec, ids)))
    }

    fn bindings(&self) -> Result<Arc<Bindings>> {
        self.link.heed(self.names.all(self.cluster()))
    }

    fn binding(&self, name: &str) -> Result<Option<ImageSpec>> {
        self.link.heed(self.names.one(self.cluster(), name))
    }

    fn known_bindings(&self) -> Result<Arc<Bindings>> {
        self.names.known().map_or_else(|| self.bindings(), Ok)
    }

    fn bind(&self, name: &str, spec: &ImageSpec) -> Result<()> {
        self.link.heed(self.cluster().and_then(|kv| self.names.bind(&kv, name, spec)))
    }

    fn unbind(&self, name: &str, spec: &ImageSpec) -> Result<()> {
        self.link.heed(self.cluster().and_then(|kv| self.names.unbind(&kv, name, spec)))
    }
}

//! Images that stay open for one question: who watches them.
//!
//! Opening an image takes some twenty round trips, the question itself one, which the OSD answers afresh each time. An image that is open
//! read-only watches nothing, holds nothing and can be removed or renamed meanwhile; it is kept by its id, which no other image ever gets.

use std::sync::{Arc, Mutex};

use nix::errno::Errno;

use crate::ceph::{Image, IoCtx, Watcher};
use crate::lock;
use crate::model::error::Result;
use crate::model::name::ImageSpec;

/// So many at most; the one that was asked for longest ago is closed first.
const MOST: usize = 32;

/// An image of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    client: u64,
    pool: i64,
    namespace: Option<String>,
    id: String,
}

/// See the module. The last one was used last.
#[derive(Debug, Default)]
pub(super) struct Opened(Mutex<Vec<(Key, Arc<Image>)>>);

impl Opened {
    /// Who watches an image, whose id was looked up just now; none when it is gone.
    pub(super) fn watchers(&self, io: &IoCtx, spec: &ImageSpec, id: &str) -> Result<Vec<Watcher>> {
        let key = Key {
            client: io.cluster().instance_id(),
            pool: io.pool_id(),
            namespace: io.namespace().map(str::to_owned),
            id: id.to_owned(),
        };
        let image = match self.take(&key) {
            Some(image) => image,
            None => match Image::open_read_only(io, spec.image()) {
                Err(e) if e.errno == Errno::ENOENT => return Ok(Vec::new()),
                image => Arc::new(image?),
            },
        };
        let watchers = match image.watchers() {
            Err(e) if e.errno == Errno::ENOENT => return Ok(Vec::new()),
            watchers => watchers?,
        };
        // The name may have become another image's before it was opened.
        if image.id()? == id {
            self.keep(key, image);
        }
        Ok(watchers)
    }

    /// Takes it out: what fails is not kept.
    fn take(&self, key: &Key) -> Option<Arc<Image>> {
        let mut opened = lock(&self.0);
        let at = opened.iter().position(|(other, _)| other == key)?;
        Some(opened.remove(at).1)
    }

    fn keep(&self, key: Key, image: Arc<Image>) {
        let mut closed = Vec::new();
        {
            let mut opened = lock(&self.0);
            // Those of a client that was thrown away would keep it connected.
            let client = key.client;
            closed.extend(opened.extract_if(.., |(other, _)| other.client != client));
            opened.push((key, image));
            if opened.len() > MOST {
                closed.push(opened.remove(0));
            }
        }
        // Closing takes round trips: not under the lock.
        drop(closed);
    }
}

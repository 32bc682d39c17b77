//! The blocklist as it was read last.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::blocklist::Blocklist;
use super::kv::ClusterKv;
use crate::lock;
use crate::model::error::Result;

/// The list, read at most so often.
#[derive(Debug, Default)]
pub struct BlocklistCache(Mutex<Option<(Instant, Arc<Blocklist>)>>);

impl BlocklistCache {
    /// What was read within this time, or what is read now.
    pub fn of(&self, kv: &dyn ClusterKv, within: Duration) -> Result<Arc<Blocklist>> {
        let known = lock(&self.0).as_ref().filter(|(read, _)| read.elapsed() < within).cloned();
        if let Some((_, list)) = known {
            return Ok(list);
        }
        let list = Arc::new(kv.blocklist()?);
        *lock(&self.0) = Some((Instant::now(), Arc::clone(&list)));
        Ok(list)
    }
}

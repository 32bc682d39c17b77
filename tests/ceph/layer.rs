//! The safe layer over librados and librbd.

mod connect;
mod images;
mod life;
mod locks;
mod objects;
mod outage;

use libtest_mimic::Trial;

use crate::rig::Ready;

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let parts =
        [connect::trials, objects::trials, locks::trials, images::trials, life::trials, outage::trials];
    parts.into_iter().flat_map(|trials| trials(ready)).collect()
}

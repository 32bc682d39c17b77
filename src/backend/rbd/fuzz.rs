//! Everything that reads bytes of the cluster or of ceph.conf's files, for the fuzz target `ceph_answers`.

use super::{header, inspect, monitors, secret};
use crate::coordination::blocklist::Blocklist;
use crate::coordination::record::OwnerRecord;

/// Any bytes are understood or refused.
pub fn answers(bytes: &[u8]) {
    let fields: Vec<_> = bytes.splitn(6, |byte| *byte == b'|').map(|field| Ok(field.to_vec())).collect();
    drop(header::understand("1", &fields));
    drop(header::understand_id("a", bytes));
    drop(OwnerRecord::parse(bytes));
    if let Ok(list) = Blocklist::parse(bytes) {
        for fence in list.clone().into_fences() {
            drop(list.covers(&fence.address));
        }
    }
    drop(inspect::parse_health(bytes));
    drop(monitors::parse(bytes));
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(header::parse_record(text, "1"));
    }
}

/// A keyring: what is read as a key is one, and what is wrong has a line that is there.
pub fn keyring(bytes: &[u8]) {
    if let Err((line, _)) = secret::in_keyring(bytes, "client.a") {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
        assert!((1..=lines).contains(&line));
    }
}

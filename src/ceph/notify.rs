//! Asking whoever watches an object for a sign of life.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ptr;
use std::time::Duration;

use librbd_sys as sys;
use nix::errno::Errno;

use super::bounded::bounded;
use super::call::{Answer, c_string, check};
use super::{IoCtx, Result};
use crate::model::error::CallError;

impl IoCtx {
    /// Sends an empty notification to all who watch an object, and waits for their acknowledgements at most so long. Answers the clients
    /// that have given one, by [`instance_id`](super::Cluster::instance_id). On the header of an image that is harmless: kernels and librbd read
    /// the header again. A missing object is `ENOENT`.
    pub fn answering(&self, object: &str, patience: Duration) -> Result<BTreeSet<u64>> {
        let (io, named) = (self.clone(), object.to_owned());
        // No timeout of librados ends it while the OSD does not answer.
        let limit = patience + self.cluster().timeout();
        bounded(self.cluster(), limit, CALL, &self.named(object), move |_| io.notify(&named, patience))
    }

    fn notify(&self, object: &str, patience: Duration) -> Result<BTreeSet<u64>> {
        let oid = c_string(CALL, object)?;
        let mut answer = Answer::new();
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        // SAFETY: the handle is live, the name ends with a zero byte, nothing is sent, and one buffer and its length are stored.
        let rc = unsafe {
            sys::rados_notify2(
                self.raw(),
                oid.as_ptr(),
                ptr::null(),
                0,
                patience,
                &raw mut answer.data,
                &raw mut answer.length,
            )
        };
        match check(CALL, self.named(object), rc.into()) {
            // Not everybody has answered: those who did are listed all the same.
            Err(e) if e.errno == Errno::ETIMEDOUT && answer.length > 0 => {}
            done => drop(done?),
        }
        acknowledged(&answer.to_vec()).ok_or_else(|| CallError::new(CALL, self.named(object), Errno::EBADMSG))
    }
}

const CALL: &str = "rados_notify2";

/// The clients that an answer names before those that have not answered: for each its id, the cookie of its watch, and what it said.
fn acknowledged(answer: &[u8]) -> Option<BTreeSet<u64>> {
    let mut rest = answer;
    let count = u32::from_le_bytes(take(&mut rest)?);
    let mut clients = BTreeSet::new();
    for _ in 0..count {
        clients.insert(u64::from_le_bytes(take(&mut rest)?));
        take::<8>(&mut rest)?;
        let length = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).ok()?;
        rest = rest.get(length..)?;
    }
    Some(clients)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (field, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_those_who_acknowledged_and_then_those_who_did_not() {
        let mut answer = 2_u32.to_le_bytes().to_vec();
        for (client, said) in [(4123_u64, &b""[..]), (4200, b"abc")] {
            answer.extend(client.to_le_bytes());
            answer.extend(7_u64.to_le_bytes());
            answer.extend(u32::try_from(said.len()).unwrap().to_le_bytes());
            answer.extend(said);
        }
        answer.extend(1_u32.to_le_bytes());
        answer.extend([9_u64.to_le_bytes(), 7_u64.to_le_bytes()].concat());
        assert_eq!(acknowledged(&answer), Some(BTreeSet::from([4123, 4200])));
        assert_eq!(acknowledged(&[0, 0, 0, 0, 0, 0, 0, 0]), Some(BTreeSet::new()));
        for cut in 4..44 {
            assert_eq!(acknowledged(&answer[..cut]), None, "{cut}");
        }
        assert_eq!(acknowledged(b""), None);
    }
}

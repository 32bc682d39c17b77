//! Single cases of the protocol, call by call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rbd_docker_plugin::coordination::memory::{Client, Gate, Memory, Passing};
use rbd_docker_plugin::coordination::owners::Defects;
use rbd_docker_plugin::coordination::{Owners, Settings};
use rbd_docker_plugin::model::name::ImageSpec;

use crate::plugin::identity;
use crate::schedule::Open;

/// Loses the answer of the next change.
#[derive(Debug, Default)]
struct LosesOne(AtomicU32);

impl Gate for LosesOne {
    fn pass(&self, call: &'static str) -> Passing {
        let is_first = call == "swap" && self.0.fetch_add(1, Ordering::Relaxed) == 0;
        if is_first { Passing::AnswerLost } else { Passing::Go }
    }

    fn wait(&self, memory: &Memory, time: Duration) {
        memory.advance(time);
    }
}

fn owners(host: usize) -> Owners {
    let settings = Settings {
        takeover: true,
        dead_after: Duration::from_secs(10),
        fence: Duration::from_secs(86_400),
        defects: Defects::default(),
    };
    Owners::new(identity(host, 0), settings)
}

#[test]
fn a_claim_whose_answer_was_lost_is_given_back_under_another_name() {
    let memory = Arc::new(Memory::default());
    let spec = |name: &str| ImageSpec::new("rbd", None, name).unwrap();
    memory.create(&spec("a"));
    let (one, kv) = (owners(0), Client::new(&memory, 0, Arc::new(LosesOne::default())));
    one.claim(&kv, &kv, &spec("a"), None).unwrap_err();
    memory.rename(&spec("a"), &spec("b"));
    one.release(&kv, &kv, &spec("a"), |_| Ok(false)).unwrap();
    let (two, kv) = (owners(1), Client::new(&memory, 1, Arc::new(Open)));
    assert!(two.claim(&kv, &kv, &spec("b"), None).unwrap().is_some());
}

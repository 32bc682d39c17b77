//! The backend rbd with 100 000 images, and with as many bound names.
//!
//! The images are what List looks at: an entry in the pool's directory, and a header. librbd would take minutes to make them.

use std::path::Path;
use std::thread::scope;

use rbd_docker_plugin::ceph::{IoCtx, Swap};

use crate::cluster::Lab;
use crate::common::{Session, median, shown, timed};
use crate::daemon::Daemon;
use crate::fake_kernel::FakeKernel;
use crate::table::{compared, skipped, told};

const MANY: usize = 100_000;
/// So many images are made at a time.
const MAKERS: usize = 8;
/// So many keys are written with one request.
const KEYS: usize = 1000;
/// How often each request is sent.
const ROUNDS: usize = 5;
const GETS: usize = 300;

pub(crate) fn measure(dir: &Path) {
    let lab = match Lab::start(dir) {
        Ok(lab) => lab,
        Err(why) => return skipped("100000 images", &why),
    };
    let io = lab.pool();
    fill(&io);
    let kernel = FakeKernel::unwatched(&dir.join("kernel"), &lab.conf());
    let conf = lab.conf().to_str().unwrap().to_owned();
    let mut daemon = Daemon::new("many", dir, &["--backend", "rbd", "--config", &conf, "--size", "16"]);
    daemon.start_with(&[kernel.environment()]);
    let mut session = Session::new(&daemon.socket());
    let first = timed(|| assert!(session.ask("List", "{}") > MANY));
    told(&format!("First List of {MANY} images after a start"), &shown(first));
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(timed(|| assert_eq!(lab.names(), MANY)));
        ours.push(timed(|| assert!(session.ask("List", "{}") > MANY)));
    }
    compared(&format!("List of {MANY} images"), median(ours), (median(theirs), " (rbd ls)"), 1.2);

    // Of a few at a time the first one reads what was not known.
    let mut get = || {
        let get = |_| timed(|| assert!(session.ask("Get", r#"{"Name":"light7"}"#) > 0));
        median((0..GETS).map(get).collect())
    };
    let without = get();
    bind(&io);
    let with = get();
    compared(
        &format!("Get of a bare name beside {MANY} bound names"),
        with,
        (without, " (beside none)"),
        1.3,
    );
    daemon.stop();
}

/// A string as Ceph encodes it.
fn encoded(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    [&length.to_le_bytes()[..], text.as_bytes()].concat()
}

fn fill(io: &IoCtx) {
    scope(|scope| {
        for maker in 0..MAKERS {
            scope.spawn(move || {
                for n in (maker..MANY).step_by(MAKERS) {
                    let prefix = encoded(&format!("rbd_data.light{n}"));
                    let zero = 0_u64.to_le_bytes();
                    let keys = [
                        ("size", &(1_u64 << 20).to_le_bytes()[..]),
                        ("order", &[22]),
                        ("features", &1_u64.to_le_bytes()),
                        ("object_prefix", &prefix),
                        ("snap_seq", &zero),
                    ];
                    set(io, &format!("rbd_header.light{n}"), &keys);
                }
            });
        }
    });
    let entry = |n| {
        let name = format!("light{n}");
        let of = encoded(&name);
        [(format!("name_{name}"), of.clone()), (format!("id_{name}"), of)]
    };
    set_many(io, "rbd_directory", (0..MANY).flat_map(entry).collect());
}

fn bind(io: &IoCtx) {
    let bound = |n| (format!("bound{n}"), format!("elsewhere/bound{n}").into_bytes());
    set_many(io, "rbd_docker_plugin.names", (0..MANY).map(bound).collect());
}

fn set_many(io: &IoCtx, object: &str, keys: Vec<(String, Vec<u8>)>) {
    for keys in keys.chunks(KEYS) {
        let keys: Vec<_> = keys.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        set(io, object, &keys);
    }
}

fn set(io: &IoCtx, object: &str, keys: &[(&str, &[u8])]) {
    let swaps: Vec<_> =
        keys.iter().map(|(key, value)| Swap { key, expected: None, new: Some(value) }).collect();
    assert!(io.omap_swap(object, &swaps).unwrap());
}

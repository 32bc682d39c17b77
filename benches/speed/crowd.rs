//! Very many requests at once, and the memory that is left of them.

use std::thread::{scope, sleep};
use std::time::Duration;

use serde_json::json;

use crate::common::{Session, shown, timed};
use crate::cost::{Memory, memory};
use crate::daemon::Daemon;
use crate::table::{at_most, at_most_shown, told};

/// Mounts of one volume at once.
const MOUNTS: usize = 500;
/// Lists, so many at once, by so many clients.
const LISTS: usize = 5;
const LISTERS: usize = 4;
/// Gets of one client each.
const GETS: usize = 250;
/// After which a plugin has nothing to do any more.
pub(crate) const SETTLES: Duration = Duration::from_secs(5);
/// What may be left of a load, in MB.
const LEFT: f64 = 10.0;

/// Lists of all volumes and Gets of one, several at a time.
pub(crate) fn requests(daemon: &Daemon, listed: usize) {
    let socket = daemon.socket();
    scope(|scope| {
        for _ in 0..LISTERS {
            scope.spawn(|| {
                let mut session = Session::new(&socket);
                (0..LISTS).for_each(|_| assert!(session.ask("List", "{}") > listed));
                (0..GETS).for_each(|_| assert!(session.ask("Get", r#"{"Name":"v0"}"#) > 0));
            });
        }
    });
}

/// Mounts of one volume, all at once, and then as many Unmounts.
pub(crate) fn mounts(daemon: &Daemon, volume: &str) {
    let backend = backend(daemon, volume);
    for endpoint in ["Mount", "Unmount"] {
        let mut failed = Vec::new();
        let time = timed(|| failed = at_once(daemon, endpoint, volume));
        let what = format!("{MOUNTS} {endpoint}s of one volume at once, backend {backend}: failures");
        at_most(
            &format!("{what}, in {}", shown(time)),
            f64::from(u32::try_from(failed.len()).unwrap()),
            0.0,
            "",
        );
        failed.iter().take(3).for_each(|failure| eprintln!("{endpoint} of {volume}: {failure}"));
    }
    let left = daemon.ok("Get", &json!({"Name": volume}))["Volume"]["Status"]["mounts"].as_u64();
    let left = f64::from(u32::try_from(left.unwrap_or(0)).unwrap());
    at_most(&format!("Mounts that are left of them, backend {backend}"), left, 0.0, "");
}

fn backend(daemon: &Daemon, volume: &str) -> String {
    let status = &daemon.ok("Get", &json!({"Name": volume}))["Volume"]["Status"];
    status["backend"].as_str().unwrap().to_owned()
}

/// What went wrong.
fn at_once(daemon: &Daemon, endpoint: &str, volume: &str) -> Vec<String> {
    scope(|scope| {
        let ask = |n: usize| match daemon.ask(endpoint, &json!({"Name": volume, "ID": format!("id{n}")})) {
            Some((200, _)) => None,
            other => Some(format!("{other:?}")),
        };
        let threads: Vec<_> = (0..MOUNTS).map(|n| scope.spawn(move || ask(n))).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    })
}

/// Of all that was asked of it.
pub(crate) fn memory_after(daemon: &Daemon, backend: &str, idle: Memory) {
    let load = memory(daemon.pid());
    told(&format!("Memory, backend {backend}, at the end of the load"), &load.to_string());
    sleep(SETTLES);
    let what = format!("Memory, backend {backend}, {} s after the load", SETTLES.as_secs());
    let left = memory(daemon.pid());
    at_most_shown(&what, (left.all, &left.to_string()), idle.all + LEFT, "MB");
}

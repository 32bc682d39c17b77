//! The docker tier: a real Docker engine, the real plugin, loop devices.
//!
//! Everything runs in a mount namespace of its own, with empty `/run/docker`, `/run/containerd` and `/etc/docker`: an engine
//! that this host may run neither sees the plugins under test nor is seen by them. Inside, mounts are shared, as on a
//! host with systemd. Every case has an engine and a plugin of its own, and fails when it leaves a mount, a loop device,
//! an owner file, a process or a socket behind; the last case looks for what the whole run left on the host.

// A harness of its own is no `#[test]`, so clippy.toml's leave for tests does not reach it.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

mod compose;
#[path = "../common/daemon.rs"]
mod daemon;
mod engine;
mod engine_restarts;
mod failures;
mod leaks;
mod managed;
mod managed_world;
mod options;
mod page;
mod parallel;
mod plugin;
mod plugin_restarts;
mod sharing;
mod swarm;
mod swarm_world;
mod volumes;
mod world;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::{Arguments, Completion, Trial};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitStatus, wait};

/// A case: its name, which also names its plugin, and what it does.
type Case = (&'static str, fn(&str));

/// Set in the process that runs the cases, to the process id of its parent.
const INNER: &str = "RBD_DOCKER_PLUGIN_TESTS_INNER";

fn main() -> ExitCode {
    let args = Arguments::from_args();
    if args.list || std::env::var_os(INNER).is_some() { cases(args) } else { reaper() }
}

/// Tells this run from others on the same machine.
fn run_id() -> String {
    std::env::var(INNER).unwrap_or_else(|_| std::process::id().to_string())
}

/// Runs the cases in a child and collects what they orphan: containerd of a killed engine must not stay a zombie, the next
/// engine would take it for alive, and not every container that tests run in has an init.
#[allow(clippy::zombie_processes)] // it waits for every child, below
fn reaper() -> ExitCode {
    set_child_subreaper(true).expect("to be a reaper of orphans");
    let mut inner = Command::new("/proc/self/exe");
    let inner = inner
        .args(std::env::args_os().skip(1))
        .env(INNER, run_id())
        .spawn()
        .expect("to start again as a child");
    let inner = i32::try_from(inner.id()).expect("a process id");
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == inner => {
                return ExitCode::from(u8::try_from(code).unwrap_or(1));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid.as_raw() == inner => {
                eprintln!("the docker tests were ended by {signal}");
                leaks::clear(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("docker"), None);
                leaks::remove_cgroups();
                return ExitCode::FAILURE;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("wait: {error}"),
        }
    }
}

fn cases(mut args: Arguments) -> ExitCode {
    // An engine per case: more at once only slow each other down.
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    args.test_threads.get_or_insert_with(|| cores.clamp(2, 4));

    let mut made = Vec::new();
    let skip = match engine::missing(&[]) {
        _ if args.list => None,
        Some(reason) => Some(reason),
        None => {
            made = private_namespace().expect("a mount namespace for the tests");
            None
        }
    };
    let before = if skip.is_none() { leaks::Snapshot::of_host() } else { leaks::Snapshot::default() };

    let plain = [
        volumes::CASES,
        options::CASES,
        sharing::CASES,
        failures::CASES,
        plugin_restarts::CASES,
        engine_restarts::CASES,
        parallel::CASES,
        managed::CASES,
    ]
    .concat();
    let skip_unless = |missing: fn() -> Option<String>| match args.list {
        true => None,
        false => skip.clone().or_else(missing),
    };
    let groups = [
        (&plain[..], skip.clone()),
        (compose::CASES, skip_unless(compose::missing)),
        (swarm::CASES, skip_unless(swarm_world::missing)),
    ];
    let left = Arc::new(AtomicUsize::new(0));
    let mut trials: Vec<Trial> = groups
        .into_iter()
        .flat_map(|(cases, skip)| cases.iter().map(move |&(name, case)| (name, case, skip.clone())))
        .map(|(name, case, skip)| {
            let left = Arc::clone(&left);
            Trial::ignorable_test(name, move || {
                let _done = Done(&left);
                match skip {
                    Some(reason) => Ok(Completion::ignored_with(reason)),
                    None => {
                        case(name);
                        Ok(Completion::Completed)
                    }
                }
            })
        })
        .collect();
    left.store(
        trials.iter().filter(|trial| !args.is_filtered_out(trial) && !args.is_ignored(trial)).count(),
        Ordering::SeqCst,
    );
    trials.push(Trial::ignorable_test("nothing_is_left_on_the_host", move || match skip {
        Some(reason) => Ok(Completion::ignored_with(reason)),
        None => {
            daemon::wait_longer("the other cases", || left.load(Ordering::SeqCst) == 0);
            before.compare();
            Ok(Completion::Completed)
        }
    }));
    let conclusion = libtest_mimic::run(&args, trials);
    leaks::remove_cgroups();
    managed_world::remove_built();
    for dir in made.iter().rev() {
        let _ = umount2(*dir, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(dir);
    }
    conclusion.exit_code()
}

/// Counts a case as finished, also when it panicked.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Before any thread is started: only the calling thread and its children move. Answers the folders it made on the host.
fn private_namespace() -> nix::Result<Vec<&'static Path>> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SHARED, NONE)?;
    let mut made = Vec::new();
    for dir in ["/run/docker", "/run/containerd", "/etc/docker"].map(Path::new) {
        if !dir.exists() {
            std::fs::create_dir(dir).expect("a folder to mount over");
            made.push(dir);
        }
        mount(Some("rbd-docker-plugin-tests"), dir, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    }
    std::fs::create_dir_all("/run/docker/plugins").expect("the folder of plugin sockets");
    Ok(made)
}

//! Other processes, as `/proc` shows them.

use std::fs;
use std::time::Duration;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::model::error::{CallError, OrCall};
use crate::model::process::Stat;

/// Leaves no core file of this process, and lets nobody but root read its memory: there are keys in it.
pub fn keep_memory_private() -> Result<(), CallError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).or_call("setrlimit", "RLIMIT_CORE")?;
    set_dumpable(false).or_call("prctl", "PR_SET_DUMPABLE")
}

/// Lets this process open as many files as it may: a connection is one, and so is a mounted device.
pub fn raise_file_limit() -> Result<(), CallError> {
    let limit = getrlimit(Resource::RLIMIT_NOFILE);
    let raised = limit.and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    raised.or_call("setrlimit", "RLIMIT_NOFILE")
}

/// A process that is there, zombies included; `None` when it is not, or cannot be seen.
pub fn stat(pid: i32) -> Option<Stat> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&stat))
}

/// How long a process has been running.
pub fn age(pid: u32) -> Option<Duration> {
    // The clock ticks of /proc are 100 a second on every platform that Linux has today.
    let start = Duration::from_millis(stat(i32::try_from(pid).ok()?)?.start.checked_mul(10)?);
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime = Duration::try_from_secs_f64(uptime.split(' ').next()?.parse().ok()?).ok()?;
    Some(uptime.saturating_sub(start))
}

/// Parses `/proc/PID/stat`. The name, in parentheses, may itself hold blanks and parentheses.
pub fn parse_stat(stat: &str) -> Option<Stat> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    // `after` begins with field 3; the start time is field 22.
    let start = after.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some(Stat { name: name.to_owned(), start })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_ends_at_the_last_parenthesis() {
        let tail = "S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 123456 1 2 3";
        for name in ["dockerd", "a) (b", ""] {
            let stat = parse_stat(&format!("42 ({name}) {tail}")).unwrap();
            assert_eq!((stat.name.as_str(), stat.start), (name, 123_456));
        }
        for broken in ["42 (dockerd) S 1", "42 dockerd", ""] {
            assert_eq!(parse_stat(broken), None);
        }
    }

    #[test]
    fn this_process_has_a_start() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(stat(me).unwrap().start > 0);
        assert!(age(std::process::id()).unwrap() < Duration::from_secs(3600));
        assert_eq!(stat(-1), None);
    }
}

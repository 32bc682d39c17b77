//! What a process has cost so far, as `/proc` shows it.

use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fmt, fs};

use nix::unistd::{Pid, SysconfVar, sysconf};

/// Resident memory in MB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) all: f64,
    /// Of it, pages of files: the program and its libraries. The kernel shares them with whoever else uses these files, and drops them when
    /// memory is scarce.
    files: f64,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MB, of it {:.1} MB pages of the program and its libraries", self.all, self.files)
    }
}

pub(crate) fn memory(pid: Pid) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mb = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_ascii_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    };
    Memory { all: mb("VmRSS:"), files: mb("RssFile:") }
}

/// Time on a processor, of all its threads, also of those that have ended.
fn busy(pid: Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    let each = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_secs_f64(ticks / f64::from(i32::try_from(each).unwrap()))
}

/// Calls of read(2): files, most of all of `/proc` and sysfs.
fn reads(pid: Pid) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("syscr: "));
    line.unwrap().parse().unwrap()
}

/// What a process costs that nobody asks anything.
#[derive(Debug)]
pub(crate) struct AtRest {
    /// In percent of a core.
    pub(crate) busy: f64,
    /// Calls of read(2) in a second.
    pub(crate) reads: f64,
}

pub(crate) fn at_rest(pid: Pid, window: Duration) -> AtRest {
    let (begin, busy_before, reads_before) = (Instant::now(), busy(pid), reads(pid));
    sleep(window);
    let seconds = begin.elapsed().as_secs_f64();
    let busy = (busy(pid) - busy_before).as_secs_f64();
    let reads = u32::try_from(reads(pid) - reads_before).unwrap();
    AtRest { busy: busy / seconds * 100.0, reads: f64::from(reads) / seconds }
}

//! The text of strace(1): which programs were run.
#![allow(dead_code, reason = "a part of it is used by each tier")]

use std::collections::HashMap;

/// The programs that an `execve` has started, of a trace with `-f`: the path of each, in the order of their beginning to run.
///
/// Where another thread is heard of in the midst of a call, strace writes the call on two lines: `unfinished`, then `resumed`.
pub(crate) fn programs(trace: &str) -> Vec<String> {
    let mut begun = HashMap::new();
    let mut started = Vec::new();
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').unwrap_or(("", line));
        let path = call.split_once("execve(\"").and_then(|(_, rest)| rest.split('"').next());
        let succeeded = call.trim_end().ends_with("= 0");
        match path {
            Some(path) if succeeded => started.push(path.to_owned()),
            Some(path) if call.contains("<unfinished") => {
                drop(begun.insert(thread.to_owned(), path.to_owned()))
            }
            None if call.contains("execve resumed>") => {
                started.extend(begun.remove(thread).filter(|_| succeeded));
            }
            _ => {}
        }
    }
    started
}

#[cfg(test)]
mod tests {
    #[test]
    fn calls_on_two_lines_count_once_and_failed_ones_not_at_all() {
        let trace = "\
10 execve(\"/usr/sbin/mkfs.ext4\", [\"mkfs.ext4\"], 0x7ffc /* 0 vars */) = 0
11 execve(\"/usr/sbin/mkfs.xfs\", [\"mkfs.xfs\"], 0x7ffc /* 0 vars */ <unfinished ...>
12 execve(\"/none\", [\"none\"], 0x7ffc /* 0 vars */ <unfinished ...>
13 +++ exited with 0 +++
12 <... execve resumed>)              = -1 ENOENT (No such file or directory)
11 <... execve resumed>)              = 0
14 execve(\"/gone\", [\"gone\"], 0x7ffc /* 0 vars */) = -1 ENOENT (No such file or directory)
15 execveat(3, \"\", [\"x\"], 0x7ffc, AT_EMPTY_PATH) = 0
";
        assert_eq!(super::programs(trace), ["/usr/sbin/mkfs.ext4", "/usr/sbin/mkfs.xfs"]);
    }
}

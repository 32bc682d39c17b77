use std::fs;
use std::time::Instant;

use super::*;

fn shell(script: &str, budget: Duration) -> Result<Output, ExecError> {
    run(Path::new("/bin/sh"), Program::Btrfs, &["-c", script], Deadline::after(budget))
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn status_and_both_outputs_come_back() {
    let output = shell("echo out; echo err >&2; exit 3", LONG).unwrap();
    assert_eq!(
        (output.status.code(), &*output.stdout_tail, &*output.stderr_tail),
        (Some(3), "out\n", "err\n")
    );
    let e = output.success(Program::Btrfs).unwrap_err();
    assert_eq!(e.to_string(), "btrfs failed (exit status: 3): err");
}

#[test]
fn the_surroundings_are_clean() {
    let output = shell("pwd; echo $HOME; env | sort; cat; ls /proc/self/fd | tr '\\n' ' '", LONG).unwrap();
    assert_eq!(
        output.stdout_tail,
        format!("/\n\nLC_ALL=C\nPATH={}\nPWD=/\n0 1 2 3 ", FOLDERS.join(":")),
        "stdin is empty, and no descriptor of ours is passed on (3 is that of ls)"
    );
}

#[test]
fn a_chatty_program_neither_blocks_nor_fills_memory() {
    let output =
        shell("head -c 3000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero >&2; echo end", LONG)
            .unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout_tail.len(), 4096);
    assert!(output.stdout_tail.ends_with("xend\n"));
    assert_eq!(output.stderr_tail.len(), 4096);
}

#[test]
fn at_the_deadline_the_whole_group_dies() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let begin = Instant::now();
    let script = format!("sleep 60 & echo $$ $! > {}; wait", pids.display());
    let e = shell(&script, Duration::from_millis(300)).unwrap_err();
    assert!(matches!(e, ExecError::Timeout { reaped: true, .. }), "{e}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(DriverError::from(e).kind, ErrorKind::Timeout);
    for pid in fs::read_to_string(&pids).unwrap().split_whitespace() {
        let gone = (0..100).any(|_| {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let dead = state.is_empty() || state.contains(") Z ");
            if !dead {
                thread::sleep(Duration::from_millis(10));
            }
            dead
        });
        assert!(gone, "process {pid} survived");
    }
}

#[test]
fn an_endless_writer_is_stopped() {
    let e = shell("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", Duration::from_millis(300))
        .unwrap_err();
    assert!(matches!(e, ExecError::Timeout { .. }), "{e}");
}

#[test]
fn a_heir_that_keeps_the_output_open_does_not_hold_us() {
    let begin = Instant::now();
    let output = shell("sleep 5 & echo done", LONG).unwrap();
    assert_eq!(output.stdout_tail, "done\n");
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_program_that_is_missing_names_its_package() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mkfs.xfs"), "not executable").unwrap();
    let programs = Programs::find_in(&[dir.path().to_owned()]);
    assert_eq!(programs.missing(), Program::ALL);
    let none: [&str; 0] = [];
    let e = DriverError::from(programs.run(Program::MkfsXfs, &none, Deadline::after(LONG)).unwrap_err());
    assert_eq!(e.kind, ErrorKind::MissingTool);
    assert_eq!(e.to_string(), "mkfs.xfs is not installed; install the package xfsprogs");
}

#[test]
fn a_program_that_vanished_is_a_failed_call() {
    let none: [&str; 0] = [];
    let e = run(Path::new("/no/such"), Program::Btrfs, &none, Deadline::after(LONG)).unwrap_err();
    assert_eq!(e.to_string(), "btrfs could not be run: execve(/no/such): No such file or directory (ENOENT)");
}

#[test]
fn a_full_disk_is_told_from_other_failures() {
    let failed = |text: &str| {
        let output = shell(&format!("echo '{text}' >&2; exit 1"), LONG).unwrap();
        DriverError::from(output.success(Program::MkfsExt4).unwrap_err()).kind
    };
    assert_eq!(failed("mkfs.ext4: No space left on device while writing"), ErrorKind::NoSpace);
    assert_eq!(failed("something else"), ErrorKind::Failed);
}

#[test]
fn usage_texts_and_line_ends_are_cut() {
    assert_eq!(one_line("size is\ttoo small \n\nsecond\nUsage: mkfs\n [-x]\n"), "size is too small; second");
    assert_eq!(one_line(&"ä".repeat(2000)).len(), 1024);
}

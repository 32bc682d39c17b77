//! The parts that a test plays in a process of its own, to be killed there.
//!
//! A part says `ready <what>` on its standard output when its work is done, and then waits to be killed.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, io};

use rbd_docker_plugin::linux::{exec, loopdev};
use rbd_docker_plugin::model::deadline::Deadline;

pub(crate) const PART: &str = "LOCAL_TIER_PART";
pub(crate) const OBJECT: &str = "LOCAL_TIER_OBJECT";
const COUNT: &str = "LOCAL_TIER_COUNT";

/// Plays the part that the environment asks for, if any.
pub(crate) fn run() -> Option<ExitCode> {
    let part = env::var(PART).ok()?;
    let object = env::var_os(OBJECT).unwrap_or_default();
    let path = Path::new(&object);
    match part.as_str() {
        "attach" => {
            let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
            let attached = loopdev::attach(&file, path, false).unwrap();
            ready(&attached.path.display().to_string());
        }
        // A Docker engine that has mounted volumes `v0` and so on over the socket.
        "engine" => {
            nix::sys::prctl::set_name(c"dockerd").unwrap();
            let count: usize = env::var(COUNT).unwrap().parse().unwrap();
            for n in 0..count {
                let body = format!("{{\"Name\":\"v{n}\",\"ID\":\"a\"}}");
                assert_eq!(crate::daemon::ask(path, "Mount", &body).unwrap().0, 200);
            }
            ready("");
        }
        "namespace" => {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            ready("");
        }
        "exec" => {
            println!("ready ");
            io::stdout().flush().unwrap();
            let script = format!("echo $$ > {}.new; mv {0}.new {0}; exec sleep 600", path.display());
            let _ = exec::run(
                Path::new("/bin/sh"),
                exec::Program::E2fsck,
                &["-c", &script],
                Deadline::after(Duration::from_secs(600)),
            );
        }
        "checker" => return Some(check(path)),
        other => panic!("no part {other}"),
    }
    Some(ExitCode::SUCCESS)
}

/// Plays e2fsck: claims the device as that does, waits for the file `go`, and then becomes it.
fn check(folder: &Path) -> ExitCode {
    let device = env::args_os().next_back().unwrap();
    let claim = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(&device);
    let Ok(claim) = claim else {
        println!("{} is in use.", device.display());
        return ExitCode::from(8);
    };
    let mut begun = OpenOptions::new().create(true).append(true).open(folder.join("begun")).unwrap();
    writeln!(begun, "{}", std::process::id()).unwrap();
    let begin = Instant::now();
    while !folder.join("go").exists() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
        // To nobody, once the plugin is gone.
        let _ = writeln!(io::stdout(), "still here");
    }
    // What the plugin has set, and std takes back: e2fsck does not die because nobody reads its output.
    // A loop device that is let go of at the last close stays meanwhile.
    let open = std::fs::File::open(&device).unwrap();
    drop(claim);
    let become_it = "trap '' PIPE; exec /usr/sbin/e2fsck \"$@\"";
    let mut sh = Command::new("/bin/sh");
    let error = sh.args(["-c", become_it, "sh"]).args(env::args_os().skip(1)).stdin(open).exec();
    panic!("{error}");
}

fn ready(what: &str) {
    println!("ready {what}");
    io::stdout().flush().unwrap();
    // Ends when the test does.
    let _ = io::stdin().read(&mut [0]);
}

/// A part played in another process; killed with SIGKILL when dropped.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) process: Child,
    pub(crate) said: String,
}

impl Part {
    pub(crate) fn play(part: &str, object: &Path) -> Self {
        Self::start(Command::new("/proc/self/exe").env(PART, part).env(OBJECT, object))
    }

    /// A Docker engine that has mounted so many volumes.
    pub(crate) fn engine(socket: &Path, count: usize) -> Self {
        let mut process = Command::new("/proc/self/exe");
        Self::start(process.env(PART, "engine").env(OBJECT, socket).env(COUNT, count.to_string()))
    }

    fn start(process: &mut Command) -> Self {
        let mut process = process.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said = line.strip_prefix("ready ").expect("the part fails").trim().to_owned();
        Self { process, said }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

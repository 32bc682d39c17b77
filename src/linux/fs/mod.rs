//! The filesystems: making, judging and repairing them.
//!
//! Whether a filesystem needs its checker is read from its superblock, so that the usual mount starts no program. A journal is
//! replayed by the kernel. Nothing here changes a filesystem that its own checker does not call safe to repair.

mod btrfs;
mod ext4;
mod features;
mod geometry;
mod refused;
mod xfs;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use super::exec::{ExecError, Program, Programs};
use super::{backing, blkdev, holders, process};
use crate::model::deadline::Deadline;
use crate::model::error::{CallError, DriverError, ErrorKind, Result};
use crate::model::filesystem::{Checked, Filesystem, Format, FsKind};
use crate::model::mkfs_options;
use crate::model::size::Size;
use crate::model::time;

pub use crate::model::mkfs_options::check_options;
pub use refused::{Refused, twin_of};

/// What the old plugin said of a filesystem that only a person can repair; operators search their logs for it.
const DAMAGED: &str = "Image filesystem has errors, requires manual repairs";

/// How long a checker may look for the reason of a failed mount: less than lies between our last deadline and Docker's.
const DIAGNOSIS: Duration = Duration::from_secs(8);

/// What a superblock says about its filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The kernel can mount it as it is; `replay`: it will replay the journal.
    Fine {
        /// Whether the journal is not empty.
        replay: bool,
    },
    /// It was not left in order, and its checker may be able to help.
    Suspect,
    /// The kernel would refuse it.
    Broken(&'static str),
}

/// Runs mkfs with our words, then the user's, then the device. The device must be blank.
pub fn format(programs: &Programs, path: &Path, plan: &Format, deadline: Deadline) -> Result<()> {
    let options = mkfs_options::parse(plan.kind, &plan.options)?;
    let size = {
        let device = blkdev::open(path)?;
        blkdev::size(&device, path)?
    };
    let least = minimum(plan.kind, &plan.options);
    if size < least {
        return Err(DriverError::invalid(format!(
            "an image of {} is too small for {}, which needs {}",
            Size::bytes(size),
            plan.kind,
            Size::bytes(least)
        ))
        .hint("choose a larger size, or ext4"));
    }
    let (program, mut argv) = match plan.kind {
        FsKind::Ext4 => (Program::MkfsExt4, ext4::mkfs(&plan.uuid, options)),
        FsKind::Xfs => (Program::MkfsXfs, xfs::mkfs(&plan.uuid, options)),
        FsKind::Btrfs => (Program::MkfsBtrfs, btrfs::mkfs(&plan.uuid, options)),
    };
    let mut argv: Vec<OsString> = argv.drain(..).map(OsString::from).collect();
    argv.push(path.into());
    // On a full store mkfs.ext4 tells of an I/O error, mkfs.xfs of no space, and mkfs.btrfs of a missing permission.
    let done = programs.run(program, &argv, deadline)?.success(program);
    done.map(drop).map_err(|e| match e.to_string() {
        said if said.contains("in use by the system") || said.contains("is busy") => {
            refused::kept(path).context(format_args!("{program} cannot use the device"))
        }
        _ => blame_full_store(path, e.into()),
    })
}

/// An I/O error of the device is a full disk when the store of its image is full.
pub fn explain(path: &Path, error: DriverError) -> DriverError {
    let io_error = error.source.as_ref().is_some_and(|cause| cause.errno == Errno::EIO)
        || error.message.contains("Input/output error");
    if io_error { blame_full_store(path, error) } else { error }
}

fn blame_full_store(path: &Path, error: DriverError) -> DriverError {
    match backing::full_store(path) {
        None => error,
        Some(folder) => {
            let message = format!("no space left in {}: {}", folder.display(), error.message);
            DriverError { kind: ErrorKind::NoSpace, message, ..error }
                .hint("free some space there and try again")
        }
    }
}

/// The smallest device that the mkfs of today accepts.
pub fn minimum(kind: FsKind, options: &[String]) -> u64 {
    const MIB: u64 = 1 << 20;
    match kind {
        FsKind::Ext4 => 2 * MIB,
        FsKind::Xfs => 300 * MIB,
        FsKind::Btrfs if is_mixed(options) => 16 * MIB,
        FsKind::Btrfs => 109 * MIB,
    }
}

/// Whether btrfs is to keep data and metadata together, which small devices need.
fn is_mixed(options: &[String]) -> bool {
    let given = mkfs_options::parse(FsKind::Btrfs, options).unwrap_or_default();
    given.iter().any(|given| given.option == "-M" || given.option == "--mixed")
}

/// Whether the superblock calls for the checker; then its checksum.
pub fn needs_check(path: &Path, kind: FsKind) -> Result<Option<u32>> {
    Ok(match state(path, kind)? {
        State::Fine { .. } => None,
        State::Suspect | State::Broken(_) => Some(crc32c(!0, &superblock(path, kind)?.unwrap_or_default())),
    })
}

/// `Busy` when a checker has the device open: one of an earlier life of this plugin, which is not ended while it writes, or of somebody
/// else.
fn refuse_if_being_checked(path: &Path) -> Result<()> {
    let checkers = [Program::E2fsck, Program::XfsRepair, Program::Btrfs].map(Program::name);
    let found =
        holders::of(path, Some(path)).into_iter().find(|holder| checkers.contains(&holder.comm.as_str()));
    let Some(checker) = found else { return Ok(()) };
    let (pid, name) = (checker.pid, checker.comm);
    let since = process::age(pid).map_or_else(String::new, |age| format!(", for {} now", time::rough(age)));
    Err(DriverError::new(
        ErrorKind::Busy,
        format!("{} is being checked by {name} (pid {pid}){since}", path.display()),
    )
    .hint("the check goes on and is not begun anew: try again later"))
}

/// Checks a filesystem before a mount, when its superblock calls for it.
pub fn check(programs: &Programs, path: &Path, fs: &Filesystem, deadline: Deadline) -> Result<Checked> {
    if needs_check(path, fs.kind)?.is_some() {
        refuse_if_being_checked(path)?;
    }
    geometry::refuse_cut_short(path, fs.kind)?;
    checked(programs, path, fs.kind, deadline).map_err(|e| match e.kind {
        // A checker does not find the other device, either.
        ErrorKind::NeedsRepair => geometry::explain(path, fs.kind).unwrap_or(e),
        _ => e,
    })
}

fn checked(programs: &Programs, path: &Path, kind: FsKind, deadline: Deadline) -> Result<Checked> {
    match (state(path, kind)?, kind) {
        (State::Fine { .. }, _) => Ok(Checked::NotNeeded),
        (State::Broken(what), FsKind::Xfs) => Err(damaged(path, kind, what)),
        (State::Suspect | State::Broken(_), FsKind::Ext4) => {
            let read_only = {
                let device = blkdev::open(path)?;
                blkdev::is_read_only(&device, path)?
            };
            ext4::check(programs, path, read_only, deadline)
        }
        (State::Suspect | State::Broken(_), kind) => match verdict(programs, path, kind, deadline)? {
            Verdict::Content => Ok(Checked::Clean),
            Verdict::Damaged(said) => Err(damaged(path, kind, &said)),
            Verdict::None(why) => Err(why),
        },
    }
}

/// Why a mount failed: runs the checker without letting it change anything. `None` when the filesystem is not to blame, or
/// nobody can tell.
pub fn diagnose(programs: &Programs, path: &Path, fs: &Filesystem, cause: &CallError) -> Option<DriverError> {
    let blame = |what: &str| damaged(path, fs.kind, what).caused_by(cause.clone());
    match state(path, fs.kind) {
        // Before its journal is replayed a sound filesystem looks damaged too.
        Ok(State::Fine { replay: true }) => return None,
        Ok(State::Broken(what)) => return Some(blame(what)),
        Ok(State::Fine { .. } | State::Suspect) => {}
        Err(e) => {
            tracing::warn!(device = %path.display(), error = %e, "the superblock cannot be read");
            return None;
        }
    }
    match verdict(programs, path, fs.kind, Deadline::after(DIAGNOSIS)) {
        Ok(Verdict::Damaged(said)) => Some(blame(&said)),
        Ok(Verdict::Content) => None,
        Ok(Verdict::None(e)) => {
            tracing::warn!(device = %path.display(), error = %e, "the checker cannot judge the filesystem");
            None
        }
        Err(e) => {
            tracing::warn!(device = %path.display(), error = %e, "no diagnosis of the failed mount");
            None
        }
    }
}

/// The block that begins a filesystem; nothing when the device ends before.
fn superblock(path: &Path, kind: FsKind) -> Result<Option<Vec<u8>>> {
    Ok(match kind {
        FsKind::Ext4 => blkdev::read_at::<{ ext4::SIZE }>(path, ext4::OFFSET)?.map(|sb| sb.to_vec()),
        FsKind::Xfs => blkdev::read_at::<{ xfs::SIZE }>(path, xfs::OFFSET)?.map(|sb| sb.to_vec()),
        FsKind::Btrfs => blkdev::read_at::<{ btrfs::SIZE }>(path, btrfs::OFFSET)?.map(|sb| sb.to_vec()),
    })
}

/// The ext4 on a device, where its superblock has a right checksum and says that it is one; nothing when somebody else has to judge.
pub fn plain_ext4(path: &Path) -> Result<Option<Filesystem>, CallError> {
    let sb = blkdev::read_at::<{ ext4::SIZE }>(path, ext4::OFFSET)?;
    Ok(sb.and_then(|sb| ext4::uuid_of_plain(&sb[..])).map(|uuid| Filesystem {
        kind: FsKind::Ext4,
        type_name: "ext4".to_owned(),
        uuid: Some(uuid),
    }))
}

fn state(path: &Path, kind: FsKind) -> Result<State> {
    let Some(sb) = superblock(path, kind)? else {
        return Ok(State::Broken("the device ends before the superblock does"));
    };
    Ok(judge(kind, &sb))
}

fn judge(kind: FsKind, sb: &[u8]) -> State {
    match kind {
        FsKind::Ext4 => ext4::state(sb),
        FsKind::Xfs => xfs::state(sb),
        FsKind::Btrfs => btrfs::state(sb),
    }
}

/// What the read-only checker says.
#[derive(Debug)]
enum Verdict {
    /// It is content.
    Content,
    /// What it complains about.
    Damaged(String),
    /// It did not, or cannot, judge this filesystem; why.
    None(DriverError),
}

fn verdict(
    programs: &Programs,
    path: &Path,
    kind: FsKind,
    deadline: Deadline,
) -> std::result::Result<Verdict, ExecError> {
    let (program, words): (_, &[&str]) = match kind {
        FsKind::Ext4 => (Program::E2fsck, &["-n", "-f"]),
        FsKind::Xfs => (Program::XfsRepair, &["-n"]),
        FsKind::Btrfs => (Program::Btrfs, &["check", "--readonly"]),
    };
    let argv: Vec<OsString> = words.iter().map(OsString::from).chain([path.into()]).collect();
    let output = programs.run(program, &argv, deadline)?;
    if output.status.success() {
        return Ok(Verdict::Content);
    }
    let everything =
        [&output.beginning, &output.stdout_tail, &output.stderr_tail].map(String::as_str).join("\n");
    if let Some(features) = features::unchecked(kind, &everything) {
        return Ok(Verdict::None(unknown_to(programs, program, path, kind, &features)));
    }
    // Before the kernel has replayed the log, a sound filesystem looks damaged.
    if everything.contains("valuable metadata changes in a log") {
        let what = format!(
            "the log of the {kind} on {} is not replayed yet: its checker cannot judge it",
            path.display()
        );
        return Ok(Verdict::None(DriverError::new(ErrorKind::Failed, what)));
    }
    if everything.contains("Input/output error") {
        return Ok(Verdict::None(unreadable(path, program, &output.said())));
    }
    if everything.contains("is mounted") || everything.contains(" in use") {
        return Ok(Verdict::None(refused::kept(path)));
    }
    let said = output.said();
    if !judged(kind, output.status.code(), &everything) {
        return Ok(Verdict::None(ExecError::Failed { program, status: output.status, stderr: said }.into()));
    }
    Ok(Verdict::Damaged(format!("{program} ({}) {said}", output.status)))
}

/// Whether a checker that did not succeed has judged the filesystem: it was not killed, and had the memory for it.
fn judged(kind: FsKind, code: Option<i32>, said: &str) -> bool {
    let ended = match (kind, code) {
        // 4: errors are left; 8: it could not even find a superblock.
        (FsKind::Ext4, Some(code)) => code & 4 != 0 || (code == 8 && said.contains("uperblock")),
        (_, Some(_)) => true,
        (_, None) => false,
    };
    ended && !out_of_memory(said)
}

fn out_of_memory(said: &str) -> bool {
    ["annot allocate memory", "emory allocation failed", "out of memory", "couldn't malloc"]
        .iter()
        .any(|words| said.contains(words))
}

/// The checker of this host is older than the filesystem.
fn unknown_to(
    programs: &Programs,
    program: Program,
    path: &Path,
    kind: FsKind,
    features: &str,
) -> DriverError {
    let named = if features.is_empty() { String::new() } else { format!(": {features}") };
    let message = format!(
        "{} does not know a feature of the {kind} on {}{named}; nothing was checked",
        programs.version(program),
        path.display()
    );
    DriverError::new(ErrorKind::MissingTool, message)
        .hint(format!("no damage is known: use a newer {} here, or a host that has one", program.package()))
}

/// The checker could not read the device.
fn unreadable(path: &Path, program: Program, said: &str) -> DriverError {
    let device = path.display();
    DriverError::new(ErrorKind::Unreachable, format!("{device} cannot be read in whole: {program}: {said}"))
        .hint("the storage does not answer, or has lost data; of the filesystem nothing is known")
}

fn damaged(path: &Path, kind: FsKind, detail: &str) -> DriverError {
    let command = match kind {
        FsKind::Ext4 => "e2fsck -f",
        FsKind::Xfs => "xfs_repair",
        FsKind::Btrfs => "btrfs check",
    };
    let detail = detail.trim();
    let separator = if detail.is_empty() { "" } else { ": " };
    DriverError::new(ErrorKind::NeedsRepair, format!("{DAMAGED}{separator}{detail}"))
        .hint(format!("map the image and run `{command}` on its device (it was {})", path.display()))
}

/// CRC-32C over parts, without the final inversion: `crc(crc(!0, a), b)`.
fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 0 { c >> 1 } else { c >> 1 ^ 0x82f6_3b78 })
    })
}

/// Reads little-endian numbers at fixed places; a place outside is a mistake of ours that a test would find, and reads as zero.
fn bytes_at<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    block.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_standard_test_vector() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(!crc32c(crc32c(!0, b"1234"), b"56789"), 0xe306_9283);
    }

    #[test]
    fn a_damaged_filesystem_names_the_command() {
        let e = damaged(Path::new("/dev/loop3"), FsKind::Ext4, "");
        assert_eq!(
            e.to_string(),
            "Image filesystem has errors, requires manual repairs; map the image and run `e2fsck -f` on its device \
             (it was /dev/loop3)"
        );
    }
}

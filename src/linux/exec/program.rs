//! Which programs there are, and where this host keeps them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ExecError, Output, run, run_to_its_end};
use crate::model::deadline::Deadline;

/// Where programs are looked for, in this order.
pub(super) const FOLDERS: [&str; 6] =
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];

/// How long a program may take to say which one it is.
const VERSION: Duration = Duration::from_secs(2);

/// A program we know how to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// Makes ext4.
    MkfsExt4,
    /// Makes XFS.
    MkfsXfs,
    /// Makes btrfs.
    MkfsBtrfs,
    /// Checks ext2, ext3, ext4.
    E2fsck,
    /// Checks XFS.
    XfsRepair,
    /// Checks btrfs.
    Btrfs,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::MkfsExt4, Self::MkfsXfs, Self::MkfsBtrfs, Self::E2fsck, Self::XfsRepair, Self::Btrfs];

    /// The name of its file.
    pub fn name(self) -> &'static str {
        match self {
            Self::MkfsExt4 => "mkfs.ext4",
            Self::MkfsXfs => "mkfs.xfs",
            Self::MkfsBtrfs => "mkfs.btrfs",
            Self::E2fsck => "e2fsck",
            Self::XfsRepair => "xfs_repair",
            Self::Btrfs => "btrfs",
        }
    }

    /// The package it comes in, the same on all distributions.
    pub fn package(self) -> &'static str {
        match self {
            Self::MkfsExt4 | Self::E2fsck => "e2fsprogs",
            Self::MkfsXfs | Self::XfsRepair => "xfsprogs",
            Self::MkfsBtrfs | Self::Btrfs => "btrfs-progs",
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The programs of this host.
#[derive(Debug, Clone, Default)]
pub struct Programs(BTreeMap<Program, PathBuf>);

impl Programs {
    /// Looks for all of them in the fixed folders.
    pub fn find() -> Self {
        Self::find_in(&FOLDERS.map(PathBuf::from))
    }

    /// Looks for all of them in this folder, then in the fixed ones.
    #[cfg(feature = "fault-points")]
    pub fn find_first_in(folder: &OsStr) -> Self {
        let folders = std::iter::once(PathBuf::from(folder)).chain(FOLDERS.map(PathBuf::from));
        Self::find_in(&folders.collect::<Vec<_>>())
    }

    /// Looks for all of them in these folders.
    pub fn find_in(folders: &[PathBuf]) -> Self {
        let find = |program: Program| {
            folders.iter().map(|f| f.join(program.name())).find(|path| is_executable(path))
        };
        Self(Program::ALL.into_iter().filter_map(|program| Some((program, find(program)?))).collect())
    }

    /// Where a program is.
    pub fn path(&self, program: Program) -> Result<&Path, ExecError> {
        self.0.get(&program).map(PathBuf::as_path).ok_or(ExecError::NotFound { program })
    }

    /// What this host lacks.
    pub fn missing(&self) -> Vec<Program> {
        Program::ALL.into_iter().filter(|program| !self.0.contains_key(program)).collect()
    }

    /// Runs a program to its end, whatever its exit status.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        program: Program,
        argv: &[S],
        deadline: Deadline,
    ) -> Result<Output, ExecError> {
        run(self.path(program)?, program, argv, deadline)
    }

    /// The same for a program that mends: it is not killed, however long it takes.
    pub fn run_to_its_end<S: AsRef<OsStr>>(
        &self,
        program: Program,
        argv: &[S],
        patience: Duration,
    ) -> Result<Output, ExecError> {
        run_to_its_end(self.path(program)?, program, argv, patience)
    }

    /// The program's own name for itself, with its version: `e2fsck 1.47.0`.
    pub fn version(&self, program: Program) -> String {
        let flag = if program == Program::Btrfs { "--version" } else { "-V" };
        let said = self.run(program, &[flag], Deadline::after(VERSION)).map_or_else(
            |_| String::new(),
            |output| format!("{} {}", output.stdout_tail, output.stderr_tail),
        );
        let is_version = |word: &&str| {
            let word = word.trim_start_matches('v');
            word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.')
        };
        let version = said.split_ascii_whitespace().find(is_version);
        version.map_or_else(|| program.name().to_owned(), |version| format!("{program} {version}"))
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

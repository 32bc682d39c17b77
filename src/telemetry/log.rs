//! The log: a file that can be opened again after logrotate moved it, or stderr; text or JSON.
//!
//! `RUST_LOG` is not read: the level comes from the [`Options`] alone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::fmt::MakeWriter;

use crate::model::error::{CallError, DriverError, ErrorKind, OrCall, Result};

/// Where, how and how much is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where.
    pub target: Target,
    /// How.
    pub format: Format,
    /// How much.
    pub level: Level,
}

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To stderr.
    Stderr,
    /// To a file, made with its folder if need be.
    File(PathBuf),
}

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The open log.
#[derive(Debug, Clone)]
pub struct Log(Option<Arc<LogFile>>);

/// Starts logging, for the whole process and for good. A file that may not be written is replaced by stderr, with a warning.
pub fn start(options: &Options) -> Result<Log> {
    let mut denied = None;
    let log = match &options.target {
        Target::Stderr => Log(None),
        Target::File(path) => match LogFile::open(path) {
            Ok(file) => Log(Some(Arc::new(file))),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                denied = Some((path, e));
                Log(None)
            }
            Err(e) => return Err(e).or_call("open", path.display()).map_err(unusable),
        },
    };
    let set = match &log.0 {
        Some(file) => tracing::subscriber::set_global_default(subscriber(options, Arc::clone(file), false)),
        None => tracing::subscriber::set_global_default(subscriber(
            options,
            io::stderr,
            io::stderr().is_terminal(),
        )),
    };
    if set.is_err() {
        tracing::debug!("the log was started already");
    }
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        tracing::error!(at, "panic: {}", super::panic_text(panic.payload()));
    }));
    if let Some((path, e)) = denied {
        tracing::warn!("logging fallback to stderr: {}: {e}", path.display());
    }
    Ok(log)
}

/// Makes room for the spans of a crowd of requests, on the thread that makes them. The registry keeps a small table for each span that has
/// lived at the same time as others: made in a crowd, each would keep a page of memory for itself; made now they lie side by side.
pub fn make_room() {
    const CROWD: usize = 512;
    let spans: Vec<_> = (0..CROWD).map(|number| tracing::error_span!("room", number)).collect();
    drop(spans);
}

fn unusable(e: CallError) -> DriverError {
    DriverError::new(ErrorKind::Config, "Unable to setup logging")
        .caused_by(e)
        .hint("see --logdir; --logdir - logs to stderr")
}

fn subscriber<W>(options: &Options, writer: W, colours: bool) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(options.level))
        .with_target(false)
        .with_ansi(colours)
        .with_writer(writer);
    match options.format {
        Format::Text => Box::new(builder.finish()),
        Format::Json => Box::new(builder.json().flatten_event(true).with_span_list(false).finish()),
    }
}

impl Log {
    /// Opens the file again under its name. When that fails the old file stays in use and hears of it.
    pub fn reopen(&self) {
        let Some(file) = &self.0 else { return };
        match file.reopen() {
            Ok(()) => tracing::info!("opened the log again"),
            Err(e) => tracing::error!("cannot open the log again: {}: {e}", file.path.display()),
        }
    }
}

/// A log file and its name.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: Mutex::new(append_to(path)?) })
    }

    fn reopen(&self) -> io::Result<()> {
        let fresh = append_to(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Writes one line; the subscriber hands over whole lines.
impl Write for &LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn options(path: &Path, format: Format, level: Level) -> Options {
        Options { target: Target::File(path.to_owned()), format, level }
    }

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_file_with_its_folder_appended_to_and_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/n.log");
        let file = Arc::new(LogFile::open(&path).unwrap());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        let log = Log(Some(Arc::clone(&file)));
        tracing::subscriber::with_default(
            subscriber(&options(&path, Format::Text, Level::INFO), file, false),
            || {
                tracing::info!("one");
                tracing::debug!("not this");
                let moved = path.with_extension("log.1");
                std::fs::rename(&path, &moved).unwrap();
                tracing::info!("two");
                log.reopen();
                tracing::warn!("three");
                assert_eq!(lines(&moved).len(), 2);
            },
        );
        let text = lines(&path);
        assert_eq!(text.len(), 2, "{text:?}");
        assert!(text[1].ends_with("three"), "{text:?}");
        drop(LogFile::open(&path).unwrap());
        assert_eq!(lines(&path).len(), 2, "opening appends");
    }

    #[test]
    fn json_lines_hold_the_fields_of_the_span() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.log");
        let file = Arc::new(LogFile::open(&path).unwrap());
        tracing::subscriber::with_default(
            subscriber(&options(&path, Format::Json, Level::INFO), file, false),
            || {
                let _span = tracing::error_span!("request", volume = "foo").entered();
                tracing::error!(result = "Busy", "no");
            },
        );
        let line: serde_json::Value = serde_json::from_str(&lines(&path)[0]).unwrap();
        assert_eq!(
            (&line["level"], &line["message"], &line["result"]),
            (&"ERROR".into(), &"no".into(), &"Busy".into())
        );
        assert_eq!(line["span"]["volume"], "foo");
    }

    #[test]
    fn what_cannot_be_opened_again_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.log");
        let file = LogFile::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(file.reopen().is_err());
        (&file).write_all(b"still here").unwrap();
    }
}

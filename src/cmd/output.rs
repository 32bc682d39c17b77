//! How commands print their answer: human-readable text, or one JSON document.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::values::Format;
use crate::config::Config;
use crate::model::error::{OrCall, Result};
use crate::telemetry::log::{self, Target};

/// A command logs nothing, unless it was told to log to stderr.
pub(super) fn log_if_told(config: &Config) -> Result<()> {
    if config.log.target == Target::Stderr {
        log::start(&config.log)?;
    }
    Ok(())
}

/// Prints an answer to stdout in the requested form. A reader that has closed the pipe is not an error.
pub fn print(format: Format, document: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    write(&answer(format, document, text))
}

/// An answer in the requested form.
pub fn answer(format: Format, document: &impl Serialize, text: impl FnOnce() -> String) -> String {
    let mut answer = match format {
        Format::Text => text(),
        Format::Json => serde_json::to_string_pretty(document).unwrap_or_default() + "\n",
    };
    if !answer.ends_with('\n') {
        answer.push('\n');
    }
    answer
}

/// Writes to stdout and flushes.
pub fn write(text: &str) -> Result<()> {
    write_if_read(text).map(drop)
}

/// Writes to stdout and flushes; false when the reader has closed the pipe.
pub fn write_if_read(text: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        done => Ok(done.or_call("write", "stdout").map(|()| true)?),
    }
}

/// A table with aligned columns, a header, and one line for each row; the last column is as wide as it is.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|&title| title.to_owned()).collect();
    let all = || std::iter::once(&header).chain(rows);
    let width = |at: usize| all().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..header.len()).map(|at| width(at).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    all().map(line).collect()
}

/// A number of bytes, rounded: `1.5G`.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["", "K", "M", "G", "T"] {
        if value < 1000.0 {
            return if unit.is_empty() || value >= 99.95 {
                format!("{value:.0}{unit}")
            } else {
                format!("{value:.1}{unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1}P")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_blanks() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&["IMAGE", "HOST", "BY"], &[row(["rbd/größe", "h", ""]), row(["a", "h22222", "x"])]);
        assert_eq!(text, "IMAGE      HOST    BY\nrbd/größe  h\na          h22222  x\n");
        assert_eq!(table(&["A"], &[]), "A\n");
    }

    #[test]
    fn bytes_are_rounded_to_three_digits() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.0K"),
            (1536, "1.5K"),
            (104_857_600, "100M"),
            (u64::MAX, "16384.0P"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}

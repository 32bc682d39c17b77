//! What was found, line by line.

use serde::Serialize;

use crate::cli::values::Format;
use crate::cmd::output;
use crate::model::error::{DriverError, Result};

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// As it should be.
    Ok,
    /// Something does not work as it could, or is not known.
    Warn,
    /// Volumes do not work.
    Fail,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) check: &'static str,
    pub(super) status: Status,
    /// What is there.
    pub(super) found: String,
    /// A command, or what to change; nothing where all is well.
    pub(super) fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, found: found.into(), fix: None }
    }

    pub(super) fn warn(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, status: Status::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    pub(super) fn fail(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: Status::Fail, ..Self::warn(check, found, fix) }
    }

    /// An error, with its own hint unless there is a better one.
    pub(super) fn error(check: &'static str, e: &DriverError, fix: Option<String>) -> Self {
        let hint = || e.hint.clone().unwrap_or_else(|| "--debug logs more of it".to_owned());
        Self::fail(check, said(e), fix.unwrap_or_else(hint))
    }
}

/// An error without its hint.
pub(super) fn said(e: &DriverError) -> String {
    DriverError { hint: None, ..e.clone() }.to_string()
}

/// All of them; for people they are printed as they come.
#[derive(Debug)]
pub(super) struct Report {
    format: Format,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    status: Status,
    checks: &'a [Finding],
}

impl Report {
    pub(super) fn new(format: Format) -> Self {
        Self { format, findings: Vec::new() }
    }

    pub(super) fn add(&mut self, findings: impl IntoIterator<Item = Finding>) -> Result<()> {
        for finding in findings {
            if self.format == Format::Text {
                output::write(&line(&finding))?;
            }
            self.findings.push(finding);
        }
        Ok(())
    }

    /// The last word, and the exit status: 1 when something failed.
    pub(super) fn end(self) -> Result<u8> {
        let worst = self.worst();
        output::print(self.format, &Document { status: worst, checks: &self.findings }, || self.summary())?;
        Ok(if worst == Status::Fail { 1 } else { 0 })
    }

    fn count(&self, status: Status) -> usize {
        self.findings.iter().filter(|finding| finding.status == status).count()
    }

    fn worst(&self) -> Status {
        let any = |status| self.count(status) > 0;
        if any(Status::Fail) {
            Status::Fail
        } else if any(Status::Warn) {
            Status::Warn
        } else {
            Status::Ok
        }
    }

    fn summary(&self) -> String {
        let [ok, warn, fail] = [Status::Ok, Status::Warn, Status::Fail].map(|status| self.count(status));
        format!("\n{ok} ok, {warn} warn, {fail} fail\n")
    }
}

fn line(finding: &Finding) -> String {
    let Finding { check, status, found, fix } = finding;
    let status = match status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    let mut text = format!("{status:<4}  {check:<13}  {found}\n");
    if let Some(fix) = fix {
        text.push_str(&format!("{:21}-> {fix}\n", ""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::{CallError, ErrorKind};

    fn report() -> Report {
        let findings =
            vec![Finding::ok("settings", "fine"), Finding::fail("module", "not loaded", "modprobe rbd")];
        Report { format: Format::Json, findings }
    }

    #[test]
    fn a_line_names_what_was_found_and_what_mends_it() {
        let lines: String = report().findings.iter().map(line).collect();
        assert_eq!(
            lines,
            "ok    settings       fine\nFAIL  module         not loaded\n                     -> modprobe rbd\n"
        );
        assert_eq!(report().summary(), "\n1 ok, 0 warn, 1 fail\n");
    }

    #[test]
    fn json_is_one_document_with_stable_keys() {
        let report = report();
        let json =
            serde_json::to_value(Document { status: report.worst(), checks: &report.findings }).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"status": "fail", "checks": [
                {"check": "settings", "status": "ok", "found": "fine", "fix": null},
                {"check": "module", "status": "fail", "found": "not loaded", "fix": "modprobe rbd"},
            ]})
        );
    }

    #[test]
    fn the_worst_line_counts() {
        let of = |findings: Vec<Finding>| Report { format: Format::Json, findings }.worst();
        assert_eq!(of(vec![]), Status::Ok);
        assert_eq!(of(vec![Finding::ok("a", "b"), Finding::warn("a", "b", "c")]), Status::Warn);
        assert_eq!(report().worst(), Status::Fail);
    }

    #[test]
    fn an_error_shows_its_hint_once_as_the_fix() {
        let e = DriverError::new(ErrorKind::Failed, "it broke")
            .caused_by(CallError::new("open", "/x", nix::errno::Errno::EIO))
            .hint("mend it");
        let finding = Finding::error("x", &e, None);
        assert_eq!(finding.found, "it broke: open(/x): I/O error (EIO)");
        assert_eq!(finding.fix.as_deref(), Some("mend it"));
        assert_eq!(Finding::error("x", &e, Some("better".to_owned())).fix.as_deref(), Some("better"));
    }
}

//! `doctor`: what the examination finds, line by line or as one document.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::output;
use crate::cli::values::Format;
use crate::config::{self, Config};
use crate::doctor::finding::{Finding, Report, Status};
use crate::doctor::{examine, wrong_settings};
use crate::model::error::Result;

/// Examines the host and prints the findings; the exit status is 1 when one of them is a failure.
pub(super) fn run(flags: &BTreeMap<&'static str, String>, format: Format) -> Result<u8> {
    let mut findings = Findings::new(format);
    match config::environment().and_then(|environment| Config::load(flags, &environment)) {
        Ok(config) => {
            output::log_if_told(&config)?;
            examine(&Arc::new(config), &mut Report::new(&mut |finding| findings.add(finding)))?;
        }
        Err(e) => findings.add(wrong_settings(&e))?,
    }
    findings.end()
}

/// All findings; as text they are printed as they come.
#[derive(Debug)]
struct Findings {
    format: Format,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    status: Status,
    checks: &'a [Finding],
}

impl Findings {
    fn new(format: Format) -> Self {
        Self { format, findings: Vec::new() }
    }

    fn add(&mut self, finding: Finding) -> Result<()> {
        if self.format == Format::Text {
            output::write(&line(&finding))?;
        }
        self.findings.push(finding);
        Ok(())
    }

    /// Prints the summary; the exit status: 1 when something failed.
    fn end(self) -> Result<u8> {
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

    fn report() -> Findings {
        let findings =
            vec![Finding::ok("settings", "fine"), Finding::fail("module", "not loaded", "modprobe rbd")];
        Findings { format: Format::Json, findings }
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
        let of = |findings: Vec<Finding>| Findings { format: Format::Json, findings }.worst();
        assert_eq!(of(vec![]), Status::Ok);
        assert_eq!(of(vec![Finding::ok("a", "b"), Finding::warn("a", "b", "c")]), Status::Warn);
        assert_eq!(report().worst(), Status::Fail);
    }
}

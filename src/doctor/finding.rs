//! What was found, one finding after the other.

use std::fmt;

use serde::Serialize;

use crate::model::error::{DriverError, Result};

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Something does not work as it could, or is not known.
    Warn,
    /// Volumes do not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How that is.
    pub status: Status,
    /// What is there.
    pub found: String,
    /// A command, or what to change; nothing where all is well.
    pub fix: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, found: found.into(), fix: None }
    }

    pub(crate) fn warn(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, status: Status::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    pub(crate) fn fail(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: Status::Fail, ..Self::warn(check, found, fix) }
    }

    /// An error, with its own hint unless there is a better one.
    pub(crate) fn error(check: &'static str, e: &DriverError, fix: Option<String>) -> Self {
        let hint = || e.hint.clone().unwrap_or_else(|| "--debug logs more of it".to_owned());
        Self::fail(check, without_hint(e), fix.unwrap_or_else(hint))
    }
}

/// An error without its hint.
pub(crate) fn without_hint(e: &DriverError) -> String {
    DriverError { hint: None, ..e.clone() }.to_string()
}

/// Takes the findings as they come: who waits for the cluster is to see what is known so far.
pub struct Report<'a>(&'a mut dyn FnMut(Finding) -> Result<()>);

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Report")
    }
}

impl<'a> Report<'a> {
    /// One that passes each finding on; its error ends the examination.
    pub fn new(take: &'a mut dyn FnMut(Finding) -> Result<()>) -> Self {
        Self(take)
    }

    pub(super) fn add(&mut self, findings: impl IntoIterator<Item = Finding>) -> Result<()> {
        findings.into_iter().try_for_each(|finding| (self.0)(finding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::{CallError, ErrorKind};

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

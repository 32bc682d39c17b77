//! A point in time that an operation must not pass: Docker gives up on its own, and does not tell.

use std::time::{Duration, Instant};

use crate::model::error::{DriverError, ErrorKind, Result};

/// When an operation has to be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `budget` from now.
    pub fn after(budget: Duration) -> Self {
        Self(Instant::now() + budget)
    }

    /// What is left, zero when it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// This one or `budget` from now, whichever is sooner.
    #[must_use]
    pub fn at_most(self, budget: Duration) -> Self {
        Self(self.0.min(Instant::now() + budget))
    }

    /// An error naming `what` when it has passed.
    pub fn check(self, what: &str) -> Result<()> {
        if self.left().is_zero() {
            return Err(DriverError::new(
                ErrorKind::Timeout,
                format!("{what}: Docker's deadline has passed"),
            ));
        }
        Ok(())
    }
}

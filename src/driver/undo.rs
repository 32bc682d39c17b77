//! Rollback: what was done is undone in reverse when a later step fails, and what cannot be undone is told.
//!
//! A step is pushed *before* the call that it undoes: a call whose answer is lost may have had its effect. So every undo step is
//! idempotent, and undoing what was not done is success.
//!
//! Each step rests on the one before it (a device cannot be unmapped while it is mounted, ownership must not be given back while
//! it is mapped), so undoing stops at the first step that fails; the volume is then *unsettled* and tried again later.

use std::fmt;

use crate::model::error::{DriverError, Result};

type Step<'a> = (&'static str, Box<dyn FnOnce() -> Result<()> + 'a>);

/// The steps that would undo an operation so far.
#[derive(Default)]
pub struct Undo<'a> {
    steps: Vec<Step<'a>>,
}

impl fmt::Debug for Undo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|(what, _)| what)).finish()
    }
}

/// How a rollback ended.
#[derive(Debug)]
pub struct Undone {
    /// The error of the operation, with what could not be undone.
    pub error: DriverError,
    /// Whether all was undone.
    pub whole: bool,
}

impl<'a> Undo<'a> {
    /// Something is about to be done; `step` undoes it.
    pub fn push(&mut self, what: &'static str, step: impl FnOnce() -> Result<()> + 'a) {
        self.steps.push((what, Box::new(step)));
    }

    /// The operation failed with `error`: undoes it, last step first.
    pub fn run(mut self, error: DriverError) -> Undone {
        while let Some((what, step)) = self.steps.pop() {
            if let Err(failure) = step() {
                let left: Vec<&str> = self.steps.iter().rev().map(|(what, _)| *what).collect();
                tracing::error!(step = what, ?left, error = %failure, "could not undo");
                let failure = failure.context(format_args!("could not {what}"));
                return Undone { error: error.also(failure), whole: false };
            }
        }
        Undone { error, whole: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::ErrorKind;
    use std::cell::RefCell;

    fn three_steps<'a>(order: &'a RefCell<Vec<i32>>, failing: i32) -> Undo<'a> {
        let mut undo = Undo::default();
        for n in 1..=3 {
            undo.push("step", move || {
                order.borrow_mut().push(n);
                if n == failing { Err(DriverError::new(ErrorKind::Failed, "no")) } else { Ok(()) }
            });
        }
        undo
    }

    #[test]
    fn undoes_in_reverse() {
        let order = RefCell::new(Vec::new());
        let undone = three_steps(&order, 0).run(DriverError::new(ErrorKind::Failed, "first"));
        assert!(undone.whole);
        assert_eq!(*order.borrow(), [3, 2, 1]);
        assert_eq!(undone.error.to_string(), "first");
    }

    #[test]
    fn stops_where_it_cannot_go_on_and_tells() {
        let order = RefCell::new(Vec::new());
        let undone = three_steps(&order, 2).run(DriverError::new(ErrorKind::Failed, "first"));
        assert!(!undone.whole);
        assert_eq!(*order.borrow(), [3, 2]);
        assert_eq!(undone.error.to_string(), "first; also: could not step: no");
    }
}

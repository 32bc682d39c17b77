//! What the background work cannot see: told once for each reason, and once more when it is seen again.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::lock;
use crate::model::error::Result;

/// What is not known now, and why.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<BTreeMap<&'static str, String>>);

impl Told {
    /// The answer to `what`, if there is one.
    pub(super) fn answer<T>(&self, what: &'static str, answer: Result<T>) -> Option<T> {
        match answer {
            Ok(answer) => {
                if lock(&self.0).remove(what).is_some() {
                    tracing::info!("it is known again {what}");
                }
                Some(answer)
            }
            Err(e) => {
                let why = e.to_string();
                if lock(&self.0).insert(what, why.clone()) != Some(why) {
                    tracing::warn!(error = %e, "it is not known {what}");
                }
                None
            }
        }
    }

    /// What is not known, and why.
    pub(super) fn all(&self) -> Vec<String> {
        lock(&self.0).iter().map(|(what, why)| format!("it is not known {what}: {why}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::{DriverError, ErrorKind};

    #[test]
    fn what_is_not_known_is_kept_with_its_reason_until_it_is_known() {
        let told = Told::default();
        let away = || Err::<(), _>(DriverError::new(ErrorKind::Unreachable, "no monitor"));
        assert_eq!(told.answer("what is there", away()), None);
        assert_eq!(told.all(), ["it is not known what is there: no monitor"]);
        assert_eq!(told.answer("what is there", Ok(7)), Some(7));
        assert_eq!(told.all(), [""; 0]);
    }
}

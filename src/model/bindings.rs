//! Bare names that `-o pool=` has bound to an image elsewhere.

use std::collections::BTreeMap;

use crate::model::error::{DriverError, ErrorKind, Result};
use crate::model::name::ImageSpec;

/// By bare name.
pub type Bindings = BTreeMap<String, Bound>;

/// What a bare name is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// This image.
    To(ImageSpec),
    /// Something that is not understood: the name means no image that is known, and is not free either.
    Unread,
}

impl Bound {
    /// The image, where it is known.
    pub fn image(&self) -> Option<&ImageSpec> {
        match self {
            Self::To(spec) => Some(spec),
            Self::Unread => None,
        }
    }
}

/// The image that a bare name is bound to. An error when that is not understood.
pub fn look_up<'a>(bindings: &'a Bindings, name: &str) -> Result<Option<&'a ImageSpec>> {
    match bindings.get(name) {
        None => Ok(None),
        Some(Bound::To(spec)) => Ok(Some(spec)),
        Some(Bound::Unread) => Err(DriverError::new(
            ErrorKind::Failed,
            format!("what the registry of names says of {name:?} is not understood"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_whose_binding_is_not_understood_is_not_free() {
        let spec = ImageSpec::new("other", None, "a").unwrap();
        let bindings =
            Bindings::from([("a".to_owned(), Bound::To(spec.clone())), ("b".to_owned(), Bound::Unread)]);
        assert_eq!(look_up(&bindings, "a").unwrap(), Some(&spec));
        assert_eq!(look_up(&bindings, "b").unwrap_err().kind, ErrorKind::Failed);
        assert_eq!(look_up(&bindings, "c").unwrap(), None);
    }
}

//! One page, and what all pages say in their first and last lines.

pub(super) const NAME: &str = env!("CARGO_PKG_NAME");
pub(super) const SOURCE: &str = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
pub(super) const MANUAL: &str = "System administration";
/// Pages have no date: they change with the version. An empty one would be left out, and what follows it taken for it.
pub(super) const DATE: &str = " ";

/// One page.
#[derive(Debug)]
pub struct Page {
    /// The name of its file.
    pub file: String,
    /// Its source, for man(7).
    pub roff: String,
}

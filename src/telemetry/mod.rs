//! What the plugin tells about itself.

pub mod count;
pub mod durations;
pub mod log;

use std::any::Any;

/// What a panic said, if it said anything.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else {
        panic.downcast_ref::<String>().map_or("panic", String::as_str)
    }
}

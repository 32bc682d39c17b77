//! What the plugin tells about itself.

pub mod log;

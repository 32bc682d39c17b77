//! The block kind of volume: an image that is mapped to a device of this host, with a filesystem on it.

pub mod kernel;

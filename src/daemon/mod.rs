//! The running plugin: made of its parts by [`assemble`], served by [`serve`] until a signal ends it.

pub mod assemble;
pub mod serve;
pub mod systemd;

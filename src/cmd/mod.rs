//! What the program does, one file for each thing.

pub mod serve;

//! The pure types of the product: names, sizes, options, records, owners, errors. No I/O, and nothing of any front end, kernel or store.

pub mod bindings;
pub mod block_io;
pub mod create_options;
pub mod deadline;
pub mod error;
pub mod filesystem;
pub mod image;
pub mod locker;
pub mod mkfs_options;
pub mod mount;
pub mod mount_options;
pub mod name;
pub mod options;
pub mod overview;
pub mod owner;
pub mod process;
pub mod record;
pub mod released;
pub mod settings;
pub mod size;
pub mod store;
pub mod stored;
pub mod text;
pub mod time;
pub mod version;

//! Which host this is, and which of its lives.

use std::fs;

use crate::error::{CallError, OrCall};

const MACHINE_ID: &str = "/etc/machine-id";
const PRODUCT_UUID: &str = "/sys/class/dmi/id/product_uuid";
const RANDOM_UUID: &str = "/proc/sys/kernel/random/uuid";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The kernel's random id of this boot: what was recorded under another one is from before a restart.
pub fn boot_id() -> Result<String, CallError> {
    fs::read_to_string(BOOT_ID).map(|id| id.trim().to_owned()).or_call("read", BOOT_ID)
}

/// The host's name, as `uname -n` has it. Bytes that are not UTF-8 are replaced.
pub fn hostname() -> Result<String, CallError> {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .or_call("gethostname", "this host")
}

/// What tells this machine from another one of its name: its machine id, which copies of a virtual machine share, and the UUID of its
/// firmware, which they do not, where there is one. Empty where it has no machine id.
pub fn machine_id() -> String {
    let read = |path| fs::read_to_string(path).map(|id| id.trim().to_owned()).unwrap_or_default();
    match (read(MACHINE_ID), read(PRODUCT_UUID)) {
        (id, uuid) if id.is_empty() || uuid.is_empty() => id,
        (id, uuid) => format!("{id}.{}", uuid.to_ascii_lowercase()),
    }
}

/// A random UUID, made by the kernel.
pub fn random_uuid() -> Result<String, CallError> {
    fs::read_to_string(RANDOM_UUID).map(|id| id.trim().to_owned()).or_call("read", RANDOM_UUID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_id_is_a_uuid_and_does_not_change() {
        let id = boot_id().unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(id, boot_id().unwrap());
        assert!(!hostname().unwrap().is_empty());
    }
}

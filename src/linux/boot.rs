//! Which host this is, and which of its lives.

use std::fs;

use crate::model::error::{CallError, OrCall};
use crate::model::owner::tells_machines_apart;

const MACHINE_ID: &str = "/etc/machine-id";
const PRODUCT_UUID: &str = "/sys/class/dmi/id/product_uuid";
const RANDOM_UUID: &str = "/proc/sys/kernel/random/uuid";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The kernel's random id of this boot: what was recorded under another one is from before a restart.
pub fn boot_id() -> Result<String, CallError> {
    fs::read_to_string(BOOT_ID).map(|id| id.trim().to_owned()).or_call("read", BOOT_ID)
}

/// The running kernel's release: `6.1.0-18-amd64`; empty when it is not to be read.
pub fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The host's name, as `uname -n` has it. Bytes that are not UTF-8 are replaced.
pub fn hostname() -> Result<String, CallError> {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .or_call("gethostname", "this host")
}

/// What tells this machine from another one of its name: its machine id, which copies of a virtual machine share, and after a dot the UUID
/// of its firmware, which they do not, where there is one. Empty where it has no machine id.
pub fn machine_id() -> String {
    match (read(MACHINE_ID), firmware_id()) {
        (id, _) if !tells_machines_apart(&id) => String::new(),
        (id, uuid) if uuid.is_empty() => id,
        (id, uuid) => format!("{id}.{uuid}"),
    }
}

/// The UUID of the machine's firmware; empty where there is none, or one that says nothing.
pub fn firmware_id() -> String {
    let uuid = read(PRODUCT_UUID).to_ascii_lowercase();
    if tells_machines_apart(&uuid) { uuid } else { String::new() }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|id| id.trim().to_owned()).unwrap_or_default()
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

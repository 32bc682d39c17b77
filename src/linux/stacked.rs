//! What the kernel has built on top of a block device: multipath, LVM, encryption, RAID. Whoever does that keeps the device to himself.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use crate::model::error::{CallError, OrCall};

/// One device on top of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnTop {
    /// `dm-0`, `md127`.
    device: String,
    /// What device-mapper calls it.
    name: String,
    /// By this device-mapper's users tell what is theirs: `mpath-…`, `LVM-…`, `CRYPT-…`.
    uuid: String,
}

/// What is on top of a device with this folder in sysfs: `/sys/block/rbd0`.
pub fn on(folder: &Path) -> Result<Vec<OnTop>, CallError> {
    let holders = folder.join("holders");
    let entries = match fs::read_dir(&holders) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let look = |entry: fs::DirEntry| {
        // Only devices of device-mapper have these; without them it is still known that there is one.
        let read = |file| fs::read_to_string(entry.path().join("dm").join(file)).unwrap_or_default();
        OnTop {
            device: entry.file_name().to_string_lossy().into_owned(),
            name: read("name").trim().to_owned(),
            uuid: read("uuid").trim().to_owned(),
        }
    };
    Ok(entries.or_call("readdir", holders.display())?.into_iter().map(look).collect())
}

/// What is on top of the device of this number.
pub fn on_number((major, minor): (u32, u32)) -> Result<Vec<OnTop>, CallError> {
    on(&Path::new("/sys/dev/block").join(format!("{major}:{minor}")))
}

impl OnTop {
    /// What gives the device back.
    pub fn hint(&self) -> String {
        let name = &self.name;
        if self.uuid.starts_with("mpath-") {
            format!(
                "keep multipathd away from it: `blacklist {{ devnode \"^(rbd|loop)[0-9]*\" }}` in /etc/multipath.conf, \
                 then `multipathd reconfigure` and `multipath -f {name}`"
            )
        } else if self.uuid.starts_with("LVM-") {
            "the image holds an LVM volume, which LVM on this host has activated: deactivate it with `lvchange -an`, and keep \
             LVM away with global_filter in /etc/lvm/lvm.conf"
                .to_owned()
        } else {
            format!("`lsblk -s /dev/{}` shows what it belongs to", self.device)
        }
    }
}

/// `the multipath device mpatha (dm-0)`.
impl fmt::Display for OnTop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.uuid.split('-').next() {
            Some("mpath") => "multipath device",
            Some("LVM") => "LVM volume",
            Some("CRYPT") => "encrypted device",
            _ => "device",
        };
        match self.name.as_str() {
            "" => write!(f, "the {kind} {} on top of it", self.device),
            name => write!(f, "the {kind} {name} ({}) on top of it", self.device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sits_on_a_device_is_named_with_what_ends_it() {
        let sys = tempfile::tempdir().unwrap();
        let put = |device: &str, files: &[(&str, &str)]| {
            let dm = sys.path().join("holders").join(device).join("dm");
            fs::create_dir_all(&dm).unwrap();
            for (file, text) in files {
                fs::write(dm.join(file), format!("{text}\n")).unwrap();
            }
        };
        assert_eq!(on(sys.path()).unwrap(), []);
        fs::write(sys.path().join("holders"), "").unwrap();
        on(sys.path()).expect_err("what cannot be read is not nothing");
        fs::remove_file(sys.path().join("holders")).unwrap();
        put("dm-0", &[("name", "mpatha"), ("uuid", "mpath-360000")]);
        put("dm-1", &[("name", "vg-data"), ("uuid", "LVM-abc")]);
        put("md127", &[]);
        let mut found = on(sys.path()).unwrap();
        found.sort_by(|a, b| a.device.cmp(&b.device));
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "the multipath device mpatha (dm-0) on top of it",
                "the LVM volume vg-data (dm-1) on top of it",
                "the device md127 on top of it"
            ]
        );
        let hints: Vec<String> = found.iter().map(OnTop::hint).collect();
        assert!(hints[0].contains("blacklist") && hints[0].contains("multipath -f mpatha"), "{}", hints[0]);
        assert!(hints[1].contains("lvchange -an"), "{}", hints[1]);
        assert!(hints[2].contains("lsblk -s /dev/md127"), "{}", hints[2]);
    }
}

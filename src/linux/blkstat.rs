//! What the kernel has counted of a block device, `/sys/block/<name>`. It is in memory: reading it never waits for the device.

use std::fs;
use std::path::Path;

use crate::model::block_io::BlockIo;

const BLOCK: &str = "/sys/block";
/// The unit of `stat` and `size`, whatever the device's own sectors are.
const SECTOR: u64 = 512;

/// What was read and written of `/dev/<name>`; nothing where the kernel has no such device.
pub fn io(device: &Path) -> Option<BlockIo> {
    parse(&fs::read_to_string(folder(device)?.join("stat")).ok()?)
}

/// Its size in bytes.
pub fn size(device: &Path) -> Option<u64> {
    let sectors: u64 = fs::read_to_string(folder(device)?.join("size")).ok()?.trim().parse().ok()?;
    sectors.checked_mul(SECTOR)
}

fn folder(device: &Path) -> Option<std::path::PathBuf> {
    Some(Path::new(BLOCK).join(device.file_name()?))
}

/// Eleven numbers at least; newer kernels add some.
fn parse(text: &str) -> Option<BlockIo> {
    let fields: Vec<u64> = text.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
    let [reads, _, read, read_ms, writes, _, written, write_ms, in_flight, busy_ms, _, ..] = fields[..]
    else {
        return None;
    };
    let bytes = |sectors: u64| sectors.saturating_mul(SECTOR);
    Some(BlockIo {
        reads,
        read_bytes: bytes(read),
        read_ms,
        writes,
        written_bytes: bytes(written),
        write_ms,
        in_flight,
        busy_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_any_kernel() {
        let old = "     100      7      800       42       10        2      160        9        1       30       51\n";
        let new = format!("{} 0 0 0 0 5 6", old.trim_end());
        let expected = BlockIo {
            reads: 100,
            read_bytes: 409_600,
            read_ms: 42,
            writes: 10,
            written_bytes: 81_920,
            write_ms: 9,
            in_flight: 1,
            busy_ms: 30,
        };
        assert_eq!(parse(old), Some(expected));
        assert_eq!(parse(&new), Some(expected));
        assert_eq!(parse("1 2 3"), None);
        assert_eq!(parse(""), None);
        assert_eq!(io(Path::new("/dev/no-such-device")), None);
        assert_eq!(size(Path::new("/")), None);
    }
}

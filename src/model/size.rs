//! Sizes: bytes inside, MiB on the command line.
//!
//! A bare number is MiB, as in rbd-docker-plugin and `rbd create`; `K`, `M`, `G`, `T` (also `KiB`, `KB`, `k`, …) are
//! powers of 1024. Everything else is an error that says what is accepted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::error::DriverError;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Size(u64);

/// One MiB, the unit of the command line.
const MIB: u64 = 1 << 20;
/// The largest offset that the kernel's `loff_t` holds, rounded down to a MiB.
const MAX: u64 = (i64::MAX as u64) / MIB * MIB;

impl Size {
    /// So many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many MiB.
    pub const fn mib(mib: u64) -> Self {
        Self(mib * MIB)
    }

    /// In bytes.
    pub const fn as_bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = DriverError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |why: &str| {
            DriverError::invalid(format!("invalid size {text:?}: {why}"))
                .hint("give a whole number of MiB (1024) or a number with K, M, G or T, powers of 1024 (10G)")
        };
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(bad("it does not begin with a digit"));
        }
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "m" | "mb" | "mib" => 20,
            "b" => 0,
            "k" | "kb" | "kib" => 10,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(bad("unknown unit")),
        };
        let bytes = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(1 << shift))
            .filter(|b| *b <= MAX)
            .ok_or_else(|| bad("too large"))?;
        match bytes {
            0 => Err(bad("a volume cannot be empty")),
            b if !b.is_multiple_of(512) => Err(bad("not a multiple of the 512-byte sector")),
            b => Ok(Self(b)),
        }
    }
}

/// In the largest unit that divides it: `64M`, `20G`, `1536K`.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shift, unit) = [(40, "T"), (30, "G"), (20, "M"), (10, "K")]
            .into_iter()
            .find(|(shift, _)| self.0 != 0 && self.0.is_multiple_of(1 << shift))
            .unwrap_or((0, "B"));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert_eq, proptest};

    #[test]
    fn units_are_binary_and_a_bare_number_is_mib() {
        for (text, bytes) in [
            ("64", 64 << 20),
            ("20480", 20 << 30),
            ("64M", 64 << 20),
            ("10G", 10 << 30),
            ("10GB", 10 << 30),
            ("10GiB", 10 << 30),
            ("1536k", 1536 << 10),
            ("2T", 2 << 40),
            ("512B", 512),
        ] {
            assert_eq!(text.parse::<Size>().unwrap().as_bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn nonsense_is_an_error_that_says_what_is_accepted() {
        for text in ["", "0", "G", "-1", "1.5G", "10X", "10 G", " 10", "1GG", "99999999999T", "513B", "１０"]
        {
            let e = text.parse::<Size>().unwrap_err().to_string();
            assert!(e.contains("whole number of MiB"), "{text}: {e}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(sectors in 1u64..(1 << 50)) {
            let size = Size::bytes(sectors * 512);
            prop_assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        }

        #[test]
        fn parsing_never_panics(text in ".*") {
            let _ = text.parse::<Size>();
        }
    }
}

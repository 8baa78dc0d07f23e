//! Byte counts as people write them: `512M`, `8G`.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

/// A number of bytes: a disk's size, a guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// `count` times 1024 * 1024 bytes; at most `u64::MAX`.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count.saturating_mul(1024 * 1024))
    }

    /// `count` times 1024 * 1024 * 1024 bytes; at most `u64::MAX`.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self::mib(count.saturating_mul(1024))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let count: u64 = digits
            .parse()
            .with_context(|| format!("{text:?} is not a size such as 512M or 8G"))?;
        let shift = match text.get(digits.len()..).unwrap_or_default() {
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            unit => bail!("unknown unit {unit:?} in the size {text:?}: use K, M, G or T"),
        };
        let bytes = count
            .checked_mul(1_u64 << shift)
            .with_context(|| format!("the size {text:?} does not fit in 64 bits"))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn sizes_are_read_with_binary_units() {
        assert_eq!("8G".parse::<Size>().unwrap(), Size::gib(8));
        assert_eq!("1536K".parse::<Size>().unwrap().bytes(), 1_572_864);
        assert_eq!("17".parse::<Size>().unwrap().bytes(), 17);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "G", "8GB", "8 G", "-1M", "99999999T"] {
            assert!(text.parse::<Size>().is_err(), "{text:?} was taken");
        }
    }
}

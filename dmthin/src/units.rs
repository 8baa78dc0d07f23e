//! Units of the block layer as types: no bare integer crosses a module.
//!
//! A sector is 512 bytes whatever the device says, as everywhere in `drivers/md`. A data block is
//! the pool's unit of allocation ([`BlockSize`]); a metadata block is 4096 bytes
//! (`drivers/md/dm-thin-metadata.h`, `THIN_METADATA_BLOCK_SIZE`).
//!
//! Arithmetic is checked, conversions are named and say which way they round. There is no `Deref`
//! and no `From<u64>`: a number gets its unit where it enters the program and keeps it.

use std::fmt;
use std::str::FromStr;

/// Bytes in a sector.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes in a block of the thin metadata device.
pub const META_BLOCK_BYTES: u64 = 4096;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize,
        )]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// None of it.
            pub const ZERO: Self = Self(0);

            /// Gives a number this unit.
            #[must_use]
            pub const fn new(n: u64) -> Self {
                Self(n)
            }

            /// The bare number, for the kernel, a file or the screen.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The sum, or `None` past `u64::MAX`.
            #[must_use]
            pub const fn checked_add(self, other: Self) -> Option<Self> {
                match self.0.checked_add(other.0) {
                    Some(n) => Some(Self(n)),
                    None => None,
                }
            }

            /// The difference, or `None` below zero.
            #[must_use]
            pub const fn checked_sub(self, other: Self) -> Option<Self> {
                match self.0.checked_sub(other.0) {
                    Some(n) => Some(Self(n)),
                    None => None,
                }
            }

            /// The difference, or zero where there is none.
            #[must_use]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }
    };
}

unit! {
    /// A length or an offset in sectors of 512 bytes.
    Sectors
}
unit! {
    /// Blocks of the pool's data device, each of the pool's [`BlockSize`].
    DataBlocks
}
unit! {
    /// Blocks of the pool's metadata device, 4096 bytes each.
    MetaBlocks
}

macro_rules! show_as_number {
    ($($name:ident),+) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        })+
    };
}

show_as_number!(Sectors, DataBlocks, MetaBlocks);

unit! {
    /// A length in bytes.
    ///
    /// Shows itself in binary units (`10 GiB`), reads `512`, `64K`, `10G`, `1.5GiB`: suffixes are
    /// binary, as everywhere in this field.
    Bytes
}

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSizeError {
    /// Not a number with an optional suffix.
    #[error("{0:?} is not a size: write a number and K, M, G or T, as in 10G")]
    Syntax(String),
    /// More than 2^64 - 1 bytes.
    #[error("the size {0:?} is larger than 2^64 bytes")]
    TooLarge(String),
}

impl Bytes {
    /// So many KiB; saturates.
    #[must_use]
    pub const fn from_kib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 10))
    }

    /// So many MiB; saturates.
    #[must_use]
    pub const fn from_mib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 20))
    }

    /// So many GiB; saturates.
    #[must_use]
    pub const fn from_gib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 30))
    }

    /// The sum, or the largest size there is.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Whole sectors, where the length is a multiple of 512.
    #[must_use]
    pub const fn to_sectors_exact(self) -> Option<Sectors> {
        if self.0.is_multiple_of(SECTOR_BYTES) {
            Some(Sectors::new(self.0 / SECTOR_BYTES))
        } else {
            None
        }
    }

    /// Whole sectors, a last part dropped.
    #[must_use]
    pub const fn to_sectors_floor(self) -> Sectors {
        Sectors::new(self.0 / SECTOR_BYTES)
    }

    /// Rounded up to a multiple of `unit` bytes, or `None` past `u64::MAX` or for a zero unit.
    #[must_use]
    pub const fn checked_round_up(self, unit: Self) -> Option<Self> {
        match self.0.checked_next_multiple_of(unit.0) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEPS: [(u32, &str); 5] = [
            (50, "PiB"),
            (40, "TiB"),
            (30, "GiB"),
            (20, "MiB"),
            (10, "KiB"),
        ];
        for (shift, name) in STEPS {
            let whole = self.0 >> shift;
            if whole > 0 {
                let rest = self.0.saturating_sub(whole << shift);
                // Below ten units one decimal is worth its place; it is cut, never rounded up.
                let tenth = rest.saturating_mul(10) >> shift;
                return if whole < 10 && tenth > 0 {
                    f.pad(&format!("{whole}.{tenth} {name}"))
                } else {
                    f.pad(&format!("{whole} {name}"))
                };
            }
        }
        f.pad(&format!("{} B", self.0))
    }
}

impl FromStr for Bytes {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || ParseSizeError::Syntax(text.to_owned());
        let too_large = || ParseSizeError::TooLarge(text.to_owned());
        let number_end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at_checked(number_end).ok_or_else(syntax)?;
        let shift = match suffix.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            "p" | "pb" | "pib" => 50,
            _ => return Err(syntax()),
        };
        let unit = 1_u64 << shift;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.len() > 9 {
            return Err(syntax());
        }
        if fraction.contains('.') || (shift == 0 && !fraction.is_empty()) {
            return Err(syntax());
        }
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let mut bytes = whole.checked_mul(unit).ok_or_else(too_large)?;
        if !fraction.is_empty() {
            let digits: u128 = fraction.parse().map_err(|_| syntax())?;
            let scale = fraction
                .bytes()
                .fold(1_u128, |scale, _| scale.saturating_mul(10));
            let part = digits
                .saturating_mul(u128::from(unit))
                .checked_div(scale)
                .ok_or_else(syntax)?;
            let part = u64::try_from(part).map_err(|_| too_large())?;
            bytes = bytes.checked_add(part).ok_or_else(too_large)?;
        }
        Ok(Self(bytes))
    }
}

/// What a size is to become: so much, or so much more. Reads `80G` and `+10G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewSize {
    /// This size.
    To(Bytes),
    /// More by this.
    By(Bytes),
}

impl NewSize {
    /// The size that follows from the one there is; saturates.
    #[must_use]
    pub const fn from(self, now: Bytes) -> Bytes {
        match self {
            Self::To(size) => size,
            Self::By(more) => now.saturating_add(more),
        }
    }
}

impl FromStr for NewSize {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix('+') {
            Some(more) => more.parse().map(Self::By),
            None => text.parse().map(Self::To),
        }
    }
}

/// A share of a whole, in whole hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Percent(u8);

/// Why a number is not a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a percentage: write a whole number from 0 to 99, as in 10 or 10%")]
pub struct PercentError(pub String);

impl Percent {
    /// A tenth.
    pub const TENTH: Self = Self(10);

    /// So many hundredths, less than all of it.
    ///
    /// # Errors
    /// [`PercentError`] from 100 on.
    pub fn new(hundredths: u64) -> Result<Self, PercentError> {
        match u8::try_from(hundredths) {
            Ok(n) if n < 100 => Ok(Self(n)),
            _ => Err(PercentError(hundredths.to_string())),
        }
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// This share of a length, rounded down.
    #[must_use]
    pub fn of(self, whole: Bytes) -> Bytes {
        let hundredths = whole.0 / 100;
        let rest = whole.0 % 100;
        let share = u64::from(self.0);
        // Neither part can overflow: the share is less than a hundred.
        let whole = hundredths.saturating_mul(share);
        Bytes(whole.saturating_add(rest.saturating_mul(share) / 100))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for Percent {
    type Err = PercentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_suffix('%').unwrap_or(text);
        let number = digits.bytes().all(|byte| byte.is_ascii_digit());
        match digits.parse() {
            Ok(n) if number => Self::new(n).map_err(|_| PercentError(text.to_owned())),
            _ => Err(PercentError(text.to_owned())),
        }
    }
}

/// By how much something grows, in hundredths of what it is: 1 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct GrowthPercent(u16);

/// Why a number is no growth.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a growth: write a whole number of percent from 1 to 1000")]
pub struct GrowthPercentError(pub u64);

impl GrowthPercent {
    /// A fifth more.
    pub const FIFTH: Self = Self(20);

    /// So many hundredths.
    ///
    /// # Errors
    /// [`GrowthPercentError`] for 0 and from 1001 on.
    pub fn new(hundredths: u64) -> Result<Self, GrowthPercentError> {
        match u16::try_from(hundredths) {
            Ok(n) if (1..=1000).contains(&n) => Ok(Self(n)),
            _ => Err(GrowthPercentError(hundredths)),
        }
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// What is added to a length.
    #[must_use]
    pub fn of(self, whole: Bytes) -> Bytes {
        let added = u128::from(whole.0).saturating_mul(u128::from(self.0)) / 100;
        Bytes(u64::try_from(added).unwrap_or(u64::MAX))
    }
}

impl Sectors {
    /// The same length in bytes, or `None` past `u64::MAX`.
    #[must_use]
    pub const fn to_bytes(self) -> Option<Bytes> {
        match self.0.checked_mul(SECTOR_BYTES) {
            Some(n) => Some(Bytes::new(n)),
            None => None,
        }
    }

    /// The same length in bytes; saturates, for the screen.
    #[must_use]
    pub const fn to_bytes_saturating(self) -> Bytes {
        Bytes::new(self.0.saturating_mul(SECTOR_BYTES))
    }
}

impl MetaBlocks {
    /// The same length in bytes; saturates.
    #[must_use]
    pub const fn to_bytes_saturating(self) -> Bytes {
        Bytes::new(self.0.saturating_mul(META_BLOCK_BYTES))
    }
}

impl DataBlocks {
    /// The same length in bytes; saturates.
    #[must_use]
    pub const fn to_bytes_saturating(self, block_size: BlockSize) -> Bytes {
        Bytes::new(self.0.saturating_mul(block_size.to_bytes().get()))
    }
}

/// The pool's unit of allocation: a multiple of 64 KiB from 64 KiB to 1 GiB
/// (`drivers/md/dm-thin.c`, `DATA_DEV_BLOCK_SIZE_MIN_SECTORS` and its maximum).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct BlockSize(u32);

/// A length that is no block size of a thin pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a block size of a thin pool: it is a multiple of 64 KiB, at most 1 GiB")]
pub struct BlockSizeError(pub Bytes);

impl BlockSize {
    /// The smallest one, and ours where nothing else is asked for: what many snapshots want.
    pub const DEFAULT: Self = Self(128);
    const STEP: u64 = 128;
    const MAX: u64 = 1 << 21;

    /// The block size of so many sectors.
    ///
    /// # Errors
    /// [`BlockSizeError`] where the kernel would refuse it.
    pub fn from_sectors(sectors: Sectors) -> Result<Self, BlockSizeError> {
        let n = sectors.get();
        if n == 0 || n > Self::MAX || !n.is_multiple_of(Self::STEP) {
            return Err(BlockSizeError(sectors.to_bytes_saturating()));
        }
        u32::try_from(n)
            .map(Self)
            .map_err(|_| BlockSizeError(sectors.to_bytes_saturating()))
    }

    /// The block size of so many bytes.
    ///
    /// # Errors
    /// [`BlockSizeError`] where the kernel would refuse it.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, BlockSizeError> {
        bytes
            .to_sectors_exact()
            .ok_or(BlockSizeError(bytes))
            .and_then(Self::from_sectors)
    }

    /// In sectors.
    #[must_use]
    pub fn to_sectors(self) -> Sectors {
        Sectors::new(u64::from(self.0))
    }

    /// In bytes.
    #[must_use]
    #[allow(
        clippy::as_conversions,
        reason = "u32 to u64 widens; From is not const"
    )]
    pub const fn to_bytes(self) -> Bytes {
        Bytes::new((self.0 as u64).saturating_mul(SECTOR_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_size_is_absolute_or_relative() {
        let now = Bytes::from_gib(10);
        let size = |text: &str| text.parse::<NewSize>().map(|size| size.from(now));
        assert_eq!(size("12G"), Ok(Bytes::from_gib(12)));
        assert_eq!(size("+2G"), Ok(Bytes::from_gib(12)));
        for text in ["", "+", "++1G", "-1G"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_read_and_taken() {
        for (text, n) in [("0", 0), ("10", 10), ("10%", 10), ("99%", 99)] {
            assert_eq!(text.parse::<Percent>().unwrap().get(), n);
        }
        for text in ["", "%", "100", "+5", "-1", "1.5", "10 %", "256"] {
            assert_eq!(text.parse::<Percent>(), Err(PercentError(text.to_owned())));
        }
        assert_eq!(Percent::TENTH.of(Bytes::new(1005)), Bytes::new(100));
        let most = Percent::new(99).unwrap().of(Bytes::new(u64::MAX));
        assert_eq!(most, Bytes::new(18_262_276_632_972_456_098));
        assert_eq!(Percent::TENTH.to_string(), "10%");
    }

    #[test]
    fn sizes_are_read_with_binary_suffixes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64K", 65_536),
            ("64 KiB", 65_536),
            ("10g", 10_737_418_240),
            ("1.5GiB", 1_610_612_736),
            ("0.25M", 262_144),
            ("16777215T", 18_446_742_974_197_923_840),
        ] {
            assert_eq!(text.parse(), Ok(Bytes::new(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "G",
            "-1G",
            "1.G",
            ".5G",
            "1.2.3G",
            "1.5",
            "10 apples",
            "1e3",
            "0x10",
            "5 5",
        ] {
            assert_eq!(
                text.parse::<Bytes>(),
                Err(ParseSizeError::Syntax(text.to_owned())),
                "{text}"
            );
        }
        for text in ["16777216T", "99999999999999999999"] {
            assert_eq!(
                text.parse::<Bytes>(),
                Err(ParseSizeError::TooLarge(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_show_in_binary_units_and_never_too_large() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (2047, "1.9 KiB"),
            (10_737_418_240, "10 GiB"),
            (10_737_418_239, "9.9 GiB"),
            (u64::MAX, "16383 PiB"),
        ] {
            assert_eq!(Bytes::new(bytes).to_string(), text);
        }
    }

    #[test]
    fn block_sizes_are_those_the_kernel_takes() {
        for good in [128, 256, 384, 1 << 21] {
            let size = BlockSize::from_sectors(Sectors::new(good)).unwrap();
            assert_eq!(size.to_sectors(), Sectors::new(good));
        }
        for bad in [0, 1, 127, 129, (1 << 21) + 128, u64::MAX] {
            assert!(BlockSize::from_sectors(Sectors::new(bad)).is_err(), "{bad}");
        }
        assert_eq!(
            BlockSize::from_bytes(Bytes::from_kib(64)),
            Ok(BlockSize::DEFAULT)
        );
        assert_eq!(
            BlockSize::from_bytes(Bytes::new(65_535)),
            Err(BlockSizeError(Bytes::new(65_535)))
        );
    }

    #[test]
    fn conversions_say_how_they_round() {
        assert_eq!(Bytes::new(1024).to_sectors_exact(), Some(Sectors::new(2)));
        assert_eq!(Bytes::new(1025).to_sectors_exact(), None);
        assert_eq!(Bytes::new(1025).to_sectors_floor(), Sectors::new(2));
        assert_eq!(Sectors::new(u64::MAX).to_bytes(), None);
        assert_eq!(
            Bytes::new(1).checked_round_up(Bytes::from_kib(4)),
            Some(Bytes::from_kib(4))
        );
        assert_eq!(Bytes::new(1).checked_round_up(Bytes::ZERO), None);
    }
}

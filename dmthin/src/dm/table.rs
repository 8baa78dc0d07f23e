//! The parameter text of table lines: thin-pool, thin, linear, error and flakey.
//!
//! `Display` writes what the kernel writes for the same table (but for a blank at the end), so a
//! table read back can be compared with the one loaded. Devices are `major:minor` in both
//! directions: that is how the kernel prints them (`drivers/md/dm-table.c`, `dm_get_device`), and a
//! path could lead to another device by the time the kernel looks it up.

use std::fmt;

use crate::dm::line::{LineError, Words, decimal};
use crate::ids::{DevNo, ThinId};
use crate::units::{BlockSize, DataBlocks, Sectors};

const DEVICE_NUMBER: &str = "device number";

fn device(words: &mut Words<'_>, field: &'static str) -> Result<DevNo, LineError> {
    words.parse(field, |word| word.parse().ok())
}

/// Reads `<count> <word>...`; no count at all means none.
fn counted(words: &mut Words<'_>) -> Result<Vec<String>, LineError> {
    const COUNT: &str = "number of feature arguments";
    let Some(word) = words.optional() else {
        return Ok(Vec::new());
    };
    let count: u32 = decimal(word).ok_or_else(|| words.invalid(COUNT, word))?;
    (0..count)
        .map(|_| words.word("feature argument").map(str::to_owned))
        .collect()
}

fn write_counted(f: &mut fmt::Formatter<'_>, words: &[&str]) -> fmt::Result {
    write!(f, " {}", words.len())?;
    words.iter().try_for_each(|word| write!(f, " {word}"))
}

/// The feature arguments of a thin pool. The default, none, is the safest: blocks are zeroed,
/// discards are passed down, a full pool makes writers wait.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct PoolFeatures {
    /// New blocks are not zeroed: a reader can see what another volume left in them.
    pub skip_block_zeroing: bool,
    /// Discards do nothing.
    pub ignore_discard: bool,
    /// Discards free blocks in the pool but are not passed to the data device.
    pub no_discard_passdown: bool,
    /// The pool's metadata is not to be written.
    pub read_only: bool,
    /// A full pool gives errors at once instead of making writers wait.
    pub error_if_no_space: bool,
    /// Arguments this version does not know, as the kernel spells them.
    pub unknown: Vec<String>,
}

impl PoolFeatures {
    fn from_words(words: Vec<String>) -> Self {
        let mut features = Self::default();
        for word in words {
            match word.as_str() {
                "skip_block_zeroing" => features.skip_block_zeroing = true,
                "ignore_discard" => features.ignore_discard = true,
                "no_discard_passdown" => features.no_discard_passdown = true,
                "read_only" => features.read_only = true,
                "error_if_no_space" => features.error_if_no_space = true,
                _ => features.unknown.push(word),
            }
        }
        features
    }

    /// In the order of `drivers/md/dm-thin.c:emit_flags`.
    fn words(&self) -> Vec<&str> {
        [
            (self.skip_block_zeroing, "skip_block_zeroing"),
            (self.ignore_discard, "ignore_discard"),
            (self.no_discard_passdown, "no_discard_passdown"),
            (self.read_only, "read_only"),
            (self.error_if_no_space, "error_if_no_space"),
        ]
        .into_iter()
        .filter_map(|(set, word)| set.then_some(word))
        .chain(self.unknown.iter().map(String::as_str))
        .collect()
    }
}

/// A `thin-pool` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinPoolTable {
    /// The metadata device.
    pub metadata: DevNo,
    /// The data device.
    pub data: DevNo,
    /// The unit of allocation.
    pub block_size: BlockSize,
    /// An event is sent when fewer free data blocks than this are left.
    pub low_water: DataBlocks,
    /// The feature arguments.
    pub features: PoolFeatures,
}

impl ThinPoolTable {
    /// The target's name.
    pub const TARGET: &'static str = "thin-pool";

    /// Reads the parameters of a line.
    ///
    /// # Errors
    /// [`LineError`] where a field is missing, wrong or too many.
    pub fn parse(params: &str) -> Result<Self, LineError> {
        let mut words = Words::new(Self::TARGET, params);
        let metadata = device(&mut words, "metadata device")?;
        let data = device(&mut words, "data device")?;
        let block_size = words.parse("block size", |word| {
            let sectors = decimal(word).map(Sectors::new)?;
            BlockSize::from_sectors(sectors).ok()
        })?;
        let low_water = DataBlocks::new(words.number("low water mark")?);
        let features = PoolFeatures::from_words(counted(&mut words)?);
        words.end()?;
        Ok(Self {
            metadata,
            data,
            block_size,
            low_water,
            features,
        })
    }
}

impl fmt::Display for ThinPoolTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} {}",
            self.metadata,
            self.data,
            self.block_size.to_sectors(),
            self.low_water
        )?;
        write_counted(f, &self.features.words())
    }
}

/// A `thin` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinTable {
    /// The pool device.
    pub pool: DevNo,
    /// The volume inside the pool.
    pub id: ThinId,
    /// A device that blocks not yet provisioned are read from.
    pub external_origin: Option<DevNo>,
}

impl ThinTable {
    /// The target's name.
    pub const TARGET: &'static str = "thin";

    /// Reads the parameters of a line.
    ///
    /// # Errors
    /// [`LineError::Withheld`] where the kernel shows no table because the pool has failed, another
    /// [`LineError`] where a field is missing, wrong or too many.
    pub fn parse(params: &str) -> Result<Self, LineError> {
        let mut words = Words::new(Self::TARGET, params);
        if let word @ ("Fail" | "-") = params.trim_ascii() {
            return Err(LineError::Withheld {
                target: Self::TARGET,
                word: word.to_owned(),
            });
        }
        let pool = device(&mut words, "pool device")?;
        let id = words.parse("device id", |word| ThinId::new(decimal(word)?).ok())?;
        let external_origin = words
            .optional()
            .map(|word| {
                word.parse()
                    .map_err(|_| words.invalid("external origin", word))
            })
            .transpose()?;
        words.end()?;
        Ok(Self {
            pool,
            id,
            external_origin,
        })
    }
}

impl fmt::Display for ThinTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pool, self.id)?;
        match self.external_origin {
            Some(origin) => write!(f, " {origin}"),
            None => Ok(()),
        }
    }
}

/// A `linear` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearTable {
    /// The device below.
    pub device: DevNo,
    /// Where on it the segment begins.
    pub offset: Sectors,
}

impl LinearTable {
    /// The target's name.
    pub const TARGET: &'static str = "linear";

    /// Reads the parameters of a line.
    ///
    /// # Errors
    /// [`LineError`] where a field is missing, wrong or too many.
    pub fn parse(params: &str) -> Result<Self, LineError> {
        let mut words = Words::new(Self::TARGET, params);
        let device = device(&mut words, DEVICE_NUMBER)?;
        let offset = Sectors::new(words.number("offset")?);
        words.end()?;
        Ok(Self { device, offset })
    }
}

impl fmt::Display for LinearTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.device, self.offset)
    }
}

/// An `error` line: every request fails. It has no parameters.
///
/// Newer kernels accept a device and an offset, to copy its zones (`drivers/md/dm-target.c`,
/// `io_err_ctr`), but do not print them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorTable;

impl ErrorTable {
    /// The target's name.
    pub const TARGET: &'static str = "error";

    /// Reads the parameters of a line.
    ///
    /// # Errors
    /// [`LineError::Trailing`] where there are any.
    pub fn parse(params: &str) -> Result<Self, LineError> {
        Words::new(Self::TARGET, params).end().map(|()| Self)
    }
}

impl fmt::Display for ErrorTable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// A `flakey` line: a linear mapping that misbehaves for part of the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlakeyTable {
    /// The device below.
    pub device: DevNo,
    /// Where on it the segment begins.
    pub offset: Sectors,
    /// Seconds of good behaviour in each round.
    pub up_seconds: u32,
    /// Seconds of bad behaviour in each round.
    pub down_seconds: u32,
    /// What is bad then, as `drop_writes` or `error_writes`; with none, every request fails.
    pub features: Vec<String>,
}

impl FlakeyTable {
    /// The target's name.
    pub const TARGET: &'static str = "flakey";

    /// Reads the parameters of a line.
    ///
    /// # Errors
    /// [`LineError`] where a field is missing, wrong or too many.
    pub fn parse(params: &str) -> Result<Self, LineError> {
        let mut words = Words::new(Self::TARGET, params);
        let device = device(&mut words, DEVICE_NUMBER)?;
        let offset = Sectors::new(words.number("offset")?);
        let up_seconds = words.number("up interval")?;
        let down_seconds = words.number("down interval")?;
        let features = counted(&mut words)?;
        words.end()?;
        Ok(Self {
            device,
            offset,
            up_seconds,
            down_seconds,
            features,
        })
    }
}

impl fmt::Display for FlakeyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} {}",
            self.device, self.offset, self.up_seconds, self.down_seconds
        )?;
        let words: Vec<_> = self.features.iter().map(String::as_str).collect();
        write_counted(f, &words)
    }
}

#[cfg(test)]
mod tests;

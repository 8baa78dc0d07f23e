//! The status lines of thin-pool, thin, linear, error and flakey targets.
//!
//! Kernel words as the kernel spells them; `Display` writes what the kernel writes (but for a blank
//! at the end). Unknown words at the end of a thin-pool line are kept: kernels add some.

use std::fmt;

use crate::dm::line::{LineError, Words, decimal};
use crate::ids::TransactionId;
use crate::units::{DataBlocks, MetaBlocks, Sectors};

/// A `thin-pool` status line (`drivers/md/dm-thin.c`, `pool_status`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolStatus {
    /// The pool answers.
    Working(Box<WorkingPool>),
    /// `Fail`: the pool gave up, all I/O to it fails.
    Fail,
    /// `Error`: the kernel could not read its own metadata to make the line.
    Error,
}

/// What a pool that answers says of itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct WorkingPool {
    /// The transaction id of the superblock.
    pub transaction_id: TransactionId,
    /// Metadata blocks in use.
    pub used_metadata: MetaBlocks,
    /// Metadata blocks there are.
    pub total_metadata: MetaBlocks,
    /// Data blocks in use.
    pub used_data: DataBlocks,
    /// Data blocks there are.
    pub total_data: DataBlocks,
    /// The metadata block of the metadata snapshot's superblock, where a snapshot is held.
    pub held_root: Option<MetaBlocks>,
    /// What the pool still does.
    pub mode: PoolMode,
    /// What becomes of discards. The truth, where the table holds the wish: the kernel turns
    /// passing down off by itself when the data device cannot take it.
    pub discard: DiscardMode,
    /// What a full pool does.
    pub on_full: OnFull,
    /// The metadata must be checked before the pool takes writes again.
    pub needs_check: bool,
    /// An event is sent when fewer free metadata blocks than this are left; kernels before 4.20 do
    /// not say.
    pub metadata_low_water: Option<MetaBlocks>,
    /// Words this version does not know.
    pub unknown: Vec<String>,
}

/// The mode of a pool that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolMode {
    /// `rw`: all is well.
    Rw,
    /// `ro`: read-only by wish, by an error, or for want of metadata space.
    Ro,
    /// `out_of_data_space`: no new block can be had.
    OutOfDataSpace,
}

/// What the pool does with discards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DiscardMode {
    /// `discard_passdown`: frees blocks and passes the discard to the data device.
    DiscardPassdown,
    /// `no_discard_passdown`: frees blocks only.
    NoDiscardPassdown,
    /// `ignore_discard`: nothing.
    IgnoreDiscard,
}

/// What the pool does with a write that finds no free block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// `error_if_no_space`: it fails at once.
    ErrorIfNoSpace,
    /// `queue_if_no_space`: it waits for space, for 60 s by default.
    QueueIfNoSpace,
}

macro_rules! kernel_words {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            /// The kernel's word for it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

kernel_words!(PoolMode { Rw = "rw", Ro = "ro", OutOfDataSpace = "out_of_data_space" });
kernel_words!(DiscardMode {
    DiscardPassdown = "discard_passdown",
    NoDiscardPassdown = "no_discard_passdown",
    IgnoreDiscard = "ignore_discard",
});
kernel_words!(OnFull {
    ErrorIfNoSpace = "error_if_no_space",
    QueueIfNoSpace = "queue_if_no_space",
});

/// Reads `<used>/<total>`.
fn used_of(words: &mut Words<'_>, field: &'static str) -> Result<(u64, u64), LineError> {
    words.parse(field, |word| {
        let (used, total) = word.split_once('/')?;
        Some((digits(used)?, digits(total)?))
    })
}

fn digits(word: &str) -> Option<u64> {
    decimal(word)
}

fn dash_or<T: fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Reads `-` or a number.
fn number_or_dash(words: &mut Words<'_>, field: &'static str) -> Result<Option<u64>, LineError> {
    words.parse(field, |word| match word {
        "-" => Some(None),
        _ => digits(word).map(Some),
    })
}

impl PoolStatus {
    const TARGET: &'static str = "thin-pool status";

    /// Reads a status line.
    ///
    /// # Errors
    /// [`LineError`] where a field is missing or wrong.
    pub fn parse(line: &str) -> Result<Self, LineError> {
        match line.trim_ascii() {
            "Fail" => return Ok(Self::Fail),
            "Error" => return Ok(Self::Error),
            _ => {}
        }
        let mut words = Words::new(Self::TARGET, line);
        let transaction_id = TransactionId::new(words.number("transaction id")?);
        let (used_metadata, total_metadata) = used_of(&mut words, "metadata usage")?;
        let (used_data, total_data) = used_of(&mut words, "data usage")?;
        let held_root = number_or_dash(&mut words, "held metadata root")?.map(MetaBlocks::new);
        let mode = words.parse("mode", PoolMode::from_word)?;
        let discard = words.parse("discard mode", DiscardMode::from_word)?;
        let on_full = words.parse("no-space behaviour", OnFull::from_word)?;
        let needs_check = words.parse("needs_check flag", |word| match word {
            "needs_check" => Some(true),
            "-" => Some(false),
            _ => None,
        })?;
        let metadata_low_water = match words.optional() {
            None => None,
            Some(word) => {
                Some(MetaBlocks::new(digits(word).ok_or_else(|| {
                    words.invalid("metadata low water mark", word)
                })?))
            }
        };
        Ok(Self::Working(Box::new(WorkingPool {
            transaction_id,
            used_metadata: MetaBlocks::new(used_metadata),
            total_metadata: MetaBlocks::new(total_metadata),
            used_data: DataBlocks::new(used_data),
            total_data: DataBlocks::new(total_data),
            held_root,
            mode,
            discard,
            on_full,
            needs_check,
            metadata_low_water,
            unknown: words.into_rest(),
        })))
    }
}

impl fmt::Display for PoolStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Working(pool) => pool.fmt(f),
            Self::Fail => f.write_str("Fail"),
            Self::Error => f.write_str("Error"),
        }
    }
}

impl fmt::Display for WorkingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}/{} {}/{} {} {} {} {} {}",
            self.transaction_id,
            self.used_metadata,
            self.total_metadata,
            self.used_data,
            self.total_data,
            dash_or(self.held_root),
            self.mode,
            self.discard,
            self.on_full,
            if self.needs_check { "needs_check" } else { "-" },
        )?;
        if let Some(blocks) = self.metadata_low_water {
            write!(f, " {blocks}")?;
        }
        self.unknown
            .iter()
            .try_for_each(|word| write!(f, " {word}"))
    }
}

/// A `thin` status line (`drivers/md/dm-thin.c`, `thin_status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinStatus {
    /// The volume answers.
    Working {
        /// What it has in the pool, shared blocks included.
        mapped: Sectors,
        /// Its highest mapped sector; `None` where nothing is mapped.
        highest: Option<Sectors>,
    },
    /// `-`: the device is not bound to its volume yet.
    Unbound,
    /// `Fail`: the pool gave up.
    Fail,
    /// `Error`: the kernel could not read its own metadata to make the line.
    Error,
}

impl ThinStatus {
    const TARGET: &'static str = "thin status";

    /// Reads a status line.
    ///
    /// # Errors
    /// [`LineError`] where a field is missing, wrong or too many.
    pub fn parse(line: &str) -> Result<Self, LineError> {
        match line.trim_ascii() {
            "-" => return Ok(Self::Unbound),
            "Fail" => return Ok(Self::Fail),
            "Error" => return Ok(Self::Error),
            _ => {}
        }
        let mut words = Words::new(Self::TARGET, line);
        let mapped = Sectors::new(words.number("number of mapped sectors")?);
        let highest = number_or_dash(&mut words, "highest mapped sector")?.map(Sectors::new);
        words.end()?;
        Ok(Self::Working { mapped, highest })
    }
}

impl fmt::Display for ThinStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Working { mapped, highest } => write!(f, "{mapped} {}", dash_or(*highest)),
            Self::Unbound => f.write_str("-"),
            Self::Fail => f.write_str("Fail"),
            Self::Error => f.write_str("Error"),
        }
    }
}

/// The status line of a target that has nothing to say: linear, error and flakey
/// (`drivers/md/dm-linear.c`, `linear_status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SilentStatus;

impl SilentStatus {
    /// Reads a status line.
    ///
    /// # Errors
    /// [`LineError::Trailing`] where it says something.
    pub fn parse(line: &str) -> Result<Self, LineError> {
        Words::new("linear, error or flakey status", line)
            .end()
            .map(|()| Self)
    }
}

impl fmt::Display for SilentStatus {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests;

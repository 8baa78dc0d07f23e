//! Where the log of a mirror goes on: a file beside the catalogue, which is never flushed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::graph::error::PoolError;
use crate::label::HALF_AT;
use crate::units::Bytes;

/// Where the log goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tail {
    /// The half that counts.
    pub(super) half: usize,
    /// Its epoch.
    pub(super) epoch: u64,
    /// The place of the next block, from the half's begin on.
    pub(super) at: Bytes,
    /// Its sequence.
    pub(super) sequence: u64,
}

/// Which file it is, and when it was last written: one that was put back has another, for nobody can set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl Tail {
    /// What the file says; `None` where that is nothing of use.
    pub(super) fn read(path: &Path) -> Option<(Self, Stamp)> {
        let mut file = File::open(path).ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        Some((Self::parse(&text)?, Stamp::of(&file).ok()?))
    }

    pub(super) fn write(&self, path: &Path) -> Result<Stamp, PoolError> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .and_then(|file| {
                file.write_all_at(self.to_text().as_bytes(), 0)?;
                Stamp::of(&file)
            })
            .map_err(|source| PoolError::io("write", path, source))
    }

    /// As it is in the file, always as long: one that takes the place of another needs no room.
    fn to_text(&self) -> String {
        let Self {
            half,
            epoch,
            at,
            sequence,
        } = self;
        format!("{half} {epoch:020} {:020} {sequence:020}\n", at.get())
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        let mut number = || words.next()?.parse().ok();
        let (half, epoch, at, sequence) = (number()?, number()?, number()?, number()?);
        let half = usize::try_from(half).ok()?;
        (words.next().is_none() && half < HALF_AT.len()).then_some(Self {
            half,
            epoch,
            at: Bytes::new(at),
            sequence,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_reads_as_it_was_written() {
        let tail = Tail {
            half: 1,
            epoch: 7,
            at: Bytes::from_kib(12),
            sequence: 9,
        };
        let text = "1 00000000000000000007 00000000000000012288 00000000000000000009\n";
        assert_eq!(tail.to_text(), text);
        assert_eq!(Tail::parse(text), Some(tail));
        for text in [
            "",
            "1 7 12288\n",
            "2 7 12288 9\n",
            "1 7 12288 9 0\n",
            "1 7 x 9\n",
            "1 7 12288 9",
        ] {
            assert_eq!(Tail::parse(text), None, "{text:?}");
        }
    }
}

//! The log of a disk's writes, in the format of `drivers/md/dm-log-writes.c` as QEMU's `blklogwrites`
//! writes it.
//!
//! ```text
//! sector 0      magic u64, version u64, entries u64, sector size u32
//! each entry    one sector: sector u64, sectors u64, flags u64, bytes of a mark u64
//!               its data, where it is no discard: so many sectors, or the mark's
//! ```
//! All of it is little endian. An entry stands where its request was submitted: a flush covers at least
//! what the guest knew to be complete, and what a guest has not waited for it must not rely on.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};

/// Bytes of a sector of the log and of the disk alike.
const SECTOR: u64 = 512;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// What an entry does to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Data of the log, from this byte on.
    Write(u64),
    /// The sectors read as zeros.
    Discard,
    /// Nothing: a flush, or a mark.
    Nothing,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The first byte on the disk.
    pub(crate) start: u64,
    /// How many.
    pub(crate) len: u64,
    pub(crate) kind: Kind,
    /// All that was complete before it is durable from here on.
    pub(crate) flush: bool,
    /// Durable itself when it is complete.
    pub(crate) fua: bool,
}

/// A log, open for reading.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    pub(crate) entries: Vec<Entry>,
}

/// The `n`th word of a header.
fn word(header: &[u8], n: usize) -> Result<u64> {
    let start = n.checked_mul(8).context("no such word")?;
    let bytes = header.get(start..).and_then(|rest| rest.first_chunk::<8>());
    Ok(u64::from_le_bytes(*bytes.context("no such word")?))
}

impl Log {
    /// Reads all headers.
    pub(crate) fn open(file: File) -> Result<Self> {
        let mut header = [0; 512];
        file.read_exact_at(&mut header, 0)
            .context("the log has no begin")?;
        ensure!(
            word(&header, 0)? == MAGIC && word(&header, 1)? == VERSION,
            "this is no log of writes"
        );
        let count = word(&header, 2)?;
        ensure!(
            word(&header, 3)? & 0xffff_ffff == SECTOR,
            "a log of other sectors"
        );
        let mut entries = Vec::new();
        let mut at = SECTOR;
        for n in 0..count {
            file.read_exact_at(&mut header, at)
                .with_context(|| format!("entry {n} at byte {at}"))?;
            let bytes = |n| {
                word(&header, n)?
                    .checked_mul(SECTOR)
                    .context("not on any disk")
            };
            let (start, len, flags) = (bytes(0)?, bytes(1)?, word(&header, 2)?);
            at = at.checked_add(SECTOR).context("past the end")?;
            let kind = match () {
                () if flags & MARK != 0 || len == 0 => Kind::Nothing,
                () if flags & DISCARD != 0 => Kind::Discard,
                () => Kind::Write(at),
            };
            let data = match kind {
                Kind::Write(_) => len,
                _ if flags & MARK != 0 => word(&header, 3)?
                    .checked_next_multiple_of(SECTOR)
                    .context("a mark of that length")?,
                _ => 0,
            };
            at = at.checked_add(data).context("past the end")?;
            entries.push(Entry {
                start,
                len,
                kind,
                flush: flags & FLUSH != 0,
                fua: flags & FUA != 0,
            });
        }
        Ok(Self { file, entries })
    }

    /// What is written from this byte of the log on.
    pub(crate) fn data(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(into, at)
            .with_context(|| format!("the log at byte {at}"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::{Entry, Kind, Log};

    fn sector(words: &[u64]) -> Vec<u8> {
        let mut sector: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        sector.resize(512, 0);
        sector
    }

    pub(crate) fn log(entries: u64, rest: &[Vec<u8>]) -> anyhow::Result<Log> {
        let mut file = tempfile::tempfile()?;
        file.write_all(&sector(&[super::MAGIC, 1, entries, 512]))?;
        file.write_all(&rest.concat())?;
        Log::open(file)
    }

    #[test]
    fn every_kind_of_entry_is_found_at_its_place() {
        let log = log(
            5,
            &[
                sector(&[8, 2, 0, 0]),
                vec![7; 1024],
                sector(&[0, 0, 1, 0]),
                sector(&[16, 64, 4, 0]),
                sector(&[0, 0, 8, 5]),
                sector(&[0x6b72_616d, 0, 0, 0]),
                sector(&[9, 1, 3, 0]),
                vec![8; 512],
            ],
        )
        .unwrap();
        let entry = |start, len, kind, flush, fua| Entry {
            start,
            len,
            kind,
            flush,
            fua,
        };
        assert_eq!(
            log.entries,
            [
                entry(4096, 1024, Kind::Write(1024), false, false),
                entry(0, 0, Kind::Nothing, true, false),
                entry(8192, 32768, Kind::Discard, false, false),
                entry(0, 0, Kind::Nothing, false, false),
                entry(4608, 512, Kind::Write(4608), true, true),
            ]
        );
        let mut data = [0; 4];
        log.data(4608, &mut data).unwrap();
        assert_eq!(data, [8; 4]);
    }

    #[test]
    fn what_is_no_log_or_ends_too_early_is_refused() {
        let mut other = tempfile::tempfile().unwrap();
        other.write_all(&[0; 1024]).unwrap();
        let said = Log::open(other).unwrap_err().to_string();
        assert_eq!(said, "this is no log of writes");
        let said = log(2, &[sector(&[0, 0, 1, 0])]).unwrap_err().to_string();
        assert_eq!(said, "entry 1 at byte 1024");
    }
}

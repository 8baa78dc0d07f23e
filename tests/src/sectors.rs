//! Sectors of a disk beside all caches: what was written is there, whatever becomes of the machine, and no
//! flush makes anything else durable by the way.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result};

/// Bytes of one.
const SECTOR: u64 = 512;

/// A disk, or what of it holds nothing else.
#[derive(Debug)]
pub(crate) struct Sectors(File);

impl Sectors {
    /// Opens a disk.
    pub(crate) fn open(disk: impl AsRef<Path>) -> Result<Self> {
        let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits())?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(direct);
        Ok(Self(file.open(disk)?))
    }

    /// Writes the begin of a sector; the rest of it becomes zeros.
    pub(crate) fn write(&self, number: u64, bytes: &[u8]) -> Result<()> {
        with_sector(|sector| {
            for (to, from) in sector.iter_mut().zip(bytes) {
                *to = *from;
            }
            Ok(self.0.write_all_at(sector, number.saturating_mul(SECTOR))?)
        })
    }

    /// Reads the begin of a sector.
    pub(crate) fn read<const N: usize>(&self, number: u64) -> Result<[u8; N]> {
        with_sector(|sector| {
            let at = number.saturating_mul(SECTOR);
            self.0.read_exact_at(sector, at)?;
            let begin = sector.first_chunk().context("a sector is longer")?;
            Ok(*begin)
        })
    }
}

/// Direct I/O wants aligned memory: somewhere in two pages there is some.
fn with_sector<T>(work: impl FnOnce(&mut [u8]) -> Result<T>) -> Result<T> {
    let mut pages = vec![0; 8192];
    let start = pages.as_ptr().align_offset(4096);
    let sector = pages.get_mut(start..start.saturating_add(512));
    work(sector.context("two pages hold one")?)
}

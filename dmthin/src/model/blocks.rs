//! What is written to thin devices: which blocks are taken for it, and what is in those that are read again.
//!
//! A thin device's file shows its superblock, and what is kept of it. Whoever writes to it changes the file's
//! time, which is put back when what was written is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustix::fs::SeekFrom;

use crate::ids::DevNo;
use crate::ioctl::Errno;
use crate::model::Told;
use crate::model::files::PAGE;
use crate::model::pool::{Mode, Pool};
use crate::model::state::{DM_MAJOR, State, errno, key_of};

/// A file as it is shown.
struct Shown<'a> {
    /// The superblock.
    page: Option<Vec<u8>>,
    /// Blocks by their number, and how long they are.
    kept: &'a BTreeMap<u64, Arc<[u8]>>,
    block: u64,
}

impl Shown<'_> {
    /// The blocks that are not as they were shown.
    fn written(&self, file: &File) -> io::Result<BTreeSet<u64>> {
        let mut written = BTreeSet::new();
        let mut at = 0;
        if let Some(page) = &self.page {
            let mut first = vec![0; PAGE];
            file.read_exact_at(&mut first, 0)?;
            if first == *page {
                at = u64::try_from(PAGE).unwrap();
            }
        }
        while let Ok(data) = rustix::fs::seek(file, SeekFrom::Data(at)) {
            let nr = data / self.block;
            at = (nr + 1) * self.block;
            if let Some(known) = self.kept.get(&nr) {
                let mut content = vec![0; known.len()];
                file.read_exact_at(&mut content, nr * self.block)?;
                if **known == *content {
                    continue;
                }
            }
            written.insert(nr);
        }
        Ok(written)
    }

    /// Makes a file of such a size.
    fn write(&self, path: &Path, size: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(0)?;
        file.set_len(size)?;
        if let Some(page) = &self.page {
            file.write_all_at(page, 0)?;
        }
        for (nr, content) in self.kept {
            file.write_all_at(content, nr * self.block)?;
        }
        file.set_modified(UNIX_EPOCH)
    }
}

impl Pool {
    fn block_bytes(&self) -> u64 {
        self.now.block_sectors * 512
    }

    /// A free data block, which was free at the last commit too.
    fn allocate(&mut self, taken: &mut Option<Vec<bool>>) -> Option<u64> {
        let taken = taken.get_or_insert_with(|| {
            let mut taken = self.now.marks();
            self.committed.mark(&mut taken);
            taken
        });
        match taken.iter().position(|taken| !taken) {
            Some(free) => {
                taken[free] = true;
                self.fresh += 1;
                Some(u64::try_from(free).unwrap())
            }
            None => {
                self.mode = Mode::OutOfDataSpace;
                None
            }
        }
    }

    /// A write to a block of a thin device: it has the block for itself afterwards.
    fn provision(
        &mut self,
        id: u32,
        block: u64,
        taken: &mut Option<Vec<bool>>,
    ) -> Result<(), Errno> {
        let time = self.now.time;
        let thin = self.now.thins.get(&id).ok_or(Errno::IO)?;
        let shared = match thin.mapped.get(&block) {
            Some((_, mapped)) => *mapped < thin.snapshotted,
            None => true,
        };
        if !shared {
            // In any mode.
            return Ok(());
        }
        if !self.writes() {
            return Err(Errno::IO);
        }
        let data = self.allocate(taken).ok_or(Errno::NOSPC)?;
        let thin = self.now.thin(id).expect("just seen");
        thin.mapped.insert(block, (data, time));
        Ok(())
    }
}

impl State {
    /// Writes to blocks of a thin device.
    pub(super) fn write_blocks(
        &mut self,
        (minor, id): (u32, u32),
        blocks: impl IntoIterator<Item = u64>,
    ) -> Result<(), Errno> {
        let mut written = Vec::new();
        let mut result = Ok(());
        let mut taken = None;
        for block in blocks {
            result = self.pool(minor).provision(id, block, &mut taken);
            if result.is_err() {
                break;
            }
            written.push(block);
        }
        self.tell(|state| {
            Some(Told::Wrote {
                dev: state.device_of((minor, id))?,
                blocks: written,
            })
        });
        result
    }

    /// The device of a thin device of a pool.
    fn device_of(&self, thin: (u32, u32)) -> Option<DevNo> {
        let devices = self
            .devices
            .keys()
            .map(|minor| DevNo::new(DM_MAJOR, *minor));
        devices
            .into_iter()
            .find(|dev| self.thin_on(*dev) == Some(thin))
    }

    /// What a thin device's file shows.
    fn shown(&self, (pool, id): (u32, u32)) -> Option<Shown<'_>> {
        let pool = &self.pools[&pool];
        let thin = pool.now.thins.get(&id)?;
        Some(Shown {
            page: thin.fs.as_ref().map(|fs| fs.page()),
            kept: &thin.kept,
            block: pool.block_bytes(),
        })
    }

    /// Shows what is on a thin device: in its own file, and the superblock where its first block is in the data.
    pub(super) fn show(&self, dev: DevNo) {
        let Some((minor, id)) = self.thin_on(dev) else {
            return;
        };
        let Some(shown) = self.shown((minor, id)) else {
            return;
        };
        let path = self.block_path(dev);
        if path.exists() {
            shown.write(&path, self.size(dev).unwrap_or(0)).unwrap();
        }
        let pool = &self.pools[&minor];
        if let Some(page) = &shown.page
            && let Some((data, _)) = pool.now.thins[&id].mapped.get(&0)
            && let Ok(file) = OpenOptions::new()
                .write(true)
                .open(self.block_path(pool.data))
        {
            file.write_all_at(page, data * shown.block).unwrap();
        }
    }

    /// Takes what somebody wrote to a thin device's file as writes to its blocks.
    pub(super) fn take_writes(&mut self, dev: DevNo) {
        let Some(thin) = self.thin_on(dev) else {
            return;
        };
        let path = self.block_path(dev);
        match fs::metadata(&path) {
            Ok(found) if (found.mtime(), found.mtime_nsec()) != (0, 0) => {}
            _ => return,
        }
        let Some(shown) = self.shown(thin) else {
            return;
        };
        let written = File::open(&path).and_then(|file| shown.written(&file));
        let written = written.unwrap_or_default();
        if let Some(thin) = self.pool(thin.0).now.thin(thin.1) {
            thin.kept.retain(|nr, _| !written.contains(nr));
        }
        if !written.is_empty() {
            // What finds no block is lost, as it is when nobody makes room in time.
            let _ = self.write_blocks(thin, written);
        }
        self.show(dev);
    }

    /// Writes to a device past the page cache; what is written can be read again.
    pub(super) fn write(&mut self, device: &File, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        let dev = self.block_device(key_of(device)?).ok_or(Errno::INVAL)?;
        self.take_writes(dev);
        let (minor, id) = self.thin_on(dev).ok_or(Errno::INVAL)?;
        let block = self.pool(minor).block_bytes();
        let end = at + u64::try_from(bytes.len()).unwrap();
        self.write_blocks((minor, id), at / block..end.div_ceil(block))?;
        let thin = self.pool(minor).now.thin(id).ok_or(Errno::IO)?;
        let mut left = bytes;
        let mut from = at;
        while !left.is_empty() {
            let (nr, within) = (from / block, usize::try_from(from % block).unwrap());
            let len = left.len().min(usize::try_from(block).unwrap() - within);
            let kept = thin
                .kept
                .entry(nr)
                .or_insert_with(|| vec![0; usize::try_from(block).unwrap()].into());
            Arc::make_mut(kept)[within..within + len].copy_from_slice(&left[..len]);
            left = &left[len..];
            from = (nr + 1) * block;
        }
        let written = device.write_all_at(bytes, at);
        let written = written.and_then(|()| device.set_modified(UNIX_EPOCH));
        written.map_err(|error| errno(&error))
    }

    /// Puts what is kept of a pool's thin devices into its data, where who has no pool finds it.
    pub(super) fn write_data(&self, pool: &Pool) {
        let data = self.block_path(pool.data);
        let Ok(file) = OpenOptions::new().write(true).open(data) else {
            return;
        };
        for thin in pool.committed.thins.values() {
            for (nr, content) in &thin.kept {
                if let Some((data, _)) = thin.mapped.get(nr) {
                    file.write_all_at(content, data * pool.block_bytes())
                        .unwrap();
                }
            }
        }
    }

    /// Writes what a device was given to its disk.
    pub(super) fn flush(&mut self, device: &File) -> Result<(), Errno> {
        let dev = self.block_device(key_of(device)?).ok_or(Errno::INVAL)?;
        let (pool, _) = self.thin_on(dev).ok_or(Errno::INVAL)?;
        if !self.pool(pool).writes() {
            return Err(Errno::IO);
        }
        self.commit(pool);
        Ok(())
    }

    /// Whole blocks within the range are given back.
    pub(super) fn discard(&mut self, dev: DevNo, at: u64, len: u64) -> Result<(), Errno> {
        let Some((minor, id)) = self.thin_on(dev) else {
            return Ok(());
        };
        self.take_writes(dev);
        let pool = self.pool(minor);
        if !pool.writes() || pool.features.iter().any(|found| found == "ignore_discard") {
            return Ok(());
        }
        self.tell(|_| Some(Told::Discarded { dev, at, len }));
        let pool = self.pool(minor);
        let block = pool.block_bytes();
        let range = at.div_ceil(block)..(at + len) / block;
        let thin = pool.now.thin(id).ok_or(Errno::IO)?;
        thin.mapped.retain(|mapped, _| !range.contains(mapped));
        thin.kept.retain(|kept, _| !range.contains(kept));
        if range.contains(&0) {
            thin.fs = None;
        }
        self.show(dev);
        Ok(())
    }
}

//! Thin-pools and their thin devices (`drivers/md/dm-thin.c`, `dm-thin-metadata.c`).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use crate::ids::DevNo;
use crate::ioctl::{Errno, TargetLine};
use crate::model::Fault;
use crate::model::device::devices_of;
use crate::model::files::Fs;
use crate::model::metadata::HELD;
use crate::model::state::{DM_MAJOR, Key, State};

const MAX_THIN_ID: u64 = (1 << 24) - 1;
const METADATA_BLOCK: u64 = 4096;
/// `THIN_METADATA_MAX_SECTORS`, in blocks.
const METADATA_MAX: u64 = 255 * ((1 << 14) - 64);
/// What a pool that is empty takes of its metadata, about.
const METADATA_LEAST: u64 = 8;

/// A thin device in the pool.
#[derive(Debug, Clone, Default)]
pub(super) struct Thin {
    /// Block of the device: data block, and the pool's time when it was mapped.
    pub(super) mapped: BTreeMap<u64, (u64, u32)>,
    pub(super) transaction: u64,
    pub(super) created: u32,
    pub(super) snapshotted: u32,
    pub(super) fs: Option<Fs>,
    /// What is in those blocks that were written past the page cache.
    pub(super) kept: BTreeMap<u64, Arc<[u8]>>,
}

/// What the metadata say.
#[derive(Debug, Clone, Default)]
pub(super) struct Trees {
    pub(super) transaction: u64,
    pub(super) time: u32,
    pub(super) thins: BTreeMap<u32, Arc<Thin>>,
    pub(super) held: Option<Box<Trees>>,
    pub(super) data_blocks: u64,
    pub(super) metadata_blocks: u64,
    pub(super) block_sectors: u64,
    pub(super) needs_check: bool,
}

impl Trees {
    /// A thin device, to be changed.
    pub(super) fn thin(&mut self, id: u32) -> Option<&mut Thin> {
        self.thins.get_mut(&id).map(Arc::make_mut)
    }

    /// Which data blocks are in use; those of the metadata snapshot are until it is released.
    pub(super) fn marks(&self) -> Vec<bool> {
        let mut marks = vec![false; usize::try_from(self.data_blocks).unwrap()];
        self.mark(&mut marks);
        marks
    }

    pub(super) fn mark(&self, marks: &mut [bool]) {
        let held = self.held.iter().flat_map(|held| held.thins.values());
        for thin in self.thins.values().chain(held) {
            for (block, _) in thin.mapped.values() {
                marks[usize::try_from(*block).unwrap()] = true;
            }
        }
    }

    /// How many are.
    pub(super) fn used(&self) -> u64 {
        let used = self.marks().into_iter().filter(|used| *used).count();
        u64::try_from(used).unwrap()
    }

    fn used_metadata(&self) -> u64 {
        let mappings = self.thins.values().map(|thin| thin.mapped.len());
        METADATA_LEAST + u64::try_from(self.thins.len() + mappings.sum::<usize>() / 64).unwrap()
    }
}

/// A metadata file, as it was written last.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) trees: Trees,
    pub(super) superblock: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Rw,
    OutOfDataSpace,
    Ro,
}

/// An active thin-pool.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) metadata: Key,
    pub(super) path: PathBuf,
    pub(super) data: DevNo,
    pub(super) now: Trees,
    pub(super) committed: Trees,
    /// Data blocks allocated since the last commit.
    pub(super) fresh: u64,
    pub(super) mode: Mode,
    pub(super) suspended: bool,
    pub(super) features: Vec<String>,
}

impl Pool {
    pub(super) fn writes(&self) -> bool {
        self.mode != Mode::Ro
    }
}

/// The words of a `thin-pool` line.
fn words(line: &TargetLine) -> Result<(DevNo, DevNo, u64, Vec<String>), Errno> {
    let mut words = line.params.split(' ');
    let mut word = || words.next().ok_or(Errno::INVAL);
    let dev = |word: &str| word.parse::<DevNo>().map_err(|_| Errno::INVAL);
    let number = |word: &str| word.parse::<u64>().map_err(|_| Errno::INVAL);
    let (metadata, data) = (dev(word()?)?, dev(word()?)?);
    let block = number(word()?)?;
    number(word()?)?;
    if !(128..=2_097_152).contains(&block) || block % 128 != 0 {
        return Err(Errno::INVAL);
    }
    Ok((
        metadata,
        data,
        block,
        words.skip(1).map(str::to_owned).collect(),
    ))
}

impl State {
    pub(super) fn pool(&mut self, minor: u32) -> &mut Pool {
        self.pools.get_mut(&minor).expect("a pool has its state")
    }

    /// The pool that a thin line is in, and its id there.
    pub(super) fn thin_of(&self, line: &TargetLine) -> Option<(u32, u32)> {
        let (pool, id) = line.params.split_once(' ')?;
        let pool: DevNo = pool.parse().ok()?;
        let here = pool.major() == DM_MAJOR && self.pools.contains_key(&pool.minor());
        here.then_some((pool.minor(), id.parse().ok()?))
    }

    /// The same of a device.
    pub(super) fn thin_on(&self, dev: DevNo) -> Option<(u32, u32)> {
        if dev.major() != DM_MAJOR {
            return None;
        }
        let table = self.devices.get(&dev.minor())?.live.as_deref()?;
        match table {
            [line] if line.kind == "thin" => self.thin_of(line),
            _ => None,
        }
    }

    fn nr_open(&self, pool: u32, id: u32) -> usize {
        let has = |table: &Option<Vec<TargetLine>>| match table.as_deref() {
            Some([line]) => line.kind == "thin" && self.thin_of(line) == Some((pool, id)),
            _ => false,
        };
        let devices = self.devices.values();
        devices
            .map(|device| usize::from(has(&device.live)) + usize::from(has(&device.inactive)))
            .sum()
    }

    pub(super) fn load_pool(&mut self, minor: u32, line: &TargetLine) -> Result<(), Errno> {
        let (metadata, data, block, features) = words(line)?;
        let backing = self.loops.get(&metadata.minor()).ok_or(Errno::NODEV)?;
        let (key, path, size) = (backing.key, backing.file.clone(), backing.size);
        self.size(data).ok_or(Errno::NODEV)?;
        if let Some(pool) = self.pools.get(&minor) {
            let same = pool.metadata == key && pool.now.block_sectors == block;
            return if same { Ok(()) } else { Err(Errno::INVAL) };
        }
        if self.pools.values().any(|pool| pool.metadata == key) {
            return Err(Errno::BUSY);
        }
        let mut first = vec![0; 4096];
        std::fs::File::open(&path)
            .and_then(|mut file| file.read_exact(&mut first))
            .map_err(|_| Errno::IO)?;
        let trees = if first.iter().all(|byte| *byte == 0) {
            let trees = Trees {
                metadata_blocks: (size / METADATA_BLOCK).min(METADATA_MAX),
                block_sectors: block,
                ..Trees::default()
            };
            self.write_metadata(key, &path, trees.clone());
            trees
        } else {
            match self.disks.get(&key) {
                Some(disk) if disk.superblock == first => disk.trees.clone(),
                // Others' metadata, or damaged ones.
                _ => return Err(Errno::ILSEQ),
            }
        };
        if trees.block_sectors != block {
            return Err(Errno::INVAL);
        }
        let pool = Pool {
            metadata: key,
            path,
            data,
            mode: if trees.needs_check {
                Mode::Ro
            } else {
                Mode::Rw
            },
            committed: trees.clone(),
            now: trees,
            fresh: 0,
            suspended: true,
            features,
        };
        self.pools.insert(minor, pool);
        Ok(())
    }

    pub(super) fn load_thin(&mut self, line: &TargetLine) -> Result<(), Errno> {
        let below = devices_of(line).next().ok_or(Errno::INVAL)?;
        if below.major() == DM_MAJOR && !self.is_disk(below.minor()) {
            return Err(Errno::NXIO);
        }
        let (pool, id) = self.thin_of(line).ok_or(Errno::INVAL)?;
        let pool = &self.pools[&pool];
        if !pool.now.thins.contains_key(&id) {
            return Err(Errno::NODATA);
        }
        if pool.suspended {
            return Err(Errno::INVAL);
        }
        Ok(())
    }

    /// Takes the sizes that the table and the metadata device have (`pool_preresume`).
    pub(super) fn resume_pool(&mut self, minor: u32, line: &TargetLine) -> Result<(), Errno> {
        let (_, data, block, features) = words(line)?;
        if self
            .size(data)
            .is_none_or(|size| line.len.get() * 512 > size)
        {
            return Err(Errno::INVAL);
        }
        let key = self.pools[&minor].metadata;
        let backing = self.loops.values().find(|found| found.key == key);
        let metadata = backing.map_or(0, |found| found.size / METADATA_BLOCK);
        let pool = self.pool(minor);
        pool.features = features;
        let data = line.len.get() / block;
        if data < pool.now.data_blocks || metadata < pool.now.metadata_blocks {
            return Err(Errno::INVAL);
        }
        let metadata = metadata.min(METADATA_MAX);
        let grows = data > pool.now.data_blocks || metadata > pool.now.metadata_blocks;
        // One that wants a check is resumed as it was (`maybe_resize_data_dev`).
        if grows && !pool.now.needs_check {
            (pool.now.data_blocks, pool.now.metadata_blocks) = (data, metadata);
            if pool.mode == Mode::OutOfDataSpace {
                pool.mode = Mode::Rw;
            }
            self.commit(minor);
        }
        self.pool(minor).suspended = false;
        Ok(())
    }

    /// Writes the metadata.
    pub(super) fn commit(&mut self, minor: u32) {
        let pool = self.pool(minor);
        if !pool.writes() {
            return;
        }
        pool.committed = pool.now.clone();
        pool.fresh = 0;
        if pool.mode == Mode::OutOfDataSpace && pool.now.used() < pool.now.data_blocks {
            pool.mode = Mode::Rw;
        }
    }

    /// The commit that ends a message. Where it is planned to fail the pool is what it was at the last
    /// one, takes no more changes, and wants a check (`metadata_operation_failed`).
    fn commit_message(&mut self, minor: u32) {
        let nr = self.messages;
        self.messages += 1;
        if self.fault != Some(Fault::Commit(nr)) {
            return self.commit(minor);
        }
        let pool = self.pool(minor);
        pool.committed.needs_check = true;
        pool.now = pool.committed.clone();
        pool.fresh = 0;
        pool.mode = Mode::Ro;
    }

    pub(super) fn pool_message(&mut self, minor: u32, text: &str) -> Result<(), Errno> {
        let words: Vec<&str> = text.split(' ').collect();
        let id = |word: &str| match word.parse::<u64>() {
            Ok(id) if id <= MAX_THIN_ID => Ok(u32::try_from(id).unwrap()),
            _ => Err(Errno::INVAL),
        };
        let number = |word: &str| word.parse::<u64>().map_err(|_| Errno::INVAL);
        if !self.pools[&minor].writes() {
            return Err(Errno::OPNOTSUPP);
        }
        match words.as_slice() {
            ["create_thin", new] => {
                let new = id(new)?;
                let trees = &mut self.pool(minor).now;
                if trees.thins.contains_key(&new) {
                    return Err(Errno::EXIST);
                }
                let thin = Thin {
                    transaction: trees.transaction,
                    created: trees.time,
                    snapshotted: trees.time,
                    ..Thin::default()
                };
                trees.thins.insert(new, Arc::new(thin));
            }
            ["create_snap", new, origin] => {
                let (new, origin) = (id(new)?, id(origin)?);
                let trees = &mut self.pool(minor).now;
                if trees.thins.contains_key(&new) {
                    return Err(Errno::EXIST);
                }
                let time = trees.time + 1;
                let transaction = trees.transaction;
                let thin = trees.thin(origin).ok_or(Errno::NODATA)?;
                thin.snapshotted = time;
                let snapshot = Thin {
                    transaction,
                    created: time,
                    ..thin.clone()
                };
                trees.time = time;
                trees.thins.insert(new, Arc::new(snapshot));
            }
            ["delete", old] => {
                let old = id(old)?;
                if !self.pools[&minor].now.thins.contains_key(&old) {
                    return Err(Errno::NODATA);
                }
                if self.nr_open(minor, old) > 0 {
                    return Err(Errno::BUSY);
                }
                self.pool(minor).now.thins.remove(&old);
            }
            ["set_transaction_id", from, to] => {
                let (from, to) = (number(from)?, number(to)?);
                let trees = &mut self.pool(minor).now;
                if trees.transaction != from {
                    return Err(Errno::INVAL);
                }
                trees.transaction = to;
            }
            ["reserve_metadata_snap"] => {
                // What is not committed yet is in it too: it commits first.
                self.commit(minor);
                let pool = self.pool(minor);
                if pool.now.held.is_some() {
                    return Err(Errno::BUSY);
                }
                let held = Trees {
                    held: None,
                    ..pool.now.clone()
                };
                pool.now.held = Some(Box::new(held));
            }
            ["release_metadata_snap"] => {
                if self.pool(minor).now.held.take().is_none() {
                    return Err(Errno::INVAL);
                }
            }
            _ => return Err(Errno::INVAL),
        }
        self.commit_message(minor);
        let pool = &self.pools[&minor];
        if words.first() == Some(&"reserve_metadata_snap") && pool.now.held.is_some() {
            let (key, path, trees) = (pool.metadata, pool.path.clone(), pool.now.clone());
            self.write_metadata(key, &path, trees);
        }
        Ok(())
    }

    pub(super) fn pool_status(&self, minor: u32) -> String {
        let pool = &self.pools[&minor];
        let trees = &pool.now;
        let used = pool.committed.used() + pool.fresh;
        let has = |feature: &str| pool.features.iter().any(|found| found == feature);
        let discard = if has("ignore_discard") {
            "ignore_discard"
        } else if has("no_discard_passdown") {
            "no_discard_passdown"
        } else {
            "discard_passdown"
        };
        format!(
            "{} {}/{} {used}/{} {} {} {discard} {} {} {} ",
            trees.transaction,
            trees.used_metadata(),
            trees.metadata_blocks,
            trees.data_blocks,
            match trees.held {
                Some(_) => HELD.to_string(),
                None => "-".to_owned(),
            },
            match pool.mode {
                Mode::Rw => "rw",
                Mode::OutOfDataSpace => "out_of_data_space",
                Mode::Ro => "ro",
            },
            if has("error_if_no_space") {
                "error_if_no_space"
            } else {
                "queue_if_no_space"
            },
            if trees.needs_check {
                "needs_check"
            } else {
                "-"
            },
            (trees.metadata_blocks / 4).min(1024),
        )
    }

    pub(super) fn thin_status(&self, line: &TargetLine) -> String {
        let Some((minor, id)) = self.thin_of(line) else {
            return "-".to_owned();
        };
        let trees = &self.pools[&minor].now;
        let Some(thin) = trees.thins.get(&id) else {
            return "Error".to_owned();
        };
        let mapped = u64::try_from(thin.mapped.len()).unwrap() * trees.block_sectors;
        match thin.mapped.keys().next_back() {
            Some(last) => format!("{mapped} {}", (last + 1) * trees.block_sectors - 1),
            None => format!("{mapped} -"),
        }
    }
}

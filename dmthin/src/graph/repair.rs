//! `pool repair`: a pool whose metadata are damaged, or wait for a check, is made to work again.
//!
//! Steps, under the pool's lock, the pool closed: R1 a copy of the metadata beside the catalogue, flushed;
//! R2 `thin_check`; R3 where that finds damage, `thin_repair` from the copy onto the device, which is
//! checked again: where that does not help the copy is put back; where nothing but the flag is left, it is
//! cleared; R4 metadata that are nearly full are made larger; R5 the pool is opened, as ever; R6 the
//! file system of each volume is checked, read-only. From a copy that is named (`graph/backup.rs`) R2 and R3 are:
//! `thin_repair` from that copy, with the catalogue's transaction id, onto the device, and `thin_check`. A cut leaves the copy and a pool that can be repaired
//! again. The copy is never removed but by `pool destroy`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::backing::{Attached, SparseFile};
use crate::dm::{PartKind, names};
use crate::fs::{self, Tool};
use crate::graph::aligned::Aligned;
use crate::graph::create::remove_path;
use crate::graph::error::PoolError;
use crate::graph::existing::require_own;
use crate::graph::host::Host;
use crate::graph::layout::{BackupKind, COPY_DRAFT};
use crate::graph::live::Live;
use crate::graph::plan;
use crate::graph::pool::Pool;
use crate::graph::report::{Checked, RepairReport, Repaired, VolumeCheck};
use crate::graph::step::Step;
use crate::ids::{FsType, PoolName};
use crate::ioctl;
use crate::store::{BackingRecord, PoolRecord, PoolState, Timestamp, VolumeRecord, VolumeState};
use crate::thinmeta::{FirstBlock, Superblock};
use crate::units::Bytes;

const PACKAGE: &str = "thin-provisioning-tools";
const THIN_CHECK: Tool = Tool {
    name: "thin_check",
    package: PACKAGE,
};
const THIN_REPAIR: Tool = Tool {
    name: "thin_repair",
    package: PACKAGE,
};
/// Read and written at once; a multiple of every device's block.
const CHUNK: usize = 1 << 20;
/// The first block of metadata.
const BLOCK: usize = 4096;

const fn checker(fs: FsType) -> (Tool, &'static str) {
    match fs {
        FsType::Ext4 => (
            Tool {
                name: "e2fsck",
                package: "e2fsprogs",
            },
            "-fn",
        ),
        FsType::Xfs => (
            Tool {
                name: "xfs_repair",
                package: "xfsprogs",
            },
            "-n",
        ),
    }
}

/// What a pool's metadata are made of again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepairFrom {
    /// They themselves, as far as they can be read.
    Themselves,
    /// A copy of them, in this file.
    Copy(PathBuf),
    /// The newest copy there is.
    NewestCopy,
}

impl Host {
    /// Repairs a pool that does not open or has turned read-only, and opens it.
    ///
    /// From a copy it is what it was then: volumes that were made since are lost, and what they and others have
    /// written since may be too.
    ///
    /// # Errors
    /// [`PoolError::NoMetadataCopy`], [`PoolError::Metadata`] for a file that is no copy of this pool's:
    /// nothing was changed.
    /// [`PoolError::PoolBusy`] while it is used; [`PoolError::Fs`] where a program is not installed or
    /// could not help: the metadata are as they were then; and as of [`Host::open_pool`].
    pub fn repair_pool(
        &self,
        name: &PoolName,
        from: &RepairFrom,
    ) -> Result<RepairReport, PoolError> {
        let pool = self.pool(name)?;
        let from = pool.find_copy(from)?;
        let lock = pool.lock_idle()?;
        let record = pool.record()?;
        if record.state != PoolState::Ready {
            return Err(PoolError::PoolHalfMade { name: name.clone() });
        }
        require_own(&record)?;
        let first = from.as_deref().map(|from| pool.read_copy(&record, from));
        let first = first.transpose()?;
        pool.close()?;
        let repaired = match (&from, &first) {
            (Some(from), Some(first)) => pool.restore_metadata(&record, from, first),
            _ => pool.repair_metadata(&record),
        };
        let repaired = repaired.and_then(|done| {
            pool.make_room_for_metadata(&record)?;
            Ok(done)
        });
        let (copy, repaired) = pool.or_close(repaired)?;
        pool.open()?;
        Step::R5.passed(name);
        drop(lock);
        Ok(RepairReport {
            name: name.clone(),
            copy,
            repaired,
            volumes: pool.check_volumes()?,
        })
    }
}

impl Host {
    /// What [`Host::repair_pool`] would do to the metadata; changes nothing.
    ///
    /// # Errors
    /// [`PoolError::PoolOpen`] for a pool that is open, whose metadata the kernel has;
    /// [`PoolError::Fs`] where `thin_check` is not installed.
    pub fn plan_repair(&self, name: &PoolName) -> Result<Repaired, PoolError> {
        let pool = self.pool(name)?;
        let _lock = pool.lock_idle()?;
        let record = pool.record()?;
        if self.pool_device(&record)?.is_some() {
            return Err(PoolError::PoolOpen { name: name.clone() });
        }
        let found = pool
            .attach(&record, PartKind::Metadata)
            .and_then(|metadata| look_at(metadata.node()));
        let found = pool.or_close(found)?;
        // Of a whole disk the part that has the metadata has a device now.
        pool.close()?;
        Ok(found)
    }
}

impl Pool {
    /// The result; where that is an error, without the devices that were made for it.
    fn or_close<T>(&self, result: Result<T, PoolError>) -> Result<T, PoolError> {
        result.map_err(|error| {
            let undo = self.close().map(drop);
            error.with_undo(undo)
        })
    }

    /// Steps R1 to R3.
    fn repair_metadata(&self, record: &PoolRecord) -> Result<(PathBuf, Repaired), PoolError> {
        let metadata = self.attach(record, PartKind::Metadata)?;
        let copy = self.copy_metadata(&metadata)?;
        Step::R1.passed(self.name());
        let node = metadata.node();
        let repaired = look_at(node)?;
        Step::R2.passed(self.name());
        if repaired == Repaired::FlagCleared {
            let clear = ["-q", "--clear-needs-check-flag"].map(str::to_owned);
            THIN_CHECK.run(&clear, node)?;
            Step::R3.passed(self.name());
        }
        if repaired != Repaired::Rebuilt {
            return Ok((copy, repaired));
        }
        rebuild(&copy, node, &copy)?;
        Step::R3.passed(self.name());
        Ok((copy, Repaired::Rebuilt))
    }

    /// The copy that is asked for.
    fn find_copy(&self, from: &RepairFrom) -> Result<Option<PathBuf>, PoolError> {
        match from {
            RepairFrom::Themselves => Ok(None),
            RepairFrom::Copy(path) => Ok(Some(path.clone())),
            RepairFrom::NewestCopy => match self.metadata_copies().pop() {
                Some(newest) => Ok(Some(newest)),
                None => Err(PoolError::NoMetadataCopy {
                    name: self.name().clone(),
                }),
            },
        }
    }

    /// The first block of a copy, which is sound and of a pool such as this, as the catalogue wants it.
    fn read_copy(&self, record: &PoolRecord, path: &Path) -> Result<Vec<u8>, PoolError> {
        let told = |source| PoolError::Metadata {
            pool: self.name().clone(),
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(|source| PoolError::io("read", path, source))?;
        let (first, block) =
            FirstBlock::with_transaction(&mut file, record.generation).map_err(told)?;
        let FirstBlock::Superblock(superblock) = first else {
            return Err(PoolError::Unformatted {
                name: self.name().clone(),
                path: path.to_owned(),
            });
        };
        if superblock.block_size != record.block_size {
            return Err(PoolError::BlockSizeMismatch {
                name: self.name().clone(),
                found: superblock.block_size,
                expected: record.block_size,
            });
        }
        Ok(block)
    }

    /// Steps R1 to R3, from a copy, of which `first` is the first block.
    fn restore_metadata(
        &self,
        record: &PoolRecord,
        from: &Path,
        first: &[u8],
    ) -> Result<(PathBuf, Repaired), PoolError> {
        let metadata = self.attach(record, PartKind::Metadata)?;
        let before = self.copy_metadata(&metadata)?;
        Step::R1.passed(self.name());
        let dir = self.host().layout().pool_dir(self.name());
        let draft = dir.join(COPY_DRAFT);
        let restored = copy_file(from, &draft)
            .and_then(|file| file.write_all_at(first, 0))
            .map_err(|source| PoolError::io("write", &draft, source))
            .and_then(|()| rebuild(&draft, metadata.node(), &before));
        let removed = remove_path(&draft, false);
        match restored {
            Ok(()) => {
                Step::R3.passed(self.name());
                removed.map(|()| (before, Repaired::Restored))
            }
            Err(error) => Err(error.with_undo(removed)),
        }
    }

    /// Step R1: the metadata as they are, in a sparse file.
    fn copy_metadata(&self, metadata: &Attached) -> Result<PathBuf, PoolError> {
        let dir = self.host().layout().pool_dir(self.name());
        let from = ioctl::open_direct(metadata.node())?;
        let (path, to) = new_copy(&dir)?;
        let made = copy(&from, &to, metadata.size(), Zeros::Skip)
            .and_then(|()| to.set_len(metadata.size().get()))
            .and_then(|()| to.sync_all())
            .and_then(|()| File::open(&dir)?.sync_all());
        match made {
            Ok(()) => Ok(path),
            // Half a copy would be taken for one.
            Err(source) => {
                let undo = remove_path(&path, false);
                Err(PoolError::io("write", &path, source).with_undo(undo))
            }
        }
    }

    /// Step R4: a pool whose metadata are full would be read-only as soon as it is open.
    fn make_room_for_metadata(&self, record: &PoolRecord) -> Result<(), PoolError> {
        let metadata = self.attach(record, PartKind::Metadata)?;
        let Some(superblock) = superblock(metadata.node()) else {
            // The opening tells what is wrong with it.
            return Ok(());
        };
        let used = superblock.metadata.allocated.to_bytes_saturating();
        let total = superblock.metadata.total.to_bytes_saturating();
        let most = plan::METADATA_MAX;
        let tenth = Bytes::new(total.get() / 10);
        if total.saturating_sub(used) >= tenth || total >= most {
            return Ok(());
        }
        let more = Bytes::new(total.get() / 4).max(Bytes::from_mib(8));
        let size = total.saturating_add(more).min(most);
        let BackingRecord::File { .. } = &record.metadata else {
            // What is below is taken as large as it is when the pool is grown.
            return Ok(());
        };
        SparseFile::open(&self.backing_path(&record.metadata))?.lengthen(size)?;
        self.catalogue()
            .set_pool_sizes(record.data_size, size, record.low_water)?;
        Step::R4.passed(self.name());
        Ok(())
    }

    /// Step R6: what the file systems' own programs say of each volume.
    fn check_volumes(&self) -> Result<Vec<VolumeCheck>, PoolError> {
        let live = self.live()?;
        let mut names = std::collections::BTreeMap::new();
        for container in self.catalogue().containers()? {
            names.insert(container.volume.id, container.name);
        }
        let mut checks = Vec::new();
        for volume in self.catalogue().all_volumes()? {
            if volume.state != VolumeState::Ready {
                continue;
            }
            let name = names.get(&volume.id).cloned();
            let checked = live.check_fs(&volume, name.as_ref())?;
            checks.push(VolumeCheck {
                volume: volume.id,
                kind: volume.kind,
                name,
                checked,
            });
        }
        Ok(checks)
    }
}

impl Live<'_> {
    fn check_fs(
        &self,
        volume: &VolumeRecord,
        container: Option<&crate::ids::ContainerName>,
    ) -> Result<Checked, PoolError> {
        let had_one = self.pool().volume_device(volume)?.is_some();
        let name = match container {
            Some(name) => names::container_name(self.pool().name(), name),
            None => self.pool().internal_name(volume),
        };
        let device = match self.activate(volume, &name) {
            Ok(device) => device,
            // It is lost; the others are not.
            Err(error) => {
                return Ok(Checked::Damaged {
                    told: error.to_string(),
                });
            }
        };
        let (tool, flag) = checker(volume.fs);
        let checked = match tool.output(&[flag.to_owned()], device.node()) {
            Ok(output) if output.status.success() => Checked::Clean,
            Ok(output) => match needs_recovery(device.node()) {
                Ok(true) => Checked::Journal,
                // A superblock that cannot be read is what the program found, too.
                Ok(false) | Err(_) => Checked::Damaged {
                    told: Tool::last_words(&output),
                },
            },
            Err(error) => Checked::NotChecked {
                told: error.to_string(),
            },
        };
        if !had_one {
            self.deactivate(volume)?;
        }
        Step::R6.passed_for(self.pool().name(), volume.id);
        Ok(checked)
    }
}

/// Whether the file system on a device was not unmounted: a check without its journal says little.
pub(crate) fn needs_recovery(node: &Path) -> Result<bool, PoolError> {
    let device = File::open(node).map_err(|source| PoolError::io("read", node, source))?;
    Ok(fs::probe(&device)?.is_some_and(|info| info.needs_recovery))
}

fn quiet() -> [String; 1] {
    ["-q".to_owned()]
}

/// What is to be done with the metadata on a device.
fn look_at(node: &Path) -> Result<Repaired, PoolError> {
    if !THIN_CHECK.output(&quiet(), node)?.status.success() {
        return Ok(Repaired::Rebuilt);
    }
    Ok(match superblock(node) {
        Some(superblock) if superblock.needs_check => Repaired::FlagCleared,
        _ => Repaired::Sound,
    })
}

/// The superblock on a device, where it has one that can be read.
fn superblock(node: &Path) -> Option<Box<Superblock>> {
    let device = ioctl::open_direct(node).ok()?;
    let mut memory = Aligned::new(BLOCK);
    let block = memory.bytes();
    device.read_exact_at(block, 0).ok()?;
    match FirstBlock::decode(block).ok()? {
        FirstBlock::Superblock(superblock) => Some(superblock),
        FirstBlock::Unformatted => None,
    }
}

/// A file for a copy, of now or of the first second after it that has none: a copy of the same second may be the
/// only one of what was there before a repair that was cut.
fn new_copy(dir: &Path) -> Result<(PathBuf, File), PoolError> {
    let mut time = Timestamp::now().to_unix();
    loop {
        let path = dir.join(BackupKind::BeforeRepair.name(time));
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match made {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                time = time.saturating_add(1);
            }
            Err(source) => return Err(PoolError::io("write", &path, source)),
        }
    }
}

/// Makes the metadata on a device anew from a copy; where that fails, puts those back that were there.
fn rebuild(from: &Path, node: &Path, before: &Path) -> Result<(), PoolError> {
    let from = from.to_string_lossy().into_owned();
    let args = ["-i".to_owned(), from, "-o".to_owned()];
    THIN_REPAIR
        .run(&args, node)
        .and_then(|()| THIN_CHECK.run(&quiet(), node))
        .map_err(|error| PoolError::from(error).with_undo(put_back(before, node)))
}

/// A sparse file with the same content.
fn copy_file(from: &Path, to: &Path) -> io::Result<File> {
    let from = File::open(from)?;
    let size = from.metadata()?.len();
    let to = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)?;
    copy(&from, &to, Bytes::new(size), Zeros::Skip)?;
    to.set_len(size)?;
    Ok(to)
}

/// Puts a copy of the metadata back where they came from.
fn put_back(copy_path: &Path, node: &Path) -> Result<(), PoolError> {
    let io = |source| PoolError::io("restore", node, source);
    let from = File::open(copy_path).map_err(io)?;
    let size = Bytes::new(from.metadata().map_err(io)?.len());
    let to = OpenOptions::new().write(true).open(node).map_err(io)?;
    copy(&from, &to, size, Zeros::Write)
        .and_then(|()| to.sync_all())
        .map_err(io)
}

/// What is done with a chunk of zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zeros {
    /// Left out: the file has a hole there.
    Skip,
    /// Written: the device has something else there.
    Write,
}

fn copy(from: &File, to: &File, size: Bytes, zeros: Zeros) -> io::Result<()> {
    let mut memory = Aligned::new(CHUNK);
    let buffer = memory.bytes();
    let mut at = 0_u64;
    while at < size.get() {
        let left = usize::try_from(size.get().saturating_sub(at)).unwrap_or(CHUNK);
        let chunk = buffer.get_mut(..left.min(CHUNK)).unwrap_or_default();
        from.read_exact_at(chunk, at)?;
        if zeros == Zeros::Write || chunk.iter().any(|byte| *byte != 0) {
            to.write_all_at(chunk, at)?;
        }
        at = at.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two repairs in one second: the second one failed, and took the first one's copy with it.
    #[test]
    fn a_copy_of_the_same_second_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let names: std::collections::BTreeSet<_> = (0..3)
            .map(|n| {
                let (path, file) = new_copy(dir.path()).unwrap();
                file.write_all_at(&[n], 0).unwrap();
                path
            })
            .collect();
        assert_eq!(names.len(), 3);
        let kept: Vec<_> = names
            .iter()
            .map(|path| std::fs::read(path).unwrap())
            .collect();
        assert_eq!(kept, [[0], [1], [2]]);
    }
}

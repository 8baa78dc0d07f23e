//! `pool repair`: a pool whose metadata are damaged, or wait for a check, is made to work again.
//!
//! Steps, under the pool's lock, the pool closed: R1 a copy of the metadata beside the catalogue, flushed;
//! R2 `thin_check`; R3 where that finds damage, `thin_repair` from the copy onto the device, which is
//! checked again: where that does not help the copy is put back; where nothing but the flag is left, it is
//! cleared; R4 metadata that are nearly full are made larger; R5 the pool is opened, as ever; R6 the
//! file system of each volume is checked, read-only. A cut leaves the copy and a pool that can be repaired
//! again. The copy is never removed but by `pool destroy`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::backing::{Attached, SparseFile};
use crate::dm::{PartKind, names};
use crate::fs::{self, Tool};
use crate::graph::create::remove_path;
use crate::graph::error::PoolError;
use crate::graph::host::Host;
use crate::graph::layout::BACKUP_PREFIX;
use crate::graph::live::Live;
use crate::graph::plan;
use crate::graph::pool::Pool;
use crate::graph::report::{Checked, RepairReport, Repaired, VolumeCheck};
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
/// Alignment that direct I/O asks of memory.
const ALIGN: usize = 4096;

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

impl Host {
    /// Repairs a pool that does not open or has turned read-only, and opens it.
    ///
    /// # Errors
    /// [`PoolError::PoolBusy`] while it is used; [`PoolError::Fs`] where a program is not installed or
    /// could not help: the metadata are as they were then; and as of [`Host::open_pool`].
    pub fn repair_pool(&self, name: &PoolName) -> Result<RepairReport, PoolError> {
        let pool = self.pool(name)?;
        let lock = pool.lock_idle()?;
        let record = pool.record()?;
        if record.state != PoolState::Ready {
            return Err(PoolError::PoolHalfMade { name: name.clone() });
        }
        if let Some(existing) = record.existing() {
            return Err(PoolError::NotOurThinPool {
                name: name.clone(),
                thin_pool: existing.name.clone(),
            });
        }
        pool.close()?;
        let repaired = pool.repair_metadata(&record).and_then(|done| {
            pool.make_room_for_metadata(&record)?;
            Ok(done)
        });
        let (copy, repaired) = pool.or_close(repaired)?;
        pool.open()?;
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
    /// [`PoolError::PoolBusy`] for a pool that is open, whose metadata the kernel has;
    /// [`PoolError::Fs`] where `thin_check` is not installed.
    pub fn plan_repair(&self, name: &PoolName) -> Result<Repaired, PoolError> {
        let pool = self.pool(name)?;
        let _lock = pool.lock_idle()?;
        let record = pool.record()?;
        if self.pool_device(&record)?.is_some() {
            return Err(PoolError::PoolBusy {
                name: name.clone(),
                users: vec!["it is open".to_owned()],
            });
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
        let node = metadata.node();
        let repaired = look_at(node)?;
        if repaired == Repaired::FlagCleared {
            let clear = ["-q", "--clear-needs-check-flag"].map(str::to_owned);
            THIN_CHECK.run(&clear, node)?;
        }
        if repaired != Repaired::Rebuilt {
            return Ok((copy, repaired));
        }
        let from = copy.to_string_lossy().into_owned();
        let args = ["-i".to_owned(), from, "-o".to_owned()];
        let rebuilt = THIN_REPAIR
            .run(&args, node)
            .and_then(|()| THIN_CHECK.run(&quiet(), node));
        match rebuilt {
            Ok(()) => Ok((copy, Repaired::Rebuilt)),
            Err(error) => {
                let undo = put_back(&copy, node);
                Err(PoolError::from(error).with_undo(undo))
            }
        }
    }

    /// Step R1: the metadata as they are, in a sparse file.
    fn copy_metadata(&self, metadata: &Attached) -> Result<PathBuf, PoolError> {
        let dir = self.host().layout().pool_dir(self.name());
        let path = dir.join(format!("{BACKUP_PREFIX}{}", Timestamp::now().to_unix()));
        let from = ioctl::open_direct(metadata.node())?;
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|to| {
                copy(&from, &to, metadata.size(), Zeros::Skip)?;
                to.set_len(metadata.size().get())?;
                to.sync_all()
            })
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
        Ok(checked)
    }
}

/// Whether the file system on a device was not unmounted: a check without its journal says little.
fn needs_recovery(node: &Path) -> Result<bool, PoolError> {
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
    let mut memory = Aligned::new();
    let block = memory.bytes().get_mut(..ALIGN)?;
    device.read_exact_at(block, 0).ok()?;
    match FirstBlock::decode(block).ok()? {
        FirstBlock::Superblock(superblock) => Some(superblock),
        FirstBlock::Unformatted => None,
    }
}

/// Memory that direct I/O takes.
struct Aligned(Vec<u8>);

impl Aligned {
    fn new() -> Self {
        Self(vec![0; CHUNK.saturating_add(ALIGN)])
    }

    fn bytes(&mut self) -> &mut [u8] {
        let offset = self.0.as_ptr().align_offset(ALIGN);
        let bytes = self.0.get_mut(offset..).unwrap_or_default();
        let len = bytes.len().min(CHUNK);
        bytes.get_mut(..len).unwrap_or_default()
    }
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
    let mut memory = Aligned::new();
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

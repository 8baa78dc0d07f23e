//! All there is in the model, and what happens by itself: last closes.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::ids::DevNo;
use crate::ioctl::{Errno, TargetLine};
use crate::model::device::devices_of;
use crate::model::pool::{Disk, Pool};
use crate::model::{Fault, ModelDevice, ModelThin, Told};

/// Majors that no host gives to a disk.
pub(super) const DM_MAJOR: u32 = 3900;
pub(super) const LOOP_MAJOR: u32 = 3901;

/// What makes a file itself.
pub(super) type Key = (u64, u64);

/// What a file of the model's directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thing {
    Block(DevNo),
    Mount(u64),
}

/// A device of device mapper.
#[derive(Debug, Default)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) live: Option<Vec<TargetLine>>,
    pub(super) inactive: Option<Vec<TargetLine>>,
    /// Whether it ever had a table: until then there is no disk to be opened (`dm.c:dm_setup_md_queue`).
    pub(super) is_disk: bool,
    pub(super) suspended: bool,
    pub(super) deferred: bool,
    pub(super) read_only: bool,
    pub(super) inactive_read_only: bool,
    pub(super) event_nr: u32,
}

/// A loop device with a file.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) file: PathBuf,
    pub(super) key: Key,
    pub(super) size: u64,
    pub(super) autoclear: bool,
    pub(super) read_only: bool,
}

/// A descriptor that was given out. Who has it has a shared lock of the file with it, which ends with
/// its last copy.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) nr: u64,
    pub(super) dev: DevNo,
    pub(super) exclusive: bool,
    pub(super) probe: File,
}

/// A mounted file system.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) id: u64,
    pub(super) dev: DevNo,
    pub(super) dir: PathBuf,
    pub(super) read_only: bool,
    pub(super) probe: File,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) dir: PathBuf,
    pub(super) devices: BTreeMap<u32, Device>,
    pub(super) loops: BTreeMap<u32, Loop>,
    /// Active thin-pools by their device.
    pub(super) pools: BTreeMap<u32, Pool>,
    /// What was committed to metadata files.
    pub(super) disks: HashMap<Key, Disk>,
    pub(super) things: HashMap<Key, Thing>,
    pub(super) handles: Vec<Handle>,
    pub(super) mounts: Vec<Mount>,
    pub(super) made: u64,
    pub(super) calls: u64,
    pub(super) fault: Option<Fault>,
    pub(super) messages: u64,
    pub(super) dead: bool,
    /// What was told, where that is kept.
    pub(super) told: Option<Vec<Told>>,
}

/// Whether somebody has a lock with a descriptor of this file.
fn is_held(probe: &File) -> bool {
    let free = rustix::fs::flock(probe, FlockOperation::NonBlockingLockExclusive).is_ok();
    if free {
        // Else whoever opens it next could not have his.
        rustix::fs::flock(probe, FlockOperation::Unlock).unwrap();
    }
    !free
}

pub(super) fn key_of(fd: impl AsFd) -> Result<Key, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

pub(super) fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl State {
    pub(super) fn boot(dir: &Path) -> io::Result<Self> {
        for made in ["dev/mapper", "sys/block", "proc/self", "blocks", "mounts"] {
            fs::create_dir_all(dir.join(made))?;
        }
        for made in [
            "dev/mapper/control",
            "dev/loop-control",
            "proc/self/mountinfo",
        ] {
            File::create(dir.join(made))?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            devices: BTreeMap::new(),
            loops: BTreeMap::new(),
            pools: BTreeMap::new(),
            disks: HashMap::new(),
            things: HashMap::new(),
            handles: Vec::new(),
            mounts: Vec::new(),
            made: 0,
            calls: 0,
            fault: None,
            messages: 0,
            dead: false,
            told: None,
        })
    }

    /// What the last closes since the last call lead to.
    pub(super) fn settle(&mut self) {
        let mut nr = 0;
        while nr < self.mounts.len() {
            if is_held(&self.mounts[nr].probe) {
                nr += 1;
            } else {
                self.unmount(nr);
            }
        }
        if !self.handles.is_empty() {
            let mut thins: Vec<_> = self.handles.iter().map(|handle| handle.dev).collect();
            thins.dedup();
            for dev in thins.into_iter().filter(|dev| dev.major() == DM_MAJOR) {
                self.take_writes(dev);
            }
            let (left, closed) = std::mem::take(&mut self.handles)
                .into_iter()
                .partition(|handle| is_held(&handle.probe));
            self.handles = left;
            for handle in closed {
                let Handle { nr, .. } = handle;
                self.tell(|_| Some(Told::Closed { nr }));
            }
        }
        let due = |state: &Self, minor: &u32| {
            state.devices[minor].deferred && state.open_count(DevNo::new(DM_MAJOR, *minor)) == 0
        };
        while let Some(minor) = self.devices.keys().copied().find(|minor| due(self, minor)) {
            self.destroy(minor);
        }
        let idle = |state: &Self, minor: &u32| {
            state.loops[minor].autoclear && state.open_count(DevNo::new(LOOP_MAJOR, *minor)) == 0
        };
        while let Some(minor) = self.loops.keys().copied().find(|minor| idle(self, minor)) {
            self.detach(minor);
        }
    }

    /// The devices that have this one in a table: once for both of a device's tables, but for those that
    /// are not for writing alike (`dm.c:find_table_device`).
    fn nr_tables(&self, dev: DevNo) -> u32 {
        let uses = |table: &Option<Vec<TargetLine>>| {
            let mut below = table.iter().flatten().flat_map(devices_of);
            below.any(|below| below == dev)
        };
        let times = |device: &Device| match (uses(&device.live), uses(&device.inactive)) {
            (true, true) if device.read_only != device.inactive_read_only => 2,
            (live, inactive) => u32::from(live || inactive),
        };
        self.devices.values().map(times).sum()
    }

    pub(super) fn open_count(&self, dev: DevNo) -> u32 {
        let handles = self.handles.iter().filter(|handle| handle.dev == dev);
        let mounts = self.mounts.iter().filter(|mount| mount.dev == dev);
        self.nr_tables(dev) + u32::try_from(handles.count() + mounts.count()).unwrap()
    }

    /// Whether somebody has the device for himself.
    pub(super) fn is_claimed(&self, dev: DevNo) -> bool {
        self.nr_tables(dev) > 0
            || self.mounts.iter().any(|mount| mount.dev == dev)
            || self
                .handles
                .iter()
                .any(|handle| handle.dev == dev && handle.exclusive)
    }

    pub(super) fn lose_power(&mut self) {
        for mount in std::mem::take(&mut self.mounts) {
            let _ = fs::remove_dir_all(mount.dir);
        }
        self.handles.clear();
        for (_, pool) in std::mem::take(&mut self.pools) {
            self.write_data(&pool);
            self.write_metadata(pool.metadata, &pool.path, pool.committed);
        }
        self.devices.clear();
        for minor in self.loops.keys().copied().collect::<Vec<_>>() {
            self.detach(minor);
        }
        // A file system in memory, which begins anew.
        for dir in ["dev", "dev/mapper"] {
            for entry in fs::read_dir(self.dir.join(dir)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_symlink() {
                    fs::remove_file(path).unwrap();
                }
            }
        }
    }

    fn key_at(path: &Path) -> io::Result<Key> {
        let found = fs::metadata(path)?;
        Ok((found.dev(), found.ino()))
    }

    pub(super) fn clear_needs_check(&mut self, metadata: &Path) -> io::Result<()> {
        let key = Self::key_at(metadata)?;
        let disk = self.disks.get(&key).ok_or(io::ErrorKind::NotFound)?;
        let mut trees = disk.trees.clone();
        trees.needs_check = false;
        self.write_metadata(key, metadata, trees);
        Ok(())
    }

    pub(super) fn list(&self) -> Vec<ModelDevice> {
        let told = |device: &Device| ModelDevice {
            name: device.name.clone(),
            uuid: device.uuid.clone(),
            suspended: device.suspended,
            active: device.live.is_some(),
        };
        self.devices.values().map(told).collect()
    }

    pub(super) fn thins(&self, metadata: &Path) -> io::Result<(Vec<ModelThin>, bool)> {
        let key = Self::key_at(metadata)?;
        let active = self.pools.values().find(|pool| pool.metadata == key);
        let trees = match active {
            Some(pool) => &pool.now,
            None => &self.disks.get(&key).ok_or(io::ErrorKind::NotFound)?.trees,
        };
        let thins = trees.thins.iter().map(|(id, thin)| ModelThin {
            id: *id,
            mapped: u64::try_from(thin.mapped.len()).unwrap(),
            fs_size: thin.fs.as_ref().map(|fs| fs.size),
            names: thin
                .fs
                .iter()
                .flat_map(|fs| fs.files.keys().cloned())
                .collect(),
        });
        Ok((thins.collect(), trees.held.is_some()))
    }
}

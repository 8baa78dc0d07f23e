//! Loop devices, nodes, descriptors, and file systems as far as the verbs look at them.
//!
//! A node is a symbolic link to the file that stands for its device: of a loop device, to what is
//! attached. Who is given a descriptor gets a shared lock with it, so that its last close is seen.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::time::UNIX_EPOCH;

use rustix::fs::FlockOperation;

use crate::ids::DevNo;
use crate::ioctl::Errno;
use crate::ioctl::wire::Call;
use crate::model::Told;
use crate::model::state::{
    DM_MAJOR, Handle, Key, LOOP_MAJOR, Loop, Mount, State, Thing, errno, key_of,
};

pub(super) const PAGE: usize = 4096;
const LOST_AND_FOUND: &str = "lost+found";

/// An ext4.
#[derive(Debug, Clone)]
pub(super) struct Fs {
    uuid: [u8; 16],
    pub(super) size: u64,
    clean: bool,
    /// What is in its root and on the disk: files, and a directory of nothing.
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

impl Fs {
    /// Its first page: `struct ext4_super_block` at byte 1024.
    pub(super) fn page(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        let mut put = |at: usize, bytes: &[u8]| {
            page[1024 + at..1024 + at + bytes.len()].copy_from_slice(bytes);
        };
        let blocks = (self.size / 4096).to_le_bytes();
        put(4, &blocks[..4]);
        put(336, &blocks[4..]);
        put(24, &2_u32.to_le_bytes());
        put(56, &0xef53_u16.to_le_bytes());
        let recover = if self.clean { 0 } else { 4 };
        put(96, &(0xc0_u32 | recover).to_le_bytes());
        put(104, &self.uuid);
        page
    }
}

/// Every file as old as time: one tree looks like another mount of it.
fn write_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    fs::write(path, content)?;
    File::options()
        .write(true)
        .open(path)?
        .set_modified(UNIX_EPOCH)
}

fn read_files(dir: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let content = match entry.file_type()?.is_dir() {
            true => Vec::new(),
            false => fs::read(entry.path())?,
        };
        files.insert(entry.file_name().into_string().unwrap(), content);
    }
    Ok(files)
}

fn share(file: &impl AsFd) -> Result<(), Errno> {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockShared)
}

impl State {
    /// The file that stands for a device.
    pub(super) fn block_path(&self, dev: DevNo) -> PathBuf {
        if dev.major() == LOOP_MAJOR
            && let Some(found) = self.loops.get(&dev.minor())
        {
            return found.file.clone();
        }
        self.dir
            .join(format!("blocks/{}-{}", dev.major(), dev.minor()))
    }

    /// Makes that file, empty and of a size.
    pub(super) fn block_file(&mut self, dev: DevNo, size: u64) -> Result<(), Errno> {
        let path = self
            .dir
            .join(format!("blocks/{}-{}", dev.major(), dev.minor()));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .and_then(|file| file.set_len(size).map(|()| file))
            .map_err(|error| errno(&error))?;
        self.things.insert(key_of(&file)?, Thing::Block(dev));
        Ok(())
    }

    pub(super) fn block_device(&self, key: Key) -> Option<DevNo> {
        match self.things.get(&key) {
            Some(Thing::Block(dev)) => Some(*dev),
            _ => None,
        }
    }

    pub(super) fn make_node(&mut self, path: &Path, dev: DevNo) -> Result<(), Errno> {
        if path.is_symlink() || path.exists() {
            return Err(Errno::EXIST);
        }
        let file = self.block_path(dev);
        if !file.exists() {
            self.block_file(dev, 0)?;
        }
        symlink(file, path).map_err(|error| errno(&error))
    }

    fn device_at(&self, node: &Path) -> Result<DevNo, Errno> {
        let found = fs::metadata(node).map_err(|error| errno(&error))?;
        let dev = self.block_device((found.dev(), found.ino()));
        dev.ok_or(Errno::NOTBLK)
    }

    pub(super) fn open(
        &mut self,
        path: &Path,
        write: bool,
        exclusive: bool,
    ) -> Result<File, Errno> {
        let open = || OpenOptions::new().read(true).write(write).open(path);
        let file = open().map_err(|error| errno(&error))?;
        let Some(dev) = self.block_device(key_of(&file)?) else {
            return Ok(file);
        };
        if dev.major() == DM_MAJOR && !self.is_disk(dev.minor()) {
            return Err(Errno::NXIO);
        }
        if exclusive && self.is_claimed(dev) {
            return Err(Errno::BUSY);
        }
        share(&file)?;
        let probe = open().map_err(|error| errno(&error))?;
        self.made += 1;
        let nr = self.made;
        self.handles.push(Handle {
            nr,
            dev,
            exclusive,
            probe,
        });
        self.tell(|_| Some(Told::Opened { nr, dev, exclusive }));
        Ok(file)
    }

    pub(super) fn ioctl(&mut self, fd: BorrowedFd<'_>, call: Call<'_>) -> Result<i32, Errno> {
        let key = key_of(fd)?;
        match call {
            Call::LoopFree => {
                let minor = (0..).find(|minor| !self.loops.contains_key(minor));
                let minor = minor.ok_or(Errno::NOSPC)?;
                let dir = self.dir.join(format!("sys/block/loop{minor}"));
                fs::create_dir_all(&dir)
                    .and_then(|()| fs::write(dir.join("dev"), format!("{LOOP_MAJOR}:{minor}")))
                    .map_err(|error| errno(&error))?;
                self.block_file(DevNo::new(LOOP_MAJOR, minor), 0)?;
                return i32::try_from(minor).map_err(|_| Errno::RANGE);
            }
            Call::ResizeExt4 { blocks } => {
                self.resize(key, blocks * 4096)?;
                return Ok(0);
            }
            Call::Trim(done) => {
                *done = 0;
                return Ok(0);
            }
            _ => {}
        }
        let dev = self.block_device(key).ok_or(Errno::NOTTY)?;
        let size = self.size(dev);
        let attached = match dev.major() {
            LOOP_MAJOR => self.loops.get_mut(&dev.minor()),
            _ => None,
        };
        let attached = attached.ok_or(Errno::NXIO);
        match call {
            Call::Size(bytes) => *bytes = size.unwrap_or(0),
            Call::BlockSize(bytes) => *bytes = 4096,
            Call::PhysicalBlockSize(bytes) => *bytes = 4096,
            Call::ReadOnly(read_only) => *read_only = 0,
            Call::Discard { at, len } => {
                if size.is_none_or(|size| at + len > size) {
                    return Err(Errno::INVAL);
                }
                self.discard(dev, at, len)?;
            }
            Call::LoopConfigure {
                fd,
                autoclear,
                read_only,
            } => self.configure(dev.minor(), fd, autoclear, read_only)?,
            Call::LoopStatus(mut status) => {
                let found = attached?;
                let (dev, ino) = found.key;
                status.set(dev, ino, found.autoclear, found.read_only);
            }
            Call::LoopSetCapacity => {
                let found = attached?;
                let size = fs::metadata(&found.file).map_err(|error| errno(&error))?;
                found.size = size.len() / 4096 * 4096;
                let size = found.size;
                self.tell(|_| Some(Told::Attached { dev, size }));
            }
            Call::LoopClear => attached?.autoclear = true,
            Call::LoopFree | Call::ResizeExt4 { .. } | Call::Trim(_) => return Err(Errno::NOTTY),
        }
        Ok(0)
    }

    fn configure(
        &mut self,
        minor: u32,
        fd: u32,
        autoclear: bool,
        read_only: bool,
    ) -> Result<(), Errno> {
        if self.loops.contains_key(&minor) {
            return Err(Errno::BUSY);
        }
        let file = fs::read_link(format!("/proc/self/fd/{fd}")).map_err(|error| errno(&error))?;
        let found = fs::metadata(&file).map_err(|error| errno(&error))?;
        let key = (found.dev(), found.ino());
        self.things
            .insert(key, Thing::Block(DevNo::new(LOOP_MAJOR, minor)));
        let node = self.dir.join(format!("dev/loop{minor}"));
        let attached = self.dir.join(format!("sys/block/loop{minor}/loop"));
        fs::remove_file(&node)
            .and_then(|()| symlink(&file, &node))
            .and_then(|()| fs::create_dir(attached))
            .map_err(|error| errno(&error))?;
        let new = Loop {
            file,
            key,
            size: found.len() / 4096 * 4096,
            autoclear,
            read_only,
        };
        let (dev, size) = (DevNo::new(LOOP_MAJOR, minor), new.size);
        self.loops.insert(minor, new);
        self.tell(|_| Some(Told::Attached { dev, size }));
        Ok(())
    }

    pub(super) fn detach(&mut self, minor: u32) {
        let Some(found) = self.loops.remove(&minor) else {
            return;
        };
        let dev = DevNo::new(LOOP_MAJOR, minor);
        self.tell(|_| Some(Told::Detached { dev }));
        self.things.remove(&found.key);
        let _ = fs::remove_dir(self.dir.join(format!("sys/block/loop{minor}/loop")));
        let node = self.dir.join(format!("dev/loop{minor}"));
        if fs::remove_file(&node).is_ok() {
            let file = self.block_path(dev);
            symlink(file, node).unwrap();
        }
    }

    pub(super) fn mkfs(&mut self, node: &Path) -> Result<Output, Errno> {
        let dev = self.device_at(node)?;
        let thin = self.thin_on(dev).ok_or(Errno::NOTBLK)?;
        let size = self.size(dev).unwrap_or(0);
        self.made += 1;
        let mut uuid = [7; 16];
        uuid[..8].copy_from_slice(&self.made.to_be_bytes());
        let last = self.last_block(thin.0, size);
        self.write_blocks(thin, [0, 1, last / 2, last])?;
        let fs = Fs {
            uuid,
            size,
            clean: true,
            files: BTreeMap::from([(LOST_AND_FOUND.to_owned(), Vec::new())]),
        };
        *self.fs(thin).ok_or(Errno::IO)? = Some(fs);
        self.show(dev);
        Ok(Output {
            status: ExitStatus::from_raw(0),
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    }

    fn last_block(&self, pool: u32, size: u64) -> u64 {
        size / (self.pools[&pool].now.block_sectors * 512) - 1
    }

    pub(super) fn fs(&mut self, (pool, id): (u32, u32)) -> Option<&mut Option<Fs>> {
        Some(&mut self.pool(pool).now.thin(id)?.fs)
    }

    pub(super) fn mount(&mut self, node: &Path, read_only: bool) -> Result<OwnedFd, Errno> {
        let dev = self.device_at(node)?;
        let thin = self.thin_on(dev).ok_or(Errno::INVAL)?;
        self.take_writes(dev);
        let Some(Some(fs)) = self.fs(thin) else {
            return Err(Errno::INVAL);
        };
        let files = fs.files.clone();
        if fs.size > self.size(dev).unwrap_or(0) {
            return Err(Errno::INVAL);
        }
        if self.is_claimed(dev) {
            return Err(Errno::BUSY);
        }
        self.made += 1;
        let id = self.made;
        self.tell(|_| {
            Some(Told::Opened {
                nr: id,
                dev,
                exclusive: true,
            })
        });
        if !read_only {
            self.write_blocks(thin, [0, 1])?;
            if let Some(Some(fs)) = self.fs(thin) {
                fs.clean = false;
            }
            self.show(dev);
        }
        let dir = self.dir.join(format!("mounts/{id}"));
        let made = fs::create_dir(&dir).and_then(|()| {
            files
                .iter()
                .try_for_each(|(name, content)| match name.as_str() {
                    LOST_AND_FOUND => fs::create_dir(dir.join(name)),
                    _ => write_file(&dir.join(name), content),
                })
        });
        let opened = made.and_then(|()| Ok((File::open(&dir)?, File::open(&dir)?)));
        let (root, probe) = opened.map_err(|error| errno(&error))?;
        share(&root)?;
        self.things.insert(key_of(&root)?, Thing::Mount(id));
        let mount = Mount {
            id,
            dev,
            dir,
            read_only,
            probe,
        };
        self.mounts.push(mount);
        Ok(root.into())
    }

    fn mount_of(&self, key: Key) -> Result<usize, Errno> {
        let Some(Thing::Mount(id)) = self.things.get(&key) else {
            return Err(Errno::NOTTY);
        };
        let found = self.mounts.iter().position(|mount| mount.id == *id);
        found.ok_or(Errno::NOTTY)
    }

    pub(super) fn sync(&mut self, root: BorrowedFd<'_>) -> Result<(), Errno> {
        let nr = self.mount_of(key_of(root)?)?;
        self.write_back(nr)
    }

    /// Writes what is in the root to the disk: a block for each file that is new or changed, then a flush.
    fn write_back(&mut self, nr: usize) -> Result<(), Errno> {
        if self.mounts[nr].read_only {
            return Ok(());
        }
        let (dev, dir) = (self.mounts[nr].dev, self.mounts[nr].dir.clone());
        let thin = self.thin_on(dev).ok_or(Errno::IO)?;
        let files = read_files(&dir).map_err(|error| errno(&error))?;
        let Some(Some(fs)) = self.fs(thin) else {
            return Err(Errno::IO);
        };
        let new = files
            .iter()
            .filter(|(name, content)| fs.files.get(*name) != Some(content))
            .count();
        let from = 8 + u64::try_from(fs.files.len()).unwrap();
        let blocks = from..from + u64::try_from(new).unwrap();
        self.write_blocks(thin, blocks)?;
        if let Some(Some(fs)) = self.fs(thin) {
            fs.files = files;
        }
        self.commit(thin.0);
        Ok(())
    }

    pub(super) fn unmount(&mut self, nr: usize) {
        let written = self.write_back(nr);
        let mount = self.mounts.remove(nr);
        self.things
            .retain(|_, thing| *thing != Thing::Mount(mount.id));
        let _ = fs::remove_dir_all(&mount.dir);
        if mount.read_only {
            // Nothing is to be written.
        } else if let (Ok(()), Some(thin)) = (written, self.thin_on(mount.dev)) {
            if let Some(Some(fs)) = self.fs(thin) {
                fs.clean = true;
            }
            self.commit(thin.0);
            self.show(mount.dev);
        }
        self.tell(|_| Some(Told::Closed { nr: mount.id }));
    }

    fn resize(&mut self, key: Key, size: u64) -> Result<(), Errno> {
        let dev = self.mounts[self.mount_of(key)?].dev;
        let thin = self.thin_on(dev).ok_or(Errno::IO)?;
        if size > self.size(dev).unwrap_or(0) {
            return Err(Errno::INVAL);
        }
        let last = self.last_block(thin.0, size);
        let Some(Some(fs)) = self.fs(thin) else {
            return Err(Errno::IO);
        };
        if size < fs.size {
            return Err(Errno::INVAL);
        }
        fs.size = size;
        self.write_blocks(thin, [last])?;
        self.show(dev);
        Ok(())
    }
}

//! Loop devices: a file as a block device, attached and set up in one step.
//!
//! `LOOP_CONFIGURE` (since 5.8) gives file, block size and flags together, so there is no moment
//! in which the device has the file and not the settings. What the kernel made of them is read
//! back: it drops direct I/O without a word where the file system below cannot do it
//! (`drivers/block/loop.c:__loop_update_dio`).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use linux_raw_sys::loop_device::{loop_config, loop_info64};
use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

use crate::ids::DevNo;
use crate::ioctl::abi;
use crate::ioctl::blkdev::{self, Access};
use crate::ioctl::error::IoctlError;
use crate::ioctl::kernel::place;
use crate::ioctl::node::{block_device, ensure_block_node};
use crate::ioctl::raw;
use crate::units::Bytes;

const LOOP_CONTROL: &str = "/dev/loop-control";
/// Its number, fixed in `include/linux/miscdevice.h`.
const LOOP_CONTROL_DEV: DevNo = DevNo::new(10, 237);
const LOOP_MAJOR: u32 = 7;
/// How often another loop device is tried when somebody else takes the free one first.
const ATTACH_TRIES: u32 = 64;
/// How long to wait between tries; udev probes of a new device last about as long.
const ATTACH_PAUSE: Duration = Duration::from_millis(5);
/// How often a device is asked for when others (udev) have it open for a moment.
const BUSY_TRIES: u32 = 50;
/// How long to wait in between.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Bytes of the file name that the kernel keeps, with its NUL.
const LO_FILE_NAME: usize = 64;
const EMPTY_INFO: loop_info64 = loop_info64 {
    lo_device: 0,
    lo_inode: 0,
    lo_rdevice: 0,
    lo_offset: 0,
    lo_sizelimit: 0,
    lo_number: 0,
    lo_encrypt_type: 0,
    lo_encrypt_key_size: 0,
    lo_flags: 0,
    lo_file_name: [0; LO_FILE_NAME],
    lo_crypt_name: [0; LO_FILE_NAME],
    lo_encrypt_key: [0; 32],
    lo_init: [0; 2],
};

/// What makes a file itself, whatever its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The file system's device number.
    pub dev: DevNo,
    /// The inode's number.
    pub ino: u64,
}

impl FileId {
    /// The identity of an open file.
    ///
    /// # Errors
    /// [`IoctlError::Io`].
    pub fn of(fd: impl AsFd) -> Result<Self, IoctlError> {
        let stat = rustix::fs::fstat(&fd).map_err(|errno| IoctlError::Io {
            action: "look at",
            path: blkdev::path_of(&fd),
            errno,
        })?;
        Ok(Self {
            dev: DevNo::from_dev_t(stat.st_dev),
            ino: stat.st_ino,
        })
    }
}

/// How a file is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopOptions {
    /// The logical block size asked for; 512 where it is refused.
    pub block_size: Bytes,
    /// Go round the page cache of the file, where its file system can.
    pub direct_io: bool,
    /// Refuse writes.
    pub read_only: bool,
    /// Detach when the last user closes it.
    pub autoclear: bool,
}

impl Default for LoopOptions {
    fn default() -> Self {
        Self {
            block_size: Bytes::from_kib(4),
            direct_io: true,
            read_only: false,
            autoclear: true,
        }
    }
}

/// What the kernel says of an attached device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopInfo {
    /// The file.
    pub backing: FileId,
    /// The device, where the file is the node of one.
    pub backing_device: Option<DevNo>,
    /// Where in the file the device begins.
    pub offset: Bytes,
    /// The path given when it was attached, of which the kernel keeps 63 bytes.
    pub file_name: PathBuf,
    /// Logical block size.
    pub block_size: Bytes,
    /// Goes round the page cache.
    pub direct_io: bool,
    /// Refuses writes.
    pub read_only: bool,
    /// Detaches with its last user.
    pub autoclear: bool,
}

/// An attached loop device, held open.
///
/// Dropping this closes it and no more: with `autoclear` the device then lives as long as its
/// other users (a dm table, a mount) do.
#[derive(Debug)]
pub struct LoopDevice {
    dev: DevNo,
    path: PathBuf,
    file: File,
}

/// What a detachment did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// The file is let go.
    Now,
    /// Somebody has the device open for a moment; the file is let go when they close it.
    Later,
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl LoopDevice {
    /// Its number.
    #[must_use]
    pub fn dev(&self) -> DevNo {
        self.dev
    }

    /// Its node.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is attached and how.
    ///
    /// # Errors
    /// [`IoctlError::Io`], with `ENXIO` where nothing is.
    pub fn info(&self) -> Result<LoopInfo, IoctlError> {
        info(&self.file)
    }

    /// Takes over the backing file's size after it was changed.
    ///
    /// # Errors
    /// [`IoctlError::Io`].
    pub fn update_capacity(&self) -> Result<(), IoctlError> {
        blkdev::operate::<raw::LoopSetCapacity>(self, "update the size of", &mut ())
    }

    /// Lets go of the file. A device that is mounted or in a dm table is left as it is: the
    /// kernel would only mark it for its last close and say nothing.
    ///
    /// # Errors
    /// [`IoctlError::Busy`], [`IoctlError::Io`].
    pub fn detach(self) -> Result<Detached, IoctlError> {
        let Self { path, file, .. } = self;
        let id = info(&file)?.backing;
        let mut tries = 0..BUSY_TRIES;
        let held = loop {
            match blkdev::open(&path, Access::ReadOnly, libc::O_EXCL) {
                Err(IoctlError::Busy { .. }) if tries.next().is_some() => {
                    thread::sleep(BUSY_PAUSE);
                }
                result => break result?,
            }
        };
        // The kernel lets go at once only of a device opened once (`loop.c:loop_clr_fd`), and
        // from 6.15 on of none: else it does at the last close, which a probe of udev's may be.
        drop(file);
        blkdev::operate::<raw::LoopClrFd>(&held, "detach", &mut ())?;
        drop(held);
        let mut tries = 0..BUSY_TRIES;
        while is_attached(&path, id)? {
            if tries.next().is_none() {
                return Ok(Detached::Later);
            }
            thread::sleep(BUSY_PAUSE);
        }
        Ok(Detached::Now)
    }
}

fn is_attached(path: &Path, id: FileId) -> Result<bool, IoctlError> {
    match info(blkdev::open(path, Access::ReadOnly, 0)?) {
        Ok(info) => Ok(info.backing == id),
        Err(error) if error.errno() == Some(Errno::NXIO) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Attaches a file to a free loop device, of which the kernel makes one where none is free.
///
/// `path` is what the kernel shows as the backing file's name. Block size and direct I/O are
/// what the device has afterwards, see [`LoopDevice::info`]; what was refused is done without.
///
/// # Errors
/// [`IoctlError::NoLoop`], [`IoctlError::PermissionDenied`], [`IoctlError::LoopRace`],
/// [`IoctlError::WrongNode`], [`IoctlError::Io`].
pub fn attach_loop(
    file: impl AsFd,
    path: &Path,
    options: LoopOptions,
) -> Result<LoopDevice, IoctlError> {
    let control = open_control()?;
    let mut config = configuration(&file, path, options)?;
    let mut tries = 0_u32;
    while tries < ATTACH_TRIES {
        let number = raw::operate::<raw::LoopCtlGetFree>(&control, &mut ())
            .map_err(|errno| io("get a free device from", Path::new(LOOP_CONTROL), errno))?;
        let device = match open_device(number, options.read_only) {
            Ok(device) => device,
            Err(error) if is_gone(&error) => {
                tries = tries.saturating_add(1);
                thread::sleep(ATTACH_PAUSE);
                continue;
            }
            Err(error) => return Err(error),
        };
        match raw::operate::<raw::LoopConfigure>(&device, &mut config) {
            Ok(_) => return Ok(device),
            Err(Errno::INVAL) if weaken(&mut config) => {}
            // Somebody was faster, or it was removed.
            Err(Errno::BUSY | Errno::NXIO | Errno::NODEV) => {
                tries = tries.saturating_add(1);
                thread::sleep(ATTACH_PAUSE);
            }
            Err(errno) => return Err(io("attach a file to", &device.path, errno)),
        }
    }
    Err(IoctlError::LoopRace { tries })
}

/// The loop devices a file is attached to, opened, lowest number first. More than one is a
/// danger to the file.
///
/// # Errors
/// [`IoctlError::Io`], [`IoctlError::PermissionDenied`], [`IoctlError::WrongNode`].
pub fn find_loops(id: FileId) -> Result<Vec<LoopDevice>, IoctlError> {
    let mut found = attached_loops()?;
    found.retain(|(_, info)| info.backing == id);
    Ok(found.into_iter().map(|(device, _)| device).collect())
}

/// Every loop device that something is attached to, opened, lowest number first.
///
/// # Errors
/// As [`find_loops`].
pub fn attached_loops() -> Result<Vec<(LoopDevice, LoopInfo)>, IoctlError> {
    let block = &place("/sys/block");
    let entries = fs::read_dir(block).map_err(|error| std_io("list", block, &error))?;
    let mut numbers: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_prefix("loop")?.parse().ok())
        // Only an attached device has this directory.
        .filter(|number| block.join(format!("loop{number}/loop")).exists())
        .collect();
    numbers.sort_unstable();
    let mut found = Vec::new();
    for number in numbers {
        let read_only = fs::read_to_string(block.join(format!("loop{number}/ro")))
            .is_ok_and(|text| text.trim() == "1");
        let device = match open_device(number, read_only) {
            Ok(device) => device,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        match device.info() {
            Ok(info) => found.push((device, info)),
            Err(error) if error.errno() == Some(Errno::NXIO) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn io(action: &'static str, path: &Path, errno: Errno) -> IoctlError {
    IoctlError::Io {
        action,
        path: path.to_owned(),
        errno,
    }
}

fn std_io(action: &'static str, path: &Path, error: &std::io::Error) -> IoctlError {
    io(
        action,
        path,
        Errno::from_io_error(error).unwrap_or(Errno::IO),
    )
}

/// Whether the device went between being found and being opened.
fn is_gone(error: &IoctlError) -> bool {
    matches!(
        error.errno(),
        Some(Errno::NXIO | Errno::NODEV | Errno::NOENT)
    )
}

fn open_control() -> Result<File, IoctlError> {
    let path = &place(LOOP_CONTROL);
    let no_loop = || IoctlError::NoLoop {
        path: path.to_owned(),
    };
    let open = || blkdev::open(path, Access::ReadWrite, 0);
    let result = match open() {
        Err(error) if error.errno() == Some(Errno::NOENT) => {
            // Only where the driver is there: a node without it would hide its absence.
            if !Path::new("/sys/class/misc/loop-control").exists() {
                return Err(no_loop());
            }
            let mode = Mode::RUSR | Mode::WUSR;
            let dev = LOOP_CONTROL_DEV.to_dev_t();
            match rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, dev) {
                Ok(()) | Err(Errno::EXIST) => open(),
                Err(errno) => return Err(io("make the node", path, errno)),
            }
        }
        result => result,
    };
    match result {
        Err(error) if is_gone(&error) => Err(no_loop()),
        result => result,
    }
}

/// Opens a loop device by number, its node made where nobody made it.
fn open_device(number: i32, read_only: bool) -> Result<LoopDevice, IoctlError> {
    let path = place(format!("/dev/loop{number}"));
    let dev = dev_of(number)?;
    ensure_block_node(&path, dev)?;
    let access = if read_only {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let file = blkdev::open(&path, access, 0)?;
    let stat = file
        .metadata()
        .map_err(|error| std_io("look at", &path, &error))?;
    match block_device(&stat) {
        Some(found) if found == dev => Ok(LoopDevice { dev, path, file }),
        found => Err(IoctlError::WrongNode {
            path,
            expected: dev,
            found: found.map_or_else(
                || "no block device".to_owned(),
                |found| format!("device {found}"),
            ),
        }),
    }
}

/// A loop device's number, which with partitions (`max_part`) is not its minor.
fn dev_of(number: i32) -> Result<DevNo, IoctlError> {
    let path = place(format!("/sys/block/loop{number}/dev"));
    match fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|_| io("read", &path, Errno::INVAL)),
        // No sysfs here at all: then what holds without `max_part`.
        Err(_) if !Path::new("/sys/block").exists() => u32::try_from(number)
            .map(|minor| DevNo::new(LOOP_MAJOR, minor))
            .map_err(|_| io("read", &path, Errno::RANGE)),
        Err(error) => Err(std_io("read", &path, &error)),
    }
}

fn configuration(
    file: impl AsFd,
    path: &Path,
    options: LoopOptions,
) -> Result<loop_config, IoctlError> {
    let fd = u32::try_from(file.as_fd().as_raw_fd()).map_err(|_| io("use", path, Errno::BADF))?;
    let block_size = u32::try_from(options.block_size.get())
        .map_err(|_| io("use so large a block size for", path, Errno::INVAL))?;
    let mut lo_flags = 0;
    for (wanted, flag) in [
        (options.read_only, abi::LO_FLAGS_READ_ONLY),
        (options.autoclear, abi::LO_FLAGS_AUTOCLEAR),
        (options.direct_io, abi::LO_FLAGS_DIRECT_IO),
    ] {
        if wanted {
            lo_flags |= flag;
        }
    }
    let mut lo_file_name = [0; LO_FILE_NAME];
    // One byte stays for the NUL.
    let room = lo_file_name.iter_mut().take(LO_FILE_NAME.saturating_sub(1));
    for (to, from) in room.zip(path.as_os_str().as_bytes()) {
        *to = *from;
    }
    Ok(loop_config {
        fd,
        block_size,
        info: loop_info64 {
            lo_flags,
            lo_file_name,
            ..EMPTY_INFO
        },
        __reserved: [0; 8],
    })
}

/// Takes back the next wish that the kernel may have refused; false where none is left. The
/// block size first: direct I/O that cannot be had is dropped without an error.
fn weaken(config: &mut loop_config) -> bool {
    if config.block_size != 0 {
        // 0 leaves the choice to the kernel.
        config.block_size = 0;
        true
    } else if config.info.lo_flags & abi::LO_FLAGS_DIRECT_IO != 0 {
        config.info.lo_flags &= !abi::LO_FLAGS_DIRECT_IO;
        true
    } else {
        false
    }
}

fn info(fd: impl AsFd) -> Result<LoopInfo, IoctlError> {
    let mut info = EMPTY_INFO;
    blkdev::operate::<raw::LoopGetStatus>(&fd, "read the state of", &mut info)?;
    let name = info.lo_file_name.split(|byte| *byte == 0).next();
    let has = |flag| info.lo_flags & flag != 0;
    Ok(LoopInfo {
        backing: FileId {
            dev: DevNo::from_dev_t(info.lo_device),
            ino: info.lo_inode,
        },
        backing_device: (info.lo_rdevice != 0).then(|| DevNo::from_dev_t(info.lo_rdevice)),
        offset: Bytes::new(info.lo_offset),
        file_name: PathBuf::from(OsStr::from_bytes(name.unwrap_or_default())),
        block_size: blkdev::logical_block_size(&fd)?,
        direct_io: has(abi::LO_FLAGS_DIRECT_IO),
        read_only: has(abi::LO_FLAGS_READ_ONLY),
        autoclear: has(abi::LO_FLAGS_AUTOCLEAR),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_all_in_one_step() {
        let file = tempfile::tempfile().unwrap();
        let long = PathBuf::from(format!("/{}", "x".repeat(100)));
        let options = LoopOptions {
            read_only: true,
            ..LoopOptions::default()
        };
        let config = configuration(&file, &long, options).unwrap();
        assert_eq!(i32::try_from(config.fd), Ok(file.as_raw_fd()));
        assert_eq!(config.block_size, 4096);
        assert_eq!(config.info.lo_flags, 1 | 4 | 16);
        assert_eq!(
            config.info.lo_file_name[..63],
            long.as_os_str().as_bytes()[..63]
        );
        assert_eq!(config.info.lo_file_name[63], 0);
        assert_eq!(config.info.lo_sizelimit, 0);
    }

    #[test]
    fn wishes_are_taken_back_one_by_one() {
        let file = tempfile::tempfile().unwrap();
        let path = Path::new("/data.img");
        let mut config = configuration(&file, path, LoopOptions::default()).unwrap();
        assert!(weaken(&mut config));
        assert_eq!((config.info.lo_flags, config.block_size), (4 | 16, 0));
        assert!(weaken(&mut config));
        assert_eq!((config.info.lo_flags, config.block_size), (4, 0));
        assert!(!weaken(&mut config));
    }
}

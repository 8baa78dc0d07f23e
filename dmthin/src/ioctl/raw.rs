//! The system calls themselves: the only unsafe code of the workspace.
//!
//! Every function here is safe to call with any argument: what the kernel may read or write is
//! fixed by the types, and lengths the kernel trusts are set here, not by the caller.
#![allow(
    unsafe_code,
    reason = "the kernel boundary; every other file forbids it"
)]

use std::any::Any;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use linux_raw_sys::ioctl as numbers;
use linux_raw_sys::loop_device::{
    LOOP_CLR_FD, LOOP_CONFIGURE, LOOP_CTL_GET_FREE, LOOP_GET_STATUS64, LOOP_SET_CAPACITY,
    loop_config, loop_info64,
};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

use crate::ioctl::abi;
use crate::ioctl::kernel::stand_in;

type Result<T> = std::result::Result<T, Errno>;

/// An `ioctl` whose argument is a pointer to one value of a fixed type.
///
/// # Safety
/// A driver that knows `OPCODE` reads and writes at most one `Arg` behind the pointer, keeps no
/// copy of the pointer, and every bit pattern it may write is a valid `Arg`.
pub(super) unsafe trait Operation {
    /// The request number.
    const OPCODE: Opcode;
    /// What the pointer points to; `()` where the driver ignores it.
    type Arg: Any;
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $opcode:expr, $arg:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name;
        // SAFETY: the header that defines the number gives it this argument, whose layout abi.rs
        // or linux-raw-sys fixes; all its fields are integers, so any bit pattern is valid.
        unsafe impl Operation for $name {
            const OPCODE: Opcode = $opcode;
            type Arg = $arg;
        }
    )*};
}

operations! {
    /// A free loop device's number as the result; one is made where none is free.
    LoopCtlGetFree = LOOP_CTL_GET_FREE, ();
    /// Backing file and settings in one step.
    LoopConfigure = LOOP_CONFIGURE, loop_config;
    /// What is attached; `ENXIO` for nothing.
    LoopGetStatus = LOOP_GET_STATUS64, loop_info64;
    /// Take the backing file's size again.
    LoopSetCapacity = LOOP_SET_CAPACITY, ();
    /// Let go of the backing file.
    LoopClrFd = LOOP_CLR_FD, ();
    /// Size in bytes.
    BlkGetSize64 = numbers::BLKGETSIZE64, u64;
    /// Logical block size in bytes.
    BlkSszGet = numbers::BLKSSZGET, i32;
    /// Physical block size in bytes.
    BlkPbszGet = numbers::BLKPBSZGET, u32;
    /// Not 0: read-only.
    BlkRoGet = numbers::BLKROGET, i32;
    /// Offset and length in bytes.
    BlkDiscard = numbers::BLKDISCARD, [u64; 2];
    /// Discards what a file system does not use; `len` becomes the bytes discarded.
    FiTrim = abi::FITRIM, abi::FstrimRange;
    /// Freezes a file system.
    FiFreeze = abi::FIFREEZE, i32;
    /// Thaws a file system.
    FiThaw = abi::FITHAW, i32;
    /// The new number of file-system blocks.
    Ext4ResizeFs = abi::EXT4_IOC_RESIZE_FS, u64;
    /// Block size and counts of an xfs.
    XfsGeometry = abi::XFS_IOC_FSGEOMETRY_V1, abi::XfsFsopGeomV1;
    /// The new number of file-system blocks and the inode percentage.
    XfsGrowfsData = abi::XFS_IOC_FSGROWFSDATA, abi::XfsGrowfsData;
}

/// A number and a pointer to go with it.
struct Call {
    opcode: Opcode,
    arg: *mut std::ffi::c_void,
}

// SAFETY: `Call` is made only by `operate` and `dm`, which pair the number with memory the
// driver may write; the result is the call's own integer, so nothing is read through the pointer.
unsafe impl Ioctl for Call {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        self.arg
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut std::ffi::c_void) -> Result<IoctlOutput> {
        Ok(out)
    }
}

/// Performs an operation on a file and gives the call's result.
pub(super) fn operate<O: Operation>(fd: impl AsFd, arg: &mut O::Arg) -> Result<IoctlOutput> {
    if let Some(kernel) = stand_in() {
        return kernel.ioctl(fd.as_fd(), O::OPCODE, arg);
    }
    let call = Call {
        opcode: O::OPCODE,
        arg: ptr::from_mut(arg).cast(),
    };
    // SAFETY: `Operation` promises that the driver stays within one `Arg` and leaves it valid;
    // the exclusive borrow lives as long as the call.
    unsafe { rustix::ioctl::ioctl(fd, call) }
}

/// Performs a dm command on a request in `words`, which the reply overwrites.
///
/// The length field of the request is set here from the buffer itself, so that the kernel cannot
/// be told of more memory than there is (`drivers/md/dm-ioctl.c:copy_params`, `ctl_ioctl`).
pub(super) fn dm(
    control: BorrowedFd<'_>,
    command: abi::Command,
    words: &mut [u64],
) -> Result<IoctlOutput> {
    let bytes = u32::try_from(size_of_val(words)).map_err(|_| Errno::OVERFLOW)?;
    if size_of_val(words) < size_of::<abi::DmIoctl>() {
        return Err(Errno::INVAL);
    }
    let word = words.get_mut(1).ok_or(Errno::INVAL)?;
    let [a, b, c, d, ..] = word.to_ne_bytes();
    let [e, f, g, h] = bytes.to_ne_bytes();
    *word = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    if let Some(kernel) = stand_in() {
        return kernel.dm(command, words);
    }
    let call = Call {
        opcode: command.opcode(),
        arg: words.as_mut_ptr().cast(),
    };
    // SAFETY: the buffer holds a whole `dm_ioctl` (checked above), is aligned for it (u64), and
    // its `data_size`, bytes 12 to 16, says no more than its length (set above); the kernel
    // writes at most that, and any bit pattern is a valid u64. The borrow lives through the call.
    unsafe { rustix::ioctl::ioctl(control, call) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// `struct sembuf` of `include/uapi/linux/sem.h`.
#[repr(C)]
struct SemBuf {
    sem_num: u16,
    sem_op: i16,
    sem_flg: i16,
}

/// `SETVAL`, `GETVAL` and `GETPID` of `include/uapi/linux/sem.h`.
const SETVAL: i32 = 16;
const GETPID: i32 = 11;
const GETVAL: i32 = 12;

fn from_syscall(result: libc::c_long) -> Result<i32> {
    if result < 0 {
        return Err(last_errno());
    }
    i32::try_from(result).map_err(|_| Errno::OVERFLOW)
}

/// Makes a set of so many semaphores for a key that has none yet.
pub(super) fn sem_create(key: u32, count: i32) -> Result<i32> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
    // SAFETY: semget takes three integers and touches no memory of ours.
    from_syscall(unsafe { libc::syscall(libc::SYS_semget, key, count, flags) })
}

/// The id of a key's semaphore.
pub(super) fn sem_open(key: u32) -> Result<i32> {
    // SAFETY: semget takes three integers and touches no memory of ours.
    from_syscall(unsafe { libc::syscall(libc::SYS_semget, key, 1, 0) })
}

/// Sets the value of one semaphore of a set.
pub(super) fn sem_set(id: i32, number: i32, value: u16) -> Result<()> {
    let value = libc::c_long::from(value);
    // SAFETY: SETVAL takes its argument by value and touches no memory of ours.
    from_syscall(unsafe { libc::syscall(libc::SYS_semctl, id, number, SETVAL, value) }).map(drop)
}

/// Who changed one semaphore of a set last: a process of our namespace, or 0.
pub(super) fn sem_changed_by(id: i32, number: i32) -> Result<i32> {
    // SAFETY: GETPID takes no fourth argument and touches no memory of ours.
    from_syscall(unsafe { libc::syscall(libc::SYS_semctl, id, number, GETPID, 0) })
}

/// A semaphore's value.
pub(super) fn sem_get(id: i32) -> Result<i32> {
    // SAFETY: GETVAL takes no fourth argument and touches no memory of ours.
    from_syscall(unsafe { libc::syscall(libc::SYS_semctl, id, 0, GETVAL, 0) })
}

/// Removes a semaphore; whoever waits on it wakes with `EIDRM`.
pub(super) fn sem_remove(id: i32) -> Result<()> {
    // SAFETY: IPC_RMID takes no fourth argument and touches no memory of ours.
    from_syscall(unsafe { libc::syscall(libc::SYS_semctl, id, 0, libc::IPC_RMID, 0) }).map(drop)
}

/// Adds to a semaphore's value, or for a change of 0 waits until the value is 0.
///
/// By system call: musl has no `semtimedop`.
pub(super) fn sem_change(id: i32, change: i16, timeout: &libc::timespec) -> Result<()> {
    let mut operation = SemBuf {
        sem_num: 0,
        sem_op: change,
        sem_flg: 0,
    };
    let operations = ptr::from_mut(&mut operation);
    let timeout = ptr::from_ref(timeout);
    // SAFETY: one `sembuf` is announced and one is there; both pointers are to values that
    // outlive the call, which only reads them. `timespec` is the kernel's on 64-bit machines.
    from_syscall(unsafe { libc::syscall(libc::SYS_semtimedop, id, operations, 1_usize, timeout) })
        .map(drop)
}

/// Sets an open-file-description lock; waits for it where `wait`.
pub(super) fn ofd_lock(fd: impl AsFd, lock: &libc::flock, wait: bool) -> Result<()> {
    let command = if wait {
        libc::F_OFD_SETLKW
    } else {
        libc::F_OFD_SETLK
    };
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: both commands only read one `flock`, which outlives the call; the descriptor is
    // borrowed, so open.
    let result = unsafe { libc::fcntl(fd, command, ptr::from_ref(lock)) };
    if result < 0 {
        return Err(last_errno());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_too_small_for_the_header_never_reaches_the_kernel() {
        let file = tempfile::tempfile().unwrap();
        for words in [0, 1, 38] {
            let mut buffer = vec![0_u64; words];
            assert_eq!(
                dm(file.as_fd(), abi::Command::Version, &mut buffer),
                Err(Errno::INVAL)
            );
        }
    }

    #[test]
    fn the_length_told_is_the_buffers_own() {
        let file = tempfile::tempfile().unwrap();
        let mut buffer = vec![u64::MAX; 64];
        assert_eq!(
            dm(file.as_fd(), abi::Command::Version, &mut buffer),
            Err(Errno::NOTTY)
        );
        assert_eq!(buffer[1].to_ne_bytes()[4..], 512_u32.to_ne_bytes());
        assert_eq!(buffer[1].to_ne_bytes()[..4], [0xff; 4]);
    }
}

//! The kernel's structures and numbers of `include/uapi/linux/dm-ioctl.h`, `loop.h`, `fs.h` and
//! `fs/xfs/libxfs/xfs_fs.h`, written out by hand.
//!
//! Owns layouts only. Sizes, offsets and opcodes are checked when this file is compiled, against
//! values a C compiler printed from the headers. Structures that `linux-raw-sys` already lays out
//! (loop devices) are used from there, and their sizes are checked here all the same.

use std::mem::{align_of, offset_of, size_of};

use linux_raw_sys::loop_device::{loop_config, loop_info64};
use rustix::ioctl::{Opcode, opcode};

/// Major version of the dm interface this code speaks; the kernel refuses every other.
pub(super) const DM_VERSION_MAJOR: u32 = 4;
/// Bytes of a device name with its NUL.
pub(super) const DM_NAME_LEN: usize = 128;
/// Bytes of a device uuid with its NUL.
pub(super) const DM_UUID_LEN: usize = 129;
/// Bytes of a target's name with its NUL.
pub(super) const DM_MAX_TYPE_NAME: usize = 16;
/// Records in a dm payload begin at multiples of this (`drivers/md/dm-ioctl.c:align_ptr`).
pub(super) const DM_ALIGN: usize = 8;

/// `struct dm_ioctl`: the head of every request and reply.
#[repr(C)]
pub(super) struct DmIoctl {
    pub(super) version: [u32; 3],
    pub(super) data_size: u32,
    pub(super) data_start: u32,
    pub(super) target_count: u32,
    pub(super) open_count: i32,
    pub(super) flags: u32,
    pub(super) event_nr: u32,
    pub(super) padding: u32,
    pub(super) dev: u64,
    pub(super) name: [u8; DM_NAME_LEN],
    pub(super) uuid: [u8; DM_UUID_LEN],
    pub(super) data: [u8; 7],
}

/// `struct dm_target_spec`: one line of a table or status, its parameters after it.
#[repr(C)]
pub(super) struct DmTargetSpec {
    pub(super) sector_start: u64,
    pub(super) length: u64,
    pub(super) status: i32,
    pub(super) next: u32,
    pub(super) target_type: [u8; DM_MAX_TYPE_NAME],
}

/// `struct dm_name_list`: the name begins right after `next`, not at the padded end.
#[repr(C)]
pub(super) struct DmNameList {
    pub(super) dev: u64,
    pub(super) next: u32,
    pub(super) name: [u8; 0],
}

/// `struct dm_target_versions`: the name begins at the end.
#[repr(C)]
pub(super) struct DmTargetVersions {
    pub(super) next: u32,
    pub(super) version: [u32; 3],
    pub(super) name: [u8; 0],
}

/// `struct dm_target_deps`: device numbers follow.
#[repr(C)]
pub(super) struct DmTargetDeps {
    pub(super) count: u32,
    pub(super) padding: u32,
    pub(super) dev: [u64; 0],
}

/// `struct dm_target_msg`: the text follows.
#[repr(C)]
pub(super) struct DmTargetMsg {
    pub(super) sector: u64,
    pub(super) message: [u8; 0],
}

pub(super) const DM_READONLY_FLAG: u32 = 1 << 0;
pub(super) const DM_SUSPEND_FLAG: u32 = 1 << 1;
pub(super) const DM_STATUS_TABLE_FLAG: u32 = 1 << 4;
pub(super) const DM_ACTIVE_PRESENT_FLAG: u32 = 1 << 5;
pub(super) const DM_INACTIVE_PRESENT_FLAG: u32 = 1 << 6;
pub(super) const DM_BUFFER_FULL_FLAG: u32 = 1 << 8;
pub(super) const DM_SKIP_LOCKFS_FLAG: u32 = 1 << 10;
pub(super) const DM_NOFLUSH_FLAG: u32 = 1 << 11;
pub(super) const DM_UEVENT_GENERATED_FLAG: u32 = 1 << 13;
pub(super) const DM_UUID_FLAG: u32 = 1 << 14;
pub(super) const DM_DATA_OUT_FLAG: u32 = 1 << 16;
pub(super) const DM_DEFERRED_REMOVE: u32 = 1 << 17;
/// In the word after an entry's event number: a uuid follows.
pub(super) const DM_NAME_LIST_FLAG_HAS_UUID: u32 = 1;

/// A command of the dm control node, by its number in `enum` of `dm-ioctl.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Version,
    ListDevices,
    DevCreate,
    DevRemove,
    DevRename,
    DevSuspend,
    DevStatus,
    DevWait,
    TableLoad,
    TableClear,
    TableDeps,
    TableStatus,
    ListVersions,
    TargetMsg,
    DevArmPoll,
}

impl Command {
    const fn number(self) -> u8 {
        match self {
            Self::Version => 0,
            Self::ListDevices => 2,
            Self::DevCreate => 3,
            Self::DevRemove => 4,
            Self::DevRename => 5,
            Self::DevSuspend => 6,
            Self::DevStatus => 7,
            Self::DevWait => 8,
            Self::TableLoad => 9,
            Self::TableClear => 10,
            Self::TableDeps => 11,
            Self::TableStatus => 12,
            Self::ListVersions => 13,
            Self::TargetMsg => 14,
            Self::DevArmPoll => 16,
        }
    }

    /// What `ioctl` takes.
    pub(super) const fn opcode(self) -> Opcode {
        opcode::read_write::<DmIoctl>(0xfd, self.number())
    }

    /// The header's name of it, for errors.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Version => "DM_VERSION",
            Self::ListDevices => "DM_LIST_DEVICES",
            Self::DevCreate => "DM_DEV_CREATE",
            Self::DevRemove => "DM_DEV_REMOVE",
            Self::DevRename => "DM_DEV_RENAME",
            Self::DevSuspend => "DM_DEV_SUSPEND",
            Self::DevStatus => "DM_DEV_STATUS",
            Self::DevWait => "DM_DEV_WAIT",
            Self::TableLoad => "DM_TABLE_LOAD",
            Self::TableClear => "DM_TABLE_CLEAR",
            Self::TableDeps => "DM_TABLE_DEPS",
            Self::TableStatus => "DM_TABLE_STATUS",
            Self::ListVersions => "DM_LIST_VERSIONS",
            Self::TargetMsg => "DM_TARGET_MSG",
            Self::DevArmPoll => "DM_DEV_ARM_POLL",
        }
    }
}

pub(super) const LO_FLAGS_READ_ONLY: u32 = 1;
pub(super) const LO_FLAGS_AUTOCLEAR: u32 = 4;
pub(super) const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct fstrim_range` of `FITRIM`.
#[repr(C)]
pub(super) struct FstrimRange {
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) minlen: u64,
}

/// `struct xfs_growfs_data` of `XFS_IOC_FSGROWFSDATA`.
#[repr(C)]
pub(super) struct XfsGrowfsData {
    pub(super) newblocks: u64,
    pub(super) imaxpct: u32,
}

/// `struct xfs_fsop_geom_v1` of `XFS_IOC_FSGEOMETRY_V1`: the version every kernel answers.
#[repr(C)]
#[derive(Default)]
pub(super) struct XfsFsopGeomV1 {
    pub(super) blocksize: u32,
    pub(super) rtextsize: u32,
    pub(super) agblocks: u32,
    pub(super) agcount: u32,
    pub(super) logblocks: u32,
    pub(super) sectsize: u32,
    pub(super) inodesize: u32,
    pub(super) imaxpct: u32,
    pub(super) datablocks: u64,
    pub(super) rtblocks: u64,
    pub(super) rtextents: u64,
    pub(super) logstart: u64,
    pub(super) uuid: [u8; 16],
    pub(super) sunit: u32,
    pub(super) swidth: u32,
    pub(super) version: i32,
    pub(super) flags: u32,
    pub(super) logsectsize: u32,
    pub(super) rtsectsize: u32,
    pub(super) dirblocksize: u32,
}

pub(super) const FIFREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
pub(super) const FITHAW: Opcode = opcode::read_write::<i32>(b'X', 120);
pub(super) const FITRIM: Opcode = opcode::read_write::<FstrimRange>(b'X', 121);
pub(super) const EXT4_IOC_RESIZE_FS: Opcode = opcode::write::<u64>(b'f', 16);
pub(super) const XFS_IOC_FSGEOMETRY_V1: Opcode = opcode::read::<XfsFsopGeomV1>(b'X', 100);
pub(super) const XFS_IOC_FSGROWFSDATA: Opcode = opcode::write::<XfsGrowfsData>(b'X', 110);

const _: () = {
    assert!(size_of::<DmIoctl>() == 312);
    assert!(align_of::<DmIoctl>() == 8);
    assert!(offset_of!(DmIoctl, data_size) == 12);
    assert!(offset_of!(DmIoctl, data_start) == 16);
    assert!(offset_of!(DmIoctl, target_count) == 20);
    assert!(offset_of!(DmIoctl, open_count) == 24);
    assert!(offset_of!(DmIoctl, flags) == 28);
    assert!(offset_of!(DmIoctl, event_nr) == 32);
    assert!(offset_of!(DmIoctl, padding) == 36);
    assert!(offset_of!(DmIoctl, dev) == 40);
    assert!(offset_of!(DmIoctl, name) == 48);
    assert!(offset_of!(DmIoctl, uuid) == 176);
    assert!(offset_of!(DmIoctl, data) == 305);
    assert!(size_of::<DmTargetSpec>() == 40);
    assert!(offset_of!(DmTargetSpec, length) == 8);
    assert!(offset_of!(DmTargetSpec, status) == 16);
    assert!(offset_of!(DmTargetSpec, next) == 20);
    assert!(offset_of!(DmTargetSpec, target_type) == 24);
    assert!(size_of::<DmNameList>() == 16);
    assert!(offset_of!(DmNameList, next) == 8);
    assert!(offset_of!(DmNameList, name) == 12);
    assert!(size_of::<DmTargetVersions>() == 16);
    assert!(offset_of!(DmTargetVersions, version) == 4);
    assert!(offset_of!(DmTargetVersions, name) == 16);
    assert!(size_of::<DmTargetDeps>() == 8);
    assert!(offset_of!(DmTargetDeps, dev) == 8);
    assert!(size_of::<DmTargetMsg>() == 8);
    assert!(offset_of!(DmTargetMsg, message) == 8);
    assert!(size_of::<loop_info64>() == 232);
    assert!(size_of::<loop_config>() == 304);
    assert!(size_of::<FstrimRange>() == 24);
    assert!(size_of::<XfsGrowfsData>() == 16);
    assert!(size_of::<XfsFsopGeomV1>() == 112);
    assert!(offset_of!(XfsFsopGeomV1, datablocks) == 32);
};

#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
))]
const _: () = {
    assert!(Command::Version.opcode() == 0xc138_fd00);
    assert!(Command::ListDevices.opcode() == 0xc138_fd02);
    assert!(Command::DevCreate.opcode() == 0xc138_fd03);
    assert!(Command::DevRemove.opcode() == 0xc138_fd04);
    assert!(Command::DevRename.opcode() == 0xc138_fd05);
    assert!(Command::DevSuspend.opcode() == 0xc138_fd06);
    assert!(Command::DevStatus.opcode() == 0xc138_fd07);
    assert!(Command::DevWait.opcode() == 0xc138_fd08);
    assert!(Command::TableLoad.opcode() == 0xc138_fd09);
    assert!(Command::TableClear.opcode() == 0xc138_fd0a);
    assert!(Command::TableDeps.opcode() == 0xc138_fd0b);
    assert!(Command::TableStatus.opcode() == 0xc138_fd0c);
    assert!(Command::ListVersions.opcode() == 0xc138_fd0d);
    assert!(Command::TargetMsg.opcode() == 0xc138_fd0e);
    assert!(Command::DevArmPoll.opcode() == 0xc138_fd10);
    assert!(FIFREEZE == 0xc004_5877);
    assert!(FITHAW == 0xc004_5878);
    assert!(FITRIM == 0xc018_5879);
    assert!(EXT4_IOC_RESIZE_FS == 0x4008_6610);
    assert!(XFS_IOC_FSGEOMETRY_V1 == 0x8070_5864);
    assert!(XFS_IOC_FSGROWFSDATA == 0x4010_586e);
};

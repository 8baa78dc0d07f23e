//! Recognises an ext4 or xfs by its superblock, without asking another program.
//!
//! ext4 (`fs/ext4/ext4.h`, `struct ext4_super_block`), little endian, at byte 1024: blocks_count_lo
//! u32 at 4, log_block_size u32 at 24, magic u16 at 56, feature_incompat u32 at 96, uuid at 104,
//! blocks_count_hi u32 at 336.
//! xfs (`fs/xfs/libxfs/xfs_format.h`, `struct xfs_dsb`), big endian, at byte 0: magic "XFSB",
//! blocksize u32 at 4, dblocks u64 at 8, uuid at 32.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::fs::error::FsError;
use crate::fs::uuid::FsUuid;
use crate::ids::FsType;
use crate::units::Bytes;

const EXT_AT: u64 = 1024;
const EXT_MAGIC: u16 = 0xef53;
const EXT_LOG_BLOCK_MAX: u32 = 6;
const EXT_INCOMPAT_RECOVER: u32 = 0x4;
const EXT_INCOMPAT_EXTENTS: u32 = 0x40;
const EXT_INCOMPAT_64BIT: u32 = 0x80;
const XFS_MAGIC: [u8; 4] = *b"XFSB";
/// A power of two from 512 bytes to 64 KiB.
const XFS_BLOCK_SIZES: std::ops::RangeInclusive<u32> = 512..=65_536;

/// What a superblock says of its file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuperblockInfo {
    /// Which file system.
    pub fs: FsType,
    /// Its uuid: the same in all snapshots of a volume.
    pub uuid: FsUuid,
    /// Its size, which may be less than its device's.
    pub size: Bytes,
    /// Its block size.
    pub block_size: Bytes,
    /// Whether its journal is to be replayed before it is whole. Of ext4; an xfs does not say.
    pub needs_recovery: bool,
}

/// Fills as much of `buffer` as the device has; the rest stays zero.
pub(super) fn read_at(
    device: &File,
    what: &'static str,
    at: u64,
    buffer: &mut [u8],
) -> Result<(), FsError> {
    let mut at = at;
    let mut rest = buffer;
    while !rest.is_empty() {
        match device.read_at(rest, at) {
            Ok(0) => break,
            Ok(n) => {
                rest = rest.get_mut(n..).unwrap_or_default();
                at = at.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(FsError::Read { what, at, source }),
        }
    }
    Ok(())
}

fn field<const N: usize>(block: &[u8; 1024], at: usize) -> [u8; N] {
    block
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .expect("every field's offset is a constant inside the block")
}

fn size(fs: FsType, blocks: u64, block_size: u64) -> Result<Bytes, FsError> {
    blocks
        .checked_mul(block_size)
        .filter(|bytes| *bytes > 0)
        .map(Bytes::new)
        .ok_or(FsError::DamagedSuperblock {
            fs,
            field: "the number of blocks",
            found: blocks,
        })
}

/// `None` for what is not ext4; an ext2 or ext3 is not.
fn ext4(block: &[u8; 1024]) -> Result<Option<SuperblockInfo>, FsError> {
    let le32 = |at| u32::from_le_bytes(field(block, at));
    if u16::from_le_bytes(field(block, 56)) != EXT_MAGIC || le32(96) & EXT_INCOMPAT_EXTENTS == 0 {
        return Ok(None);
    }
    let log = le32(24);
    if log > EXT_LOG_BLOCK_MAX {
        return Err(FsError::DamagedSuperblock {
            fs: FsType::Ext4,
            field: "the logarithm of the block size",
            found: u64::from(log),
        });
    }
    let block_size = 1024_u64 << log;
    let high = if le32(96) & EXT_INCOMPAT_64BIT == 0 {
        0
    } else {
        le32(336)
    };
    let blocks = (u64::from(high) << 32) | u64::from(le32(4));
    Ok(Some(SuperblockInfo {
        fs: FsType::Ext4,
        uuid: FsUuid::from_bytes(field(block, 104)),
        size: size(FsType::Ext4, blocks, block_size)?,
        block_size: Bytes::new(block_size),
        needs_recovery: le32(96) & EXT_INCOMPAT_RECOVER != 0,
    }))
}

fn xfs(block: &[u8; 1024]) -> Result<Option<SuperblockInfo>, FsError> {
    if field(block, 0) != XFS_MAGIC {
        return Ok(None);
    }
    let block_size = u32::from_be_bytes(field(block, 4));
    if !block_size.is_power_of_two() || !XFS_BLOCK_SIZES.contains(&block_size) {
        return Err(FsError::DamagedSuperblock {
            fs: FsType::Xfs,
            field: "the block size",
            found: u64::from(block_size),
        });
    }
    let block_size = u64::from(block_size);
    Ok(Some(SuperblockInfo {
        fs: FsType::Xfs,
        uuid: FsUuid::from_bytes(field(block, 32)),
        size: size(FsType::Xfs, u64::from_be_bytes(field(block, 8)), block_size)?,
        block_size: Bytes::new(block_size),
        needs_recovery: false,
    }))
}

/// Recognises the ext4 or xfs on a device; `None` where there is neither.
///
/// # Errors
/// [`FsError::Read`]; [`FsError::DamagedSuperblock`] where one has left its mark but its sizes make
/// no sense.
pub fn probe(device: &File) -> Result<Option<SuperblockInfo>, FsError> {
    probe_at(device, Bytes::ZERO)
}

/// As [`probe`], for one that begins so far into the device.
///
/// # Errors
/// As of [`probe`].
pub(crate) fn probe_at(device: &File, begin: Bytes) -> Result<Option<SuperblockInfo>, FsError> {
    const WHAT: &str = "a superblock";
    let mut block = [0; 1024];
    read_at(device, WHAT, begin.get(), &mut block)?;
    if let Some(info) = xfs(&block)? {
        return Ok(Some(info));
    }
    block.fill(0);
    read_at(device, WHAT, begin.get().saturating_add(EXT_AT), &mut block)?;
    ext4(&block)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(block: &mut [u8; 1024], at: usize, bytes: &[u8]) {
        block
            .get_mut(at..)
            .and_then(|rest| rest.get_mut(..bytes.len()))
            .expect("inside the block")
            .copy_from_slice(bytes);
    }

    fn ext4_block() -> [u8; 1024] {
        let mut block = [0; 1024];
        put(&mut block, 4, &5_u32.to_le_bytes());
        put(&mut block, 24, &2_u32.to_le_bytes());
        put(&mut block, 56, &EXT_MAGIC.to_le_bytes());
        put(&mut block, 96, &0xc0_u32.to_le_bytes());
        put(&mut block, 336, &1_u32.to_le_bytes());
        block
    }

    #[test]
    fn the_high_half_counts_only_with_64bit() {
        let mut block = ext4_block();
        let size = |block: &[u8; 1024]| ext4(block).unwrap().map(|info| info.size);
        assert_eq!(size(&block), Some(Bytes::new(((1 << 32) | 5) << 12)));
        put(&mut block, 96, &0x40_u32.to_le_bytes());
        assert_eq!(size(&block), Some(Bytes::new(5 << 12)));
        put(&mut block, 96, &0_u32.to_le_bytes());
        assert_eq!(size(&block), None, "ext2 is not ext4");
    }

    #[test]
    fn damage_names_the_field() {
        let mut block = ext4_block();
        put(&mut block, 24, &7_u32.to_le_bytes());
        assert!(matches!(
            ext4(&block),
            Err(FsError::DamagedSuperblock {
                fs: FsType::Ext4,
                field: "the logarithm of the block size",
                found: 7
            })
        ));
        let mut block = ext4_block();
        put(&mut block, 4, &[0; 4]);
        put(&mut block, 336, &[0; 4]);
        assert!(matches!(
            ext4(&block),
            Err(FsError::DamagedSuperblock {
                field: "the number of blocks",
                found: 0,
                ..
            })
        ));
        let mut block = [0; 1024];
        put(&mut block, 0, b"XFSB");
        put(&mut block, 4, &4095_u32.to_be_bytes());
        assert!(matches!(
            xfs(&block),
            Err(FsError::DamagedSuperblock {
                fs: FsType::Xfs,
                field: "the block size",
                found: 4095
            })
        ));
        put(&mut block, 4, &4096_u32.to_be_bytes());
        put(&mut block, 8, &u64::MAX.to_be_bytes());
        assert!(matches!(
            xfs(&block),
            Err(FsError::DamagedSuperblock {
                field: "the number of blocks",
                found: u64::MAX,
                ..
            })
        ));
    }

    #[test]
    fn an_empty_or_short_device_has_no_file_system() {
        let file = tempfile::tempfile().unwrap();
        for len in [0, 1, 1023, 1100, 65_536] {
            file.set_len(len).unwrap();
            assert_eq!(probe(&file).unwrap(), None, "{len}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 1024), ext_mark: bool) {
            let mut block: [u8; 1024] = bytes.try_into().expect("1024 bytes");
            if ext_mark {
                put(&mut block, 56, &EXT_MAGIC.to_le_bytes());
            } else {
                put(&mut block, 0, b"XFSB");
            }
            for info in [ext4(&block), xfs(&block)].into_iter().flatten().flatten() {
                prop_assert!(info.size >= info.block_size);
            }
        }
    }
}

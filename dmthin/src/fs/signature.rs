//! Finds out whose data lies on a device, so that it is refused rather than lost.
//!
//! The marks are those that the owners' own tools look for. A device without any of them may still
//! hold data; a device with one certainly does.

use std::fmt;
use std::fs::File;
use std::io::{Seek, SeekFrom};

use crate::fs::error::FsError;
use crate::fs::superblock::read_at;
use crate::units::Bytes;

/// Whose mark was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignatureKind {
    /// ext2, ext3 or ext4.
    Ext,
    /// xfs.
    Xfs,
    /// btrfs.
    Btrfs,
    /// Swap space.
    Swap,
    /// A physical volume of LVM.
    Lvm2,
    /// A LUKS container.
    Luks,
    /// A GUID partition table.
    Gpt,
    /// A PC partition table, or a boot sector as FAT and NTFS have it.
    Mbr,
    /// Metadata of a thin pool.
    ThinPool,
    /// squashfs.
    Squashfs,
    /// An ISO 9660 image.
    Iso9660,
    /// A member of an md array.
    Md,
    /// A device of bcache.
    Bcache,
}

impl fmt::Display for SignatureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ext => "an ext2, ext3 or ext4 file system",
            Self::Xfs => "an xfs file system",
            Self::Btrfs => "a btrfs file system",
            Self::Swap => "swap space",
            Self::Lvm2 => "an LVM physical volume",
            Self::Luks => "a LUKS container",
            Self::Gpt => "a GPT partition table",
            Self::Mbr => "a partition table or boot sector",
            Self::ThinPool => "metadata of a thin pool",
            Self::Squashfs => "a squashfs file system",
            Self::Iso9660 => "an ISO 9660 file system",
            Self::Md => "a member of an md array",
            Self::Bcache => "a bcache device",
        })
    }
}

/// A mark and where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// Whose it is.
    pub kind: SignatureKind,
    /// The byte it begins at.
    pub offset: Bytes,
}

const MD_MAGIC: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];
const BCACHE_MAGIC: &[u8] = &[
    0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81,
];
const THIN_MAGIC: &[u8] = &27_022_010_u64.to_le_bytes();

/// Marks at fixed places, the strongest first: a boot sector's two bytes come last.
const MARKS: &[(SignatureKind, u64, &[u8])] = &[
    (SignatureKind::ThinPool, 32, THIN_MAGIC),
    (SignatureKind::Xfs, 0, b"XFSB"),
    (SignatureKind::Ext, 1080, &[0x53, 0xef]),
    (SignatureKind::Btrfs, 0x1_0040, b"_BHRfS_M"),
    (SignatureKind::Luks, 0, b"LUKS\xba\xbe"),
    (SignatureKind::Squashfs, 0, b"hsqs"),
    (SignatureKind::Iso9660, 0x8001, b"CD001"),
    (SignatureKind::Lvm2, 0, b"LABELONE"),
    (SignatureKind::Lvm2, 512, b"LABELONE"),
    (SignatureKind::Lvm2, 1024, b"LABELONE"),
    (SignatureKind::Lvm2, 1536, b"LABELONE"),
    // The end of the first page, for the page sizes there are.
    (SignatureKind::Swap, 4086, b"SWAPSPACE2"),
    (SignatureKind::Swap, 8182, b"SWAPSPACE2"),
    (SignatureKind::Swap, 16_374, b"SWAPSPACE2"),
    (SignatureKind::Swap, 65_526, b"SWAPSPACE2"),
    // md versions 1.1 and 1.2.
    (SignatureKind::Md, 0, MD_MAGIC),
    (SignatureKind::Md, 4096, MD_MAGIC),
    (SignatureKind::Bcache, 4120, BCACHE_MAGIC),
    // With sectors of 512 and of 4096 bytes.
    (SignatureKind::Gpt, 512, b"EFI PART"),
    (SignatureKind::Gpt, 4096, b"EFI PART"),
    (SignatureKind::Mbr, 510, &[0x55, 0xaa]),
];

/// Where md 1.0 and md 0.90 keep their superblocks (`include/uapi/linux/raid/md_p.h`).
fn md_at_end(size: u64) -> [Option<u64>; 2] {
    let whole = |unit: u64, back: u64| {
        size.checked_div(unit)
            .and_then(|units| units.checked_mul(unit))
            .and_then(|end| end.checked_sub(back))
    };
    [whole(4096, 8192), whole(65_536, 65_536)]
}

/// Looks for the mark of any owner we know; `None` where there is none.
///
/// # Errors
/// [`FsError::Read`].
pub fn find_signature(device: &File) -> Result<Option<Signature>, FsError> {
    const WHAT: &str = "a signature";
    let size = (&*device)
        .seek(SeekFrom::End(0))
        .map_err(|source| FsError::Read {
            what: "the size",
            at: 0,
            source,
        })?;
    let at_end = md_at_end(size).into_iter().flatten();
    let marks = at_end.map(|at| (SignatureKind::Md, at, MD_MAGIC));
    for (kind, at, mark) in MARKS.iter().copied().chain(marks) {
        let mut found = [0; 16];
        let found = found
            .get_mut(..mark.len())
            .expect("no mark is longer than 16 bytes");
        read_at(device, WHAT, at, found)?;
        if found == mark {
            return Ok(Some(Signature {
                kind,
                offset: Bytes::new(at),
            }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::process::{Command, Stdio};

    use super::*;

    fn empty(size: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        file
    }

    #[test]
    fn every_mark_is_found_where_it_is() {
        const SIZE: u64 = 1 << 20;
        for &(kind, at, mark) in MARKS {
            let file = empty(SIZE);
            file.as_file().write_all_at(mark, at).unwrap();
            assert_eq!(
                find_signature(file.as_file()).unwrap(),
                Some(Signature {
                    kind,
                    offset: Bytes::new(at)
                })
            );
        }
        for at in [SIZE - 8192, SIZE - 65_536] {
            let file = empty(SIZE);
            file.as_file().write_all_at(MD_MAGIC, at).unwrap();
            let found = find_signature(file.as_file()).unwrap().unwrap();
            assert_eq!((found.kind, found.offset.get()), (SignatureKind::Md, at));
        }
    }

    #[test]
    fn an_empty_device_has_none() {
        for size in [0, 511, 4096, 1 << 20] {
            assert_eq!(find_signature(empty(size).as_file()).unwrap(), None);
        }
    }

    #[test]
    fn what_real_tools_write_is_found() {
        let tools: [(&[&str], SignatureKind); 4] = [
            (&["mkfs.ext2", "-q", "-F"], SignatureKind::Ext),
            (&["mkfs.ext4", "-q", "-F"], SignatureKind::Ext),
            (&["mkfs.xfs", "-q"], SignatureKind::Xfs),
            (&["mkswap"], SignatureKind::Swap),
        ];
        for (words, kind) in tools {
            let file = empty(400 << 20);
            let (tool, args) = words.split_first().unwrap();
            let status = Command::new(tool)
                .args(args)
                .arg(file.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            assert!(status.is_ok_and(|status| status.success()), "{tool}");
            let found = find_signature(file.as_file()).unwrap();
            assert_eq!(found.map(|s| s.kind), Some(kind), "{tool}");
        }
    }
}

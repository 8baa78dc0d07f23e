//! Finds out whose data lies on a device, so that it is refused rather than lost.
//!
//! The marks are those that the owners' own tools look for. A device without any of them may still
//! hold data; a device with one certainly does.

use std::fmt;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use crate::fs::error::FsError;
use crate::fs::superblock::read_at;
use crate::label;
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
    /// erofs.
    Erofs,
    /// A device of a ZFS pool.
    Zfs,
    /// A disk with a label of ours.
    Dmthin,
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
            Self::Erofs => "an erofs file system",
            Self::Zfs => "a device of a ZFS pool",
            Self::Dmthin => "a pool of dmthin",
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
const EROFS_MAGIC: &[u8] = &0xe0f5_e1e2_u32.to_le_bytes();
/// The second header of LUKS 2, at each place where it may be.
const LUKS2_SECOND: &[u8] = b"SKUL\xba\xbe";
/// An uberblock, as either kind of machine writes it.
const ZFS_MAGIC: [&[u8]; 2] = [
    &0x00ba_b10c_u64.to_le_bytes(),
    &0x00ba_b10c_u64.to_be_bytes(),
];
/// A label of ZFS, four of which are on a device: two at its begin, two at its end.
const ZFS_LABEL: u64 = 256 << 10;
/// The second half of a label is a ring of uberblocks, each at a multiple of this.
const ZFS_UBERBLOCK: usize = 1 << 10;
const THIN_MAGIC: &[u8] = &27_022_010_u64.to_le_bytes();

/// Whose, where, and what.
type Mark = (SignatureKind, u64, &'static [u8]);

/// Marks at fixed places, the strongest first: a boot sector's two bytes come last.
const MARKS: &[Mark] = &[
    (
        SignatureKind::Dmthin,
        label::LABEL_AT[0].get(),
        label::MAGIC,
    ),
    (
        SignatureKind::Dmthin,
        label::LABEL_AT[1].get(),
        label::MAGIC,
    ),
    (SignatureKind::ThinPool, 32, THIN_MAGIC),
    (SignatureKind::Xfs, 0, b"XFSB"),
    (SignatureKind::Ext, 1080, &[0x53, 0xef]),
    (SignatureKind::Btrfs, 0x1_0040, b"_BHRfS_M"),
    (SignatureKind::Luks, 0, b"LUKS\xba\xbe"),
    (SignatureKind::Luks, 0x4000, LUKS2_SECOND),
    (SignatureKind::Luks, 0x8000, LUKS2_SECOND),
    (SignatureKind::Luks, 0x1_0000, LUKS2_SECOND),
    (SignatureKind::Luks, 0x2_0000, LUKS2_SECOND),
    (SignatureKind::Luks, 0x4_0000, LUKS2_SECOND),
    (SignatureKind::Luks, 0x8_0000, LUKS2_SECOND),
    (SignatureKind::Luks, 0x10_0000, LUKS2_SECOND),
    (SignatureKind::Luks, 0x20_0000, LUKS2_SECOND),
    (SignatureKind::Luks, 0x40_0000, LUKS2_SECOND),
    (SignatureKind::Squashfs, 0, b"hsqs"),
    (SignatureKind::Erofs, 1024, EROFS_MAGIC),
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

/// The last multiple of `unit` that `back` bytes fit behind.
fn from_end(size: u64, unit: u64, back: u64) -> Option<u64> {
    size.checked_div(unit)
        .and_then(|units| units.checked_mul(unit))
        .and_then(|end| end.checked_sub(back))
}

/// Marks that are told by where the device ends: md 1.0 and 0.90 (`include/uapi/linux/raid/md_p.h`),
/// and the second header of GPT.
fn marks_at_end(size: u64) -> impl Iterator<Item = Mark> {
    const GPT: &[u8] = b"EFI PART";
    [
        (SignatureKind::Md, from_end(size, 4096, 8192), MD_MAGIC),
        (SignatureKind::Md, from_end(size, 65_536, 65_536), MD_MAGIC),
        (SignatureKind::Gpt, from_end(size, 512, 512), GPT),
        (SignatureKind::Gpt, from_end(size, 4096, 4096), GPT),
    ]
    .into_iter()
    .filter_map(|(kind, at, mark)| Some((kind, at?, mark)))
}

fn size_of(device: &File) -> Result<u64, FsError> {
    (&*device)
        .seek(SeekFrom::End(0))
        .map_err(|source| FsError::Read {
            what: "the size",
            at: 0,
            source,
        })
}

/// Every mark that is there: whose, where, how long.
fn marks_on(device: &File) -> Result<Vec<(Signature, usize)>, FsError> {
    const WHAT: &str = "a signature";
    let size = size_of(device)?;
    let mut found = Vec::new();
    for (kind, at, mark) in MARKS.iter().copied().chain(marks_at_end(size)) {
        let mut bytes = [0; 16];
        let bytes = bytes
            .get_mut(..mark.len())
            .expect("no mark is longer than 16 bytes");
        read_at(device, WHAT, at, bytes)?;
        if bytes == mark {
            let offset = Bytes::new(at);
            found.push((Signature { kind, offset }, mark.len()));
        }
    }
    let at_end = [2, 1].map(|n| from_end(size, ZFS_LABEL, ZFS_LABEL.saturating_mul(n)));
    for label in [Some(0), Some(ZFS_LABEL)]
        .into_iter()
        .chain(at_end)
        .flatten()
    {
        let ring_at = label.saturating_add(ZFS_LABEL / 2);
        let mut ring = vec![0; ZFS_UBERBLOCK.saturating_mul(128)];
        read_at(device, WHAT, ring_at, &mut ring)?;
        for (n, block) in (0_u64..).zip(ring.chunks(ZFS_UBERBLOCK)) {
            if ZFS_MAGIC.iter().any(|magic| block.starts_with(magic)) {
                let signature = Signature {
                    kind: SignatureKind::Zfs,
                    offset: Bytes::new(ring_at.saturating_add(n.saturating_mul(1024))),
                };
                found.push((signature, 8));
            }
        }
    }
    Ok(found)
}

/// Looks for the mark of any owner we know; `None` where there is none.
///
/// # Errors
/// [`FsError::Read`].
pub fn find_signature(device: &File) -> Result<Option<Signature>, FsError> {
    Ok(marks_on(device)?.into_iter().map(|(found, _)| found).next())
}

/// Zeroes every mark that is there, durably, and nothing else, as `wipefs -a` does.
///
/// # Errors
/// [`FsError::Read`], [`FsError::Write`].
pub fn wipe_signatures(device: &File) -> Result<(), FsError> {
    let marks = marks_on(device)?;
    if marks.is_empty() {
        return Ok(());
    }
    let failed = |at| {
        move |source| FsError::Write {
            what: "a signature",
            at,
            source,
        }
    };
    for (signature, len) in marks {
        let at = signature.offset.get();
        device.write_all_at(&vec![0; len], at).map_err(failed(at))?;
    }
    device.sync_all().map_err(failed(0))
}

#[cfg(test)]
mod tests {
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
    fn the_second_headers_of_gpt_and_all_labels_of_zfs_are_found() {
        const SIZE: u64 = (2 << 20) + 4096;
        let gpt = |at| (at, &b"EFI PART"[..], SignatureKind::Gpt);
        let zfs = |at, n: usize| (at, ZFS_MAGIC[n], SignatureKind::Zfs);
        for (at, mark, kind) in [
            gpt(SIZE - 512),
            gpt(SIZE - 4096),
            zfs(128 << 10, 0),
            zfs((255 << 10) + (256 << 10), 1),
            // The end counts in whole labels.
            zfs((1536 << 10) + (128 << 10), 1),
            zfs((1792 << 10) + (200 << 10), 0),
        ] {
            let file = empty(SIZE);
            file.as_file().write_all_at(mark, at).unwrap();
            let found = find_signature(file.as_file()).unwrap().unwrap();
            assert_eq!((found.kind, found.offset.get()), (kind, at));
        }
    }

    /// All of them go, and no byte beside them.
    #[test]
    fn wiping_zeroes_the_marks_and_nothing_else() {
        const SIZE: u64 = 5 << 20;
        let file = empty(SIZE);
        file.as_file()
            .write_all_at(&vec![0x11; 5 << 20], 0)
            .unwrap();
        let mut expected = vec![0x11; 5 << 20];
        let zfs = (SignatureKind::Zfs, 128 << 10, ZFS_MAGIC[0]);
        let marks = [MARKS[0], MARKS[1], MARKS[3], MARKS[4], zfs];
        for (_, at, mark) in marks.into_iter().chain(marks_at_end(SIZE).skip(2)) {
            file.as_file().write_all_at(mark, at).unwrap();
            let at = usize::try_from(at).unwrap();
            expected[at..at + mark.len()].fill(0);
        }
        wipe_signatures(file.as_file()).unwrap();
        assert_eq!(find_signature(file.as_file()).unwrap(), None);
        assert!(std::fs::read(file.path()).unwrap() == expected);
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

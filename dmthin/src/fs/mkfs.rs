//! Makes file systems, by the distribution's own programs.
//!
//! The arguments keep an empty file system small on a thin device, where every block written is a
//! block taken, once in the base and again in each container:
//! - Discarding a new volume first would only cost time.
//! - ext4 normally lets the kernel zero the inode tables after the first writable mount
//!   (`fs/ext4/super.c`, `ext4_lazyinit_thread`). On a thin device these zeroes take blocks, and
//!   every snapshot would do it again. A zeroing pool gives zeroes for what was never written, so the
//!   tables are marked as zeroed already.
//! - The journal is the part of a file system that is rewritten for ever: its size is what a busy
//!   container pays at the least. It stays at what a volume of 1 GiB gets.
//!
//! Growth: ext4 reserves group descriptors for 1024 times its first size (at most 8 TiB with these
//! 4096-byte blocks); past that the kernel adds groups in the `meta_bg` layout (`fs/ext4/resize.c`,
//! `ext4_resize_fs`). xfs keeps its first allocation group size when it grows.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use crate::fs::error::FsError;
use crate::fs::tool::Tool;
use crate::fs::uuid::FsUuid;
use crate::ids::FsType;
use crate::units::Bytes;

/// How a file system is made.
#[derive(Debug, Clone, Default)]
pub struct MkfsOptions {
    /// Its uuid; a random one where not given.
    pub uuid: Option<FsUuid>,
    /// The device gives zeroes wherever it was not written, within a pool block too: true for a new
    /// volume of a pool that zeroes its blocks, not with `skip_block_zeroing`.
    pub zeroed: bool,
    /// Further arguments for the program, after ours and before the device. The programs take the
    /// last of several: an `-E` for ext4 replaces the whole of ours.
    pub extra: Vec<String>,
}

const fn tool(fs: FsType) -> Tool {
    match fs {
        FsType::Ext4 => Tool {
            name: "mkfs.ext4",
            package: "e2fsprogs",
        },
        FsType::Xfs => Tool {
            name: "mkfs.xfs",
            package: "xfsprogs",
        },
    }
}

/// From this size on mkfs.ext4 by itself makes a journal of 32 MiB, and larger ones later.
const JOURNAL_CAP_FROM: Bytes = Bytes::from_gib(1);

/// The arguments before the device, which has `size`.
fn arguments(fs: FsType, size: Bytes, options: &MkfsOptions) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_owned()));
    match fs {
        FsType::Ext4 => {
            // No blocks held back for root: root is who fills a container.
            add(&["-F", "-q", "-b", "4096", "-m", "0"]);
            if size >= JOURNAL_CAP_FROM {
                add(&["-J", "size=32"]);
            }
            let prezeroed = if options.zeroed {
                ",assume_storage_prezeroed=1"
            } else {
                ""
            };
            let extended = format!("nodiscard,lazy_itable_init=1,lazy_journal_init=1{prezeroed}");
            add(&["-E", &extended]);
            if let Some(uuid) = options.uuid {
                add(&["-U", &uuid.to_string()]);
            }
        }
        FsType::Xfs => {
            // 64 MiB is the smallest log that mkfs.xfs makes.
            add(&["-f", "-q", "-K", "-l", "size=64m"]);
            if let Some(uuid) = options.uuid {
                add(&["-m", &format!("uuid={uuid}")]);
            }
        }
    }
    args.extend(options.extra.iter().cloned());
    args
}

/// Makes a file system on a device. What was there is lost: the caller has made sure that the
/// device is its own.
///
/// # Errors
/// [`FsError::ToolMissing`], [`FsError::ToolStart`], [`FsError::ToolFailed`], [`FsError::Read`].
pub fn mkfs(fs: FsType, node: &Path, options: &MkfsOptions) -> Result<(), FsError> {
    let tool = tool(fs);
    let size = File::open(node)
        .and_then(|mut device| device.seek(SeekFrom::End(0)))
        .map_err(|source| FsError::Read {
            what: "the size of the device",
            at: 0,
            source,
        })?;
    let args = arguments(fs, Bytes::new(size), options);
    tool.run(&args, node)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use super::*;
    use crate::fs::superblock::{SuperblockInfo, probe};

    const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

    fn options(extra: &[&str]) -> MkfsOptions {
        MkfsOptions {
            uuid: UUID.parse().ok(),
            zeroed: true,
            extra: extra.iter().map(|arg| (*arg).to_owned()).collect(),
        }
    }

    fn image(dir: &tempfile::TempDir, name: &str, size: Bytes) -> std::path::PathBuf {
        let path = dir.path().join(name);
        let file = File::create_new(&path).expect("a new file");
        file.set_len(size.get()).expect("room for no blocks");
        path
    }

    /// How many block groups an ext4 has, and in how many the inode table counts as zeroed.
    fn groups(path: &Path) -> (usize, usize) {
        let output = Command::new("dumpe2fs").arg(path).output();
        let text = String::from_utf8(output.expect("e2fsprogs").stdout).expect("text");
        let groups = text.lines().filter(|line| {
            let number = line.strip_prefix("Group ");
            number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        });
        let zeroed = groups.clone().filter(|l| l.contains("ITABLE_ZEROED"));
        (groups.count(), zeroed.count())
    }

    #[test]
    fn nothing_is_left_to_zero_where_the_device_gives_zeroes() {
        let dir = tempfile::tempdir().unwrap();
        for zeroed in [true, false] {
            let path = image(&dir, &zeroed.to_string(), Bytes::from_gib(10));
            let options = MkfsOptions {
                zeroed,
                ..options(&[])
            };
            mkfs(FsType::Ext4, &path, &options).unwrap();
            assert_eq!(groups(&path), (80, if zeroed { 80 } else { 0 }));
            let allocated = std::fs::metadata(&path).unwrap().blocks();
            assert!(allocated < 2048 * 8, "{allocated} sectors of 512 bytes");
        }
    }

    #[test]
    fn the_journal_does_not_grow_with_the_volume() {
        let sized = |size| arguments(FsType::Ext4, size, &options(&[])).contains(&"-J".to_owned());
        assert!(!sized(Bytes::from_mib(1023)));
        assert!(sized(Bytes::from_gib(1)));
    }

    #[test]
    fn both_programs_make_what_the_probe_reads() {
        let dir = tempfile::tempdir().unwrap();
        let size = Bytes::from_mib(512);
        for fs in [FsType::Ext4, FsType::Xfs] {
            let path = image(&dir, fs.as_str(), size);
            mkfs(fs, &path, &options(&[])).unwrap();
            assert_eq!(
                probe(&File::open(&path).unwrap()).unwrap(),
                Some(SuperblockInfo {
                    fs,
                    uuid: UUID.parse().unwrap(),
                    size,
                    block_size: Bytes::from_kib(4),
                    needs_recovery: false,
                })
            );
        }
    }

    #[test]
    fn a_refused_argument_shows_the_programs_words() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 24).unwrap();
        let error = mkfs(
            FsType::Ext4,
            file.path(),
            &options(&["-E", "no_such_option"]),
        );
        match error {
            Err(FsError::ToolFailed {
                tool: "mkfs.ext4",
                status,
                stderr,
                ..
            }) => {
                assert_eq!(status.code(), Some(1));
                assert!(stderr.contains("no_such_option"), "{stderr}");
            }
            other => panic!("{other:?}"),
        }
    }
}

//! Records a tar that was applied, by what is at its paths now.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::image::ImageError;
use crate::image::apply::tree::Tree;
use crate::image::error::entry_error;
use crate::image::path::CleanPath;
use crate::image::tarball::{Entry, Input, Kind, Reader};

/// How much is compared at a time.
const PIECE: usize = 128 << 10;

/// Reads the tar to its end, and tells its input which bytes of it are those of a file below `root`. What is
/// not, and what comes after the first byte of an entry that is not, stays as it is.
pub(in crate::image) fn recheck<I: Input>(
    tar: &mut Reader<I>,
    root: BorrowedFd<'_>,
) -> Result<(), ImageError> {
    let mut tree = Tree::new(root)?;
    let mut buffer = vec![0; PIECE];
    while let Some(entry) = tar.next_entry()? {
        if entry.kind != Kind::File || entry.size == 0 {
            continue;
        }
        let path = CleanPath::new(&entry.path)?;
        if let Some(file) = open(&mut tree, &path, &entry)? {
            compare(tar, &entry, &path, &file, &mut buffer)?;
        }
    }
    Ok(())
}

/// The file at a path, where there is one.
pub(super) fn open(
    tree: &mut Tree,
    path: &CleanPath,
    entry: &Entry,
) -> Result<Option<OwnedFd>, ImageError> {
    open_at(tree, path, &entry.path)
}

/// The file at a path, where there is one; errors name `told`.
pub(super) fn open_at(
    tree: &mut Tree,
    path: &CleanPath,
    told: &[u8],
) -> Result<Option<OwnedFd>, ImageError> {
    let dir = match tree.find(path.parent(), told) {
        Ok(Some(dir)) => dir,
        Ok(None) | Err(ImageError::ParentNotDirectory { .. } | ImageError::SymlinkLoop { .. }) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // A fifo has no end to wait for, a device no business here.
    let stat = rustix::fs::statat(dir.fd(), path.name(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
    match stat {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(entry_error("look at", told, errno)),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(dir.fd(), path.name(), flags, Mode::empty())
        .map(Some)
        .map_err(|errno| entry_error("open", told, errno))
}

fn compare<I: Input>(
    tar: &mut Reader<I>,
    entry: &Entry,
    path: &CleanPath,
    file: &OwnedFd,
    buffer: &mut [u8],
) -> Result<(), ImageError> {
    let failed = |errno| entry_error("read", &entry.path, errno);
    let (size, segments) = match &entry.sparse {
        None => (entry.size, vec![(0, entry.size)]),
        Some(map) => {
            let runs = map.segments().iter().map(|s| (s.offset, s.len));
            (map.real_size(), runs.collect())
        }
    };
    tar.input().begin_file(path.as_bytes());
    for (offset, len) in segments {
        tar.input().seek_file(offset);
        let (mut at, mut left) = (offset, len);
        while left > 0 {
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let bytes = tar.fill_data()?;
            let wanted = wanted.min(bytes.len());
            let room = buffer.get_mut(..wanted).unwrap_or_default();
            let n = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *room, at))
                .map_err(failed)?;
            let found = room.get(..n).unwrap_or_default();
            let same = found.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            tar.consume_data(same);
            if same == 0 || same < n {
                tar.input().end_file(None);
                return Ok(());
            }
            let step = u64::try_from(same).unwrap_or(left);
            at = at.saturating_add(step);
            left = left.saturating_sub(step);
        }
    }
    // What is between the segments, or behind them, may be another's: then it has no sum of this one.
    let stat = rustix::fs::fstat(file).map_err(failed)?;
    let is_it = entry.sparse.is_none() && u64::try_from(stat.st_size) == Ok(size);
    tar.input().end_file(is_it.then_some(size));
    Ok(())
}

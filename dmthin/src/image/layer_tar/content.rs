//! The content of files: read in pieces, and where its holes are.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::Stat;
use crate::image::error::{ImageError, entry_error};
use crate::image::tarball::{Segment, SparseMap, Writer};

/// How much is read at a time.
const PIECE: usize = 256 << 10;

/// Holes of a file that make it worth a map: below, plain zeros.
const MIN_HOLES: u64 = 1 << 20;

/// The unit in which content is looked at for zeros.
const UNIT: usize = 4096;

/// The shortest run of zeros that is a hole, unless a map would have too many segments.
const MIN_HOLE: u64 = 64 << 10;

/// Segments a map may have before shorter holes are taken as data.
const MAX_SEGMENTS: usize = 1 << 16;

/// Fills `buffer` from `file` at `at`, as far as there is content.
pub(in crate::image) fn read_at(
    file: BorrowedFd<'_>,
    path: &Path,
    buffer: &mut [u8],
    at: u64,
) -> Result<usize, ImageError> {
    let mut filled = 0_usize;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        let at = at.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
        match rustix::io::pread(file, room, at) {
            Ok(0) => break,
            Ok(n) => filled = filled.saturating_add(n),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(entry_error("read", path.as_os_str().as_bytes(), errno)),
        }
    }
    Ok(filled)
}

/// Writes a run of a file's content.
pub(super) fn write_segment<W: Write>(
    file: BorrowedFd<'_>,
    path: &Path,
    segment: Segment,
    writer: &mut Writer<W>,
) -> Result<(), ImageError> {
    let mut buffer = vec![0; PIECE.min(usize::try_from(segment.len).unwrap_or(PIECE))];
    let (mut at, mut left) = (segment.offset, segment.len);
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(PIECE).min(buffer.len());
        let piece = buffer.get_mut(..wanted).unwrap_or_default();
        if read_at(file, path, piece, at)? < wanted {
            return Err(ImageError::SourceChanged { path: path.into() });
        }
        writer.data(piece).map_err(ImageError::Write)?;
        let step = u64::try_from(wanted).unwrap_or(left);
        at = at.saturating_add(step);
        left = left.saturating_sub(step);
    }
    Ok(())
}

/// Where the data of a file are that has holes; `None` of one that has next to none.
pub(super) fn sparse_map(
    file: BorrowedFd<'_>,
    path: &Path,
    stat: &Stat,
) -> Result<Option<SparseMap>, ImageError> {
    if stat.size.saturating_sub(stat.on_disk) < MIN_HOLES {
        return Ok(None);
    }
    let mut runs = Runs {
        segments: Vec::new(),
        min_hole: MIN_HOLE,
        max: MAX_SEGMENTS,
    };
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while let Some(begin) = next_data(file, path, at)? {
        // A whole unit, wherever the file system's blocks begin.
        let unit = u64::try_from(UNIT).expect("a small number");
        at = begin
            .saturating_sub(begin.checked_rem(unit).unwrap_or(0))
            .max(at);
        let n = read_at(file, path, &mut buffer, at)?;
        if n == 0 {
            break;
        }
        let read = buffer.get(..n).unwrap_or_default();
        for (offset, piece) in (at..).step_by(UNIT).zip(read.chunks(UNIT)) {
            if piece.iter().any(|byte| *byte != 0) {
                runs.add(offset, u64::try_from(piece.len()).unwrap_or(unit));
            }
        }
        at = at.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
    }
    let mut segments = runs.segments;
    let end = |segment: &Segment| segment.offset.saturating_add(segment.len);
    if segments.last().map_or(0, end) > stat.size {
        return Err(ImageError::SourceChanged { path: path.into() });
    }
    if segments.last().map_or(0, end) < stat.size {
        // GNU tar makes the file as long as its last segment says.
        segments.push(Segment {
            offset: stat.size,
            len: 0,
        });
    }
    let data = segments.iter().map(|s| s.len).fold(0, u64::saturating_add);
    SparseMap::new(stat.size, segments, data)
        .map(Some)
        .map_err(|_| ImageError::SourceChanged { path: path.into() })
}

/// Where the next data are at or after `at`.
pub(in crate::image) fn next_data(
    file: BorrowedFd<'_>,
    path: &Path,
    at: u64,
) -> Result<Option<u64>, ImageError> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(begin) => Ok(Some(begin)),
        Err(Errno::NXIO) => Ok(None),
        // It knows no holes: all is data.
        Err(Errno::INVAL) => Ok(Some(at)),
        Err(errno) => Err(entry_error("read", path.as_os_str().as_bytes(), errno)),
    }
}

/// Runs of data, near ones joined.
#[derive(Debug)]
struct Runs {
    segments: Vec<Segment>,
    min_hole: u64,
    max: usize,
}

impl Runs {
    fn add(&mut self, offset: u64, len: u64) {
        self.push(Segment { offset, len });
        while self.segments.len() > self.max {
            self.min_hole = self.min_hole.saturating_mul(2);
            for segment in std::mem::take(&mut self.segments) {
                self.push(segment);
            }
        }
    }

    fn push(&mut self, next: Segment) {
        if let Some(last) = self.segments.last_mut() {
            let end = last.offset.saturating_add(last.len);
            if next.offset.saturating_sub(end) < self.min_hole {
                let next_end = next.offset.saturating_add(next.len);
                last.len = next_end.saturating_sub(last.offset);
                return;
            }
        }
        self.segments.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_runs_are_joined_and_more_so_when_there_are_many() {
        let mut runs = Runs {
            segments: Vec::new(),
            min_hole: 10,
            max: 2,
        };
        runs.add(0, 4);
        runs.add(13, 4);
        assert_eq!(runs.segments, [Segment { offset: 0, len: 17 }]);
        runs.add(27, 4);
        assert_eq!(runs.segments.len(), 2);
        runs.add(100, 4);
        assert_eq!(
            runs.segments,
            [
                Segment { offset: 0, len: 31 },
                Segment {
                    offset: 100,
                    len: 4
                }
            ]
        );
    }
}

//! A layer's tar from its records and the layer's files, and what of these is another than it was.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use flate2::Crc;

use super::format::{Record, Records};
use super::recheck::open_at;
use crate::ids::Digest;
use crate::image::apply::tree::Tree;
use crate::image::digest::{Hasher, Summed};
use crate::image::error::{Content, ImageError, entry_error, path_of};
use crate::image::layer_tar::{next_data, read_at};
use crate::image::path::CleanPath;

/// How much of a file is read at a time.
const PIECE: usize = 256 << 10;

/// Writes the tar of a layer to `out`: `split` is what was kept of it (read from its beginning), `root` the
/// root of the layer.
///
/// # Errors
/// [`ImageError::LayerChanged`] with the first file that is not as it was; [`ImageError::DigestMismatch`]
/// where all are and the tar is another all the same; [`ImageError::BadSplit`] of a damaged record;
/// [`ImageError::Write`] from `out`. What was written is then of no use.
pub fn rebuild_layer(
    split: &File,
    root: BorrowedFd<'_>,
    diff_id: Digest,
    out: &mut dyn Write,
) -> Result<(), ImageError> {
    let found = Rebuild::new(split, root, diff_id)?
        .run(out, &mut |path| Err(ImageError::LayerChanged { path }))?;
    check(found, diff_id)
}

/// Reads all files that a layer's tar has the content of, and gives those that are not as they were, in the
/// tar's order: their content, their length, or what is between the data of a sparse one.
///
/// # Errors
/// As of [`rebuild_layer`], but that a changed file is none.
pub fn verify_layer(
    split: &File,
    root: BorrowedFd<'_>,
    diff_id: Digest,
) -> Result<Vec<PathBuf>, ImageError> {
    let mut changed = Vec::new();
    let found = Rebuild::new(split, root, diff_id)?.run(&mut std::io::sink(), &mut |path| {
        changed.push(path);
        Ok(())
    })?;
    if changed.is_empty() {
        check(found, diff_id)?;
    }
    Ok(changed)
}

fn check(found: Summed, diff_id: Digest) -> Result<(), ImageError> {
    if found.digest == diff_id {
        return Ok(());
    }
    Err(ImageError::DigestMismatch {
        what: Content::LayerTar,
        expected: diff_id,
        found: found.digest,
    })
}

/// A file of the layer that is read.
#[derive(Debug)]
struct Open {
    path: Vec<u8>,
    /// `None` where it is gone.
    file: Option<OwnedFd>,
    crc: Crc,
    /// How far the runs went.
    at: u64,
    /// Whether it is known to be another.
    changed: bool,
    /// Whether it was told.
    told: bool,
}

type OnChanged<'a> = dyn FnMut(PathBuf) -> Result<(), ImageError> + 'a;

struct Rebuild<'a> {
    records: Records<'a>,
    tree: Tree,
    open: Option<Open>,
    buffer: Vec<u8>,
    hasher: Hasher,
}

impl<'a> Rebuild<'a> {
    fn new(mut split: &'a File, root: BorrowedFd<'_>, diff_id: Digest) -> Result<Self, ImageError> {
        std::io::Seek::rewind(&mut split).map_err(ImageError::BadSplit)?;
        Ok(Self {
            records: Records::open(split, diff_id)?,
            tree: Tree::new(root)?,
            open: None,
            buffer: vec![0; PIECE],
            hasher: Hasher::default(),
        })
    }

    fn run(
        mut self,
        out: &mut dyn Write,
        on_changed: &mut OnChanged<'_>,
    ) -> Result<Summed, ImageError> {
        loop {
            match self.records.next()? {
                Record::End => break,
                Record::Inline(bytes) => {
                    self.hasher.update(&bytes);
                    out.write_all(&bytes).map_err(ImageError::Write)?;
                }
                Record::File(path) => {
                    let clean = CleanPath::new(&path)?;
                    self.open = Some(Open {
                        file: open_at(&mut self.tree, &clean, &path)?,
                        path,
                        crc: Crc::new(),
                        at: 0,
                        changed: false,
                        told: false,
                    });
                }
                Record::Run { offset, len } => {
                    self.content(offset, len, out)?;
                    if let Some(open) = self.open.as_mut().filter(|open| open.changed && !open.told)
                    {
                        open.told = true;
                        on_changed(path_of(&open.path))?;
                    }
                }
                Record::Sum { size, crc } => {
                    if let Some(mut open) = self.open.take()
                        && !open.is_as_it_was(size, crc)?
                        && !open.told
                    {
                        on_changed(path_of(&open.path))?;
                    }
                }
            }
        }
        out.flush().map_err(ImageError::Write)?;
        Ok(self.hasher.finish())
    }

    /// Passes a run on, as far as the file goes: a damaged record may name a run without end.
    fn content(&mut self, offset: u64, len: u64, out: &mut dyn Write) -> Result<(), ImageError> {
        let nonsense = || {
            let kind = std::io::ErrorKind::InvalidData;
            ImageError::BadSplit(std::io::Error::new(kind, "a run of no file"))
        };
        let open = self.open.as_mut().ok_or_else(nonsense)?;
        let end = offset.checked_add(len).ok_or_else(nonsense)?;
        open.hole_until(offset)?;
        let mut at = offset;
        while at < end {
            let left = usize::try_from(end.saturating_sub(at)).unwrap_or(PIECE);
            let piece = self.buffer.get_mut(..left.min(PIECE)).unwrap_or_default();
            let found = match &open.file {
                Some(file) => read_at(file.as_fd(), &path_of(&open.path), piece, at)?,
                None => 0,
            };
            let wanted = piece.len();
            let piece = piece.get(..found).unwrap_or_default();
            open.crc.update(piece);
            self.hasher.update(piece);
            out.write_all(piece).map_err(ImageError::Write)?;
            if found < wanted {
                open.changed = true;
                return Ok(());
            }
            at = at.saturating_add(u64::try_from(found).unwrap_or(u64::MAX));
        }
        open.at = end;
        Ok(())
    }
}

impl Open {
    /// That nothing but zeros is from the last run to `end`.
    fn hole_until(&mut self, end: u64) -> Result<(), ImageError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let path = path_of(&self.path);
        let mut buffer = [0; 4096];
        while self.at < end && !self.changed {
            match next_data(file.as_fd(), &path, self.at)? {
                Some(data) if data < end => {
                    let left = usize::try_from(end.saturating_sub(data)).unwrap_or(buffer.len());
                    let room = left.min(buffer.len());
                    let piece = buffer.get_mut(..room).unwrap_or_default();
                    let n = read_at(file.as_fd(), &path, piece, data)?;
                    let read = piece.get(..n).unwrap_or_default();
                    self.changed = n == 0 || read.iter().any(|byte| *byte != 0);
                    self.at = data.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
                }
                _ => self.at = end,
            }
        }
        Ok(())
    }

    fn is_as_it_was(&mut self, size: u64, crc: u32) -> Result<bool, ImageError> {
        self.hole_until(size)?;
        let Some(file) = &self.file else {
            return Ok(false);
        };
        let stat =
            rustix::fs::fstat(file).map_err(|errno| entry_error("look at", &self.path, errno))?;
        Ok(!self.changed && u64::try_from(stat.st_size) == Ok(size) && self.crc.sum() == crc)
    }
}

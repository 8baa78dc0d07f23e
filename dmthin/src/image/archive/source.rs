//! The files of an archive, in a directory or in a tar.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::image::error::path_of;
use crate::image::layer::MAGIC;
use crate::image::path::CleanPath;
use crate::image::tarball::{Entry, Input, Kind, Reader};
use crate::image::{Content, ImageError, TarFault};
use crate::units::Bytes;

/// Members an index takes: an image of a thousand layers has some thousands.
const MAX_MEMBERS: usize = 200_000;

/// Links followed from one member to another.
const MAX_LINKS: usize = 8;

/// The largest JSON document.
const MAX_DOCUMENT: u64 = 4 << 20;

/// What a member of a tar is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    File { offset: u64, size: u64 },
    Link(CleanPath),
    NotAFile,
    Duplicate,
}

/// Where the files are.
#[derive(Debug)]
pub(super) enum Source {
    /// Below a directory.
    Directory(OwnedFd),
    /// In a tar, by cleaned names.
    Tar {
        file: Arc<File>,
        members: HashMap<Vec<u8>, MemberAt>,
    },
}

/// An entry of the index.
#[derive(Debug)]
pub(super) struct MemberAt(Member);

impl Source {
    /// Reads the index of the tar that `file` holds from its first byte on.
    pub(super) fn index(file: File) -> Result<Self, ImageError> {
        let file = Arc::new(file);
        let end = io::Seek::seek(&mut &*file, io::SeekFrom::End(0)).map_err(read_error)?;
        let input = FileInput {
            file: Arc::clone(&file),
            at: 0,
            end,
            buffer: vec![0; 8 << 10],
            filled: 0..0,
        };
        let mut reader = Reader::new(input, Content::Archive);
        let mut members = HashMap::new();
        loop {
            let entry = match reader.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                // Not even a first header.
                Err(
                    ImageError::BadTar {
                        offset: 0,
                        fault: TarFault::Checksum | TarFault::LoneZeroBlock,
                    }
                    | ImageError::Truncated { offset: ..512, .. },
                ) => return Err(ImageError::NotAnImage),
                Err(error) => return Err(error),
            };
            let path = CleanPath::new(&entry.path)?;
            if path.is_root() || entry.kind == Kind::Directory {
                continue;
            }
            if members.len() >= MAX_MEMBERS {
                return Err(ImageError::TooManyMembers(MAX_MEMBERS));
            }
            let member = Member::of(&entry, &path)?;
            match members.entry(path.as_bytes().to_vec()) {
                Slot::Occupied(mut known) => *known.get_mut() = MemberAt(Member::Duplicate),
                Slot::Vacant(free) => {
                    free.insert(MemberAt(member));
                }
            }
        }
        Ok(Self::Tar { file, members })
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(dir) => open_beneath(dir, name).is_ok(),
            Self::Tar { members, .. } => members.contains_key(name.as_bytes()),
        }
    }

    /// Opens a file of the archive.
    pub(super) fn open(&self, name: &str) -> Result<Range, ImageError> {
        let path = CleanPath::new(name.as_bytes())?;
        let missing = || ImageError::MissingBlob {
            name: name.to_owned(),
        };
        let not_a_file = || ImageError::NotAFile {
            name: name.to_owned(),
        };
        match self {
            Self::Directory(dir) => {
                let file = match open_beneath(dir, name) {
                    Ok(fd) => File::from(fd),
                    Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing()),
                    Err(Errno::XDEV) => {
                        return Err(ImageError::PathEscape { path: name.into() });
                    }
                    Err(errno) => return Err(read_at_error(name, errno.into())),
                };
                let stat = file.metadata().map_err(|e| read_at_error(name, e))?;
                if !stat.is_file() {
                    return Err(not_a_file());
                }
                Ok(Range {
                    at: 0,
                    end: stat.len(),
                    file: Arc::new(file),
                })
            }
            Self::Tar { file, members } => {
                let mut path = path;
                for _ in 0..MAX_LINKS {
                    match members.get(path.as_bytes()).map(|m| &m.0) {
                        None => return Err(missing()),
                        Some(Member::NotAFile) => return Err(not_a_file()),
                        Some(Member::Duplicate) => {
                            return Err(ImageError::DuplicateEntry {
                                name: String::from_utf8_lossy(path.as_bytes()).into_owned(),
                            });
                        }
                        Some(Member::Link(target)) => path = target.clone(),
                        Some(&Member::File { offset, size }) => {
                            return Ok(Range {
                                file: Arc::clone(file),
                                at: offset,
                                end: offset.saturating_add(size),
                            });
                        }
                    }
                }
                Err(not_a_file())
            }
        }
    }

    /// Reads a whole document, within its limit.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut range = self.open(name)?;
        let size = range.len();
        if size > MAX_DOCUMENT {
            return Err(ImageError::DocumentTooLarge {
                name: name.to_owned(),
                size: Bytes::new(size),
                limit: Bytes::new(MAX_DOCUMENT),
            });
        }
        let mut bytes = Vec::new();
        range
            .read_to_end(&mut bytes)
            .map_err(|e| read_at_error(name, e))?;
        Ok(bytes)
    }
}

impl Member {
    fn of(entry: &Entry, path: &CleanPath) -> Result<Self, ImageError> {
        Ok(match entry.kind {
            // A blob whose bytes lie elsewhere than its digest's order is nobody's honest one.
            Kind::File if entry.sparse.is_some() => Self::NotAFile,
            Kind::File => Self::File {
                offset: entry.data_offset,
                size: entry.size,
            },
            Kind::Symlink => Self::Link(path.follow(&entry.link)?),
            Kind::Hardlink => Self::Link(CleanPath::new(&entry.link)?),
            Kind::Directory | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => Self::NotAFile,
        })
    }
}

/// Opens a file of a directory layout; links may lead to other files of the layout, not out of it.
fn open_beneath(dir: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    // Not to wait for a fifo's writer; a regular file minds neither.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)
}

fn read_error(source: io::Error) -> ImageError {
    ImageError::Read {
        path: PathBuf::from(Content::Archive.to_string()),
        source,
    }
}

fn read_at_error(name: &str, source: io::Error) -> ImageError {
    ImageError::Read {
        path: path_of(name.as_bytes()),
        source,
    }
}

/// Whether a file can be read at offsets: not a pipe, not a terminal.
pub(super) fn is_seekable(file: &File) -> io::Result<bool> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
    Ok(matches!(
        kind,
        FileType::RegularFile | FileType::BlockDevice
    ))
}

/// A part of a file, read at its offsets: several may be read at once.
#[derive(Debug, Clone)]
pub(super) struct Range {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Range {
    /// Bytes left to read.
    pub(super) fn len(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// The first bytes, as far as there are some; what is read next are the same.
    pub(super) fn start(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut start = Vec::new();
        let limit = u64::try_from(MAGIC).unwrap_or(u64::MAX);
        self.clone()
            .take(limit)
            .read_to_end(&mut start)
            .map_err(|e| read_at_error(name, e))?;
        Ok(start)
    }
}

impl Read for Range {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.len()).unwrap_or(usize::MAX);
        let room = room.min(buf.len());
        let n = self
            .file
            .read_at(buf.get_mut(..room).unwrap_or_default(), self.at)?;
        if n == 0 && room > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at = self.at.saturating_add(u64::try_from(n).unwrap_or(0));
        Ok(n)
    }
}

/// A tar in a file, whose data is passed over without being read.
#[derive(Debug)]
struct FileInput {
    file: Arc<File>,
    /// Where the next read begins.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    filled: std::ops::Range<usize>,
}

impl Input for FileInput {
    fn fill(&mut self) -> Result<&[u8], ImageError> {
        if self.filled.is_empty() {
            let n = self
                .file
                .read_at(&mut self.buffer, self.at)
                .map_err(read_error)?;
            self.at = self.at.saturating_add(u64::try_from(n).unwrap_or(0));
            self.filled = 0..n;
        }
        Ok(self.buffer.get(self.filled.clone()).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.filled.start = self.filled.start.saturating_add(n).min(self.filled.end);
    }

    fn skip(&mut self, n: u64) -> Result<bool, ImageError> {
        let here = self.filled.len();
        match usize::try_from(n) {
            Ok(n) if n <= here => self.consume(n),
            _ => {
                let beyond = n.saturating_sub(u64::try_from(here).unwrap_or(0));
                self.filled = 0..0;
                self.at = self.at.saturating_add(beyond);
            }
        }
        Ok(self.at <= self.end)
    }
}

//! One entry of a tar stream, with every extension folded in.

use super::sparse::SparseMap;
use crate::ids::DevNo;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::image) enum Kind {
    File,
    Hardlink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// A time of modification: seconds since the epoch, and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::image) struct Mtime {
    pub(in crate::image) seconds: i64,
    pub(in crate::image) nanos: u32,
}

/// An entry; its data is read from the reader that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct Entry {
    /// The name as written: not yet checked for `..`.
    pub(in crate::image) path: Vec<u8>,
    /// What a link names, as written; empty for all else.
    pub(in crate::image) link: Vec<u8>,
    pub(in crate::image) kind: Kind,
    /// Permission bits with setuid, setgid and sticky: at most 0o7777.
    pub(in crate::image) mode: u32,
    pub(in crate::image) uid: u32,
    pub(in crate::image) gid: u32,
    pub(in crate::image) mtime: Mtime,
    /// Bytes of data that follow in the stream, a sparse file's map left out.
    pub(in crate::image) size: u64,
    pub(in crate::image) device: DevNo,
    /// Names and values, in the order given.
    pub(in crate::image) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(in crate::image) sparse: Option<SparseMap>,
    /// Where the data begins in the stream.
    pub(in crate::image) data_offset: u64,
}

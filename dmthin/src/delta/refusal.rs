//! Why a way of comparing is not taken, and what fails where none is left.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use crate::delta::ext4::Ino;
use crate::fs::FsError;
use crate::thinmeta::ReadError;
use crate::units::Bytes;

/// Why two file systems are not compared in a certain way. None of these is an error: the next way is taken.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The pool's metadata snapshot is another tool's.
    #[error("another tool has the pool's metadata snapshot")]
    MetadataHeld,
    /// Another command reads the metadata, or hardly any of their blocks are free.
    #[error("the pool's metadata are being read by another command, or nearly full")]
    MetadataBusy,
    /// The metadata make no sense or cannot be read.
    #[error("the pool's metadata cannot be read: {0}")]
    Metadata(#[source] Arc<ReadError>),
    /// One of the two is not in the pool's metadata.
    #[error("the pool's metadata do not have both volumes")]
    NotInMetadata,
    /// No ext4 is on a device.
    #[error("it is no ext4")]
    NotExt4,
    /// It has features that are not known.
    #[error("it has features that are not read: {set} {bits:#x}")]
    Features {
        /// Of which set.
        set: &'static str,
        /// Their bits.
        bits: u32,
    },
    /// Its directories do not tell types.
    #[error("its directories do not tell the types of their entries")]
    NoFileTypes,
    /// It has blocks of another size than 4096 bytes.
    #[error("its blocks have not 4096 bytes")]
    BlockSize,
    /// Its journal is to be replayed first.
    #[error("its journal was not replayed: it was in use, and not frozen")]
    NeedsRecovery,
    /// The kernel has found errors in it.
    #[error("the kernel has found errors in it: have it checked by e2fsck")]
    HasErrors,
    /// It has no journal and was not unmounted.
    #[error("it has no journal and was not unmounted")]
    NotUnmounted,
    /// Its journal is on another device.
    #[error("its journal is on another device")]
    JournalElsewhere,
    /// A checksum does not match.
    #[error("the checksum of {what} {at} does not match")]
    Checksum {
        /// Of what.
        what: &'static str,
        /// Its number.
        at: u64,
    },
    /// Something makes no sense.
    #[error("it is damaged: {what} {at}")]
    Damaged {
        /// What.
        what: &'static str,
        /// Its number.
        at: u64,
    },
    /// An inode has flags that change what its bytes mean.
    #[error("inode {ino} has flags that are not read: {flags:#x}")]
    InodeFlags {
        /// Which.
        ino: Ino,
        /// The flags.
        flags: u32,
    },
    /// An inode tells its blocks as ext3 did.
    #[error("inode {ino} has no extents")]
    BlockMapped {
        /// Which.
        ino: Ino,
    },
    /// A path is longer than any that is of use.
    #[error("a path is longer than {limit} bytes")]
    PathLength {
        /// The longest one that is followed.
        limit: usize,
    },
    /// The two do not have in common what snapshots of one have.
    #[error("the two have not the same {what}")]
    Unlike {
        /// What.
        what: &'static str,
    },
    /// A device cannot be read.
    #[error("cannot read at byte {}: {source}", at.get())]
    Read {
        /// Where.
        at: Bytes,
        /// The answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// A block changed that belongs to nothing that did: somebody wrote past the file system.
    #[error("block {block} changed, and no file that it is of did")]
    Unexplained {
        /// Which, in blocks of 4096 bytes.
        block: u64,
    },
}

/// Why two trees could not be compared at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// One of the two cannot be mounted or entered.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A file cannot be looked at.
    #[error("cannot {action} {} of the {side} tree", path.display())]
    Walk {
        /// What was tried.
        action: &'static str,
        /// On what, below the root.
        path: PathBuf,
        /// `older` or `newer`.
        side: &'static str,
        /// The answer.
        #[source]
        source: Errno,
    },
}

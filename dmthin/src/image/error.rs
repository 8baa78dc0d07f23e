//! What can go wrong with an image, one variant per cause.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::ids::{Digest, IdError};
use crate::units::Bytes;

/// Which content an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// The archive itself.
    Archive,
    /// An image index or a manifest list.
    Index,
    /// An image manifest.
    Manifest,
    /// An image configuration.
    Config,
    /// The bytes of a layer as the archive holds them, compressed or not.
    LayerBlob,
    /// The tar stream of a layer, uncompressed: what a diff id is the digest of.
    LayerTar,
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Archive => "image archive",
            Self::Index => "image index",
            Self::Manifest => "image manifest",
            Self::Config => "image configuration",
            Self::LayerBlob => "layer blob",
            Self::LayerTar => "layer (uncompressed)",
        })
    }
}

/// What is wrong with a tar stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TarFault {
    /// The header's bytes do not add up to its checksum.
    #[error("a header's checksum is wrong")]
    Checksum,
    /// A block of zeros, then something else.
    #[error("a lone block of zeros inside the archive")]
    LoneZeroBlock,
    /// A numeric field holds no number, or one out of range.
    #[error("the field {0} is not a number in its range")]
    Number(&'static str),
    /// A pax record is not `length key=value newline`.
    #[error("a malformed pax record")]
    PaxRecord,
    /// A pax key whose value makes no sense.
    #[error("the pax key {0} has a value that cannot be")]
    PaxValue(String),
    /// A key that belongs to one entry stands in a global header; readers disagree on it.
    #[error("the pax key {0} in a global header")]
    PaxGlobal(String),
    /// An extension header larger than any honest one.
    #[error("an extension header of {0} bytes")]
    ExtensionSize(u64),
    /// An extension header with no entry after it.
    #[error("an extension header that no entry follows")]
    DanglingExtension,
    /// The segments of a sparse file overlap, are out of order, or disagree with the size.
    #[error("an impossible map of a sparse file")]
    SparseMap,
}

/// An error of an archive, of a layer, or of applying it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The archive cannot be opened or read.
    #[error("cannot read the image archive {path:?}")]
    Read {
        /// The archive, or what in it.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The temporary copy of a streamed archive cannot be made.
    #[error("cannot keep the streamed archive in {dir:?}: give it a directory with more room")]
    Spool {
        /// Where it was to be.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A streamed archive, decompressed, is larger than the room there is for its copy.
    #[error(
        "the streamed archive is larger than {limit}, the room there is for its copy in {dir:?}"
    )]
    SpoolLimit {
        /// Where it was to be.
        dir: PathBuf,
        /// How large it may become.
        limit: Bytes,
    },
    /// Neither a docker-archive nor an OCI layout.
    #[error(
        "not an image: found neither manifest.json nor index.json; use `docker save` or an OCI layout"
    )]
    NotAnImage,
    /// An archive of an image format without an image in it.
    #[error("the archive holds no image")]
    NoImages,
    /// No image of the platform asked for.
    #[error("no image for {wanted}; the archive has: {}", available.join(", "))]
    NoMatchingPlatform {
        /// The platform asked for, `os/architecture`.
        wanted: String,
        /// What there is.
        available: Vec<String>,
    },
    /// Indexes inside indexes, deeper or more than any honest archive.
    #[error("the archive's image indexes nest too deep or name too many manifests")]
    TooManyManifests,
    /// More members than an image archive has.
    #[error("the archive has more than {0} members: it is no image archive")]
    TooManyMembers(usize),
    /// A file the archive's own manifest names is not in it.
    #[error("the archive names {name:?} but does not hold it: it is incomplete")]
    MissingBlob {
        /// The member's name, or a digest.
        name: String,
    },
    /// Two members of one name; which is meant cannot be known.
    #[error("the archive holds {name:?} more than once")]
    DuplicateEntry {
        /// The member's name.
        name: String,
    },
    /// A member that must be a plain file is something else.
    #[error("the archive's {name:?} is not a plain file")]
    NotAFile {
        /// The member's name.
        name: String,
    },
    /// A JSON document larger than any honest one.
    #[error("the archive's {name:?} is {size}, more than the {limit} such a document may have")]
    DocumentTooLarge {
        /// The member's name.
        name: String,
        /// Its size.
        size: Bytes,
        /// The limit.
        limit: Bytes,
    },
    /// A document that does not read as what it is named.
    #[error("the {what} {name:?} cannot be read")]
    Document {
        /// What it should be.
        what: Content,
        /// The member's name.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A digest that is not `sha256:` and 64 digits.
    #[error("the {what} is named by a digest we cannot check")]
    Digest {
        /// What it names.
        what: Content,
        /// Why.
        #[source]
        source: IdError,
    },
    /// The bytes are not those the digest promises.
    #[error(
        "the {what} has the digest {found}, but {expected} was promised: it is damaged or forged"
    )]
    DigestMismatch {
        /// What was checked.
        what: Content,
        /// What it is named by.
        expected: Digest,
        /// What its bytes give.
        found: Digest,
    },
    /// The blob has not the size its descriptor promises.
    #[error(
        "the {what} {digest} is {found}, but {expected} was promised: it is cut short or forged"
    )]
    SizeMismatch {
        /// What was checked.
        what: Content,
        /// Its name.
        digest: Digest,
        /// The descriptor's size.
        expected: Bytes,
        /// The blob's.
        found: Bytes,
    },
    /// A media type that is not an image's.
    #[error("the {what} is of the unknown media type {media_type:?}")]
    UnknownMediaType {
        /// What it is the type of.
        what: Content,
        /// The type.
        media_type: String,
    },
    /// A layer that is to be fetched from elsewhere, and so not in the archive.
    #[error(
        "the layer {digest} is a foreign layer ({media_type}): its bytes are not in the archive"
    )]
    ForeignLayer {
        /// The layer.
        digest: String,
        /// Its type.
        media_type: String,
    },
    /// A layer that needs a key.
    #[error("the layer {digest} is encrypted ({media_type}): decrypt the image first")]
    EncryptedLayer {
        /// The layer.
        digest: String,
        /// Its type.
        media_type: String,
    },
    /// Compressed by something other than gzip or zstd.
    #[error("the layer {diff_id} is compressed by {format}: only gzip and zstd are read")]
    UnsupportedCompression {
        /// The layer.
        diff_id: Digest,
        /// What the magic bytes say.
        format: &'static str,
    },
    /// The manifest and the configuration disagree on the number of layers.
    #[error("the manifest has {layers} layers, the configuration {diff_ids}")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// Diff ids of the configuration.
        diff_ids: usize,
    },
    /// A stream ends before its content does.
    #[error("the {what} is cut short after {offset} bytes")]
    Truncated {
        /// What was read.
        what: Content,
        /// How far it went.
        offset: u64,
    },
    /// The compressed stream does not decompress.
    #[error("the layer's compressed stream is damaged")]
    Corrupt(#[source] io::Error),
    /// A malformed tar stream.
    #[error("bad tar stream at byte {offset}: {fault}")]
    BadTar {
        /// Where the header starts.
        offset: u64,
        /// What is wrong.
        #[source]
        fault: TarFault,
    },
    /// A name that leads out of the directory it belongs in.
    #[error("the entry {path:?} leads out of its directory")]
    PathEscape {
        /// The name as given.
        path: PathBuf,
    },
    /// A name that cannot be a file's: empty, or with a NUL in it.
    #[error("the entry {path:?} has an impossible name")]
    InvalidName {
        /// The name as given.
        path: PathBuf,
    },
    /// Something below a file that is no directory.
    #[error("the entry {path:?} lies below something that is not a directory")]
    ParentNotDirectory {
        /// The name as given.
        path: PathBuf,
    },
    /// Symbolic links that lead nowhere or round in circles.
    #[error("the entry {path:?} lies below a loop of symbolic links")]
    SymlinkLoop {
        /// The name as given.
        path: PathBuf,
    },
    /// A hard link to a file that is not there.
    #[error("the hard link {path:?} names {target:?}, which is not there")]
    HardlinkTarget {
        /// The link.
        path: PathBuf,
        /// What it names.
        target: PathBuf,
    },
    /// A tar entry type no layer has.
    #[error("the entry {path:?} is of the unknown type {kind:?}")]
    UnsupportedEntry {
        /// The entry.
        path: PathBuf,
        /// The type byte of its header.
        kind: char,
    },
    /// Directories nested deeper than we follow to remove them.
    #[error("{path:?} holds directories nested deeper than {limit}")]
    TooDeep {
        /// Where the removal began.
        path: PathBuf,
        /// How deep we go.
        limit: usize,
    },
    /// An extended attribute larger than the file system takes.
    #[error(
        "the extended attribute {name:?} of {path:?} ({size}) is larger than the file system takes"
    )]
    XattrTooLarge {
        /// The entry.
        path: PathBuf,
        /// The attribute.
        name: String,
        /// The size of its value.
        size: Bytes,
    },
    /// The volume is full, in blocks or in inodes.
    #[error(
        "no space left in the volume at {path:?}: the image is larger than the pool's base size"
    )]
    NoSpace {
        /// The entry being written.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("{op} {path:?}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A layer's tar or an image's archive cannot be written to where it was to go.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// What gives a layer's tar back cannot be kept.
    #[error("cannot keep the record of the layer's tar")]
    Split(#[source] io::Error),
    /// What was kept to give a layer's tar back makes no sense.
    #[error("the record of the layer's tar is damaged")]
    BadSplit(#[source] io::Error),
    /// A file of a layer is another than when the layer was sealed.
    #[error("{path:?} is not as it was when the layer was made")]
    LayerChanged {
        /// The file, from the layer's root.
        path: PathBuf,
    },
    /// A tree that a layer is made of is not as it was a moment ago.
    #[error("{path:?} changed while the layer was made of it")]
    SourceChanged {
        /// What changed.
        path: PathBuf,
    },
    /// An instruction that changes a configuration, and cannot be followed.
    #[error(transparent)]
    Change(#[from] super::config::ChangeError),
    /// A helper thread could not be started.
    #[error("cannot start a thread to read the layer")]
    Thread(#[source] io::Error),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// A path as an error carries it, from the bytes of a tar stream.
pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// An errno met while working on an entry: a full volume has its own variant.
pub(crate) fn entry_error(op: &'static str, path: &[u8], errno: Errno) -> ImageError {
    let path = path_of(path);
    match errno {
        Errno::NOSPC | Errno::DQUOT => ImageError::NoSpace { path },
        source => ImageError::Io { op, path, source },
    }
}

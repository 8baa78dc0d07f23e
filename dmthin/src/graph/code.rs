//! Which kind of failure an error is: what the command's exit codes are made of.

use std::io;

use rustix::io::Errno;

use crate::backing::BackingError;
use crate::delta::DeltaError;
use crate::dm::{DmError, PoolMode, PoolStatus};
use crate::fs::FsError;
use crate::graph::error::PoolError;
use crate::image::ImageError;
use crate::ioctl::IoctlError;
use crate::label::{CopyError, LabelError};
use crate::store::StoreError;

/// Kinds of failure that a caller may want to tell apart; the command's exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// Anything without a code of its own.
    Failure,
    /// What was asked for cannot be.
    Usage,
    /// What was named is not there.
    NotFound,
    /// What was to be made is there.
    Exists,
    /// It is in use.
    Busy,
    /// No room for data.
    NoDataSpace,
    /// No room for metadata.
    NoMetadataSpace,
    /// The pool wants a check or a repair first.
    NeedsCheck,
    /// Not permitted.
    Permission,
    /// The kernel, the host or this version lacks something.
    Unsupported,
    /// An image archive that is damaged, lies, or would write where it must not.
    BadImage,
    /// Somebody was in the way; the same may work in a moment.
    Retry,
}

impl PoolError {
    /// Whether the pool is read-only for want of metadata space, which the kernel shows as `ro` without
    /// `needs_check` (`drivers/md/dm-thin.c`, `PM_OUT_OF_METADATA_SPACE`).
    pub(super) fn is_out_of_metadata(&self) -> bool {
        match self {
            Self::PoolDegraded {
                mode, needs_check, ..
            } => mode == PoolMode::Ro.as_str() && !needs_check,
            Self::Dm(DmError::PoolDegraded { status, .. }) => matches!(
                &**status,
                PoolStatus::Working(pool) if pool.mode == PoolMode::Ro && !pool.needs_check
            ),
            _ => false,
        }
    }

    /// Its kind.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            _ if self.is_out_of_metadata() => ErrorCode::NoMetadataSpace,
            Self::Io { source, .. } => io_code(source),
            Self::Ioctl(error) => ioctl_code(error),
            Self::Dm(error) => dm_code(error),
            Self::Store(error) => store_code(error),
            Self::Fs(error) | Self::Delta(DeltaError::Fs(error)) => fs_code(error),
            Self::Delta(DeltaError::Walk { source, .. }) => errno_code(*source),
            Self::Backing(error) => backing_code(error),
            Self::Guard(error) => error.code(),
            Self::Existing(error) => error.code(),
            Self::Rebuild(error) => error.code(),
            Self::Image(error)
            | Self::Archive { source: error, .. }
            | Self::Layer { source: error, .. } => image_code(error),
            Self::NoPool { .. }
            | Self::NoLabel { .. }
            | Self::NoMetadataCopy { .. }
            | Self::PoolNotFound { .. }
            | Self::NotADirectory { .. }
            | Self::RemovalNotFound { .. }
            | Self::DeviceNotFound { .. } => ErrorCode::NotFound,
            Self::PoolExists { .. } | Self::IdTaken { .. } => ErrorCode::Exists,
            Self::NoThinPool | Self::LayerNotRecorded { .. } => ErrorCode::Unsupported,
            Self::LayerNotFound { .. } => ErrorCode::NotFound,
            Self::LayersChanged { .. } => ErrorCode::NeedsCheck,
            Self::SeveralPools { .. }
            | Self::AmbiguousName { .. }
            | Self::TooSmall { .. }
            | Self::TooLarge { .. }
            | Self::SameDevice { .. }
            | Self::DeviceShort { .. }
            | Self::RemovalAmbiguous { .. }
            | Self::SeveralImages { .. } => ErrorCode::Usage,
            Self::PoolBusy { .. }
            | Self::PoolOpen { .. }
            | Self::DeviceInUse { .. }
            | Self::ContainerBusy { .. }
            | Self::VolumeBusy { .. }
            | Self::RemovalHeld { .. } => ErrorCode::Busy,
            Self::Metadata { .. }
            | Self::Unformatted { .. }
            | Self::BlockSizeMismatch { .. }
            | Self::TransactionMismatch { .. }
            | Self::PoolDegraded { .. }
            | Self::DeviceShrunk { .. }
            | Self::BackingElsewhere { .. }
            | Self::Damaged { .. }
            | Self::OtherDisk { .. }
            | Self::Pairing(_) => ErrorCode::NeedsCheck,
            Self::Label { source, .. } => label_code(source),
            Self::Copy { source, .. } => match source {
                CopyError::Io { source, .. } => io_code(source),
                CopyError::None => ErrorCode::NeedsCheck,
                CopyError::TooLarge { .. } => ErrorCode::NoDataSpace,
            },
            Self::PoolHalfMade { .. }
            | Self::ContainerHalfMade { .. }
            | Self::VolumeHalfMade { .. }
            | Self::PoolNotOpen { .. }
            | Self::NoFileSystem { .. }
            | Self::Findings { .. } => ErrorCode::Failure,
            Self::MetadataSnapHeld { .. } => ErrorCode::Retry,
            Self::Rollback { cause, .. } => cause.code(),
        }
    }
}

fn io_code(error: &io::Error) -> ErrorCode {
    error.raw_os_error().map_or(ErrorCode::Failure, |raw| {
        errno_code(Errno::from_raw_os_error(raw))
    })
}

fn errno_code(errno: Errno) -> ErrorCode {
    match errno {
        Errno::NOENT | Errno::NXIO | Errno::NODEV | Errno::NOTDIR => ErrorCode::NotFound,
        Errno::EXIST => ErrorCode::Exists,
        Errno::BUSY => ErrorCode::Busy,
        Errno::NOSPC | Errno::DQUOT => ErrorCode::NoDataSpace,
        Errno::ACCESS | Errno::PERM => ErrorCode::Permission,
        Errno::NOSYS | Errno::OPNOTSUPP => ErrorCode::Unsupported,
        Errno::AGAIN => ErrorCode::Retry,
        _ => ErrorCode::Failure,
    }
}

fn ioctl_code(error: &IoctlError) -> ErrorCode {
    match error {
        IoctlError::NoDeviceMapper { .. }
        | IoctlError::NoLoop { .. }
        | IoctlError::Version { .. } => ErrorCode::Unsupported,
        IoctlError::LoopRace { .. } | IoctlError::LockReplaced { .. } => ErrorCode::Retry,
        error => error.errno().map_or(ErrorCode::Failure, errno_code),
    }
}

fn backing_code(error: &BackingError) -> ErrorCode {
    match error {
        BackingError::AlreadyExists { .. } => ErrorCode::Exists,
        BackingError::NotFound { .. } => ErrorCode::NotFound,
        BackingError::NotAFile { .. }
        | BackingError::NotABlockDevice { .. }
        | BackingError::Size { .. } => ErrorCode::Usage,
        BackingError::InUse { .. }
        | BackingError::AttachedTwice { .. }
        | BackingError::AttachedOtherwise { .. } => ErrorCode::Busy,
        BackingError::ReadOnly { .. } => ErrorCode::Permission,
        BackingError::Io { source, .. } => io_code(source),
        BackingError::Rollback { cause, .. } => backing_code(cause),
        BackingError::Ioctl(error) => ioctl_code(error),
    }
}

fn label_code(error: &LabelError) -> ErrorCode {
    match error {
        LabelError::Io { source, .. } => io_code(source),
        LabelError::Corrupt(_) => ErrorCode::NeedsCheck,
        LabelError::Newer { .. } => ErrorCode::Unsupported,
    }
}

fn store_code(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::NotFound { .. }
        | StoreError::ImageNotFound { .. }
        | StoreError::LayerNotFound { .. }
        | StoreError::NameNotFound { .. }
        | StoreError::ContainerNotFound { .. }
        | StoreError::DataVolumeNotFound { .. }
        | StoreError::SnapshotNotFound { .. }
        | StoreError::BallastNotFound => ErrorCode::NotFound,
        StoreError::CatalogueExists { .. }
        | StoreError::ContainerExists { .. }
        | StoreError::DataVolumeExists { .. }
        | StoreError::SnapshotExists { .. }
        | StoreError::LayerExists { .. }
        | StoreError::BaseExists { .. }
        | StoreError::BallastExists => ErrorCode::Exists,
        StoreError::InUse { .. }
        | StoreError::ImageInUse { .. }
        | StoreError::HasSnapshots { .. } => ErrorCode::Busy,
        // Another command removes what this one was to stand on, or has it in work.
        // Nobody names a volume by its number: one that is not there was when this command began.
        StoreError::Busy { .. }
        | StoreError::VolumeNotReady { .. }
        | StoreError::VolumeNotFound { .. } => ErrorCode::Retry,
        StoreError::NoSpace { .. } => ErrorCode::NoDataSpace,
        StoreError::TooSmall { .. }
        | StoreError::TooLarge { .. }
        | StoreError::PathNotUtf8 { .. }
        | StoreError::ImageAmbiguous { .. }
        | StoreError::LayerAmbiguous { .. }
        | StoreError::ImageName { .. } => ErrorCode::Usage,
        StoreError::Corrupt { .. } | StoreError::Generation { .. } => ErrorCode::NeedsCheck,
        StoreError::NewerFormat { .. } => ErrorCode::Unsupported,
        StoreError::Io { source, .. } => io_code(source),
        _ => ErrorCode::Failure,
    }
}

fn image_code(error: &ImageError) -> ErrorCode {
    match error {
        ImageError::NoSpace { .. } | ImageError::SpoolLimit { .. } => ErrorCode::NoDataSpace,
        ImageError::Read { source, .. }
        | ImageError::Spool { source, .. }
        | ImageError::Write(source)
        | ImageError::Split(source) => io_code(source),
        ImageError::BadSplit(_) | ImageError::LayerChanged { .. } => ErrorCode::NeedsCheck,
        ImageError::SourceChanged { .. } => ErrorCode::Busy,
        ImageError::Change(_) => ErrorCode::Usage,
        ImageError::Io { source, .. } => errno_code(*source),
        ImageError::NoMatchingPlatform { .. } => ErrorCode::NotFound,
        ImageError::UnknownMediaType { .. }
        | ImageError::ForeignLayer { .. }
        | ImageError::EncryptedLayer { .. }
        | ImageError::UnsupportedCompression { .. } => ErrorCode::Unsupported,
        ImageError::Thread(_) | ImageError::Cancelled => ErrorCode::Failure,
        ImageError::NotAnImage
        | ImageError::NoImages
        | ImageError::TooManyManifests
        | ImageError::TooManyMembers(_)
        | ImageError::MissingBlob { .. }
        | ImageError::DuplicateEntry { .. }
        | ImageError::NotAFile { .. }
        | ImageError::DocumentTooLarge { .. }
        | ImageError::Document { .. }
        | ImageError::Digest { .. }
        | ImageError::DigestMismatch { .. }
        | ImageError::SizeMismatch { .. }
        | ImageError::LayerCount { .. }
        | ImageError::Truncated { .. }
        | ImageError::Corrupt(_)
        | ImageError::BadTar { .. }
        | ImageError::PathEscape { .. }
        | ImageError::InvalidName { .. }
        | ImageError::ParentNotDirectory { .. }
        | ImageError::SymlinkLoop { .. }
        | ImageError::HardlinkTarget { .. }
        | ImageError::UnsupportedEntry { .. }
        | ImageError::TooDeep { .. }
        | ImageError::XattrTooLarge { .. } => ErrorCode::BadImage,
    }
}

fn dm_code(error: &DmError) -> ErrorCode {
    match error {
        DmError::Ioctl(error) => ioctl_code(error),
        DmError::AlreadyActive { .. } | DmError::NameTaken { .. } => ErrorCode::Exists,
        DmError::Busy { .. } | DmError::ThinInUse { .. } | DmError::MetadataSnapHeld { .. } => {
            ErrorCode::Busy
        }
        DmError::NotFound { .. } | DmError::NoSuchThin { .. } => ErrorCode::NotFound,
        DmError::PoolDegraded { .. } | DmError::TransactionMismatch { .. } => ErrorCode::NeedsCheck,
        DmError::Rollback { cause, .. } => dm_code(cause),
        _ => ErrorCode::Failure,
    }
}

fn fs_code(error: &FsError) -> ErrorCode {
    match error {
        FsError::ToolMissing { .. } | FsError::Unsupported { .. } => ErrorCode::Unsupported,
        FsError::UnmountBusy { .. } => ErrorCode::Busy,
        FsError::Ioctl(error) => ioctl_code(error),
        FsError::Mount { errno, .. }
        | FsError::Mounted { errno, .. }
        | FsError::Attach { errno, .. }
        | FsError::Unmount { errno, .. } => errno_code(*errno),
        _ => ErrorCode::Failure,
    }
}

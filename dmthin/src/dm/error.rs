//! What can go wrong with devices, pools and volumes, one variant per cause.

use std::path::PathBuf;

use crate::dm::line::LineError;
use crate::dm::status::PoolStatus;
use crate::ids::{DevNo, DmName, DmUuid, ThinId, TransactionId};
use crate::ioctl::{DeviceInfo, Errno, IoctlError};

/// A failed operation on a device, a pool or a volume.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DmError {
    /// The kernel said no in a way that has no variant of its own.
    #[error(transparent)]
    Ioctl(#[from] IoctlError),
    /// The device is active already.
    #[error("{} is active already, as device {}", info.name, info.dev)]
    AlreadyActive {
        /// The device there is.
        info: Box<DeviceInfo>,
    },
    /// Another device has the name.
    #[error("the name {name} is taken by another device, {dev}, which is not {uuid}")]
    NameTaken {
        /// The name.
        name: DmName,
        /// Who has it.
        dev: DevNo,
        /// Who wanted it.
        uuid: DmUuid,
    },
    /// There is no such device.
    #[error("no device {device} is active")]
    NotFound {
        /// Name, uuid or number, as the caller gave it.
        device: String,
    },
    /// Somebody has the device open.
    #[error("{name} ({dev}) is in use: unmount it and stop what has it open")]
    Busy {
        /// The device.
        name: DmName,
        /// Its number.
        dev: DevNo,
    },
    /// Something that is no device node is where a node should be.
    #[error("{path} is in the way of device {dev}: move it away", path = path.display())]
    NodeInTheWay {
        /// The path.
        path: PathBuf,
        /// The device whose node it should be.
        dev: DevNo,
    },
    /// An operation failed, and so did undoing its first half.
    #[error("{cause}; what was done already could not be undone: {undo}")]
    Rollback {
        /// The first failure.
        cause: Box<Self>,
        /// The second one.
        undo: Box<Self>,
    },
    /// A device has another target than it should.
    #[error("{device} has {found}, not one {expected} target")]
    WrongTarget {
        /// The device.
        device: String,
        /// The target it should have.
        expected: &'static str,
        /// What it has.
        found: String,
    },
    /// A device is a part of another device than it should be.
    #[error("{name} leads to device {found}, not to {expected}")]
    LeadsElsewhere {
        /// The device.
        name: DmName,
        /// What it leads to.
        found: DevNo,
        /// What it should lead to.
        expected: DevNo,
    },
    /// A table or status line is not understood.
    #[error("cannot read what {device} says of itself")]
    Line {
        /// The device.
        device: String,
        /// Where reading stopped.
        #[source]
        cause: LineError,
    },
    /// The pool has degraded: what was last asked of it may not be on disk.
    #[error("the pool {device} has degraded ({status}) at {message:?}: check its metadata")]
    PoolDegraded {
        /// The pool's device.
        device: DmName,
        /// What was asked.
        message: String,
        /// Its status line.
        status: Box<PoolStatus>,
    },
    /// The thin id is in use.
    #[error("thin id {id} exists in the pool {device} already")]
    ThinExists {
        /// The pool's device.
        device: DmName,
        /// The id.
        id: ThinId,
    },
    /// The pool has no such thin id.
    #[error("the pool {device} has no thin id {id}")]
    NoSuchThin {
        /// The pool's device.
        device: DmName,
        /// The id.
        id: ThinId,
    },
    /// The volume is active.
    #[error("thin id {id} of the pool {device} is active: deactivate it first")]
    ThinInUse {
        /// The pool's device.
        device: DmName,
        /// The id.
        id: ThinId,
    },
    /// The pool's transaction id is not what the caller thought.
    #[error("the pool {device} is at transaction {found}, not {expected}")]
    TransactionMismatch {
        /// The pool's device.
        device: DmName,
        /// What the caller thought.
        expected: TransactionId,
        /// What the pool says.
        found: TransactionId,
    },
    /// A metadata snapshot is held already.
    #[error("the pool {device} holds a metadata snapshot already")]
    MetadataSnapHeld {
        /// The pool's device.
        device: DmName,
    },
    /// No metadata snapshot is held.
    #[error("the pool {device} holds no metadata snapshot")]
    NoMetadataSnap {
        /// The pool's device.
        device: DmName,
    },
    /// No random numbers for a udev cookie.
    #[error("the kernel gives no random numbers: {errno}")]
    Random {
        /// Its reason.
        errno: Errno,
    },
}

impl DmError {
    /// The kernel's error number, where the error is one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Ioctl(error) => error.errno(),
            Self::Rollback { cause, .. } => cause.errno(),
            Self::Busy { .. } | Self::ThinInUse { .. } | Self::MetadataSnapHeld { .. } => {
                Some(Errno::BUSY)
            }
            Self::ThinExists { .. } => Some(Errno::EXIST),
            Self::NoSuchThin { .. } => Some(Errno::NODATA),
            Self::NotFound { .. } => Some(Errno::NXIO),
            _ => None,
        }
    }

    /// This failure, or both where undoing failed as well.
    pub(super) fn after_undo(self, undo: Result<(), Self>) -> Self {
        match undo {
            Ok(()) => self,
            Err(undo) => Self::Rollback {
                cause: Box::new(self),
                undo: Box::new(undo),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_undo_keeps_both_and_the_first_number() {
        let name = DmName::new("a").unwrap();
        let busy = || DmError::Busy {
            name: name.clone(),
            dev: DevNo::new(254, 3),
        };
        let lost = || DmError::NotFound {
            device: "a".to_owned(),
        };
        assert!(matches!(busy().after_undo(Ok(())), DmError::Busy { .. }));
        let both = busy().after_undo(Err(lost()));
        assert_eq!(both.errno(), Some(Errno::BUSY));
        assert_eq!(
            both.to_string(),
            "a (254:3) is in use: unmount it and stop what has it open; what was done already \
             could not be undone: no device a is active"
        );
    }
}

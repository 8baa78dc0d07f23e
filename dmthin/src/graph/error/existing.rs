//! What is wrong with a thin-pool that somebody else made.

use std::path::PathBuf;

use crate::graph::code::ErrorCode;
use crate::ids::{DmName, PoolName};

/// A thin-pool of somebody else's cannot be used, or not for that.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExistingError {
    /// What was to be somebody else's thin-pool is something else.
    #[error("{} is no thin-pool", path.display())]
    NotOne {
        /// As it was given.
        path: PathBuf,
    },
    /// A thin-pool that a pool of ours is, or is in.
    #[error("thin-pool {thin_pool} is in use by pool {user}")]
    Taken {
        /// The thin-pool.
        thin_pool: DmName,
        /// The pool, by its name or its uuid.
        user: String,
    },
    /// A pool lies in a thin-pool that its owner did not activate.
    #[error("thin-pool {thin_pool}, which pool {name} is in, is not active")]
    Inactive {
        /// The pool.
        name: PoolName,
        /// The thin-pool.
        thin_pool: DmName,
    },
    /// The thin-pool is not the one that the pool was made in.
    #[error(
        "thin-pool {thin_pool} does not have the base volume of pool {name}: it is another one, or was restored"
    )]
    Other {
        /// The pool.
        name: PoolName,
        /// The thin-pool.
        thin_pool: DmName,
    },
    /// What only the owner of a thin-pool may do.
    #[error("pool {name} is in thin-pool {thin_pool}, which is not ours to change")]
    NotOurs {
        /// The pool.
        name: PoolName,
        /// The thin-pool.
        thin_pool: DmName,
    },
}

impl ExistingError {
    pub(in crate::graph) const fn code(&self) -> ErrorCode {
        match self {
            Self::NotOne { .. } | Self::NotOurs { .. } => ErrorCode::Usage,
            Self::Taken { .. } => ErrorCode::Busy,
            Self::Inactive { .. } => ErrorCode::Failure,
            Self::Other { .. } => ErrorCode::NeedsCheck,
        }
    }

    pub(in crate::graph) fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Inactive { .. } => "activate it first, as with lvchange -ay VG/POOL",
            Self::Other { .. } => {
                "nothing was changed; activate the thin-pool that the pool was made in"
            }
            Self::NotOurs { .. } => "its owner grows it, as with lvextend -L +SIZE VG/POOL",
            Self::NotOne { .. } | Self::Taken { .. } => return None,
        })
    }
}

//! Why nothing new is made in a pool, though it works.

use std::path::PathBuf;

use crate::graph::code::ErrorCode;
use crate::ids::PoolName;
use crate::units::{Bytes, Percent};

/// There is too little room left for anything new.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The pool's data is nearly full: nothing new is made.
    #[error(
        "pool {name} has {free} of {total} data left, and keeps {least} free: nothing new is made in it"
    )]
    Data {
        /// The pool.
        name: PoolName,
        /// What is free.
        free: Bytes,
        /// Of how much.
        total: Bytes,
        /// What must stay free.
        least: Percent,
    },
    /// The pool's metadata is nearly full: nothing new is made.
    #[error(
        "pool {name} has {free} of {total} metadata left, and keeps {least} free: nothing new is made in it"
    )]
    Metadata {
        /// The pool.
        name: PoolName,
        /// What is free.
        free: Bytes,
        /// Of how much.
        total: Bytes,
        /// What must stay free.
        least: Percent,
    },
    /// The host's file system below a pool on a file is nearly full: nothing new is made.
    #[error("the file system of {} has {free} left, and {least} are kept free: nothing new is made in the pool", path.display())]
    Host {
        /// The pool's file.
        path: PathBuf,
        /// What is free.
        free: Bytes,
        /// What must stay free.
        least: Bytes,
    },
    /// More would be promised than there is, in a pool where it must not.
    #[error(
        "pool {name} would promise {writable} to containers and hold up to {sealed} for images, of \
         {total} of data, and promises no more than it has"
    )]
    Overcommitted {
        /// The pool.
        name: PoolName,
        /// What containers, and what is being made, could come to use.
        writable: Bytes,
        /// What images hold, at the most.
        sealed: Bytes,
        /// The pool's data.
        total: Bytes,
    },
    /// The pool has too few blocks left for the copy of its catalogue.
    #[error(
        "pool {name} has {free} of its data left, and {need} are to be left before the copy of its catalogue \
         takes any"
    )]
    Mirror {
        /// The pool.
        name: PoolName,
        /// What is left.
        free: Bytes,
        /// What has to be.
        need: Bytes,
    },
}

impl GuardError {
    pub(in crate::graph) const fn code(&self) -> ErrorCode {
        match self {
            Self::Data { .. }
            | Self::Host { .. }
            | Self::Overcommitted { .. }
            | Self::Mirror { .. } => ErrorCode::NoDataSpace,
            Self::Metadata { .. } => ErrorCode::NoMetadataSpace,
        }
    }

    pub(in crate::graph) fn hint(&self) -> String {
        match self {
            Self::Data { name, .. } => format!(
                "grow it: pool-cli pool grow {name} --data +SIZE; or remove containers and images"
            ),
            Self::Overcommitted { name, .. } => format!(
                "grow it: pool-cli pool grow {name} --data +SIZE; remove something; or let it: \
                 pool-cli pool set {name} --overcommit yes"
            ),
            Self::Metadata { name, .. } => format!(
                "grow it: pool-cli pool grow {name} --metadata +SIZE; or remove containers and images"
            ),
            Self::Mirror { name, .. } => {
                format!(
                    "grow it: pool-cli pool grow {name} --data +SIZE; then: pool-cli pool open {name}"
                )
            }
            Self::Host { .. } => {
                "make room on the host's file system, or remove containers and images".to_owned()
            }
        }
    }
}

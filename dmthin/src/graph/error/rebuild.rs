//! Why a catalogue is not made again of what is in its pool, or its copy there is not kept.

use crate::graph::code::ErrorCode;
use crate::ids::PoolName;
use crate::label::MirrorError;
use crate::units::Bytes;

/// The copy of the catalogue in the pool is not kept, or not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// A catalogue that is to be made again is sound, and the pool's.
    #[error("the catalogue of pool {name} is sound, and the pool's: nothing is to be made again")]
    Sound {
        /// The pool.
        name: PoolName,
    },
    /// Nothing says what a pool lies on that has no catalogue.
    #[error("pool {name} has no files under the root, and no catalogue that says what it lies on")]
    Where {
        /// The pool.
        name: PoolName,
    },
    /// The copy of the catalogue in the pool cannot be used.
    #[error("the copy of the catalogue in pool {name} cannot be used")]
    Mirror {
        /// The pool.
        name: PoolName,
        /// Why not.
        #[source]
        source: MirrorError,
    },
    /// The catalogue has outgrown the copy in the pool.
    #[error(
        "the catalogue of pool {name} does not fit in the {most} that its copy in the pool may take"
    )]
    Full {
        /// The pool.
        name: PoolName,
        /// The room.
        most: Bytes,
    },
}

impl RebuildError {
    pub(in crate::graph) const fn code(&self) -> ErrorCode {
        match self {
            Self::Sound { .. } => ErrorCode::Exists,
            Self::Where { .. } => ErrorCode::Usage,
            Self::Mirror { .. } => ErrorCode::NeedsCheck,
            Self::Full { .. } => ErrorCode::NoDataSpace,
        }
    }

    pub(in crate::graph) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Sound { name } => format!("open it: pool-cli pool open {name}"),
            Self::Where { name } => format!(
                "name what it lies on: pool-cli pool recover {name} --rebuild --data DEV --metadata DEV, or \
                 --device DEV"
            ),
            Self::Mirror { .. } => "use the version that wrote it, or a later one".to_owned(),
            Self::Full { .. } => return None,
        })
    }
}

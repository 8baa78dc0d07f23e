//! Whether a catalogue is that of the pool it lies beside, where their transaction ids do not tell.
//!
//! The transaction id changes when a pool is opened. A catalogue that was copied since, or lost its
//! write-ahead log, and is put back has the right one all the same. But a thin id is given out durably
//! before the kernel hears of it, and never twice: a pool that has an id which its catalogue
//! has not given out yet was used with a later one. Going on with the older one would give ids out again, and
//! take every container made since for nobody's. Another pool's catalogue is known by the name in it, and by
//! the uuid of the base volume's file system, which is read through the pool's metadata: all of this before
//! the kernel has the pool, so that nothing was written when it is refused.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::backing::Attached;
use crate::dm::names;
use crate::fs::probe_at;
use crate::graph::error::PoolError;
use crate::graph::host::Host;
use crate::graph::pool::Pool;
use crate::graph::reading::Window;
use crate::graph::survey::owns_all_ids;
use crate::ids::{PoolName, ThinId};
use crate::ioctl::{self, DevId};
use crate::store::PoolRecord;
use crate::thinmeta::{Metadata, ReadError};
use crate::units::Bytes;

/// Why a catalogue is not the pool's. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PairingError {
    /// What the pool lies on is there, its catalogue is not.
    #[error("the catalogue of pool {name} is gone: there is no {}", path.display())]
    Lost {
        /// The pool.
        name: PoolName,
        /// Where its catalogue was.
        path: PathBuf,
    },
    /// The pool has a thin device that the catalogue has not given out yet.
    #[error(
        "the catalogue of pool {name} is older than the pool, which has thin device {found} already; the \
         catalogue's next one is {next}"
    )]
    Older {
        /// The pool.
        name: PoolName,
        /// What the pool has.
        found: ThinId,
        /// What the catalogue would give out next.
        next: ThinId,
        /// Where the catalogue is.
        path: PathBuf,
    },
    /// The catalogue says that it is another pool's.
    #[error("the catalogue in the directory of pool {name} is that of pool {found}")]
    OtherName {
        /// The pool whose directory it is.
        name: PoolName,
        /// Whose catalogue it is.
        found: PoolName,
        /// Where the catalogue is.
        path: PathBuf,
    },
    /// What is in the pool says that it is another one.
    #[error(
        "what pool {name} is to be made again of is {}",
        found.as_ref().map_or_else(|| "two pools' halves".to_owned(), |found| format!("pool {found}"))
    )]
    OtherPool {
        /// The pool that was named.
        name: PoolName,
        /// The pool that it is, where it says so.
        found: Option<PoolName>,
    },
    /// The base volume is not the one that the catalogue knows.
    #[error(
        "the catalogue of pool {name} is that of another pool of this name: base volume {base} is not its own"
    )]
    OtherBase {
        /// The pool.
        name: PoolName,
        /// The thin device that should be the base.
        base: ThinId,
        /// Where the catalogue is.
        path: PathBuf,
    },
}

impl PairingError {
    pub(super) fn hint(&self) -> String {
        match self {
            Self::Lost { name, path } => format!(
                "nothing was changed; put the pool's catalogue.db back, the latest there is, with its \
                 catalogue.db-wal; or have it made again of what is in the pool: pool-cli pool recover {name} \
                 --rebuild; to give pool {name} up with all that is in it remove {}",
                path.parent().unwrap_or(path).display()
            ),
            Self::Older { name, path, .. }
            | Self::OtherName { name, path, .. }
            | Self::OtherBase { name, path, .. } => restore(path, name),
            Self::OtherPool { .. } => {
                "nothing was changed; name the pool as its own copy does, and what it lies on"
                    .to_owned()
            }
        }
    }
}

/// What to do about a catalogue that is not to be used.
pub(super) fn restore(path: &Path, name: impl std::fmt::Display) -> String {
    format!(
        "nothing was changed; put the pool's own and latest {} back, with the -wal beside it; or have it made \
         again of what is in the pool: pool-cli pool recover {name} --rebuild",
        path.display()
    )
}

impl Host {
    /// What is wrong with a pool that has no catalogue: its making or its end was cut, which leaves a draft of
    /// it or nothing but the locks; else it was lost.
    pub(crate) fn without_catalogue(&self, name: &PoolName) -> PoolError {
        let path = self.layout().catalogue(name);
        let cut = || -> io::Result<bool> {
            let mut only_locks = true;
            for entry in fs::read_dir(self.layout().pool_dir(name))? {
                let found = entry?.path();
                if found == path.with_extension("db.new") {
                    return Ok(true);
                }
                only_locks &= found == self.layout().locks(name);
            }
            Ok(only_locks)
        };
        // Of what lies on devices nothing else may be left in the directory.
        let is_open = self
            .dm()
            .and_then(|dm| Ok(dm.find(DevId::Name(&names::pool_name(name)))?))
            .is_ok_and(|device| device.is_some());
        let name = name.clone();
        if !is_open && cut().unwrap_or(false) {
            PoolError::PoolHalfMade { name }
        } else {
            PairingError::Lost { name, path }.into()
        }
    }
}

impl Pool {
    fn catalogue_path(&self) -> PathBuf {
        self.catalogue().path().to_owned()
    }

    /// That a catalogue's record is this pool's.
    pub(crate) fn require_own_name(&self, record: PoolRecord) -> Result<PoolRecord, PoolError> {
        if record.name == *self.name() {
            return Ok(record);
        }
        Err(PairingError::OtherName {
            name: self.name().clone(),
            found: record.name,
            path: self.catalogue_path(),
        }
        .into())
    }

    /// The error of a thin id that the pool has and the catalogue has not given out.
    pub(crate) fn older_catalogue(&self, found: ThinId, next: ThinId) -> PoolError {
        PairingError::Older {
            name: self.name().clone(),
            found,
            next,
            path: self.catalogue_path(),
        }
        .into()
    }

    /// Refuses a catalogue that is older than a closed pool, or of another pool. Gives the pool's thin devices.
    pub(crate) fn require_own_volumes(
        &self,
        record: &PoolRecord,
        data: &Attached,
        metadata: &Attached,
    ) -> Result<BTreeSet<ThinId>, PoolError> {
        if !owns_all_ids(record) {
            return Ok(BTreeSet::new());
        }
        let base = self.catalogue().bases()?.into_iter().next();
        let device = Window::whole(ioctl::open_direct(metadata.node())?);
        let read = || -> Result<_, ReadError> {
            let Some(mut metadata) = Metadata::of_closed(device)? else {
                return Ok((BTreeSet::new(), None));
            };
            let devices = metadata.devices()?.into_iter();
            let devices = devices.map(|device| device.id).collect();
            let runs = match &base {
                Some(base) => metadata.runs(base.thin_id)?,
                None => None,
            };
            // A file system has its superblock at its begin.
            let begin = runs
                .and_then(|runs| runs.first().copied())
                .filter(|run| run.begin.get() == 0);
            Ok((devices, begin.map(|run| run.data)))
        };
        let (devices, begin) = read()
            .map_err(|source| self.metadata_error(self.backing_path(&record.metadata), source))?;
        if let (Some(found), Some(next)) = (record.not_given(&devices), record.next_thin_id) {
            return Err(self.older_catalogue(found, next));
        }
        // One that the pool lost is told by `check`.
        let (Some(base), Some(begin)) = (base, begin) else {
            return Ok(devices);
        };
        let at: Bytes = begin.to_bytes_saturating(record.block_size);
        let node = data.node();
        let file = fs::File::open(node).map_err(|source| PoolError::io("read", node, source))?;
        let found = probe_at(&file, at)?.map(|superblock| superblock.uuid.to_string());
        if found == base.fs_uuid {
            return Ok(devices);
        }
        Err(PairingError::OtherBase {
            name: self.name().clone(),
            base: base.thin_id,
            path: self.catalogue_path(),
        }
        .into())
    }
}

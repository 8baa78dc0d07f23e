//! The copy of the catalogue on a pool's disk, and opening a disk that came from another host.
//!
//! The copy is written when a pool is made, before its transaction id changes, at the end of `pool open`,
//! after each verb that changed the catalogue, and by `pool close`, which marks it as the last word.
//! A verb has succeeded without it: where it cannot be written that is logged, and the next verb tries
//! again. A catalogue of more than [`SMALL`] is copied by import, open and close only.
//!
//! A disk that was pulled without a close may be ahead of its copy by the verb that ran. Both pair all the
//! same, as the transaction id changes only after its intent is in the copy. What the copy does not know
//! stays in the pool: ids are then given out as in another's thin-pool, where one that is taken is passed
//! over and none is touched that was not made at our word.

use std::path::Path;

use crate::backing::BlockDevice;
use crate::graph::create::{absolute, remove_path, require_clear};
use crate::graph::disk::read_label;
use crate::graph::error::PoolError;
use crate::graph::host::Host;
use crate::graph::live::Live;
use crate::graph::mirror::Flush;
use crate::graph::pool::Pool;
use crate::graph::report::{Change, PoolReport};
use crate::graph::step::Step;
use crate::ids::PoolName;
use crate::label::{self, CatalogueCopy, Label};
use crate::store::{Catalogue, MovedPool, PoolRecord, StoreError, Timestamp};
use crate::units::Bytes;

/// A catalogue up to this size is copied after each verb; a larger one would hold each of them up.
const SMALL: Bytes = Bytes::from_mib(1);

/// That a pool's catalogue was taken from its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Adopted {
    /// Whether the pool was closed where it came from; if not, it may have volumes that its
    /// catalogue does not know.
    pub closed: bool,
    /// When the copy was written, in seconds since 1970.
    pub written: u64,
}

impl Host {
    /// Opens the pool whose label a disk has; under another name, if one is given and the pool is not
    /// known here. A pool that is known under this root is looked for on this disk from now on.
    ///
    /// # Errors
    /// [`PoolError::NoLabel`], [`PoolError::Label`]; [`PoolError::PoolExists`] where another pool has
    /// the name; [`PoolError::Copy`] where the disk has no copy of the catalogue; and as of
    /// [`Host::open_pool`]. One that failed left nothing behind.
    pub fn open_disk(
        &self,
        path: &Path,
        name: Option<&PoolName>,
    ) -> Result<(Change, PoolReport, Option<Adopted>), PoolError> {
        let disk = BlockDevice::open(path)?;
        let label = read_label(&disk)?.ok_or_else(|| PoolError::NoLabel {
            path: path.to_owned(),
        })?;
        let known = self
            .pools()?
            .into_iter()
            .find(|pool| pool.uuid == Some(label.pool))
            .map(|pool| pool.name);
        let name = name.or(known.as_ref()).unwrap_or(&label.name);
        if known.as_ref() == Some(name) {
            self.point_at(name, path)?;
            let (change, report) = self.open_pool(name)?;
            return Ok((change, report, None));
        }
        if self.layout().exists(name) || known.is_some() {
            return Err(PoolError::PoolExists {
                name: known.as_ref().unwrap_or(name).clone(),
                path: self.layout().pool_dir(known.as_ref().unwrap_or(name)),
            });
        }
        require_clear(name)?;
        // Open under another root of this host, or somebody else's by now.
        disk.check_unused()?;
        let (report, adopted) = self.adopt(&disk, &label, name)?;
        Ok((Change::Changed, report, Some(adopted)))
    }

    /// Has a closed pool that is known here look for its disk where that is now.
    fn point_at(&self, name: &PoolName, path: &Path) -> Result<(), PoolError> {
        let pool = self.pool(name)?;
        let path = absolute(path)?;
        let Some(_lock) = pool.locks().try_whole_pool()? else {
            return Ok(());
        };
        let record = pool.record()?;
        if record.disk() != Some(&path) && self.pool_device(&record)?.is_none() {
            pool.catalogue().set_disk(&path)?;
            Step::M3.passed(name);
        }
        Ok(())
    }

    /// Makes the disk's copy the catalogue of this host, and opens the pool.
    fn adopt(
        &self,
        disk: &BlockDevice,
        label: &Label,
        name: &PoolName,
    ) -> Result<(PoolReport, Adopted), PoolError> {
        let copy = label::read_copy(disk.file(), label).map_err(|source| PoolError::Copy {
            path: disk.path().to_owned(),
            source,
        })?;
        let moved = MovedPool {
            name: name.clone(),
            disk: absolute(disk.path())?,
            foreign_ids: !copy.closed,
        };
        let dir = self.layout().pool_dir(name);
        Self::make_dir(&dir)?;
        Step::M1.passed(name);
        let catalogue = self.layout().catalogue(name);
        let catalogue = match Catalogue::adopt(catalogue, &copy.content, &moved) {
            Err(StoreError::CatalogueExists { path }) => {
                return Err(PoolError::PoolExists {
                    name: name.clone(),
                    path,
                });
            }
            Err(error) => {
                return Err(PoolError::from(error).with_undo(remove_path(&dir, true)));
            }
            Ok(catalogue) => catalogue,
        };
        Step::M2.passed(name);
        let pool = Pool::with_catalogue(self, name, catalogue)?;
        let lock = pool.locks().whole_pool()?;
        match pool.open() {
            Ok(_) => {
                drop(lock);
                let adopted = Adopted {
                    closed: copy.closed,
                    written: copy.written,
                };
                Ok((pool.status()?, adopted))
            }
            Err(error) => Err(error.with_undo(self.remove_files(name))),
        }
    }
}

impl Pool {
    /// Writes the copy of the catalogue, where the pool lies on a disk of its own.
    pub(crate) fn copy_catalogue(
        &self,
        record: &PoolRecord,
        closed: bool,
    ) -> Result<(), PoolError> {
        let Some((disk, label)) = self.disk(record)? else {
            return Ok(());
        };
        let _lock = self.locks().copy()?;
        let copy = CatalogueCopy {
            closed,
            written: Timestamp::now().to_unix(),
            content: self.catalogue().content()?,
        };
        label::write_copy(disk.file(), &label, &copy).map_err(|source| PoolError::Copy {
            path: disk.path().to_owned(),
            source,
        })?;
        Step::K1.passed(self.name());
        Ok(())
    }
}

impl Pool {
    /// Has the copy follow a change of the pool's settings; a closed pool's follows when it is opened.
    pub(crate) fn copy_if_open(&self) -> Result<(), PoolError> {
        match self.live() {
            Ok(live) => {
                drop(live);
                Ok(())
            }
            Err(PoolError::PoolNotOpen { .. } | PoolError::PoolHalfMade { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Live<'_> {
    /// At the end of a verb that changed the catalogue its copies follow.
    fn drop(&mut self) {
        if self.is_verb() {
            self.mirror(Flush::No);
        }
        let catalogue = self.pool().catalogue();
        if self.record().disk().is_none() || !self.is_verb() || !catalogue.was_written() {
            return;
        }
        let large = || {
            let size = std::fs::metadata(catalogue.path()).map_or(0, |found| found.len());
            Bytes::new(size) > SMALL
        };
        if large() {
            return;
        }
        if let Err(error) = self.pool().copy_catalogue(self.record(), false) {
            tracing::warn!(%error, "the catalogue's copy on the disk is not up to date");
        }
    }
}

//! The host: a root directory with pools in it, and the kernel below.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::dm::{Dm, DmError, OwnUuid, ThinPoolTable};
use crate::graph::error::PoolError;
use crate::graph::layout::Layout;
use crate::graph::pool::Pool;
use crate::graph::report::{PoolSummary, PoolWord};
use crate::ids::PoolName;
use crate::ioctl::{DEV_MAPPER, DevId, DeviceInfo, Errno, place};
use crate::store::{Catalogue, PoolRecord, PoolState, StoreError};

/// A root directory and the kernel of this host.
///
/// Cheap to make and to clone: neither is looked at before a verb needs it.
#[derive(Debug, Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    dm: OnceLock<Dm>,
}

impl Host {
    /// The host with its pools under `root` (`/var/lib/dmthin` for the system's own).
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            inner: Arc::new(Inner {
                layout: Layout::new(root),
                dm: OnceLock::new(),
            }),
        }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// The device mapper, opened at its first use.
    pub(crate) fn dm(&self) -> Result<&Dm, PoolError> {
        if let Some(dm) = self.inner.dm.get() {
            return Ok(dm);
        }
        let dm = Dm::open(&place(DEV_MAPPER))?;
        Ok(self.inner.dm.get_or_init(|| dm))
    }

    /// Every pool under the root, sorted by name; a damaged one is listed with its problem.
    ///
    /// # Errors
    /// [`PoolError::Io`] where the root cannot be read, [`PoolError::Dm`] where the kernel cannot be asked.
    pub fn pools(&self) -> Result<Vec<PoolSummary>, PoolError> {
        let names = self.pool_names()?;
        names.into_iter().map(|name| self.summary(name)).collect()
    }

    pub(crate) fn pool_names(&self) -> Result<Vec<PoolName>, PoolError> {
        let layout = self.layout();
        layout
            .pools()
            .map_err(|source| PoolError::io("read", layout.root(), source))
    }

    fn summary(&self, name: PoolName) -> Result<PoolSummary, PoolError> {
        let mut summary = PoolSummary {
            name,
            uuid: None,
            state: PoolWord::Damaged,
            data_size: None,
            images: 0,
            containers: 0,
            problem: None,
        };
        let read = || -> Result<_, StoreError> {
            let catalogue = Catalogue::open(self.layout().catalogue(&summary.name))?;
            Ok((catalogue.pool()?, catalogue.counts()?))
        };
        match read() {
            Ok((record, counts)) => {
                summary.uuid = Some(record.uuid);
                summary.state = self.word(&record)?;
                summary.data_size = Some(record.data_size);
                summary.images = counts.nr_images;
                summary.containers = counts.nr_containers;
            }
            Err(StoreError::NotFound { .. }) => match self.without_catalogue(&summary.name) {
                // What a cut `pool create` left before its catalogue.
                PoolError::PoolHalfMade { .. } => summary.state = PoolWord::Creating,
                lost => summary.problem = Some(lost.to_string()),
            },
            Err(problem) => summary.problem = Some(problem.to_string()),
        }
        Ok(summary)
    }

    /// A pool's state in a word.
    pub(crate) fn word(&self, record: &PoolRecord) -> Result<PoolWord, PoolError> {
        Ok(match record.state {
            PoolState::Creating => PoolWord::Creating,
            PoolState::Destroying => PoolWord::Destroying,
            PoolState::Ready if self.pool_device(record)?.is_some() => PoolWord::Open,
            PoolState::Ready => PoolWord::Closed,
        })
    }

    /// The pool's thin-pool device, where there is one that works.
    pub(crate) fn pool_device(&self, record: &PoolRecord) -> Result<Option<DeviceInfo>, PoolError> {
        let uuid = OwnUuid::pool(record.uuid).to_dm_uuid();
        let device = self.dm()?.find(DevId::Uuid(&uuid))?;
        Ok(device.filter(|device| device.active_table))
    }

    /// The cause of a pool that could not be activated: the kernel tries to load a target it lacks
    /// (`drivers/md/dm-target.c:dm_get_target_type`), and says no more than EINVAL if it cannot.
    pub(crate) fn without_thin_pool(&self, error: DmError) -> PoolError {
        let lacks_target = error.errno() == Some(Errno::INVAL)
            && self
                .dm()
                .ok()
                .and_then(|dm| dm.control().list_versions().ok())
                .is_some_and(|targets| {
                    !targets
                        .iter()
                        .any(|target| target.name == ThinPoolTable::TARGET)
                });
        if lacks_target {
            PoolError::NoThinPool
        } else {
            error.into()
        }
    }

    /// The pool that is meant: the named one, or the only one.
    ///
    /// # Errors
    /// [`PoolError::PoolNotFound`], [`PoolError::NoPool`] or [`PoolError::SeveralPools`].
    pub fn pick_pool(&self, name: Option<&PoolName>) -> Result<PoolName, PoolError> {
        let root = || self.layout().root().to_owned();
        if let Some(name) = name {
            return if self.pool_names()?.contains(name) {
                Ok(name.clone())
            } else {
                Err(PoolError::PoolNotFound {
                    name: name.clone(),
                    root: root(),
                })
            };
        }
        let mut names = self.pool_names()?;
        match (names.pop(), names.is_empty()) {
            (None, _) => Err(PoolError::NoPool { root: root() }),
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                names.push(last);
                Err(PoolError::SeveralPools { names })
            }
        }
    }

    /// A pool, whose catalogue is opened; its device need not exist.
    ///
    /// # Errors
    /// [`PoolError::PoolNotFound`]; [`PoolError::PoolHalfMade`] where `pool create` was cut;
    /// [`PoolError::Store`] where the catalogue cannot be used.
    pub fn pool(&self, name: &PoolName) -> Result<Pool, PoolError> {
        let name = self.pick_pool(Some(name))?;
        match Pool::open_catalogue(self, &name) {
            Err(PoolError::Store(StoreError::NotFound { .. })) => {
                Err(self.without_catalogue(&name))
            }
            result => result,
        }
    }

    /// Makes the root, and a directory in it, for root's eyes only.
    pub(crate) fn make_dir(dir: &Path) -> Result<(), PoolError> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| PoolError::io("make", dir, source))
    }
}

//! Where things are on the host: one directory a pool under one root, and nothing elsewhere.
//!
//! ```text
//! ROOT/            /var/lib/dmthin unless moved, mode 0700
//!   POOL/          mode 0700
//!     catalogue.db what the volumes are called (crate::store)
//!     data.img     sparse file below the pool's data device    (absent on real devices)
//!     metadata.img sparse file below the pool's metadata device (absent on real devices)
//!     metadata-backup-TIME  the metadata before a repair
//!     metadata-copy-TIME    their trees as they were then; see crate::graph::backup
//!     space        who took its room when that was last asked; worth nothing
//!     usage        how full it was lately; worth nothing
//!     mirror-tail  where the log of the copy in the pool goes on, see crate::graph::mirror
//!     catalogue.db.lost-N   what was put aside when the catalogue was made again
//!     locks        byte ranges locked, see crate::graph::locks
//!     bell         a FIFO that the pool's monitor reads, see crate::graph::monitor
//!     layers/      what gives the tars of layers back, see crate::graph::split; mode 0700
//!     metadata-snap  while the metadata are read, see crate::graph::reading
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::ids::PoolName;
use crate::ioctl::DEV_MAPPER;
use crate::store::BackingRecord;

/// Name of the data file in a pool's directory.
pub(crate) const DATA_FILE: &str = "data.img";
/// Name of the metadata file in a pool's directory.
pub(crate) const METADATA_FILE: &str = "metadata.img";

/// A copy of the metadata that is being written.
pub(crate) const COPY_DRAFT: &str = "metadata-copy.new";

/// Why there is a copy of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackupKind {
    /// They were about to be repaired: all of them, as they were.
    BeforeRepair,
    /// In time: their trees, from which they can be made again.
    Copy,
}

impl BackupKind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::BeforeRepair => "metadata-backup-",
            Self::Copy => "metadata-copy-",
        }
    }

    /// The name of one of a time, in seconds since 1970.
    pub(crate) fn name(self, time: u64) -> String {
        format!("{}{time}", self.prefix())
    }
}

/// The root directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn pool_dir(&self, pool: &PoolName) -> PathBuf {
        self.root.join(pool.as_str())
    }

    pub(crate) fn catalogue(&self, pool: &PoolName) -> PathBuf {
        self.pool_dir(pool).join("catalogue.db")
    }

    /// The file or device of one half of a pool.
    pub(crate) fn backing(&self, pool: &PoolName, backing: &BackingRecord) -> PathBuf {
        match backing {
            BackingRecord::File { name } => self.pool_dir(pool).join(name),
            BackingRecord::Device { path } | BackingRecord::Part { path, .. } => path.clone(),
            BackingRecord::ThinPool(existing) => Path::new(DEV_MAPPER).join(existing.name.as_str()),
        }
    }

    pub(crate) fn locks(&self, pool: &PoolName) -> PathBuf {
        self.pool_dir(pool).join("locks")
    }

    pub(crate) fn samples(&self, pool: &PoolName) -> PathBuf {
        self.pool_dir(pool).join("usage")
    }

    pub(crate) fn space(&self, pool: &PoolName) -> PathBuf {
        self.pool_dir(pool).join("space")
    }

    pub(crate) fn bell(&self, pool: &PoolName) -> PathBuf {
        self.pool_dir(pool).join("bell")
    }

    /// Where the log of the copy in the pool goes on.
    pub(crate) fn mirror_tail(&self, pool: &PoolName) -> PathBuf {
        self.pool_dir(pool).join("mirror-tail")
    }

    /// What was put aside when the catalogue was made again, and a draft of one.
    pub(crate) fn kept_catalogues(&self, pool: &PoolName) -> Vec<PathBuf> {
        self.named(pool, &|name| {
            ["catalogue.db.lost-", "catalogue.db.rebuilt"]
                .iter()
                .any(|begin| name.starts_with(begin))
        })
    }

    pub(crate) fn metadata_snap(&self, pool: &PoolName) -> PathBuf {
        self.pool_dir(pool).join("metadata-snap")
    }

    /// Copies of a pool's metadata, the oldest first.
    pub(crate) fn backups(&self, pool: &PoolName, kind: BackupKind) -> Vec<PathBuf> {
        self.named(pool, &|name| name.starts_with(kind.prefix()))
    }

    /// Files of a pool by their names, sorted.
    fn named(&self, pool: &PoolName, is_one: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.pool_dir(pool)).into_iter().flatten();
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(is_one))
            .map(|entry| entry.path())
            .collect();
        found.sort();
        found
    }

    /// The files of a pool that are there.
    pub(crate) fn files(&self, pool: &PoolName) -> Vec<PathBuf> {
        [
            DATA_FILE,
            METADATA_FILE,
            COPY_DRAFT,
            "metadata-snap",
            "usage",
            "space",
            "space.new",
            "bell",
            "mirror-tail",
            "catalogue.db",
            "catalogue.db-wal",
            "catalogue.db-shm",
            "locks",
        ]
        .into_iter()
        .map(|file| self.pool_dir(pool).join(file))
        .filter(|file| file.exists())
        .chain(self.backups(pool, BackupKind::BeforeRepair))
        .chain(self.backups(pool, BackupKind::Copy))
        .chain(self.splits(pool))
        .chain(self.kept_catalogues(pool))
        .collect()
    }

    /// Every directory under the root that bears a pool's name and holds something of a pool, in
    /// the order of the names. A root that does not exist holds none.
    pub(crate) fn pools(&self) -> io::Result<Vec<PoolName>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut pools = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            if let Some(pool) = name.to_str().and_then(|name| PoolName::new(name).ok())
                && self.exists(&pool)
            {
                pools.push(pool);
            }
        }
        pools.sort();
        Ok(pools)
    }

    /// Whether something of this pool is there: its catalogue, or what a cut `pool create` left.
    pub(crate) fn exists(&self, pool: &PoolName) -> bool {
        let dir = self.pool_dir(pool);
        ["catalogue.db", DATA_FILE, METADATA_FILE, "locks"]
            .iter()
            .any(|file| dir.join(file).exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_directories_that_hold_something_of_a_pool() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("root"));
        assert_eq!(layout.pools().unwrap(), []);
        for (name, file) in [
            ("tank", "catalogue.db"),
            ("half", DATA_FILE),
            ("other", "readme"),
        ] {
            let pool = layout.root().join(name);
            fs::create_dir_all(&pool).unwrap();
            fs::write(pool.join(file), "").unwrap();
        }
        fs::create_dir(layout.root().join("not a pool")).unwrap();
        let names: Vec<_> = layout
            .pools()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(names, ["half", "tank"]);
    }
}

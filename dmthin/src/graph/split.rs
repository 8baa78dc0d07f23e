//! The records of layers' tars (`crate::image::rebuild_layer`), one file a layer: `layers/<volume id>.split` in
//! the pool's directory, for a volume's id is given once, and the volume's row says whose it is.
//!
//! A record is written under another name while its layer is made, flushed, renamed and its directory flushed
//! before the layer is sealed: a sealed layer of this host has one. It goes with its volume's row. One without
//! a row is what a cut between these two leaves: `check` finds it, `gc` takes it away.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::graph::error::PoolError;
use crate::graph::layout::Layout;
use crate::graph::pool::Pool;
use crate::ids::{PoolName, VolumeId};

/// What a record's name ends in, and that of one being written.
const RECORD: &str = "split";
const DRAFT: &str = "new";

impl Layout {
    /// Where the records of a pool's layers are.
    pub(crate) fn layers(&self, pool: &PoolName) -> PathBuf {
        self.pool_dir(pool).join("layers")
    }

    /// Every record and draft of one that is there.
    pub(crate) fn splits(&self, pool: &PoolName) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.layers(pool)).into_iter().flatten();
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| volume_of(path).is_some())
            .collect();
        found.sort();
        found
    }
}

/// The volume a record is of, by its name.
pub(crate) fn volume_of(path: &Path) -> Option<VolumeId> {
    let (id, kind) = path.file_name()?.to_str()?.split_once('.')?;
    let id: u64 = id.parse().ok()?;
    matches!(kind, RECORD | DRAFT).then(|| VolumeId::new(id))
}

fn sync(path: &Path) -> Result<(), PoolError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| PoolError::io("sync", path, source))
}

impl Pool {
    fn split(&self, volume: VolumeId, kind: &str) -> PathBuf {
        let dir = self.host().layout().layers(self.name());
        dir.join(format!("{volume}.{kind}"))
    }

    /// A file for the record of a layer that is being made.
    pub(crate) fn begin_split(&self, volume: VolumeId) -> Result<File, PoolError> {
        let dir = self.host().layout().layers(self.name());
        let path = self.split(volume, DRAFT);
        loop {
            match fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => sync(&self.host().layout().pool_dir(self.name()))?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(PoolError::io("make", &dir, source)),
            }
            let draft = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            match draft {
                // Who removed the last record took the directory away in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                draft => return draft.map_err(|source| PoolError::io("make", &path, source)),
            }
        }
    }

    /// Keeps a record that is whole: it is on the disk, under its name.
    pub(crate) fn keep_split(&self, volume: VolumeId, file: &File) -> Result<(), PoolError> {
        let (draft, path) = (self.split(volume, DRAFT), self.split(volume, RECORD));
        file.sync_all()
            .map_err(|source| PoolError::io("sync", &draft, source))?;
        fs::rename(&draft, &path).map_err(|source| PoolError::io("rename", &draft, source))?;
        sync(&self.host().layout().layers(self.name()))
    }

    /// The record of a layer; `None` of one that was made without, or elsewhere.
    pub(crate) fn open_split(&self, volume: VolumeId) -> Result<Option<File>, PoolError> {
        let path = self.split(volume, RECORD);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PoolError::io("open", &path, source)),
        }
    }

    /// Removes what there is of a record, whose volume is no more; the last one takes the directory along.
    pub(crate) fn drop_split(&self, volume: VolumeId) -> Result<(), PoolError> {
        for path in [self.split(volume, DRAFT), self.split(volume, RECORD)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(PoolError::io("remove", &path, error));
                }
                _ => {}
            }
        }
        // Refused while there are others, which is as it should be.
        let _ = fs::remove_dir(self.host().layout().layers(self.name()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_by_its_name() {
        let volume = |name| volume_of(Path::new(name)).map(VolumeId::get);
        assert_eq!(volume("/x/layers/17.split"), Some(17));
        assert_eq!(volume("17.new"), Some(17));
        for other in ["17", "17.txt", "x.split", "-1.split", ".split", "readme"] {
            assert_eq!(volume(other), None, "{other}");
        }
    }
}

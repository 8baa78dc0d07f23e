//! A machine with a copy of another one's files.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::SeekFrom;

use crate::model::pool::Disk;
use crate::model::state::State;

/// Copies a file but for its holes.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (File::open(from)?, File::create(to)?);
    let found = source.metadata()?;
    target.set_permissions(found.permissions())?;
    target.set_len(found.len())?;
    let mut end = 0;
    while let Ok(data) = rustix::fs::seek(&source, SeekFrom::Data(end)) {
        end = rustix::fs::seek(&source, SeekFrom::Hole(data))?;
        let mut content = vec![0; usize::try_from(end - data).unwrap()];
        source.read_exact_at(&mut content, data)?;
        target.write_all_at(&content, data)?;
    }
    Ok(())
}

impl State {
    /// Copies a directory, with what was committed to the metadata in it, to where another machine has it.
    pub(super) fn copy(&self, from: &Path, to: &Path, other: &mut Self) -> io::Result<()> {
        fs::create_dir(to)?;
        fs::set_permissions(to, fs::metadata(from)?.permissions())?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if entry.file_type()?.is_dir() {
                self.copy(&from, &to, other)?;
                continue;
            }
            copy_file(&from, &to)?;
            let (found, copy) = (entry.metadata()?, fs::metadata(&to)?);
            if let Some(disk) = self.disks.get(&(found.dev(), found.ino())) {
                let Disk { trees, superblock } = disk;
                let disk = Disk {
                    trees: trees.clone(),
                    superblock: superblock.clone(),
                };
                other.disks.insert((copy.dev(), copy.ino()), disk);
            }
        }
        Ok(())
    }
}

//! The file: making it, opening it, transactions on it, checking it, deleting it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::{Connection, TransactionBehavior};
use rustix::fs::{CWD, RenameFlags};

use crate::store::connection::{self, Connections, Durability, connect};
use crate::store::error::{Corruption, CorruptionKind, Fault, Outcome, StoreError};
use crate::store::record::{MovedPool, NewPool};
use crate::store::rows::Changes;
use crate::store::schema::{self, Format};
use crate::store::{containers, images, layers, pool, removals, row};

/// An open catalogue. Every verb is one transaction; clones of it do not exist, share it by
/// reference between threads.
#[derive(Debug)]
pub struct Catalogue {
    path: PathBuf,
    connections: Connections,
    // Since the last copy was taken of it.
    written: AtomicBool,
    changes: Changes,
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn io_error(what: &'static str, path: &Path, source: io::Error) -> StoreError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace { path },
        _ => StoreError::Io { what, path, source },
    }
}

pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path, error))
        }
        _ => Ok(()),
    }
}

pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| io_error("flush", path, error))
}

fn sync_directory_of(path: &Path) -> Result<(), StoreError> {
    match path.parent() {
        Some(directory) if directory.as_os_str().is_empty() => sync(Path::new(".")),
        Some(directory) => sync(directory),
        None => Ok(()),
    }
}

/// Renames a file to a name that nothing has.
fn rename_new(draft: &Path, path: &Path) -> Result<(), StoreError> {
    rustix::fs::renameat_with(CWD, draft, CWD, path, RenameFlags::NOREPLACE).map_err(|errno| {
        match errno {
            rustix::io::Errno::EXIST => StoreError::CatalogueExists {
                path: path.to_owned(),
            },
            errno => io_error("create", path, errno.into()),
        }
    })
}

/// An empty file for nobody but its owner, in place of whatever was there.
pub(super) fn empty_file(path: &Path) -> Result<(), StoreError> {
    remove(path)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|error| io_error("create", path, error))
}

/// Makes a copy that was kept elsewhere the catalogue of this host.
fn fill_from_copy(path: &Path, moved: &MovedPool) -> Outcome<()> {
    let mut db = connect(path)?;
    db.pragma_update(None, "journal_mode", "OFF")?;
    if let Format::Newer(found) = schema::format(&db, schema::STEPS)? {
        return Err(StoreError::NewerFormat {
            path: path.to_owned(),
            found,
            supported: schema::newest(schema::STEPS),
        }
        .into());
    }
    db.pragma_update(None, "foreign_keys", false)?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    schema::migrate(&tx, schema::STEPS)?;
    pool::set_moved(&tx, moved)?;
    tx.commit()?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Makes the whole catalogue in an existing, empty file that nobody else knows of.
fn fill(path: &Path, new: &NewPool) -> Outcome<()> {
    let mut db = connect(path)?;
    // A half-made file is thrown away, so it needs no journal of its own.
    db.pragma_update(None, "journal_mode", "OFF")?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    schema::migrate(&tx, schema::STEPS)?;
    pool::insert(&tx, new)?;
    tx.commit()?;
    // The mode is kept in the file. Switching an open catalogue would race between processes;
    // here is nobody to race with.
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.close().map_err(|(_, error)| error)?;
    Ok(())
}

impl Catalogue {
    /// Makes the catalogue of a new pool at `path`, mode 0600, and opens it. The caller holds the
    /// pool's lock. A crash leaves either the whole catalogue or none.
    ///
    /// # Errors
    /// [`StoreError::CatalogueExists`]; [`StoreError::TooLarge`] and [`StoreError::PathNotUtf8`]
    /// for what the format cannot hold; or the file's own troubles.
    pub fn create(path: impl AsRef<Path>, new: &NewPool) -> Result<Self, StoreError> {
        Self::place(path.as_ref(), |draft| fill(draft, new))
    }

    /// Makes a catalogue at `path` out of what [`content`](Self::content) gave elsewhere, and opens
    /// it, as [`create`](Self::create) does.
    ///
    /// # Errors
    /// As of [`create`](Self::create) and [`open`](Self::open).
    pub fn adopt(
        path: impl AsRef<Path>,
        content: &[u8],
        moved: &MovedPool,
    ) -> Result<Self, StoreError> {
        Self::place(path.as_ref(), |draft| {
            fs::write(draft, content).map_err(|error| io_error("write", draft, error))?;
            fill_from_copy(draft, moved)
        })
    }

    /// Fills a file beside `path`, which is then renamed.
    fn place(path: &Path, fill: impl FnOnce(&Path) -> Outcome<()>) -> Result<Self, StoreError> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(StoreError::CatalogueExists {
                path: path.to_owned(),
            });
        }
        let draft = beside(path, ".new");
        let made = empty_file(&draft)
            .and_then(|()| fill(&draft).map_err(|fault| fault.at(&draft)))
            .and_then(|()| sync(&draft))
            // A WAL left by an earlier catalogue of this name would be taken for this one's.
            .and_then(|()| remove(&beside(path, "-wal")))
            .and_then(|()| remove(&beside(path, "-shm")))
            .and_then(|()| rename_new(&draft, path))
            .and_then(|()| sync_directory_of(path));
        match made {
            Ok(()) => Self::open(path),
            Err(error) => {
                // What was wrong is worth more than a left-over draft, which the next try removes.
                let _ = remove(&draft);
                Err(error)
            }
        }
    }

    /// Has a file that [`Rebuilding::write`](super::Rebuilding::write) made be the catalogue at `path`, where
    /// there is none.
    ///
    /// # Errors
    /// [`StoreError::CatalogueExists`], [`StoreError::Io`].
    pub fn place_draft(path: &Path, draft: &Path) -> Result<(), StoreError> {
        rename_new(draft, path).and_then(|()| sync_directory_of(path))
    }

    /// Whether something was written by way of this one since it was opened, or since the last call of
    /// [`content`](Self::content) began.
    #[must_use]
    pub fn was_written(&self) -> bool {
        self.written.load(Ordering::SeqCst)
    }

    /// The whole catalogue as it is now, as the bytes of one file. The caller keeps others from doing
    /// the same, for it is written beside the catalogue first.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn content(&self) -> Result<Vec<u8>, StoreError> {
        // First: what is written from here on may not be in it.
        self.written.store(false, Ordering::SeqCst);
        let scratch = beside(&self.path, ".copy");
        empty_file(&scratch)?;
        let text = scratch.to_str().ok_or_else(|| StoreError::PathNotUtf8 {
            path: scratch.clone(),
        })?;
        let copy = || -> Outcome<()> {
            let db = connection::attach(&self.path)?;
            // Whatever becomes of the file, it is read here and now.
            db.pragma_update(None, "synchronous", "OFF")?;
            db.execute("VACUUM INTO ?1", [text])?;
            Ok(())
        };
        let content = copy()
            .map_err(|fault| fault.at(&scratch))
            .and_then(|()| fs::read(&scratch).map_err(|error| io_error("read", &scratch, error)));
        remove(&scratch)?;
        content
    }

    /// Opens an existing catalogue, migrating it where it has an older format.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Corrupt`], [`StoreError::NewerFormat`],
    /// [`StoreError::Busy`], or the file's own troubles.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        // Only stat: a descriptor of our own on this file would, when closed, drop the locks that
        // another connection of this process holds (fcntl locks are per process and inode).
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NotFound {
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(io_error("open", path, error)),
        };
        if !found.is_file() {
            return Err(StoreError::Corrupt {
                path: path.to_owned(),
                corruption: Corruption(CorruptionKind::NotAFile),
            });
        }
        // The engine takes it for a new one, and would delete the WAL, which may be all that is left.
        if found.len() == 0 {
            return Err(StoreError::Corrupt {
                path: path.to_owned(),
                corruption: Corruption(CorruptionKind::NotACatalogue { application_id: 0 }),
            });
        }
        let changes = Changes::default();
        let attach = || {
            let mut db = connection::attach(path)?;
            let format = schema::format(&db, schema::STEPS)?;
            changes.watch(&mut db)?;
            Ok((db, format))
        };
        let (db, format) = attach().map_err(|fault: Fault| fault.at(path))?;
        let catalogue = Self {
            path: path.to_owned(),
            connections: Connections::new(path, db, changes.clone()),
            written: AtomicBool::new(false),
            changes,
        };
        match format {
            Format::Current => {}
            Format::Older => {
                // Else a table that is made anew takes along what refers to it.
                let check_keys = |on: bool| {
                    let db = &catalogue.connections.writer().db;
                    db.pragma_update(None, "foreign_keys", on)
                        .map_err(|error| Fault::from(error).at(path))
                };
                check_keys(false)?;
                catalogue.write(Durability::Durable, |db| schema::migrate(db, schema::STEPS))?;
                check_keys(true)?;
            }
            Format::Newer(found) => {
                return Err(StoreError::NewerFormat {
                    path: path.to_owned(),
                    found,
                    supported: schema::newest(schema::STEPS),
                });
            }
        }
        Ok(catalogue)
    }

    /// Deletes the catalogue at `path` with its WAL. Idempotent. The caller holds the pool's lock
    /// and has closed the catalogue.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn delete(path: impl AsRef<Path>) -> Result<(), StoreError> {
        let path = path.as_ref();
        // Its WAL must not outlive it under its name: that would be a catalogue that was lost.
        match fs::rename(path, beside(path, ".new")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", path, error));
            }
            _ => {}
        }
        for suffix in ["-wal", "-shm", ".copy", ".new"] {
            remove(&beside(path, suffix))?;
        }
        sync_directory_of(path)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks the whole file: its pages, its references and that every row reads as a record.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with what is wrong.
    pub fn check(&self) -> Result<(), StoreError> {
        self.read(|db| {
            let lines = row::all(db, "PRAGMA quick_check", (), |row| {
                row.get::<_, String>(0).map_err(Fault::from)
            })?;
            if lines != ["ok"] {
                return Err(CorruptionKind::Check(lines).into());
            }
            let dangling = row::first(
                db,
                "SELECT \"table\", count(*) FROM pragma_foreign_key_check GROUP BY \"table\"",
                (),
                |row| Ok((row.get(0)?, row.get::<_, u32>(1)?)),
            )?;
            if let Some((table, nr_rows)) = dangling {
                let nr_rows = u64::from(nr_rows);
                return Err(CorruptionKind::DanglingReference { table, nr_rows }.into());
            }
            pool::select(db)?;
            let sql = format!("SELECT {} FROM volumes", row::VOLUME);
            row::all(db, &sql, (), row::volume)?;
            layers::all(db)?;
            images::all(db)?;
            containers::all(db)?;
            removals::all(db)?;
            Ok(())
        })
    }

    pub(super) fn changes(&self) -> &Changes {
        &self.changes
    }

    #[cfg(test)]
    pub(super) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Runs `body` on one consistent view. Waits for nobody who writes.
    pub(super) fn read<T>(
        &self,
        body: impl FnOnce(&Connection) -> Outcome<T>,
    ) -> Result<T, StoreError> {
        let value = self.connections.read(body);
        value.map_err(|fault| fault.at(&self.path))
    }

    /// Runs `body` as one write. An error in it, or in the commit, undoes all of it.
    pub(super) fn write<T>(
        &self,
        durability: Durability,
        body: impl FnOnce(&Connection) -> Outcome<T>,
    ) -> Result<T, StoreError> {
        let value = self.connections.write(durability, body);
        let value = value.map_err(|fault| fault.at(&self.path))?;
        self.written.store(true, Ordering::SeqCst);
        Ok(value)
    }
}

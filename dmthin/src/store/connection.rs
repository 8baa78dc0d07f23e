//! The connections to one file: a writer, on which transactions of several threads share a flush,
//! and readers, which wait for no writer.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior, ffi};

use crate::store::error::{Fault, Outcome};
use crate::store::row;
use crate::store::rows::Changes;

/// How long a writer waits for another process's write. A write takes one or two flushes of the
/// disk, so a machine this slow has other troubles.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Pages in the WAL after which a commit that nobody waits for copies them into the file, which takes
/// flushes. The first process to open a catalogue reads all of the WAL, so it is kept to about 1 MiB.
const WAL_PAGES: u32 = 256;

/// Pages after which one does that somebody waits for.
const WAL_PAGES_MOST: u32 = 1024;

/// Statements kept prepared: more than there are.
const STATEMENTS: usize = 64;

/// Writes that share a flush at most: who came first has waited for all of them.
const MOST_MEMBERS: u32 = 64;

/// Readers that are kept open.
const IDLE_READERS: usize = 4;

/// Whether a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// On the disk when the call returns.
    Durable,
    /// In order after all earlier commits, and on the disk with the next durable one. A power cut
    /// before that loses it; a crash of the process does not.
    Lazy,
}

impl Durability {
    /// Has the next transaction be such: it cannot be set inside one.
    fn set(self, db: &Connection) -> rusqlite::Result<()> {
        let (synchronous, pages) = match self {
            Self::Durable => ("FULL", WAL_PAGES_MOST),
            Self::Lazy => ("NORMAL", WAL_PAGES),
        };
        db.pragma_update(None, "synchronous", synchronous)?;
        db.pragma_update(None, "wal_autocheckpoint", pages)
    }
}

/// A connection as all of ours are.
pub(super) fn connect(path: &Path) -> Outcome<Connection> {
    // Without CREATE: opening never makes a catalogue. Without URI: a path is a path.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // Else a value bound anew has the planner look at a kept statement anew.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "trusted_schema", false)?;
    db.pragma_update(None, "cell_size_check", true)?;
    Ok(db)
}

/// A connection to a whole catalogue.
pub(super) fn attach(path: &Path) -> Outcome<Connection> {
    let db = connect(path)?;
    // A short command would pay two flushes of the disk for an empty WAL at its end.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(db)
}

/// Runs `body` on one consistent view.
fn view<T>(db: &mut Connection, body: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Deferred)?;
    body(&tx)
}

/// Why a transaction did not last. Each member is told, so it can be copied.
type Lost = ffi::Error;

/// How a transaction ended, once it has.
type Fate = Arc<OnceLock<Result<(), Lost>>>;

fn lost(fault: &Fault) -> Lost {
    let code = match fault {
        Fault::Engine(error) => error.sqlite_error().copied(),
        Fault::Damage(_) | Fault::Refused(_) => None,
    };
    code.unwrap_or_else(|| ffi::Error::new(ffi::SQLITE_ABORT))
}

/// The transaction that is open.
#[derive(Debug)]
struct Shared {
    members: u32,
    fate: Fate,
}

/// The connection that writes.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) db: Connection,
    shared: Option<Shared>,
    /// As it was set last.
    durability: Option<Durability>,
}

/// All connections of one process to one file.
#[derive(Debug)]
pub(super) struct Connections {
    path: PathBuf,
    writer: Mutex<Writer>,
    changes: Changes,
    // Who is about to take the writer: they end a transaction that is left open for them.
    coming: AtomicUsize,
    readers: Mutex<Vec<Connection>>,
}

impl Connections {
    /// Starts with one that [`attach`] made, which tells `changes` of what it writes.
    pub(super) fn new(path: &Path, db: Connection, changes: Changes) -> Self {
        Self {
            path: path.to_owned(),
            writer: Mutex::new(Writer {
                db,
                shared: None,
                durability: None,
            }),
            changes,
            coming: AtomicUsize::new(0),
            readers: Mutex::default(),
        }
    }

    /// A panic of another thread rolled its transaction back, so the connection is sound.
    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn readers(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait for the writer.
    pub(super) fn nr_coming(&self) -> usize {
        self.coming.load(Ordering::SeqCst)
    }

    /// Runs `body` on one consistent view of what is committed. Waits for nobody who writes.
    pub(super) fn read<T>(&self, body: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
        let idle = self.readers().pop();
        let mut db = match idle {
            Some(db) => db,
            None => {
                // A short command gets along with one connection.
                let writer = match self.writer.try_lock() {
                    Ok(writer) => Some(writer),
                    Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                    Err(TryLockError::WouldBlock) => None,
                };
                if let Some(mut writer) = writer.filter(|writer| writer.shared.is_none()) {
                    return view(&mut writer.db, body);
                }
                attach(&self.path)?
            }
        };
        let value = view(&mut db, body)?;
        let mut readers = self.readers();
        if readers.len() < IDLE_READERS {
            readers.push(db);
        }
        Ok(value)
    }

    /// Runs `body` as a write that is done as a whole or not at all. Threads that come while one
    /// writes take part in its transaction, and all wait for one flush.
    pub(super) fn write<T>(
        &self,
        durability: Durability,
        body: impl FnOnce(&Connection) -> Outcome<T>,
    ) -> Outcome<T> {
        let turn = Turn::take(self, durability)?;
        let value = body(&turn.writer.db);
        let ended = turn.leave(value.is_ok());
        let value = value?;
        ended.map(|()| value)
    }
}

/// The writer in the hands of one thread.
struct Turn<'a> {
    connections: &'a Connections,
    writer: MutexGuard<'a, Writer>,
    durability: Durability,
    // Somebody else ends the transaction.
    awaits: bool,
}

impl<'a> Turn<'a> {
    /// Begins a transaction, or takes part in the one that is open.
    fn take(connections: &'a Connections, durability: Durability) -> Outcome<Self> {
        connections.coming.fetch_add(1, Ordering::SeqCst);
        let writer = connections.writer();
        connections.coming.fetch_sub(1, Ordering::SeqCst);
        let mut turn = Self {
            connections,
            writer,
            durability,
            awaits: false,
        };
        let Writer {
            db,
            shared,
            durability: was,
        } = &mut *turn.writer;
        match shared {
            Some(shared) => {
                shared.members = shared.members.saturating_add(1);
                row::run(db, "SAVEPOINT member", ())?;
            }
            None => {
                if *was != Some(durability) {
                    // Half set, it is neither.
                    *was = None;
                    durability.set(db)?;
                    *was = Some(durability);
                }
                row::run(db, "BEGIN IMMEDIATE", ())?;
                *shared = Some(Shared {
                    members: 1,
                    fate: Fate::default(),
                });
            }
        }
        Ok(turn)
    }

    /// Keeps or undoes what this thread did, and sees to it that the transaction ends: here, or by
    /// one who comes. Returns when it has.
    fn leave(mut self, keep: bool) -> Outcome<()> {
        let fate = match self.conclude(keep) {
            Ok(None) => {
                self.settle(Ok(()));
                return Ok(());
            }
            Ok(Some(fate)) => fate,
            Err(fault) => {
                self.undo();
                self.settle(Err(lost(&fault)));
                return Err(fault);
            }
        };
        self.awaits = true;
        drop(self);
        fate.wait()
            .map_err(|code| rusqlite::Error::SqliteFailure(code, None).into())
    }

    /// Ends the transaction, or gives how it will have ended where somebody else will end it.
    fn conclude(&mut self, keep: bool) -> Outcome<Option<Fate>> {
        let Writer { db, shared, .. } = &*self.writer;
        let Some(Shared { members, fate }) = shared else {
            return Ok(None);
        };
        // Some errors undo a whole transaction, others' parts included.
        if db.is_autocommit() {
            let code = ffi::Error::new(ffi::SQLITE_ABORT);
            return Err(rusqlite::Error::SqliteFailure(code, None).into());
        }
        match (*members, keep) {
            (1, true) => {}
            (1, false) => {
                row::run(db, "ROLLBACK", ())?;
                self.connections.changes.undone();
                return Ok(None);
            }
            (_, true) => row::run(db, "RELEASE member", ())?,
            (_, false) => {
                row::run(db, "ROLLBACK TO member", ())?;
                row::run(db, "RELEASE member", ())?;
            }
        }
        // A lazy one flushes nothing, so that nobody gains by taking part.
        let is_open = *members > 1 || self.durability == Durability::Durable;
        if is_open && *members < MOST_MEMBERS && self.connections.nr_coming() > 0 {
            return Ok(Some(Arc::clone(fate)));
        }
        row::run(db, "COMMIT", ())?;
        Ok(None)
    }

    fn undo(&self) {
        if !self.writer.db.is_autocommit() {
            // Should this fail too, the next one cannot begin, and says so.
            let _ = row::run(&self.writer.db, "ROLLBACK", ());
        }
    }

    /// Tells all members how it ended.
    fn settle(&mut self, fate: Result<(), Lost>) {
        if let Some(shared) = self.writer.shared.take() {
            self.connections.changes.ended();
            // It was taken out just now, so that nobody else sets it.
            let _ = shared.fate.set(fate);
        }
    }
}

impl Drop for Turn<'_> {
    /// Where a panic, or a savepoint that could not be set, has ended it: nobody can say what is in
    /// the transaction, so all of it is undone.
    fn drop(&mut self) {
        if !self.awaits {
            self.undo();
            self.settle(Err(ffi::Error::new(ffi::SQLITE_ABORT)));
        }
    }
}

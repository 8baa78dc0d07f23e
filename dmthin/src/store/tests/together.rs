//! Threads that write at once: one transaction, one flush, and each only what it did itself.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::ids::VolumeId;
use crate::store::catalogue::beside;
use crate::store::connection::Durability;
use crate::store::row;
use crate::store::tests::{BASE, Temp, checkpoint};
use crate::store::{PoolState, StoreError, VolumeState, WhenFull};

/// What a writer that is held up waits for: its transaction begins when this one ends.
fn hold_up(catalogue: &Temp) -> Connection {
    let other = Connection::open(catalogue.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    other
}

/// Lets the writers go once so many wait for the connection, besides the one that has it.
fn let_go_of(catalogue: &Temp, other: &Connection, nr_coming: usize) {
    let limit = Instant::now() + Duration::from_secs(9);
    while catalogue.connections().nr_coming() < nr_coming {
        assert!(Instant::now() < limit, "they never came");
        thread::sleep(Duration::from_millis(1));
    }
    // The one that has it may not have begun: it waits for the other's transaction all the same.
    other.execute_batch("ROLLBACK").unwrap();
}

/// Has the WAL begin: a pool that becomes ready has it folded into the file, and the next write begins anew.
fn begin_wal(catalogue: &Temp) {
    catalogue.set_pool_state(PoolState::Ready).unwrap();
    let queue = Some(WhenFull::Queue);
    catalogue.set_policy(None, None, queue).unwrap();
}

/// How many commits are in the WAL: the frames that say how long the file is after them.
/// <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>
fn nr_commits(catalogue: &Temp) -> usize {
    let wal = fs::read(catalogue.directory.path().join("catalogue.db-wal")).unwrap();
    let number = |bytes: &[u8], at: usize| {
        u32::from_be_bytes(bytes.get(at..at + 4).unwrap().try_into().unwrap())
    };
    let page = usize::try_from(number(&wal, 8)).unwrap();
    let salt = wal.get(16..24).unwrap();
    wal.get(32..)
        .unwrap()
        .chunks_exact(24 + page)
        .filter(|frame| frame.get(8..16).unwrap() == salt && number(frame, 4) != 0)
        .count()
}

#[test]
fn writers_that_come_together_share_one_flush() {
    let catalogue = Temp::new();
    begin_wal(&catalogue);
    let before = nr_commits(&catalogue);
    let other = hold_up(&catalogue);
    let mut ids: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| catalogue.begin_volume(BASE).unwrap().id))
            .collect();
        let_go_of(&catalogue, &other, 7);
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    ids.sort();
    assert_eq!(ids, (1..=8).map(VolumeId::new).collect::<Vec<_>>());
    assert_eq!(nr_commits(&catalogue) - before, 1);
    assert_eq!(catalogue.reopened().unsettled().unwrap().len(), 8);
}

#[test]
fn one_that_fails_takes_nobody_along() {
    let catalogue = Temp::new();
    begin_wal(&catalogue);
    let volume = catalogue.begin_volume(BASE).unwrap().id;
    let before = nr_commits(&catalogue);
    let other = hold_up(&catalogue);
    thread::scope(|scope| {
        let made = scope.spawn(|| catalogue.begin_volume(BASE));
        let failed: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    catalogue.write(Durability::Durable, |db| {
                        db.execute("UPDATE volumes SET state = 'deleting'", ())?;
                        Err::<(), _>(StoreError::VolumeNotFound { id: volume }.into())
                    })
                })
            })
            .collect();
        let lazy = scope.spawn(|| catalogue.set_active(volume, false));
        let_go_of(&catalogue, &other, 4);
        assert_eq!(made.join().unwrap().unwrap().state, VolumeState::Creating);
        lazy.join().unwrap().unwrap();
        for thread in failed {
            let error = thread.join().unwrap().unwrap_err();
            assert!(matches!(error, StoreError::VolumeNotFound { .. }));
        }
    });
    // Whoever is first may be the lazy one, which shares nothing, or one that fails.
    assert!((1..=2).contains(&(nr_commits(&catalogue) - before)));
    let states: Vec<_> = catalogue
        .all_volumes()
        .unwrap()
        .iter()
        .map(|volume| volume.state)
        .collect();
    assert_eq!(states, [VolumeState::Creating; 2]);
}

#[test]
fn a_commit_that_fails_fails_for_all_that_share_it() {
    let catalogue = Temp::new();
    catalogue.set_pool_state(PoolState::Ready).unwrap();
    let other = hold_up(&catalogue);
    thread::scope(|scope| {
        let made: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| catalogue.begin_volume(BASE)))
            .collect();
        let dangling = scope.spawn(|| {
            catalogue.write(Durability::Durable, |db| {
                // Looked at when the transaction is committed.
                db.pragma_update(None, "defer_foreign_keys", true)?;
                db.execute("INSERT INTO refs (name, image) VALUES ('a', 77)", ())?;
                Ok(())
            })
        });
        let_go_of(&catalogue, &other, 3);
        assert!(dangling.join().unwrap().is_err());
        for thread in made {
            assert!(matches!(
                thread.join().unwrap(),
                Err(StoreError::Database { .. })
            ));
        }
    });
    assert_eq!(catalogue.all_volumes().unwrap(), []);
    catalogue.begin_volume(BASE).unwrap();
    catalogue.check().unwrap();
}

#[test]
fn a_panic_fails_for_all_that_share_its_transaction() {
    let catalogue = Temp::new();
    catalogue.set_pool_state(PoolState::Ready).unwrap();
    let other = hold_up(&catalogue);
    let nr_made = thread::scope(|scope| {
        let made: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| catalogue.begin_volume(BASE)))
            .collect();
        let panicking = scope.spawn(|| {
            catch_unwind(AssertUnwindSafe(|| {
                catalogue.write::<()>(Durability::Durable, |db| {
                    db.execute("UPDATE volumes SET state = 'deleting'", ())?;
                    panic!("as a bug would")
                })
            }))
            .is_err()
        });
        let_go_of(&catalogue, &other, 3);
        assert!(panicking.join().unwrap());
        let made = made.into_iter().map(|thread| thread.join().unwrap());
        made.filter(Result::is_ok).count()
    });
    // Those that came after it have one of their own.
    assert_eq!(catalogue.all_volumes().unwrap().len(), nr_made);
    assert!(
        catalogue
            .all_volumes()
            .unwrap()
            .iter()
            .all(|volume| volume.state == VolumeState::Creating)
    );
    catalogue.begin_volume(BASE).unwrap();
}

#[test]
fn a_reader_waits_for_no_writer_and_sees_what_is_committed() {
    let catalogue = Temp::new();
    for _ in 0..2 {
        catalogue
            .write(Durability::Durable, |db| {
                db.execute("UPDATE pool SET base_size = base_size + 4096", ())?;
                let seen = thread::scope(|scope| {
                    let readers: Vec<_> = (0..6)
                        .map(|_| scope.spawn(|| catalogue.pool().unwrap().base_size))
                        .collect();
                    readers
                        .into_iter()
                        .map(|t| t.join().unwrap())
                        .collect::<Vec<_>>()
                });
                let now: u64 = db.query_row("SELECT base_size FROM pool", (), |row| {
                    Ok(row.get::<_, i64>(0)?.unsigned_abs())
                })?;
                assert!(seen.iter().all(|size| size.get() + 4096 == now), "{seen:?}");
                Ok(())
            })
            .unwrap();
    }
}

/// Pages of the WAL that are in the file too (`nBackfill`, <https://www.sqlite.org/walformat.html>, 2.1).
fn copied(catalogue: &Temp) -> u32 {
    let index = fs::read(beside(catalogue.path(), "-shm")).unwrap();
    u32::from_le_bytes(index[96..100].try_into().unwrap())
}

/// Whichever commit met a WAL of 256 pages took the flushes of copying it, an `rm` whose user waited too.
#[test]
fn the_wal_is_copied_by_who_has_nobody_waiting() {
    let catalogue = Temp::new();
    checkpoint(&catalogue);
    // A row of a dozen pages.
    let sql = "UPDATE pool SET mkfs_args = hex(randomblob(24000))";
    let write = |durability| {
        catalogue
            .write(durability, |db| row::run(db, sql, ()))
            .unwrap()
    };
    let wal = beside(catalogue.path(), "-wal");
    let pages = || fs::metadata(&wal).unwrap().len() / 4120;
    while pages() < 300 {
        write(Durability::Durable);
        assert_eq!(copied(&catalogue), 0, "after {} pages", pages());
    }
    write(Durability::Lazy);
    assert!(copied(&catalogue) >= 300);
    // Where nobody is lazy somebody has to. The file is as long as the WAL ever was.
    for _ in 0..100 {
        write(Durability::Durable);
        if copied(&catalogue) > 0 {
            assert!((1000..1100).contains(&copied(&catalogue)));
            return;
        }
    }
    panic!("nothing of {} pages is in the file", pages());
}

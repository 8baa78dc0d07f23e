//! Pools, their messages and their volumes.

use std::time::Duration;

use dmthin::dm::{ActivateOptions, Device, DmError, EventWaiter, ThinPool};
use dmthin::dm::{PoolMode, PoolStatus, ThinStatus, WorkingPool};
use dmthin::ids::{ThinId, TransactionId};
use dmthin::ioctl::{Deferred, DevId, Errno, LoopDevice, SuspendFlags};
use dmthin::units::{Bytes, DataBlocks, Sectors};

use crate::support::{
    Machine, activate, activate_pool, dm, line, linear, name, pool_table, uuid, write_blocks,
};

const DATA: u64 = 64 << 11;
const VOLUME: Sectors = Sectors::new(32 << 11);

fn disks(machine: &Machine) -> (LoopDevice, LoopDevice) {
    let metadata = machine.loop_device("metadata", Bytes::from_mib(4));
    let data = machine.loop_device("data", Bytes::from_mib(128));
    (metadata, data)
}

fn id(n: u64) -> ThinId {
    ThinId::new(n).unwrap()
}

fn working(pool: &ThinPool<'_>) -> WorkingPool {
    match pool.status().unwrap() {
        PoolStatus::Working(pool) => *pool,
        status => panic!("{status:?}"),
    }
}

fn activate_thin(pool: &ThinPool<'_>, n: u64) -> Result<Device, DmError> {
    pool.activate_thin(
        &name(&format!("thin{n}")),
        &uuid(&format!("thin{n}")),
        id(n),
        VOLUME,
        ActivateOptions::default(),
    )
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_volumes_are_made_snapped_and_deleted() {
    let machine = Machine::new();
    let (metadata, data) = disks(&machine);
    let dm = dm();
    let table = pool_table(metadata.dev(), data.dev(), 16);
    let pool = activate_pool(&dm, DATA, &table);
    assert_eq!(pool.table().unwrap(), (Sectors::new(DATA), table));
    let fresh = working(&pool);
    assert_eq!(fresh.mode, PoolMode::Rw);
    assert_eq!(fresh.used_data, DataBlocks::ZERO);
    assert_eq!(fresh.total_data, DataBlocks::new(DATA / 128));

    pool.create_thin(id(1)).unwrap();
    assert!(matches!(
        pool.create_thin(id(1)),
        Err(DmError::ThinExists { id: n, .. }) if n == id(1)
    ));
    assert!(matches!(
        pool.create_snap(id(2), id(9), None),
        Err(DmError::NoSuchThin { id: n, .. }) if n == id(9)
    ));
    assert!(matches!(
        pool.delete(id(9)),
        Err(DmError::NoSuchThin { id: n, .. }) if n == id(9)
    ));
    assert!(matches!(
        activate_thin(&pool, 2),
        Err(DmError::NoSuchThin { .. })
    ));

    let origin = activate_thin(&pool, 1).unwrap();
    write_blocks(&origin, 128 << 10);
    assert_eq!(
        pool.thin_status(origin.id()).unwrap(),
        ThinStatus::Working {
            mapped: Sectors::new(256),
            highest: Some(Sectors::new(255)),
        }
    );
    assert!(matches!(
        pool.delete(id(1)),
        Err(DmError::ThinInUse { id: n, .. }) if n == id(1)
    ));
    let events = dm.find(origin.id()).unwrap().unwrap();
    pool.create_snap(id(2), id(1), Some(origin.id())).unwrap();
    let after = dm.find(origin.id()).unwrap().unwrap();
    assert!(!after.suspended && after.active_table, "{events:?}");
    // A failed snapshot resumes its origin all the same.
    for (new, old, errno) in [(2, 1, Errno::EXIST), (3, 9, Errno::NODATA)] {
        let error = pool
            .create_snap(id(new), id(old), Some(origin.id()))
            .unwrap_err();
        assert_eq!(error.errno(), Some(errno));
        assert!(!dm.find(origin.id()).unwrap().unwrap().suspended);
    }
    assert_eq!(working(&pool).used_data, DataBlocks::new(2));
    let snap = activate_thin(&pool, 2).unwrap();
    write_blocks(&snap, 64 << 10);
    assert_eq!(working(&pool).used_data, DataBlocks::new(3));

    assert!(matches!(
        dm.deactivate(pool.device().id(), Deferred::No),
        Err(DmError::Busy { .. })
    ));
    for device in [origin, snap] {
        dm.deactivate(device.id(), Deferred::No).unwrap();
    }
    pool.delete(id(1)).unwrap();
    pool.delete(id(2)).unwrap();
    assert!(matches!(
        activate_thin(&pool, 1),
        Err(DmError::NoSuchThin { id: n, .. }) if n == id(1)
    ));
    assert_eq!(working(&pool).used_data, DataBlocks::ZERO);

    let again = ThinPool::open(&dm, &uuid("pool")).unwrap();
    assert_eq!(again.device(), pool.device());
    pool.deactivate().unwrap();
    assert!(matches!(
        ThinPool::open(&dm, &uuid("pool")),
        Err(DmError::NotFound { .. })
    ));
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_transaction_ids_and_metadata_snapshots_are_confirmed() {
    let machine = Machine::new();
    let (metadata, data) = disks(&machine);
    let dm = dm();
    let pool = activate_pool(&dm, DATA, &pool_table(metadata.dev(), data.dev(), 16));
    let at = TransactionId::new;
    pool.set_transaction_id(at(0), at(7)).unwrap();
    assert_eq!(working(&pool).transaction_id, at(7));
    assert!(matches!(
        pool.set_transaction_id(at(0), at(8)),
        Err(DmError::TransactionMismatch { expected, found, .. })
            if expected == at(0) && found == at(7)
    ));
    assert!(matches!(
        pool.release_metadata_snap(),
        Err(DmError::NoMetadataSnap { .. })
    ));
    let (root, told) = pool.reserve_metadata_snap().unwrap();
    assert_eq!(told.held_root, Some(root));
    assert_eq!(working(&pool), *told);
    assert!(matches!(
        pool.reserve_metadata_snap(),
        Err(DmError::MetadataSnapHeld { .. })
    ));
    pool.release_metadata_snap().unwrap();
    assert_eq!(working(&pool).held_root, None);
    pool.deactivate().unwrap();
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_pool_grows_and_a_bad_reload_puts_the_old_table_back() {
    let machine = Machine::new();
    let (metadata, data) = disks(&machine);
    let dm = dm();
    let table = pool_table(metadata.dev(), data.dev(), 16);
    let pool = activate_pool(&dm, DATA, &table);
    pool.create_thin(id(1)).unwrap();
    let thin = activate_thin(&pool, 1).unwrap();
    let info = pool.reload(Sectors::new(2 * DATA), &table).unwrap();
    assert!(!info.suspended);
    assert_eq!(working(&pool).total_data, DataBlocks::new(2 * DATA / 128));
    write_blocks(&thin, 64 << 10);
    // A pool does not shrink; the kernel finds out at the resume, with the table swapped.
    let error = pool.reload(Sectors::new(DATA), &table).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::INVAL), "{error:?}");
    assert!(matches!(error, DmError::Ioctl(_)), "{error:?}");
    let info = dm.find(pool.device().id()).unwrap().unwrap();
    assert!(!info.suspended && info.active_table && !info.inactive_table);
    assert_eq!(pool.table().unwrap(), (Sectors::new(2 * DATA), table));
    write_blocks(&thin, 256 << 10);
    dm.deactivate(thin.id(), Deferred::No).unwrap();
    pool.deactivate().unwrap();
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_the_low_water_mark_is_an_event() {
    let machine = Machine::new();
    let (metadata, data) = disks(&machine);
    let dm = dm();
    // All but two blocks: the third one written crosses it.
    let blocks = DATA / 128;
    let pool = activate_pool(
        &dm,
        DATA,
        &pool_table(metadata.dev(), data.dev(), blocks - 2),
    );
    pool.create_thin(id(1)).unwrap();
    let thin = activate_thin(&pool, 1).unwrap();
    let (_, seen) = pool.status_and_event().unwrap();
    let waiter = EventWaiter::open(dm.dev_dir()).unwrap();
    let wait = |limit| waiter.wait(pool.device().id(), seen, limit).unwrap();
    assert_eq!(wait(Duration::from_millis(50)), None);
    write_blocks(&thin, 4 * (64 << 10));
    let info = wait(Duration::from_secs(30)).unwrap();
    assert_eq!(info.name, name("pool"));
    dm.deactivate(thin.id(), Deferred::No).unwrap();
    pool.deactivate().unwrap();
}

/// A monitor grew a pool while a container was made in it: the pool was suspended for that moment, the
/// kernel refused the container's table by EINVAL, and so did we.
#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_volume_is_activated_once_its_pool_is_resumed() {
    let machine = Machine::new();
    let (metadata, data) = disks(&machine);
    let dm = dm();
    let pool = activate_pool(&dm, DATA, &pool_table(metadata.dev(), data.dev(), 16));
    pool.create_thin(id(1)).unwrap();
    let suspended = dm
        .suspend(pool.device().id(), SuspendFlags::default())
        .unwrap();
    let thin = std::thread::scope(|scope| {
        let activated = scope.spawn(|| activate_thin(&pool, 1).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        assert!(!activated.is_finished());
        suspended.resume().unwrap();
        activated.join().unwrap()
    });
    dm.deactivate(thin.id(), Deferred::No).unwrap();
    pool.deactivate().unwrap();
}

/// The kernel answers 0 to a message whose commit failed: the status read back must tell.
#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_message_whose_commit_fails_is_an_error() {
    let machine = Machine::new();
    let (metadata, data) = disks(&machine);
    let dm = dm();
    let sound = [linear(metadata.dev(), 4 << 11)];
    let below = activate(&dm, "below", &sound);
    let pool = activate_pool(&dm, DATA, &pool_table(below.dev(), data.dev(), 16));
    pool.create_thin(id(1)).unwrap();
    let how = SuspendFlags::default();
    let broken = [line(0, 4 << 11, "error", "")];
    dm.reload(below.id(), &broken, false, how).unwrap();
    let error = pool.create_snap(id(2), id(1), None).unwrap_err();
    let DmError::PoolDegraded {
        device,
        message,
        status,
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(device, &name("pool"));
    assert_eq!(message, "create_snap 2 1");
    match status.as_ref() {
        PoolStatus::Working(pool) => assert_eq!(pool.mode, PoolMode::Ro),
        status => assert_eq!(status, &PoolStatus::Fail),
    }
    // What is refused outright says the same.
    assert!(matches!(
        pool.create_thin(id(3)),
        Err(DmError::PoolDegraded { .. })
    ));
    pool.deactivate().unwrap();
    dm.reload(below.id(), &sound, false, how).unwrap();
    let pool = activate_pool(&dm, DATA, &pool_table(below.dev(), data.dev(), 16));
    assert!(matches!(
        activate_thin(&pool, 2),
        Err(DmError::NoSuchThin { id: n, .. }) if n == id(2)
    ));
    pool.deactivate().unwrap();
    dm.deactivate(below.id(), Deferred::No).unwrap();
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_what_is_no_pool_is_not_opened_as_one() {
    let _machine = Machine::new();
    let dm = dm();
    let device = activate(&dm, "pool", &[line(0, 8, "error", "")]);
    assert!(matches!(
        ThinPool::open(&dm, device.uuid().unwrap()),
        Err(DmError::WrongTarget { found, .. }) if found == "error"
    ));
    dm.deactivate(DevId::Uuid(device.uuid().unwrap()), Deferred::No)
        .unwrap();
}

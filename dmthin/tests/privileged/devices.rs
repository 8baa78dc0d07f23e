//! Activation, guards, removal, nodes, events.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::time::{Duration, Instant};

use dmthin::dm::{ActivateOptions, Dm, DmError, EventWaiter, NodePolicy, UdevFlags};
use dmthin::ids::DevNo;
use dmthin::ioctl::{
    Cookie, Deferred, DevId, Errno, RemovedWhen, SuspendFlags, ensure_block_node, is_read_only,
    node_dev,
};
use dmthin::units::Bytes;

use crate::support::{Machine, activate, dm, line, linear, name, uuid};

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_device_is_made_once_and_found_by_uuid() {
    let machine = Machine::new();
    let disk = machine.loop_device("disk", Bytes::from_mib(8));
    let dm = dm();
    let table = [linear(disk.dev(), 8192)];
    let device = activate(&dm, "a", &table);
    assert_eq!(device.node(), dm.dev_dir().join("a-dmthin-test"));
    assert_eq!(node_dev(device.node()).unwrap(), Some(device.dev()));
    assert_eq!(dm.device(&uuid("a")).unwrap(), device);
    let again = |n: &str, u: &str| {
        dm.activate(&name(n), &uuid(u), &table, ActivateOptions::default())
            .unwrap_err()
    };
    assert!(matches!(
        again("a", "a"),
        DmError::AlreadyActive { info } if info.dev == device.dev()
    ));
    assert!(matches!(again("b", "a"), DmError::AlreadyActive { .. }));
    assert!(matches!(
        again("a", "b"),
        DmError::NameTaken { dev, .. } if dev == device.dev()
    ));
    assert_eq!(
        dm.deactivate(DevId::Uuid(&uuid("a")), Deferred::No)
            .unwrap(),
        RemovedWhen::Now
    );
    assert!(fs::symlink_metadata(device.node()).is_err());
    assert!(matches!(
        dm.device(&uuid("a")),
        Err(DmError::NotFound { device }) if device == uuid("a").as_str()
    ));
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_failed_activation_leaves_nothing() {
    let machine = Machine::new();
    // A directory of our own: udev clears away what has one of its names.
    let dm = Dm::open(&machine.dir().join("mapper")).unwrap();
    let activate = |table| {
        dm.activate(&name("a"), &uuid("a"), &[table], ActivateOptions::default())
            .unwrap_err()
    };
    let error = activate(line(0, 8, "linear", "4095:9 0"));
    assert!(
        matches!(
            error.errno(),
            Some(Errno::INVAL | Errno::NXIO | Errno::NODEV)
        ),
        "{error:?}"
    );
    assert_eq!(dm.find(DevId::Name(&name("a"))).unwrap(), None);

    let node = dm.dev_dir().join("a-dmthin-test");
    fs::write(&node, "a file").unwrap();
    let error = activate(line(0, 8, "error", ""));
    assert!(
        matches!(&error, DmError::NodeInTheWay { path, .. } if *path == node),
        "{error:?}"
    );
    assert_eq!(dm.find(DevId::Name(&name("a"))).unwrap(), None);
    assert_eq!(fs::read(&node).unwrap(), b"a file");
}

/// `pool open` once failed for good on what a killed `container create` had left: a device that was
/// made and never given a table.
#[test]
#[ignore = "needs root and device-mapper"]
fn priv_what_a_killed_activation_left_is_removed() {
    let _machine = Machine::new();
    let dm = dm();
    let target = || line(0, 8, "error", "");
    for with_table in [false, true] {
        let made = dm.control().create(&name("a"), Some(&uuid("a"))).unwrap();
        if with_table {
            let id = DevId::Dev(made.dev);
            dm.control().load(id, &[target()], false).unwrap();
        }
        assert_eq!(dm.active(&uuid("a")).unwrap(), None);
        assert_eq!(dm.find(DevId::Name(&name("a"))).unwrap(), None);
    }
    let device = dm
        .activate(
            &name("a"),
            &uuid("a"),
            &[target()],
            ActivateOptions::default(),
        )
        .unwrap();
    assert_eq!(dm.active(&uuid("a")).unwrap(), Some(device));
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_read_only_device_refuses_writes() {
    let machine = Machine::new();
    let disk = machine.loop_device("disk", Bytes::from_mib(8));
    let dm = dm();
    let options = ActivateOptions {
        read_only: true,
        udev_flags: UdevFlags::CONTAINER,
    };
    let device = dm
        .activate(&name("a"), &uuid("a"), &[linear(disk.dev(), 8192)], options)
        .unwrap();
    assert!(dm.find(device.id()).unwrap().unwrap().read_only);
    let file = File::open(device.node()).unwrap();
    assert!(is_read_only(&file).unwrap());
    // Some kernels refuse to open it, others to write.
    let write = |mut file: File| file.write_all(&[1; 4096]);
    let error = File::options()
        .write(true)
        .open(device.node())
        .and_then(write)
        .unwrap_err();
    let errno = Errno::from_io_error(&error);
    assert!(
        matches!(errno, Some(Errno::ROFS | Errno::ACCESS | Errno::PERM)),
        "{error}"
    );
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_own_nodes_are_right_in_any_directory() {
    let machine = Machine::new();
    let dm = Dm::open(&machine.dir().join("mapper")).unwrap();
    assert_eq!(dm.policy(), NodePolicy::Own);
    // Left over from another time, as a device and as a link.
    let node = dm.dev_dir().join("a-dmthin-test");
    ensure_block_node(&node, DevNo::new(7, 1000)).unwrap();
    let device = activate(&dm, "a", &[line(0, 8, "error", "")]);
    let kind = fs::symlink_metadata(&node).unwrap().file_type();
    assert!(kind.is_block_device());
    assert_eq!(node_dev(&node).unwrap(), Some(device.dev()));

    fs::remove_file(&node).unwrap();
    std::os::unix::fs::symlink("nowhere", &node).unwrap();
    dm.device(&uuid("a")).unwrap();
    assert_eq!(node_dev(&node).unwrap(), Some(device.dev()));
    dm.deactivate(device.id(), Deferred::No).unwrap();
    assert!(fs::symlink_metadata(&node).is_err());
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_busy_device_stays_or_goes_later() {
    let machine = Machine::new();
    let disk = machine.loop_device("disk", Bytes::from_mib(8));
    let dm = dm();
    let device = activate(&dm, "a", &[linear(disk.dev(), 8192)]);
    let user = File::open(device.node()).unwrap();
    let begin = Instant::now();
    assert!(matches!(
        dm.deactivate(device.id(), Deferred::No),
        Err(DmError::Busy { dev, .. }) if dev == device.dev()
    ));
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(node_dev(device.node()).unwrap(), Some(device.dev()));
    assert_eq!(
        dm.deactivate(device.id(), Deferred::Yes).unwrap(),
        RemovedWhen::Deferred
    );
    let info = dm.find(device.id()).unwrap().unwrap();
    assert!(info.deferred_remove);
    assert_eq!(info.open_count, 1);
    drop(user);
    // The last close queues the removal.
    let gone = |_: &i32| dm.find(device.id()).unwrap().is_none();
    assert!((0..100).any(|nr| {
        std::thread::sleep(Duration::from_millis(10));
        gone(&nr)
    }));
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_device_open_for_a_moment_is_asked_again() {
    let _machine = Machine::new();
    let dm = dm();
    let device = activate(&dm, "a", &[line(0, 8, "error", "")]);
    let user = File::open(device.node()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(user);
        });
        assert_eq!(
            dm.deactivate(device.id(), Deferred::No).unwrap(),
            RemovedWhen::Now
        );
    });
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_suspended_device_is_resumed_on_every_path() {
    let _machine = Machine::new();
    let dm = dm();
    let device = activate(&dm, "a", &[line(0, 8, "error", "")]);
    let is_suspended = || dm.find(device.id()).unwrap().unwrap().suspended;
    let guard = dm.suspend(device.id(), SuspendFlags::default()).unwrap();
    assert!(is_suspended());
    assert_eq!(guard.dev(), device.dev());
    assert!(!guard.resume().unwrap().suspended);
    assert!(!is_suspended());
    let panicked = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let _guard = dm.suspend(device.id(), SuspendFlags::default()).unwrap();
                assert!(!is_suspended(), "as meant");
            })
            .join()
    });
    assert!(panicked.is_err());
    assert!(!is_suspended());
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_reload_changes_the_table_or_nothing() {
    let machine = Machine::new();
    let disk = machine.loop_device("disk", Bytes::from_mib(8));
    let dm = dm();
    let device = activate(&dm, "a", &[linear(disk.dev(), 4096)]);
    let how = SuspendFlags::default();
    let larger = [linear(disk.dev(), 8192)];
    let info = dm.reload(device.id(), &larger, false, how).unwrap();
    assert!(info.active_table && !info.suspended && !info.inactive_table);
    let bad = [line(0, 8, "linear", "nonsense")];
    assert_eq!(
        dm.reload(device.id(), &bad, false, how)
            .unwrap_err()
            .errno(),
        Some(Errno::INVAL)
    );
    let (info, table) = dm.control().table(device.id()).unwrap();
    assert_eq!(table, larger);
    assert!(!info.suspended && !info.inactive_table);
    let nobody = name("nobody");
    assert!(matches!(
        dm.reload(DevId::Name(&nobody), &larger, false, how),
        Err(DmError::NotFound { device }) if device == nobody.as_str()
    ));
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_an_event_ends_the_wait_and_silence_the_limit() {
    let _machine = Machine::new();
    let dm = dm();
    let device = activate(&dm, "a", &[line(0, 8, "error", "")]);
    let other = activate(&dm, "other", &[line(0, 8, "error", "")]);
    let waiter = EventWaiter::open(dm.dev_dir()).unwrap();
    let seen = dm.find(device.id()).unwrap().unwrap().event_nr;
    let limit = Duration::from_millis(300);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        // Another device's event wakes the poll but does not end the wait.
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            dm.control()
                .rename(other.name(), &name("renamed"), Cookie::NONE)
                .unwrap();
        });
        assert_eq!(waiter.wait(device.id(), seen, limit).unwrap(), None);
    });
    assert!(begin.elapsed() >= limit);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            dm.control()
                .rename(device.name(), &name("b"), Cookie::NONE)
                .unwrap();
        });
        let info = waiter
            .wait(device.id(), seen, Duration::from_secs(30))
            .unwrap()
            .unwrap();
        assert_eq!(info.name, name("b"));
        assert_ne!(info.event_nr, seen);
    });
    // What happened before is not waited for.
    assert!(
        waiter
            .wait(device.id(), seen, Duration::ZERO)
            .unwrap()
            .is_some()
    );
    let seen = dm.find(device.id()).unwrap().unwrap().event_nr;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            dm.deactivate(device.id(), Deferred::No).unwrap();
        });
        assert!(matches!(
            waiter.wait(device.id(), seen, Duration::from_secs(30)),
            Err(DmError::NotFound { .. })
        ));
    });
}

/// With a udevd whose rules complete cookies, nodes are udev's links; without, they are ours.
#[test]
#[ignore = "needs root and device-mapper"]
fn priv_nodes_are_made_by_whom_the_policy_says() {
    let _machine = Machine::new();
    let dm = dm();
    let begin = Instant::now();
    let device = activate(&dm, "a", &[line(0, 8, "error", "")]);
    let kind = fs::symlink_metadata(device.node()).unwrap().file_type();
    assert_eq!(kind.is_symlink(), dm.policy() == NodePolicy::Udev);
    let info = dm.find(device.id()).unwrap().unwrap();
    assert_eq!(info.open_count, 0);
    dm.deactivate(device.id(), Deferred::No).unwrap();
    assert!(fs::symlink_metadata(device.node()).is_err());
    // Far below the limit after which udev is given up.
    assert!(begin.elapsed() < Duration::from_secs(8));
    let left = fs::read_to_string("/proc/sysvipc/sem").unwrap();
    let cookies = left
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next()?.parse::<u32>().ok())
        .filter(|key| key >> 16 == 0x0d4d)
        .count();
    assert_eq!(cookies, 0, "{left}");
    assert_eq!(
        dm.policy() == NodePolicy::Udev,
        fs::exists("/run/udev/control").unwrap()
    );
}

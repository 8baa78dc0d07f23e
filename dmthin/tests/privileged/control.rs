//! Every command of the control node.

use std::time::Duration;

use dmthin::ids::DevNo;
use dmthin::ioctl::{
    Control, Cookie, Deferred, DevId, Errno, Flush, IoctlError, RemovedWhen, SuspendFlags,
};
use dmthin::units::{Bytes, Sectors};

use crate::support::{Machine, line, linear, name, uuid};

fn errno<T: std::fmt::Debug>(result: Result<T, IoctlError>) -> (&'static str, Errno) {
    match result.unwrap_err() {
        IoctlError::Dm { command, errno, .. } => (command, errno),
        error => panic!("{error:?}"),
    }
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_device_lives_through_every_command() {
    let machine = Machine::new();
    let disk = machine.loop_device("disk", Bytes::from_mib(8));
    let control = Control::open().unwrap();
    assert_eq!(control.version().major, 4);
    let targets = control.list_versions().unwrap();
    for target in ["thin-pool", "thin", "linear"] {
        assert!(targets.iter().any(|t| t.name == target), "{target}");
    }

    let (a, b) = (name("a"), name("b"));
    let id = uuid("a");
    let made = control.create(&a, Some(&id)).unwrap();
    assert_eq!((&made.name, &made.uuid), (&a, &Some(id.clone())));
    assert!(!made.active_table && !made.inactive_table && !made.read_only);
    let by_dev = DevId::Dev(made.dev);
    assert_eq!(
        errno(control.create(&a, None)),
        ("DM_DEV_CREATE", Errno::BUSY)
    );
    assert!(matches!(
        control.message(by_dev, Sectors::ZERO, "hello"),
        Err(IoctlError::NoLiveTable { .. })
    ));

    let loaded = control
        .load(by_dev, &[linear(disk.dev(), 8192)], true)
        .unwrap();
    assert!(loaded.inactive_table && !loaded.active_table);
    assert!(!control.clear(by_dev).unwrap().inactive_table);
    assert_eq!(
        errno(control.load(by_dev, &[line(0, 8, "no-such-target", "")], false)),
        ("DM_TABLE_LOAD", Errno::INVAL)
    );
    control
        .load(by_dev, &[linear(disk.dev(), 8192)], false)
        .unwrap();
    let live = control.resume(by_dev, Cookie::NONE).unwrap();
    assert!(live.active_table && live.uevent_generated && !live.suspended);

    for same in [DevId::Name(&a), DevId::Uuid(&id), by_dev] {
        let info = control.status(same).unwrap();
        assert_eq!((&info.name, info.dev, info.target_count), (&a, made.dev, 1));
    }
    let listed = control.list_devices().unwrap();
    let entry = listed.iter().find(|entry| entry.name == a).unwrap();
    assert_eq!((entry.dev, &entry.uuid), (made.dev, &Some(id.clone())));
    assert_eq!(entry.event_nr, Some(live.event_nr));

    assert_eq!(control.deps(by_dev).unwrap(), [disk.dev()]);
    let (_, table) = control.table(by_dev).unwrap();
    assert_eq!(table, [linear(disk.dev(), 8192)]);
    let (_, status) = control.table_status(by_dev, Flush::Yes).unwrap();
    assert_eq!(status, [line(0, 8192, "linear", "")]);
    assert_eq!(
        control
            .message(by_dev, Sectors::ZERO, "@stats_create - /1")
            .unwrap(),
        Some("0".to_owned())
    );
    assert_eq!(
        errno(control.message(by_dev, Sectors::ZERO, "hello")),
        ("DM_TARGET_MSG", Errno::INVAL)
    );

    for how in [
        SuspendFlags::default(),
        SuspendFlags {
            noflush: true,
            skip_lockfs: true,
        },
    ] {
        assert!(control.suspend(by_dev, how).unwrap().suspended);
        assert!(!control.resume(by_dev, Cookie::NONE).unwrap().suspended);
    }

    let renamed = control.rename(&a, &b, Cookie::NONE).unwrap();
    assert_eq!((&renamed.name, renamed.dev), (&b, made.dev));
    assert!(renamed.uevent_generated);
    for (from, to, why) in [(&a, name("c"), Errno::NXIO), (&a, name("b"), Errno::BUSY)] {
        assert_eq!(
            errno(control.rename(from, &to, Cookie::NONE)),
            ("DM_DEV_RENAME", why)
        );
    }
    assert_eq!(
        errno(control.status(DevId::Name(&a))),
        ("DM_DEV_STATUS", Errno::NXIO)
    );
    let removed = control
        .remove(DevId::Name(&b), Deferred::Yes, Cookie::NONE)
        .unwrap();
    assert_eq!(removed.when, RemovedWhen::Now);
    assert!(removed.uevent);
    assert_eq!(
        errno(control.remove(by_dev, Deferred::No, Cookie::NONE)),
        ("DM_DEV_REMOVE", Errno::NXIO)
    );
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_wait_ends_with_the_next_event() {
    let _machine = Machine::new();
    let control = Control::open().unwrap();
    let made = control.create(&name("a"), None).unwrap();
    let id = DevId::Dev(made.dev);
    control.load(id, &[line(0, 8, "error", "")], false).unwrap();
    let seen = control.resume(id, Cookie::NONE).unwrap().event_nr;
    let dev = made.dev;
    // Not a scope: that would wait for a waiter that nothing wakes.
    let waiter = std::thread::spawn(move || Control::open().unwrap().wait(DevId::Dev(dev), seen));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!waiter.is_finished());
    // A new name is an event.
    control
        .rename(&name("a"), &name("b"), Cookie::NONE)
        .unwrap();
    let (info, lines) = waiter.join().unwrap().unwrap();
    assert_ne!(info.event_nr, seen);
    assert_eq!(info.dev, dev);
    assert_eq!(lines, [line(0, 8, "error", "")]);
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_replies_larger_than_the_first_buffer_are_read_whole() {
    let machine = Machine::new();
    let disk = machine.loop_device("disk", Bytes::from_mib(8));
    let control = Control::open().unwrap();
    let made = control.create(&name("a"), None).unwrap();
    let id = DevId::Dev(made.dev);
    let params = format!("{} 0", disk.dev());
    let table: Vec<_> = (0..1000)
        .map(|nr| line(nr * 8, 8, "linear", &params))
        .collect();
    control.load(id, &table, false).unwrap();
    control.resume(id, Cookie::NONE).unwrap();
    assert_eq!(control.table(id).unwrap().1, table);

    let names: Vec<_> = (0..300)
        .map(|nr| name(&format!("{nr:03}-{}", "x".repeat(90))))
        .collect();
    for name in &names {
        control.create(name, None).unwrap();
    }
    let listed = control.list_devices().unwrap();
    for name in &names {
        let entry = listed.iter().find(|entry| &entry.name == name).unwrap();
        assert_eq!(entry.uuid, None);
    }
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_the_control_node_is_made_where_it_is_missing() {
    let machine = Machine::new();
    let dir = machine.dir().join("mapper");
    let control = Control::open_in(&dir).unwrap();
    assert_eq!(control.version(), Control::open().unwrap().version());
    assert!(dir.join("control").exists());
    let nothing = DevId::Dev(DevNo::new(254, 9999));
    assert_eq!(
        errno(control.status(nothing)),
        ("DM_DEV_STATUS", Errno::NXIO)
    );
}

//! Loop devices.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use dmthin::dm::DmError;
use dmthin::ioctl::{
    Access, Deferred, Detached, Errno, FileId, IoctlError, LoopOptions, attach_loop, discard,
    find_loops, is_read_only, logical_block_size, node_dev, open_exclusive, physical_block_size,
    size,
};
use dmthin::units::Bytes;

use crate::support::{Machine, activate, dm, linear};

const KEPT: LoopOptions = LoopOptions {
    block_size: Bytes::new(4096),
    direct_io: true,
    read_only: false,
    autoclear: false,
};

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_file_is_attached_found_grown_and_detached() {
    let machine = Machine::new();
    let (path, file) = machine.file("data.img", Bytes::from_mib(4));
    let id = FileId::of(&file).unwrap();
    assert_eq!(find_loops(id).unwrap().len(), 0);
    let device = attach_loop(&file, &path, KEPT).unwrap();
    let info = device.info().unwrap();
    assert_eq!(info.backing, id);
    assert_eq!(info.offset, Bytes::ZERO);
    assert_eq!(info.block_size, Bytes::new(4096));
    assert!(!info.autoclear && !info.read_only);
    let name = path.to_str().unwrap();
    assert_eq!(
        info.file_name.to_str().unwrap(),
        &name[..name.len().min(63)]
    );
    // Whether the file system can go round its cache, seen without loop.
    let direct = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    assert_eq!(info.direct_io, direct.is_ok());

    let found = find_loops(id).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].dev(), found[0].path()),
        (device.dev(), device.path())
    );
    drop(found);

    assert_eq!(size(&device).unwrap(), Bytes::from_mib(4));
    file.set_len(Bytes::from_mib(6).get()).unwrap();
    assert_eq!(size(&device).unwrap(), Bytes::from_mib(4));
    device.update_capacity().unwrap();
    assert_eq!(size(&device).unwrap(), Bytes::from_mib(6));
    assert_eq!(logical_block_size(&device).unwrap(), Bytes::new(4096));
    assert!(physical_block_size(&device).unwrap() >= Bytes::new(4096));
    assert!(!is_read_only(&device).unwrap());

    assert_eq!(device.detach().unwrap(), Detached::Now);
    assert_eq!(find_loops(id).unwrap().len(), 0);
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_discards_reach_the_file() {
    use std::os::unix::fs::MetadataExt;
    let machine = Machine::new();
    let (path, file) = machine.file("data.img", Bytes::from_mib(4));
    let device = attach_loop(&file, &path, LoopOptions::default()).unwrap();
    let full = vec![1; 1 << 20];
    assert_eq!(rustix::io::pwrite(device.as_fd(), &full, 0), Ok(1 << 20));
    rustix::fs::fsync(device.as_fd()).unwrap();
    assert!(file.metadata().unwrap().blocks() >= 2048);
    discard(&device, Bytes::ZERO, Bytes::from_mib(1)).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 0);
    assert_eq!(
        discard(&device, Bytes::new(1), Bytes::new(4096))
            .unwrap_err()
            .errno(),
        Some(Errno::INVAL)
    );
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_what_the_kernel_refuses_is_done_without() {
    let machine = Machine::new();
    let (path, file) = machine.file("data.img", Bytes::from_mib(4));
    let odd = LoopOptions {
        // No power of two: refused by every kernel.
        block_size: Bytes::new(3000),
        read_only: true,
        ..LoopOptions::default()
    };
    let device = attach_loop(&file, &path, odd).unwrap();
    let info = device.info().unwrap();
    assert_eq!(info.block_size, Bytes::new(512));
    assert!(info.read_only && info.autoclear);
    assert!(is_read_only(&device).unwrap());
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_more_loop_devices_are_made_when_they_run_out() {
    let machine = Machine::new();
    let before = loop_count();
    let devices: Vec<_> = (0..before + 3)
        .map(|nr| machine.loop_device(&format!("{nr}.img"), Bytes::from_mib(1)))
        .collect();
    assert!(loop_count() >= before + 3);
    for device in &devices {
        assert_eq!(node_dev(device.path()).unwrap(), Some(device.dev()));
    }
    let mut numbers: Vec<_> = devices.iter().map(|device| device.dev().minor()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), before + 3);
}

fn loop_count() -> usize {
    fs::read_dir("/sys/block")
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_str().unwrap().starts_with("loop")
        })
        .count()
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_missing_node_is_made() {
    let machine = Machine::new();
    let (path, file) = machine.file("data.img", Bytes::from_mib(1));
    let first = attach_loop(&file, &path, KEPT).unwrap();
    let node = first.path().to_owned();
    assert_eq!(first.detach().unwrap(), Detached::Now);
    fs::remove_file(&node).unwrap();
    let again = attach_loop(&file, &path, LoopOptions::default()).unwrap();
    assert_eq!(again.path(), node);
    assert_eq!(node_dev(&node).unwrap(), Some(again.dev()));
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_many_threads_each_get_a_device_of_their_own() {
    let machine = Machine::new();
    let files: Vec<_> = (0..12)
        .map(|nr| machine.file(&format!("{nr}.img"), Bytes::from_mib(1)))
        .collect();
    let devices: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .iter()
            .map(|(path, file)| {
                scope.spawn(move || attach_loop(file, path, LoopOptions::default()).unwrap())
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for (device, (_, file)) in devices.iter().zip(&files) {
        let id = FileId::of(file).unwrap();
        assert_eq!(device.info().unwrap().backing, id);
    }
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_loop_in_use_is_not_detached() {
    let machine = Machine::new();
    let (path, file) = machine.file("data.img", Bytes::from_mib(4));
    let id = FileId::of(&file).unwrap();
    let device = attach_loop(&file, &path, KEPT).unwrap();
    let node = device.path().to_owned();
    let dm = dm();
    let user = activate(&dm, "user", &[linear(device.dev(), 2048)]);
    assert!(matches!(
        open_exclusive(&node, Access::ReadOnly),
        Err(IoctlError::Busy { path }) if path == node
    ));
    assert!(matches!(
        device.detach(),
        Err(IoctlError::Busy { path }) if path == node
    ));
    let mut found = find_loops(id).unwrap();
    assert_eq!(found.len(), 1);
    assert!(!found[0].info().unwrap().autoclear);
    dm.deactivate(user.id(), Deferred::No).unwrap();
    assert_eq!(found.remove(0).detach().unwrap(), Detached::Now);
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_an_autoclear_loop_lives_as_long_as_its_user() {
    let machine = Machine::new();
    let (path, file) = machine.file("data.img", Bytes::from_mib(4));
    let id = FileId::of(&file).unwrap();
    let device = attach_loop(&file, &path, LoopOptions::default()).unwrap();
    let dm = dm();
    let user = activate(&dm, "user", &[linear(device.dev(), 2048)]);
    drop(device);
    assert_eq!(find_loops(id).unwrap().len(), 1);
    dm.deactivate(user.id(), Deferred::No).unwrap();
    assert_eq!(find_loops(id).unwrap().len(), 0);
    assert!(matches!(
        dm.deactivate(user.id(), Deferred::No),
        Err(DmError::NotFound { .. })
    ));
    assert!(!Path::new("/dev/mapper/user-dmthin-test").exists());
}

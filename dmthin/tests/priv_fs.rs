//! Backing files, file systems and mounts on a real kernel.
//!
//! Root and loop devices are needed, and a temporary directory (`TMPDIR`) on a file system that can
//! punch holes. It must not be a tmpfs, which takes blocks for the holes that a loop device reads
//! (`mm/shmem.c`, `shmem_file_read_iter`). Loop devices go with their last user and mounts are
//! detached, so that nothing is left, whatever fails.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "test helper"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use dmthin::backing::{Attached, BackingError, BlockDevice, SparseFile};
use dmthin::fs::{
    DetachedMount, FsError, FsUuid, MkfsOptions, MountOptions, find_signature, grow, mkfs,
    mounts_of, probe, trim, unmount,
};
use dmthin::ids::FsType;
use dmthin::ioctl::{Errno, LoopOptions, attach_loop};
use dmthin::units::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags};
use tempfile::TempDir;

const BOTH: [FsType; 2] = [FsType::Ext4, FsType::Xfs];
/// Small, for speed; mkfs.xfs wants 300 MB.
const SIZE: Bytes = Bytes::from_mib(320);
const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

/// A sparse file on a loop device with an empty file system.
struct Disk {
    dir: TempDir,
    file: SparseFile,
    loop_device: Attached,
    fs: FsType,
}

fn preflight() {
    assert!(rustix::process::geteuid().is_root(), "run as root");
    let control = Path::new("/dev/loop-control");
    assert!(control.exists(), "no loop devices: modprobe loop");
}

fn disk(fs: FsType) -> Disk {
    preflight();
    let dir = tempfile::Builder::new()
        .suffix("-dmthin-test")
        .tempdir()
        .unwrap();
    let host = rustix::fs::statfs(dir.path()).unwrap();
    let tmpfs = 0x0102_1994;
    assert!(host.f_type != tmpfs, "set TMPDIR to a disk, not a tmpfs");
    let file = SparseFile::create(&dir.path().join("disk"), SIZE).unwrap();
    let loop_device = file.attach().unwrap();
    let options = MkfsOptions {
        uuid: UUID.parse().ok(),
        zeroed: true,
        extra: Vec::new(),
    };
    mkfs(fs, loop_device.node(), &options).unwrap();
    Disk {
        dir,
        file,
        loop_device,
        fs,
    }
}

impl Disk {
    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn mount(&self, options: &MountOptions) -> DetachedMount {
        DetachedMount::new(self.fs, self.loop_device.node(), options).unwrap()
    }

    fn allocated(&self) -> u64 {
        self.file.allocated().unwrap().get()
    }

    /// Repeats `again` until the file takes less than so many bytes. An xfs frees a removed file's
    /// blocks in the background (`fs/xfs/xfs_icache.c`, `xfs_inodegc_worker`), discards them with
    /// the log's next checkpoint, and leaves blocks not yet checkpointed out of a trim
    /// (`fs/xfs/xfs_discard.c`): one sync, or one trim, is not enough.
    fn shrinks_below(&self, bytes: u64, again: impl Fn()) -> bool {
        let end = Instant::now() + Duration::from_secs(60);
        while self.allocated() >= bytes {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(200));
            again();
        }
        true
    }
}

fn discard() -> MountOptions {
    MountOptions {
        discard: true,
        ..MountOptions::default()
    }
}

fn create(mount: &DetachedMount, name: &str) -> File {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(mount.root(), name, flags, Mode::RUSR | Mode::WUSR).unwrap();
    File::from(fd)
}

fn write_big(mount: &DetachedMount, name: &str, mib: usize) {
    let mut file = create(mount, name);
    let chunk = vec![0xa5; 1 << 20];
    for _ in 0..mib {
        file.write_all(&chunk).unwrap();
    }
    file.sync_all().unwrap();
}

fn remove(mount: &DetachedMount, name: &str) {
    rustix::fs::unlinkat(mount.root(), name, AtFlags::empty()).unwrap();
}

fn blocks(mount: &DetachedMount) -> u64 {
    let stat = rustix::fs::fstatvfs(mount.open_root().unwrap()).unwrap();
    stat.f_blocks * stat.f_frsize
}

#[test]
#[ignore = "needs root and loop devices"]
fn priv_a_detached_mount_keeps_what_is_written_and_leaves_nothing() {
    for fs in BOTH {
        let disk = disk(fs);
        let mount = disk.mount(&MountOptions::default());
        create(&mount, "hello").write_all(b"world").unwrap();
        assert_eq!(mounts_of(disk.loop_device.dev()).unwrap(), []);
        let block = BlockDevice::open(disk.loop_device.node()).unwrap();
        assert!(matches!(
            block.check_unused(),
            Err(BackingError::InUse { .. })
        ));
        mount.close().unwrap();
        block.check_unused().unwrap();

        let read_only = MountOptions {
            read_only: true,
            ..MountOptions::default()
        };
        let mount = disk.mount(&read_only);
        let fd = rustix::fs::openat(mount.root(), "hello", OFlags::RDONLY, Mode::empty()).unwrap();
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        assert_eq!(text, "world");
        assert_eq!(
            rustix::fs::mkdirat(mount.root(), "new", Mode::RWXU),
            Err(Errno::ROFS)
        );
        // Dropping unmounts as well.
        drop(mount);
        block.check_unused().unwrap();
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn priv_the_probe_agrees_with_the_kernel() {
    for fs in BOTH {
        let disk = disk(fs);
        let device = File::open(disk.loop_device.node()).unwrap();
        let info = probe(&device).unwrap().unwrap();
        assert_eq!((info.fs, info.size), (fs, SIZE));
        assert_eq!(info.uuid, UUID.parse::<FsUuid>().unwrap());
        assert!(find_signature(&device).unwrap().is_some());
        let mount = disk.mount(&MountOptions::default());
        let stat = rustix::fs::fstatvfs(mount.open_root().unwrap()).unwrap();
        assert_eq!(info.block_size.get(), stat.f_bsize);
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn priv_discard_gives_removed_files_back_to_the_host() {
    for fs in BOTH {
        let disk = disk(fs);
        let mount = disk.mount(&discard());
        let before = disk.allocated();
        write_big(&mount, "big", 100);
        mount.sync().unwrap();
        let full = disk.allocated();
        // Some of its blocks may have been written before.
        assert!(full > before + (99 << 20), "{fs}: {before} to {full}");
        remove(&mount, "big");
        mount.sync().unwrap();
        assert!(
            disk.shrinks_below(before + (2 << 20), || mount.sync().unwrap()),
            "{fs}: {} of {before}",
            disk.allocated()
        );
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn priv_trim_gives_back_what_was_not_discarded() {
    for fs in BOTH {
        let disk = disk(fs);
        let mount = disk.mount(&MountOptions::default());
        let before = disk.allocated();
        write_big(&mount, "big", 100);
        remove(&mount, "big");
        mount.sync().unwrap();
        let full = disk.allocated();
        // Some of its blocks may have been written before.
        assert!(full > before + (99 << 20), "{fs}: {before} to {full}");
        let trimmed = trim(mount.open_root().unwrap()).unwrap();
        assert!(trimmed >= Bytes::from_mib(100), "{fs}: {trimmed}");
        let again = || {
            mount.sync().unwrap();
            trim(mount.open_root().unwrap()).unwrap();
        };
        assert!(disk.shrinks_below(before + (2 << 20), again), "{fs}");
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn priv_a_mounted_file_system_grows() {
    for fs in BOTH {
        let disk = disk(fs);
        let mount = disk.mount(&MountOptions::default());
        let before = blocks(&mount);
        create(&mount, "hello").write_all(b"world").unwrap();
        let root = mount.open_root().unwrap();
        let large = Bytes::from_gib(1);

        // Not before its device has grown.
        assert!(matches!(grow(&root, fs, large), Err(FsError::Ioctl(_))));
        let file = OpenOptions::new().write(true).open(disk.path()).unwrap();
        file.set_len(large.get()).unwrap();
        let again = disk.file.attach().unwrap();
        assert_eq!(again.dev(), disk.loop_device.dev());
        assert_eq!(again.size(), large);

        grow(&root, fs, large).unwrap();
        mount.sync().unwrap();
        assert!(blocks(&mount) > before + (600 << 20), "{fs}");
        // A second time changes nothing.
        grow(&root, fs, large).unwrap();
        let smaller = grow(&root, fs, SIZE).unwrap_err();
        match (fs, smaller) {
            (FsType::Ext4, FsError::Ioctl(error)) => assert_eq!(error.errno(), Some(Errno::INVAL)),
            (FsType::Xfs, FsError::Shrink { found, .. }) => assert_eq!(found, large),
            (_, other) => panic!("{other:?}"),
        }
        drop(root);
        mount.close().unwrap();
        let device = File::open(disk.loop_device.node()).unwrap();
        assert_eq!(probe(&device).unwrap().unwrap().size, large, "{fs}");
        disk.mount(&MountOptions::default()).close().unwrap();
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn priv_a_mount_is_put_at_a_directory_and_taken_away() {
    for fs in BOTH {
        let disk = disk(fs);
        // A name that the mount table escapes.
        let dir = disk.dir.path().join("a b");
        fs::create_dir(&dir).unwrap();
        disk.mount(&discard()).attach(&dir).unwrap();
        let entries = mounts_of(disk.loop_device.dev()).unwrap();
        let [entry] = entries.as_slice() else {
            panic!("{entries:?}");
        };
        assert_eq!(
            (&entry.target, entry.fs_type.as_str(), entry.root.as_path()),
            (&dir, fs.as_str(), Path::new("/"))
        );
        let open = File::create(dir.join("open")).unwrap();
        assert!(matches!(
            unmount(&dir),
            Err(FsError::UnmountBusy { path }) if path == dir
        ));
        drop(open);
        unmount(&dir).unwrap();
        assert_eq!(mounts_of(disk.loop_device.dev()).unwrap(), []);
        assert!(matches!(unmount(&dir), Err(FsError::NotMounted { .. })));

        let missing = disk.dir.path().join("missing");
        assert!(matches!(
            disk.mount(&discard()).attach(&missing),
            Err(FsError::Attach {
                errno: Errno::NOENT,
                ..
            })
        ));
        let block = BlockDevice::open(disk.loop_device.node()).unwrap();
        block.check_unused().unwrap();
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn priv_a_volume_and_its_copy_are_mounted_together() {
    for fs in BOTH {
        let disk = disk(fs);
        let mount = disk.mount(&MountOptions::default());
        create(&mount, "hello").write_all(b"world").unwrap();
        mount.close().unwrap();
        let copy = disk.dir.path().join("copy");
        fs::copy(disk.path(), &copy).unwrap();
        let copy = SparseFile::open(&copy).unwrap().attach().unwrap();
        let one = disk.mount(&MountOptions::default());
        let two = DetachedMount::new(fs, copy.node(), &MountOptions::default()).unwrap();
        remove(&one, "hello");
        assert_eq!(
            rustix::fs::statat(two.root(), "hello", AtFlags::empty())
                .unwrap()
                .st_size,
            5
        );
        one.close().unwrap();
        two.close().unwrap();
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn priv_a_mount_that_fails_says_why() {
    for fs in BOTH {
        let disk = disk(fs);
        let options = MountOptions {
            extra: vec![("no_such_option".to_owned(), Some("1".to_owned()))],
            ..MountOptions::default()
        };
        match DetachedMount::new(fs, disk.loop_device.node(), &options) {
            Err(FsError::MountOption {
                option,
                errno: Errno::INVAL,
                messages,
                ..
            }) => {
                assert_eq!(option, "no_such_option=1");
                assert!(messages.concat().contains("no_such_option"), "{messages:?}");
            }
            other => panic!("{other:?}"),
        }
        // The other file system is not there.
        let other = if fs == FsType::Ext4 {
            FsType::Xfs
        } else {
            FsType::Ext4
        };
        assert!(matches!(
            DetachedMount::new(other, disk.loop_device.node(), &MountOptions::default()),
            Err(FsError::Mount {
                errno: Errno::INVAL,
                ..
            })
        ));
        let missing = disk.dir.path().join("missing");
        assert!(matches!(
            DetachedMount::new(fs, &missing, &MountOptions::default()),
            Err(FsError::Mount {
                errno: Errno::NOENT,
                ..
            })
        ));
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn priv_a_file_is_attached_once_and_found_again() {
    let disk = disk(FsType::Ext4);
    let info = disk.loop_device.loop_info().unwrap().unwrap();
    assert!(info.autoclear);
    assert!(disk.path().starts_with(info.file_name.parent().unwrap()));
    // By its inode, whatever its name is.
    let renamed = disk.dir.path().join("renamed");
    fs::rename(disk.path(), &renamed).unwrap();
    let again = SparseFile::open(&renamed).unwrap();
    assert_eq!(again.attach().unwrap().dev(), disk.loop_device.dev());

    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&renamed)
        .unwrap();
    let second = attach_loop(file.as_fd(), &renamed, LoopOptions::default()).unwrap();
    match again.attach() {
        Err(BackingError::AttachedTwice { loops, .. }) => {
            for node in [disk.loop_device.node(), second.path()] {
                assert!(loops.contains(node.to_str().unwrap()), "{loops}");
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn priv_a_file_that_others_attached_read_only_is_refused() {
    preflight();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let file = SparseFile::create(&path, Bytes::from_mib(8)).unwrap();
    let options = LoopOptions {
        read_only: true,
        ..LoopOptions::default()
    };
    let theirs = attach_loop(File::open(&path).unwrap(), &path, options).unwrap();
    assert!(matches!(
        file.attach(),
        Err(BackingError::AttachedOtherwise { how: "read-only", node, .. }) if node == theirs.path()
    ));
    assert!(matches!(
        BlockDevice::open(theirs.path()),
        Err(BackingError::ReadOnly { .. })
    ));
}

#[test]
#[ignore = "needs root and loop devices"]
fn priv_a_loop_device_goes_with_its_last_user() {
    let disk = disk(FsType::Ext4);
    let block = BlockDevice::open(disk.loop_device.node()).unwrap();
    assert_eq!(block.dev(), disk.loop_device.dev());
    assert_eq!(block.size(), SIZE);
    let (node, path) = (disk.loop_device.node().to_owned(), disk.path());
    let attached = block.attach();
    assert_eq!(attached.loop_info().unwrap(), None);
    drop(disk.loop_device);
    let name = node.file_name().unwrap().to_str().unwrap();
    let state = PathBuf::from(format!("/sys/block/{name}/loop/backing_file"));
    let shown = fs::read_to_string(&state).unwrap();
    assert_eq!(Path::new(shown.trim()), path);
    drop(attached);
    // Where udevd runs, its probe of the device may be the last user, for a moment.
    let limit = Instant::now() + Duration::from_secs(10);
    while state.exists() && Instant::now() < limit {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(!state.exists());
}

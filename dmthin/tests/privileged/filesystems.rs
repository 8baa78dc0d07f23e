//! Calls on mounted file systems: trim, freeze, grow.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use dmthin::ioctl::{
    Errno, SuspendFlags, freeze, resize_ext4, resize_xfs, thaw, trim, xfs_geometry,
};
use dmthin::units::Bytes;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::{Machine, activate, dm, linear};

const SMALL: u64 = 512 << 11;
const LARGE: u64 = 1024 << 11;

/// A mount that goes with its test.
struct Mounted {
    path: PathBuf,
}

impl Mounted {
    fn new(node: &Path, path: PathBuf, kind: &str) -> Self {
        std::fs::create_dir(&path).unwrap();
        mount(node, &path, kind, MountFlags::empty(), None).unwrap();
        Self { path }
    }

    fn root(&self) -> File {
        File::open(&self.path).unwrap()
    }

    fn size(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.path).unwrap();
        found.f_blocks * found.f_frsize
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.path, UnmountFlags::DETACH).unwrap();
    }
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program}: {status}");
}

fn grow_and_hold(kind: &str, mkfs: &[&str], grow: impl FnOnce(&File, u64)) {
    let machine = Machine::new();
    let disk = machine.loop_device("disk", Bytes::from_gib(1));
    let dm = dm();
    let device = activate(&dm, "fs", &[linear(disk.dev(), SMALL)]);
    let node = device.node().to_str().unwrap();
    run(&format!("mkfs.{kind}"), &[mkfs, &[node]].concat());
    let fs = Mounted::new(device.node(), machine.dir().join("mnt"), kind);
    let root = fs.root();

    let before = fs.size();
    assert!(before < SMALL * 512 && before > SMALL * 512 * 8 / 10);
    let how = SuspendFlags::default();
    dm.reload(device.id(), &[linear(disk.dev(), LARGE)], false, how)
        .unwrap();
    grow(&root, LARGE * 512 / 4096);
    assert!(fs.size() > LARGE * 512 * 8 / 10);

    freeze(&root).unwrap();
    assert_eq!(freeze(&root).unwrap_err().errno(), Some(Errno::BUSY));
    thaw(&root).unwrap();
    assert_eq!(thaw(&root).unwrap_err().errno(), Some(Errno::INVAL));

    let trimmed = trim(&root, Bytes::ZERO).unwrap();
    assert!(trimmed > Bytes::from_mib(512), "{trimmed}");
    // No run of free space is as long as this.
    let none = trim(&root, Bytes::from_gib(64));
    assert!(
        none.as_ref().is_ok_and(|bytes| *bytes == Bytes::ZERO)
            || none
                .as_ref()
                .is_err_and(|e| e.errno() == Some(Errno::INVAL)),
        "{none:?}"
    );
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_mounted_ext4_grows_freezes_and_is_trimmed() {
    let mkfs = ["-q", "-b", "4096", "-E", "nodiscard"];
    grow_and_hold("ext4", &mkfs, |root, blocks| {
        resize_ext4(root, blocks).unwrap();
        assert_eq!(xfs_geometry(root).unwrap_err().errno(), Some(Errno::NOTTY));
    });
}

#[test]
#[ignore = "needs root and device-mapper"]
fn priv_a_mounted_xfs_grows_freezes_and_is_trimmed() {
    grow_and_hold("xfs", &["-q", "-K"], |root, blocks| {
        let before = xfs_geometry(root).unwrap();
        assert_eq!(before.block_size, Bytes::new(4096));
        assert_eq!(before.data_blocks, SMALL * 512 / 4096);
        resize_xfs(root, blocks).unwrap();
        let after = xfs_geometry(root).unwrap();
        assert_eq!(after.data_blocks, blocks);
        assert_eq!(after.inode_percent, before.inode_percent);
    });
}

//! What every test stands on: a swept machine, a directory, sparse files on loop devices.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use dmthin::dm::{ActivateOptions, Device, Dm, ThinPool};
use dmthin::dm::{LinearTable, PoolFeatures, ThinPoolTable};
use dmthin::ids::{DevNo, DmName, DmUuid};
use dmthin::ioctl::{
    Control, Cookie, DEV_MAPPER, Deferred, DevId, LoopDevice, LoopOptions, TargetLine, attach_loop,
};
use dmthin::units::{BlockSize, Bytes, DataBlocks, Sectors};

/// Ends the name of every device and directory made here.
const SUFFIX: &str = "-dmthin-test";

/// A directory of this test's own on a machine without leftovers, swept again when dropped.
pub(crate) struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    /// Fails where there is no device mapper to test.
    pub(crate) fn new() -> Self {
        sweep();
        let dir = tempfile::Builder::new().suffix(SUFFIX).tempdir().unwrap();
        Self { dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A sparse file.
    pub(crate) fn file(&self, name: &str, size: Bytes) -> (PathBuf, File) {
        let path = self.dir().join(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.set_len(size.get()).unwrap();
        (path, file)
    }

    /// A sparse file on a loop device.
    pub(crate) fn loop_device(&self, name: &str, size: Bytes) -> LoopDevice {
        let (path, file) = self.file(name, size);
        attach_loop(&file, &path, LoopOptions::default()).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        sweep();
    }
}

fn sweep() {
    let control = Control::open().expect("these tests need root and device mapper");
    // A device goes only after those that use it, so as many passes as there are devices.
    loop {
        let devices = control.list_devices().unwrap();
        let ours = |name: &DmName| name.as_str().contains(SUFFIX);
        let mut gone = false;
        for device in devices.iter().filter(|device| ours(&device.name)) {
            let id = DevId::Dev(device.dev);
            drop(control.resume(id, Cookie::NONE));
            gone |= control.remove(id, Deferred::No, Cookie::NONE).is_ok();
            drop(std::fs::remove_file(
                Path::new(DEV_MAPPER).join(device.name.as_str()),
            ));
        }
        if !gone {
            return;
        }
    }
}

pub(crate) fn name(text: &str) -> DmName {
    DmName::new(format!("{text}{SUFFIX}")).unwrap()
}

pub(crate) fn uuid(text: &str) -> DmUuid {
    DmUuid::new(format!("DMTHIN{SUFFIX}-{text}")).unwrap()
}

pub(crate) fn dm() -> Dm {
    Dm::open(Path::new(DEV_MAPPER)).unwrap()
}

pub(crate) fn line(start: u64, len: u64, kind: &str, params: &str) -> TargetLine {
    TargetLine {
        start: Sectors::new(start),
        len: Sectors::new(len),
        kind: kind.to_owned(),
        params: params.to_owned(),
    }
}

pub(crate) fn linear(dev: DevNo, size: u64) -> TargetLine {
    let table = LinearTable {
        device: dev,
        offset: Sectors::ZERO,
    };
    line(0, size, LinearTable::TARGET, &table.to_string())
}

pub(crate) fn activate(dm: &Dm, text: &str, table: &[TargetLine]) -> Device {
    dm.activate(&name(text), &uuid(text), table, ActivateOptions::default())
        .unwrap()
}

pub(crate) fn pool_table(metadata: DevNo, data: DevNo, low_water: u64) -> ThinPoolTable {
    ThinPoolTable {
        metadata,
        data,
        block_size: BlockSize::DEFAULT,
        low_water: DataBlocks::new(low_water),
        features: PoolFeatures::default(),
    }
}

pub(crate) fn activate_pool<'a>(dm: &'a Dm, size: u64, table: &ThinPoolTable) -> ThinPool<'a> {
    ThinPool::activate(
        dm,
        &name("pool"),
        &uuid("pool"),
        Sectors::new(size),
        table,
        ActivateOptions::default(),
    )
    .unwrap()
}

/// Fills the first bytes of a device and writes them out.
pub(crate) fn write_blocks(device: &Device, bytes: usize) {
    let file = File::options().write(true).open(device.node()).unwrap();
    let buffer = vec![0xa5; bytes];
    assert_eq!(rustix::io::pwrite(file.as_fd(), &buffer, 0), Ok(bytes));
    file.sync_all().unwrap();
}

//! The floor: the calls into the kernel that the work takes, and nothing else.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use dmthin::ids::{DevNo, DmName, ThinId};
use dmthin::ioctl::{
    self, Access, Control, Cookie, DEV_MAPPER, Deferred, DevId, TargetLine, ensure_block_node,
};
use dmthin::units::{Bytes, Sectors};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::bench::plan::{OwnIds, Way};
use crate::bench::samples::Phase;

/// As libdm's `DM_UDEV_*` flags have it: no rule looks into the device or makes its node.
const NO_UDEV_RULES: u16 = 0x4f;

/// What snapshots are taken of.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) pool: DmName,
    pub(super) thin_id: ThinId,
    pub(super) size: Sectors,
}

/// Raw ioctls.
#[derive(Debug)]
pub(super) struct Floor {
    control: Control,
    pool: DevNo,
    origin: Origin,
    ids: OwnIds,
    dir: PathBuf,
    name: DmName,
    node: PathBuf,
    discard: CString,
    cookie: Cookie,
    /// What is up.
    active: Option<(ThinId, DevNo)>,
}

impl Floor {
    /// One of several that work beside each other: `nr` tells them apart.
    pub(super) fn new(origin: Origin, nr: u64) -> Result<Self> {
        let control = Control::open()?;
        let pool = control.status(DevId::Name(&origin.pool))?.dev;
        let name = DmName::new(format!("bench-floor{nr}"))?;
        let ids = OwnIds::of_user(nr)?;
        Ok(Self {
            control,
            pool,
            origin,
            ids,
            dir: PathBuf::new(),
            node: Path::new(DEV_MAPPER).join(name.as_str()),
            name,
            discard: CString::new("discard")?,
            cookie: Cookie::new(0, NO_UDEV_RULES),
            active: None,
        })
    }

    pub(super) fn mount_on(&mut self, dir: &Path) {
        dir.clone_into(&mut self.dir);
    }

    fn message(&self, text: &str) -> Result<()> {
        self.control
            .message(DevId::Dev(self.pool), Sectors::ZERO, text)?;
        Ok(())
    }

    /// From nothing to a device.
    pub(super) fn make(&mut self, phase: &mut Phase) -> Result<()> {
        let id = self.ids.take()?;
        let snapshot = format!("create_snap {id} {}", self.origin.thin_id);
        let line = [TargetLine {
            start: Sectors::ZERO,
            len: self.origin.size,
            kind: "thin".to_owned(),
            params: format!("{} {id}", self.pool),
        }];
        phase.step("create_snap", || self.message(&snapshot))?;
        let dev = phase.step("DEV_CREATE", || {
            Ok(self.control.create(&self.name, None)?.dev)
        })?;
        self.active = Some((id, dev));
        let device = DevId::Dev(dev);
        phase.step("TABLE_LOAD", || {
            Ok(self.control.load(device, &line, false)?)
        })?;
        phase.step("resume", || Ok(self.control.resume(device, self.cookie)?))?;
        phase.step("mknod", || Ok(ensure_block_node(&self.node, dev)?))?;
        Ok(())
    }

    /// All of the device.
    fn discard(&self, phase: &mut Phase) -> Result<()> {
        phase.step("discard", || {
            let block = ioctl::open_exclusive(&self.node, Access::ReadWrite)?;
            let size = ioctl::size(&block)?;
            Ok(ioctl::discard(&block, Bytes::ZERO, size)?)
        })
    }

    /// From a device to nothing.
    pub(super) fn remove(&mut self, phase: &mut Phase) -> Result<()> {
        let Some((id, dev)) = self.active.take() else {
            return Ok(());
        };
        phase.step("DEV_REMOVE", || {
            let device = DevId::Dev(dev);
            Ok(self.control.remove(device, Deferred::No, self.cookie)?)
        })?;
        phase.step("unlink", || Ok(fs::remove_file(&self.node)?))?;
        phase.step("delete", || self.message(&format!("delete {id}")))
    }
}

impl Way for Floor {
    fn name(&self) -> &'static str {
        "raw ioctls"
    }

    fn up(&mut self, phase: &mut Phase) -> Result<()> {
        self.make(phase)?;
        phase.step("mount", || {
            let (node, dir) = (&self.node, &self.dir);
            let options = self.discard.as_c_str();
            Ok(rustix::mount::mount(
                node,
                dir,
                "ext4",
                MountFlags::empty(),
                options,
            )?)
        })
    }

    fn down(&mut self, phase: &mut Phase) -> Result<()> {
        phase.step("umount", || {
            Ok(rustix::mount::unmount(&self.dir, UnmountFlags::empty())?)
        })?;
        self.discard(phase)?;
        self.remove(phase)
    }
}

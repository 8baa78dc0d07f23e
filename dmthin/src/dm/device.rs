//! The life of a device: activation with its node checked, reload, suspension, deactivation.
//!
//! What fails half-way is undone, and a failed undo is reported beside its cause. A node is
//! believed only when its number is the device's: names can be left over from another time.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::dm::error::DmError;
use crate::dm::suspend::Suspended;
use crate::dm::turns::{AllTurns, Turns};
use crate::dm::udev::{NodePolicy, Transaction, UdevFlags};
use crate::ids::{DevNo, DmName, DmUuid};
use crate::ioctl::{
    Control, Cookie, DEV_MAPPER, Deferred, DevId, DeviceInfo, Errno, IoctlError, RemovedWhen,
    SuspendFlags, TargetLine, ensure_block_node, node_dev,
};
use crate::units::Sectors;

/// How long udev is given for one device; then the node is made without it.
const UDEV_LIMIT: Duration = Duration::from_secs(10);
/// How often a busy device is asked again to go: probes of udev's have it open for a moment.
const REMOVE_TRIES: u32 = 25;
/// How long to wait in between.
const REMOVE_PAUSE: Duration = Duration::from_millis(20);

/// How a device is activated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActivateOptions {
    /// Writes are refused.
    pub read_only: bool,
    /// What udev leaves out.
    pub udev_flags: UdevFlags,
}

impl Default for ActivateOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            udev_flags: UdevFlags::INTERNAL,
        }
    }
}

/// An active device. It stays active when this is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    name: DmName,
    uuid: Option<DmUuid>,
    dev: DevNo,
    node: PathBuf,
}

impl Device {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &DmName {
        &self.name
    }

    /// Its uuid; others make devices without one.
    #[must_use]
    pub fn uuid(&self) -> Option<&DmUuid> {
        self.uuid.as_ref()
    }

    /// Its number.
    #[must_use]
    pub fn dev(&self) -> DevNo {
        self.dev
    }

    /// Its node, which was seen to be this device.
    #[must_use]
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// As commands name it.
    #[must_use]
    pub fn id(&self) -> DevId<'_> {
        DevId::Dev(self.dev)
    }
}

/// Device mapper with its directory of nodes.
#[derive(Debug)]
pub struct Dm {
    control: Control,
    dev_dir: PathBuf,
    policy: NodePolicy,
    turns: AllTurns,
}

impl Dm {
    /// Opens device mapper, whose nodes are in `dev_dir` (`/dev/mapper`), and finds out who makes
    /// them. In another directory than udev's, that is always we.
    ///
    /// # Errors
    /// [`DmError::Ioctl`] as of [`Control::open_in`].
    pub fn open(dev_dir: &Path) -> Result<Self, DmError> {
        let policy = if dev_dir == Path::new(DEV_MAPPER) {
            NodePolicy::detect(Path::new("/"))
        } else {
            NodePolicy::Own
        };
        Ok(Self {
            control: Control::open_in(dev_dir)?,
            dev_dir: dev_dir.to_owned(),
            policy,
            turns: AllTurns::default(),
        })
    }

    /// The commands themselves.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The turns at the pool that a device is.
    pub(super) fn turns(&self, pool: &Device) -> Turns {
        self.turns.of(pool.dev)
    }

    /// Who makes nodes.
    #[must_use]
    pub fn policy(&self) -> NodePolicy {
        self.policy
    }

    /// The directory of nodes.
    #[must_use]
    pub fn dev_dir(&self) -> &Path {
        &self.dev_dir
    }

    /// What the kernel says of a device, or `None` where there is none.
    ///
    /// # Errors
    /// [`DmError::Ioctl`].
    pub fn find(&self, id: DevId<'_>) -> Result<Option<DeviceInfo>, DmError> {
        match self.control.status(id) {
            Ok(info) => Ok(Some(info)),
            Err(IoctlError::Dm {
                errno: Errno::NXIO, ..
            }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The active device of a uuid, its node made where it is missing.
    ///
    /// # Errors
    /// [`DmError::NotFound`], [`DmError::NodeInTheWay`], [`DmError::Ioctl`].
    pub fn device(&self, uuid: &DmUuid) -> Result<Device, DmError> {
        let info = self
            .find(DevId::Uuid(uuid))?
            .ok_or_else(|| DmError::NotFound {
                device: uuid.to_string(),
            })?;
        self.with_node(info.name, Some(uuid.clone()), info.dev)
    }

    /// A device that somebody else made, its node made where it is missing.
    ///
    /// # Errors
    /// [`DmError::NotFound`], [`DmError::NodeInTheWay`], [`DmError::Ioctl`].
    pub fn existing(&self, id: DevId<'_>) -> Result<Device, DmError> {
        let info = self.find(id)?.ok_or_else(|| DmError::NotFound {
            device: id.to_string(),
        })?;
        self.with_node(info.name, info.uuid, info.dev)
    }

    /// The active device of a uuid, if there is one. A device without a table, as a process that is
    /// killed in the middle of [`Dm::activate`] leaves it, is removed: call this only where nobody
    /// else can be activating that device.
    ///
    /// # Errors
    /// [`DmError::NodeInTheWay`], [`DmError::Busy`], [`DmError::Ioctl`].
    pub fn active(&self, uuid: &DmUuid) -> Result<Option<Device>, DmError> {
        match self.find(DevId::Uuid(uuid))? {
            None => Ok(None),
            Some(info) if info.active_table => self
                .with_node(info.name, Some(uuid.clone()), info.dev)
                .map(Some),
            Some(info) => {
                tracing::info!(name = %info.name, "removing a device that was never given a table");
                self.remove(&info.name, info.dev, Deferred::No)?;
                Ok(None)
            }
        }
    }

    /// Makes a device, gives it a table and resumes it; whatever fails, nothing is left.
    ///
    /// # Errors
    /// [`DmError::AlreadyActive`] where the uuid is, [`DmError::NameTaken`],
    /// [`DmError::NodeInTheWay`], [`DmError::Ioctl`] with the target's reason,
    /// [`DmError::Rollback`] where what was made cannot be removed again.
    pub fn activate(
        &self,
        name: &DmName,
        uuid: &DmUuid,
        table: &[TargetLine],
        options: ActivateOptions,
    ) -> Result<Device, DmError> {
        let dev = match self.control.create(name, Some(uuid)) {
            Ok(info) => info.dev,
            Err(error) if error.errno() == Some(Errno::BUSY) => {
                return Err(self.why_taken(name, uuid, error));
            }
            Err(error) => return Err(error.into()),
        };
        self.start(name, uuid, dev, table, options)
            .map_err(|cause| cause.after_undo(self.remove(name, dev, Deferred::No).map(drop)))
    }

    fn start(
        &self,
        name: &DmName,
        uuid: &DmUuid,
        dev: DevNo,
        table: &[TargetLine],
        options: ActivateOptions,
    ) -> Result<Device, DmError> {
        let id = DevId::Dev(dev);
        self.control.load(id, table, options.read_only)?;
        let udev = Transaction::begin(self.policy, options.udev_flags)?;
        udev.run(
            |cookie| self.control.resume(id, cookie),
            |info| info.uevent_generated,
        )?;
        udev.wait(UDEV_LIMIT);
        self.with_node(name.clone(), Some(uuid.clone()), dev)
    }

    /// Why name or uuid could not be had.
    fn why_taken(&self, name: &DmName, uuid: &DmUuid, error: IoctlError) -> DmError {
        match self.find(DevId::Uuid(uuid)) {
            Ok(Some(info)) => {
                return DmError::AlreadyActive {
                    info: Box::new(info),
                };
            }
            Ok(None) => {}
            Err(error) => return error,
        }
        match self.find(DevId::Name(name)) {
            Ok(Some(info)) => DmError::NameTaken {
                name: info.name,
                dev: info.dev,
                uuid: uuid.clone(),
            },
            // It went in the meantime.
            Ok(None) => error.into(),
            Err(error) => error,
        }
    }

    /// The device with its node, which is made where it is missing and replaced where it is
    /// another device's.
    fn with_node(&self, name: DmName, uuid: Option<DmUuid>, dev: DevNo) -> Result<Device, DmError> {
        let node = self.dev_dir.join(name.as_str());
        match node_dev(&node) {
            Ok(Some(found)) if found == dev => {}
            Ok(None) if fs::symlink_metadata(&node).is_err() => {
                if self.policy == NodePolicy::Udev {
                    tracing::warn!(node = %node.display(), "udev made no node; making it");
                }
                ensure_block_node(&node, dev)?;
            }
            _ => {
                remove_stale_node(&node, dev)?;
                ensure_block_node(&node, dev)?;
            }
        }
        Ok(Device {
            name,
            uuid,
            dev,
            node,
        })
    }

    /// Suspends a device until the guard goes.
    ///
    /// # Errors
    /// [`DmError::NotFound`], [`DmError::Ioctl`].
    pub fn suspend(&self, id: DevId<'_>, how: SuspendFlags) -> Result<Suspended<'_>, DmError> {
        let info = self.control.suspend(id, how).map_err(or_not_found)?;
        Ok(Suspended::new(self, &info))
    }

    /// Gives a device another table: loads it, and has the kernel swap it in by one call, so that
    /// who is killed meanwhile leaves nothing suspended. Where the new table does not come to life
    /// the old one is put back, for the kernel would leave the device suspended
    /// (`drivers/md/dm-ioctl.c:do_resume`).
    ///
    /// # Errors
    /// [`DmError::NotFound`], [`DmError::Ioctl`] with the target's reason,
    /// [`DmError::Rollback`] where the old table cannot be put back.
    pub fn reload(
        &self,
        id: DevId<'_>,
        table: &[TargetLine],
        read_only: bool,
        how: SuspendFlags,
    ) -> Result<DeviceInfo, DmError> {
        let (before, old_table) = self.control.table(id).map_err(or_not_found)?;
        let id = DevId::Dev(before.dev);
        self.control.load(id, table, read_only)?;
        self.control.swap(id, how).map_err(|cause| {
            let undo = self
                .control
                .load(id, &old_table, before.read_only)
                .and_then(|_| self.control.swap(id, how));
            DmError::from(cause).after_undo(undo.map(drop).map_err(DmError::from))
        })
    }

    /// Lets the input and output of a suspended device go on.
    ///
    /// # Errors
    /// [`DmError::NotFound`], [`DmError::Ioctl`].
    pub fn resume(&self, id: DevId<'_>) -> Result<DeviceInfo, DmError> {
        // No cookie: the node does not change, and udev keeps the flags of the activation.
        self.control.resume(id, Cookie::NONE).map_err(or_not_found)
    }

    /// Holds all input and output of a device until somebody resumes it, whatever becomes of this
    /// process. Nothing is waited for and nothing is lost: what was queued waits with the rest.
    ///
    /// # Errors
    /// [`DmError::NotFound`], [`DmError::Ioctl`].
    pub fn hold(&self, id: DevId<'_>) -> Result<(), DmError> {
        let how = SuspendFlags {
            noflush: true,
            skip_lockfs: true,
        };
        self.control.suspend(id, how).map_err(or_not_found)?;
        Ok(())
    }

    /// Removes a device and its node. One that is open for a moment is asked again; one that
    /// stays open is an error, or goes later where `deferred` says so.
    ///
    /// # Errors
    /// [`DmError::NotFound`], [`DmError::Busy`], [`DmError::Ioctl`].
    pub fn deactivate(&self, id: DevId<'_>, deferred: Deferred) -> Result<RemovedWhen, DmError> {
        let info = self.find(id)?.ok_or_else(|| DmError::NotFound {
            device: id.to_string(),
        })?;
        self.remove(&info.name, info.dev, deferred)
    }

    /// Takes the order back to remove a device when its last user closes it.
    ///
    /// # Errors
    /// [`DmError::NotFound`], [`DmError::Ioctl`], with `EBUSY` where it is going already.
    pub fn keep(&self, id: DevId<'_>) -> Result<(), DmError> {
        // To the device itself, not to its target (`drivers/md/dm-ioctl.c:message_for_md`).
        let message = "@cancel_deferred_remove";
        let kept = self.control.message(id, Sectors::ZERO, message);
        kept.map(drop).map_err(or_not_found)
    }

    /// Gives a device another name, and its node with it; who has it open keeps it.
    ///
    /// # Errors
    /// [`DmError::NotFound`], [`DmError::NodeInTheWay`], [`DmError::Ioctl`], with `EBUSY` where
    /// another device has the name.
    pub fn rename(&self, device: &DeviceInfo, to: &DmName) -> Result<(), DmError> {
        let DeviceInfo {
            name: from, dev, ..
        } = device;
        let udev = Transaction::begin(self.policy, UdevFlags::INTERNAL)?;
        let renamed = udev.run(
            |cookie| self.control.rename(from, to, cookie),
            |info| info.uevent_generated,
        );
        renamed.map_err(|error| match error {
            DmError::Ioctl(error) => or_not_found(error),
            error => error,
        })?;
        udev.wait(UDEV_LIMIT);
        self.remove_node(from, *dev);
        self.with_node(to.clone(), device.uuid.clone(), *dev)
            .map(drop)
    }

    fn remove(
        &self,
        name: &DmName,
        dev: DevNo,
        deferred: Deferred,
    ) -> Result<RemovedWhen, DmError> {
        let udev = Transaction::begin(self.policy, UdevFlags::INTERNAL)?;
        let id = DevId::Dev(dev);
        let mut tries = REMOVE_TRIES;
        let removed = loop {
            let result = udev.run(
                |cookie| self.control.remove(id, deferred, cookie),
                |removed| removed.uevent,
            );
            match result {
                Err(error) if error.errno() == Some(Errno::BUSY) => {
                    if tries == 0 {
                        return Err(DmError::Busy {
                            name: name.clone(),
                            dev,
                        });
                    }
                    tries = tries.saturating_sub(1);
                    thread::sleep(REMOVE_PAUSE);
                }
                Err(DmError::Ioctl(error)) => return Err(or_not_found(error)),
                result => break result?,
            }
        };
        udev.wait(UDEV_LIMIT);
        self.remove_node(name, dev);
        Ok(removed.when)
    }

    /// Removes the node of a device that is gone or going: whoever has it open keeps it.
    fn remove_node(&self, name: &DmName, dev: DevNo) {
        let node = self.dev_dir.join(name.as_str());
        let ours = match node_dev(&node) {
            Ok(Some(found)) => found == dev,
            // udev's link when its target is gone already.
            Ok(None) => fs::symlink_metadata(&node).is_ok(),
            Err(_) => false,
        };
        if !ours {
            return;
        }
        if let Err(error) = fs::remove_file(&node)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(node = %node.display(), %error, "cannot remove a node");
        }
    }
}

/// `ENXIO` is the kernel's word for a device that is not there.
fn or_not_found(error: IoctlError) -> DmError {
    match error {
        IoctlError::Dm {
            errno: Errno::NXIO,
            device,
            ..
        } => DmError::NotFound { device },
        error => error.into(),
    }
}

/// Removes a node or link that names another device than the one that has the name now.
fn remove_stale_node(node: &Path, dev: DevNo) -> Result<(), DmError> {
    let kind = fs::symlink_metadata(node).map(|found| found.file_type());
    if !kind.is_ok_and(|kind| kind.is_block_device() || kind.is_symlink()) {
        return Err(DmError::NodeInTheWay {
            path: node.to_owned(),
            dev,
        });
    }
    tracing::warn!(node = %node.display(), %dev, "replacing a node of another device");
    fs::remove_file(node).map_err(|error| {
        DmError::Ioctl(IoctlError::Io {
            action: "remove the node",
            path: node.to_owned(),
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        })
    })
}

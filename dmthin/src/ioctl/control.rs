//! The dm control node: one typed method per command.
//!
//! Every method takes `&self`; the kernel locks for itself. A device is named by name, uuid or
//! number, once. Names in [`IoctlError`] are those the caller used.

mod flags;
mod node;
mod table;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::io::Errno;

use crate::ids::{DevNo, DmName, DmUuid};
use crate::ioctl::abi::{self, Command};
use crate::ioctl::buffer::{DevId, Reply, ReplySize, Request, call};
pub use crate::ioctl::control::flags::{
    Cookie, Deferred, Flush, Removed, RemovedWhen, SuspendFlags,
};
use crate::ioctl::control::node::{make_node, node_error, open_node};
use crate::ioctl::error::IoctlError;
use crate::ioctl::reply::{
    self, DeviceInfo, DmVersion, EventNr, ListedDevice, TargetLine, TargetVersion,
};
use crate::units::Sectors;

/// Where dm keeps its nodes.
pub const DEV_MAPPER: &str = "/dev/mapper";

/// The open control node.
#[derive(Debug)]
pub struct Control {
    file: File,
    version: DmVersion,
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Control {
    /// Opens `/dev/mapper/control`, which is made where the kernel has a device mapper and no
    /// udev made the node.
    ///
    /// # Errors
    /// [`IoctlError::NoDeviceMapper`], [`IoctlError::PermissionDenied`],
    /// [`IoctlError::Version`] for a kernel of another major version, and others of the node.
    pub fn open() -> Result<Self, IoctlError> {
        Self::open_in(Path::new(DEV_MAPPER))
    }

    /// Opens the node `control` of another directory than `/dev/mapper`.
    ///
    /// # Errors
    /// As [`Control::open`].
    pub fn open_in(dir: &Path) -> Result<Self, IoctlError> {
        let path = dir.join("control");
        let file = match open_node(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_node(&path)?;
                open_node(&path)
            }
            result => result,
        }
        .map_err(|error| node_error("open", &path, &error))?;
        let request = Request::new(Command::Version);
        let reply = match call(file.as_fd(), &request, ReplySize::Header) {
            // The kernel asks for the privilege at the first command, not when opened.
            Err(IoctlError::Dm {
                errno: Errno::ACCESS | Errno::PERM,
                ..
            }) => {
                return Err(IoctlError::PermissionDenied { path });
            }
            result => result?,
        };
        let version = reply::version(reply.view()).map_err(|cause| reply.error(cause))?;
        if version.major != abi::DM_VERSION_MAJOR {
            return Err(IoctlError::Version {
                found: version.to_string(),
            });
        }
        Ok(Self { file, version })
    }

    /// The version of the kernel's interface.
    #[must_use]
    pub fn version(&self) -> DmVersion {
        self.version
    }

    fn call(&self, request: &Request, size: ReplySize) -> Result<Reply, IoctlError> {
        call(self.as_fd(), request, size)
    }

    fn info(&self, request: &Request) -> Result<DeviceInfo, IoctlError> {
        let reply = self.call(request, ReplySize::Header)?;
        reply::device_info(reply.view()).map_err(|cause| reply.error(cause))
    }

    /// All devices, ours and others', by name.
    ///
    /// # Errors
    /// [`IoctlError::Dm`] and [`IoctlError::Reply`].
    pub fn list_devices(&self) -> Result<Vec<ListedDevice>, IoctlError> {
        // The flag asks for uuids; kernels before 5.12 do not know it and list none.
        let request = Request::new(Command::ListDevices).flags(abi::DM_UUID_FLAG);
        let reply = self.call(&request, ReplySize::Growing)?;
        reply::device_list(reply.view()).map_err(|cause| reply.error(cause))
    }

    /// The targets the kernel has loaded.
    ///
    /// # Errors
    /// [`IoctlError::Dm`] and [`IoctlError::Reply`].
    pub fn list_versions(&self) -> Result<Vec<TargetVersion>, IoctlError> {
        let reply = self.call(&Request::new(Command::ListVersions), ReplySize::Growing)?;
        reply::target_versions(reply.view()).map_err(|cause| reply.error(cause))
    }

    /// Makes a device without a table.
    ///
    /// # Errors
    /// [`IoctlError::Dm`] with `EBUSY` where name or uuid are taken.
    pub fn create(&self, name: &DmName, uuid: Option<&DmUuid>) -> Result<DeviceInfo, IoctlError> {
        self.info(&Request::on(Command::DevCreate, DevId::Name(name)).uuid(uuid))
    }

    /// Removes a device.
    ///
    /// # Errors
    /// [`IoctlError::Dm`] with `ENXIO` where there is none, `EBUSY` where it is open and the
    /// removal is not deferred.
    pub fn remove(
        &self,
        id: DevId<'_>,
        deferred: Deferred,
        cookie: Cookie,
    ) -> Result<Removed, IoctlError> {
        let flags = match deferred {
            Deferred::No => 0,
            Deferred::Yes => abi::DM_DEFERRED_REMOVE,
        };
        let request = Request::on(Command::DevRemove, id)
            .flags(flags)
            .event_nr(cookie.get());
        let reply = self.call(&request, ReplySize::Header)?;
        let flags = reply.view().flags().map_err(|cause| reply.error(cause))?;
        // The kernel leaves the flag set only where the device stays (`dm-ioctl.c:dev_remove`).
        let when = if flags & abi::DM_DEFERRED_REMOVE == 0 {
            RemovedWhen::Now
        } else {
            RemovedWhen::Deferred
        };
        Ok(Removed {
            when,
            uevent: flags & abi::DM_UEVENT_GENERATED_FLAG != 0,
        })
    }

    /// Gives a device another name. The kernel finds it by its old name only
    /// (`dm-ioctl.c:dm_hash_rename`), and its reply still carries that.
    ///
    /// # Errors
    /// [`IoctlError::Dm`] with `EBUSY` where the name is taken, `ENXIO` where there is no device.
    pub fn rename(
        &self,
        from: &DmName,
        to: &DmName,
        cookie: Cookie,
    ) -> Result<DeviceInfo, IoctlError> {
        let mut payload = to.as_str().as_bytes().to_vec();
        payload.push(0);
        let request = Request::on(Command::DevRename, DevId::Name(from))
            .event_nr(cookie.get())
            .payload(payload);
        let info = self.info(&request)?;
        Ok(DeviceInfo {
            name: to.clone(),
            ..info
        })
    }

    /// Holds all input and output of a device until it is resumed.
    ///
    /// # Errors
    /// [`IoctlError::Dm`].
    pub fn suspend(&self, id: DevId<'_>, how: SuspendFlags) -> Result<DeviceInfo, IoctlError> {
        let flags = abi::DM_SUSPEND_FLAG | how.flags();
        self.info(&Request::on(Command::DevSuspend, id).flags(flags))
    }

    /// Makes the inactive table live, where there is one, and lets input and output flow.
    ///
    /// # Errors
    /// [`IoctlError::Dm`]; the device may then be left suspended.
    pub fn resume(&self, id: DevId<'_>, cookie: Cookie) -> Result<DeviceInfo, IoctlError> {
        // The same command as suspend, without the flag (`dm-ioctl.c:dev_suspend`).
        self.info(&Request::on(Command::DevSuspend, id).event_nr(cookie.get()))
    }

    /// Makes the inactive table live in one call: the kernel suspends the device in this way, swaps
    /// the tables and resumes it (`dm-ioctl.c:do_resume`). Whoever is killed here leaves the old
    /// table live or the new one, never a device that is suspended.
    ///
    /// # Errors
    /// [`IoctlError::Dm`]; the device may then be left suspended.
    pub fn swap(&self, id: DevId<'_>, how: SuspendFlags) -> Result<DeviceInfo, IoctlError> {
        self.info(&Request::on(Command::DevSuspend, id).flags(how.flags()))
    }

    /// What a device is and does.
    ///
    /// # Errors
    /// [`IoctlError::Dm`] with `ENXIO` where there is none.
    pub fn status(&self, id: DevId<'_>) -> Result<DeviceInfo, IoctlError> {
        self.info(&Request::on(Command::DevStatus, id))
    }

    /// Waits, without bound, until a device's event number is another than this one. The name in
    /// the reply is the one it had when the wait began.
    ///
    /// # Errors
    /// [`IoctlError::Dm`] with `EINTR` after many signals, `ENXIO` when the device went.
    pub fn wait(
        &self,
        id: DevId<'_>,
        seen: EventNr,
    ) -> Result<(DeviceInfo, Vec<TargetLine>), IoctlError> {
        self.lines(&Request::on(Command::DevWait, id).event_nr(seen.get()))
    }

    /// Gives a device an inactive table, which replaces one it may have.
    ///
    /// # Errors
    /// [`IoctlError::Dm`] with the target's reason, [`IoctlError::Unsendable`] for a line that
    /// the interface cannot carry.
    pub fn load(
        &self,
        id: DevId<'_>,
        table: &[TargetLine],
        read_only: bool,
    ) -> Result<DeviceInfo, IoctlError> {
        let request = Request::on(Command::TableLoad, id);
        let payload = table::payload(&request, table)?;
        let count = u32::try_from(table.len())
            .map_err(|_| request.unsendable("a table", "", "at most 2^32 - 1 lines"))?;
        let flags = if read_only { abi::DM_READONLY_FLAG } else { 0 };
        self.info(&request.flags(flags).target_count(count).payload(payload))
    }

    /// Drops a device's inactive table.
    ///
    /// # Errors
    /// [`IoctlError::Dm`].
    pub fn clear(&self, id: DevId<'_>) -> Result<DeviceInfo, IoctlError> {
        self.info(&Request::on(Command::TableClear, id))
    }

    /// The devices that the live table uses.
    ///
    /// # Errors
    /// [`IoctlError::Dm`] and [`IoctlError::Reply`].
    pub fn deps(&self, id: DevId<'_>) -> Result<Vec<DevNo>, IoctlError> {
        let reply = self.call(&Request::on(Command::TableDeps, id), ReplySize::Growing)?;
        reply::deps(reply.view()).map_err(|cause| reply.error(cause))
    }

    fn lines(&self, request: &Request) -> Result<(DeviceInfo, Vec<TargetLine>), IoctlError> {
        let reply = self.call(request, ReplySize::Growing)?;
        let info = reply::device_info(reply.view()).map_err(|cause| reply.error(cause))?;
        let lines = reply::target_lines(reply.view()).map_err(|cause| reply.error(cause))?;
        Ok((info, lines))
    }

    /// The live table.
    ///
    /// # Errors
    /// [`IoctlError::Dm`] and [`IoctlError::Reply`].
    pub fn table(&self, id: DevId<'_>) -> Result<(DeviceInfo, Vec<TargetLine>), IoctlError> {
        let flags = abi::DM_STATUS_TABLE_FLAG | abi::DM_NOFLUSH_FLAG;
        self.lines(&Request::on(Command::TableStatus, id).flags(flags))
    }

    /// The status of the live table's targets.
    ///
    /// # Errors
    /// [`IoctlError::Dm`] and [`IoctlError::Reply`].
    pub fn table_status(
        &self,
        id: DevId<'_>,
        flush: Flush,
    ) -> Result<(DeviceInfo, Vec<TargetLine>), IoctlError> {
        let flags = match flush {
            Flush::No => abi::DM_NOFLUSH_FLAG,
            Flush::Yes => 0,
        };
        self.lines(&Request::on(Command::TableStatus, id).flags(flags))
    }

    /// Sends a message to the target at a sector; gives its answer, where it has one.
    ///
    /// # Errors
    /// [`IoctlError::Dm`] with the target's reason, [`IoctlError::NoLiveTable`],
    /// [`IoctlError::Unsendable`] for a text with a NUL, [`IoctlError::ReplyTooLong`] where the
    /// message was obeyed but its answer is longer than 16 KiB.
    pub fn message(
        &self,
        id: DevId<'_>,
        at: Sectors,
        text: &str,
    ) -> Result<Option<String>, IoctlError> {
        let request = Request::on(Command::TargetMsg, id);
        if text.contains('\0') {
            return Err(request.unsendable("the message", text, "no NUL in it"));
        }
        let mut payload = at.get().to_ne_bytes().to_vec();
        payload.extend_from_slice(text.as_bytes());
        payload.push(0);
        let no_live_table = || IoctlError::NoLiveTable {
            device: id.to_string(),
            message: text.to_owned(),
        };
        match self.call(&request.payload(payload), ReplySize::Once) {
            // 2 is "not for the core, ask a target", left standing where there is no table.
            Ok(reply) if reply.result() != 0 => Err(no_live_table()),
            Ok(reply) => reply::message_answer(reply.view()).map_err(|cause| reply.error(cause)),
            // Kernels since 2025 say EINVAL, as targets do of a message they do not know.
            Err(error) if error.errno() == Some(Errno::INVAL) => match self.status(id) {
                Ok(info) if !info.active_table => Err(no_live_table()),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Makes this node readable for `poll` at the next event of any device.
    ///
    /// # Errors
    /// [`IoctlError::Dm`].
    pub fn arm_poll(&self) -> Result<(), IoctlError> {
        self.call(&Request::new(Command::DevArmPoll), ReplySize::Header)
            .map(drop)
    }
}

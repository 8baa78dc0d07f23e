//! What the kernel's replies say, decoded from bytes that are not trusted.
//!
//! The layouts are those of `drivers/md/dm-ioctl.c`: `__dev_status`, `list_devices`,
//! `retrieve_status`, `retrieve_deps` and `list_version_get_info`.

use std::fmt;
use std::mem::{offset_of, size_of};

use crate::ids::{DevNo, DmName, DmUuid};
use crate::ioctl::abi::{self, DmIoctl, DmNameList, DmTargetDeps, DmTargetSpec, DmTargetVersions};
use crate::ioctl::buffer::{View, align, to_usize};
use crate::ioctl::error::ReplyError;
use crate::units::Sectors;

/// From this minor version on a list entry carries its event number.
const MINOR_WITH_EVENT_NR: u32 = 38;

/// How many events a device has had; it wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct EventNr(u32);

impl EventNr {
    /// Gives a number its meaning.
    #[must_use]
    pub const fn new(n: u32) -> Self {
        Self(n)
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for EventNr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A version of three numbers, of the dm interface or of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DmVersion {
    /// Changes what is understood.
    pub major: u32,
    /// Adds to it.
    pub minor: u32,
    /// Mends it.
    pub patch: u32,
}

impl fmt::Display for DmVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl serde::Serialize for DmVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A target the kernel has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetVersion {
    /// As tables name it.
    pub name: String,
    /// Its version.
    pub version: DmVersion,
}

/// An entry of the list of all devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDevice {
    /// Its name.
    pub name: DmName,
    /// Its number.
    pub dev: DevNo,
    /// Its events so far; not on kernels before 4.20.
    pub event_nr: Option<EventNr>,
    /// Its uuid, where it has one and the kernel lists it.
    pub uuid: Option<DmUuid>,
}

/// A line of a table, or of a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetLine {
    /// Where it begins in the device.
    pub start: Sectors,
    /// How long it is.
    pub len: Sectors,
    /// The target's name, as `thin-pool`.
    pub kind: String,
    /// The target's own parameters or status.
    pub params: String,
}

impl fmt::Display for TargetLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.start, self.len, self.kind)?;
        if !self.params.is_empty() {
            write!(f, " {}", self.params)?;
        }
        Ok(())
    }
}

/// What the head of a reply says of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent flags of the kernel's"
)]
pub struct DeviceInfo {
    /// Its name.
    pub name: DmName,
    /// Its uuid, where it has one.
    pub uuid: Option<DmUuid>,
    /// Its number.
    pub dev: DevNo,
    /// How many hold it open.
    pub open_count: u32,
    /// Its events so far.
    pub event_nr: EventNr,
    /// Targets of the live table.
    pub target_count: u32,
    /// Input and output wait.
    pub suspended: bool,
    /// Writes are refused.
    pub read_only: bool,
    /// It has a live table.
    pub active_table: bool,
    /// It has a table that the next resume makes live.
    pub inactive_table: bool,
    /// It goes when its last user does.
    pub deferred_remove: bool,
    /// The command sent a uevent, so its udev cookie will be completed by udev.
    pub uevent_generated: bool,
}

/// The version the kernel writes into every reply.
pub(super) fn version(reply: &View) -> Result<DmVersion, ReplyError> {
    version_at(reply, offset_of!(DmIoctl, version))
}

fn version_at(reply: &View, at: usize) -> Result<DmVersion, ReplyError> {
    let part = |nr: usize| reply.u32("a version", at.saturating_add(nr.saturating_mul(4)));
    Ok(DmVersion {
        major: part(0)?,
        minor: part(1)?,
        patch: part(2)?,
    })
}

fn optional_uuid(text: &str) -> Result<Option<DmUuid>, ReplyError> {
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(DmUuid::new(text)?))
}

/// The device that the head of a reply describes.
pub(super) fn device_info(reply: &View) -> Result<DeviceInfo, ReplyError> {
    let name = reply.text(
        "the device's name",
        offset_of!(DmIoctl, name),
        abi::DM_NAME_LEN,
    )?;
    let uuid = reply.text(
        "the device's uuid",
        offset_of!(DmIoctl, uuid),
        abi::DM_UUID_LEN,
    )?;
    let flags = reply.flags()?;
    let has = |flag| flags & flag != 0;
    Ok(DeviceInfo {
        name: DmName::new(name)?,
        uuid: optional_uuid(uuid)?,
        dev: reply.dev("the device's number", offset_of!(DmIoctl, dev))?,
        open_count: reply.u32("the open count", offset_of!(DmIoctl, open_count))?,
        event_nr: EventNr(reply.u32("the event number", offset_of!(DmIoctl, event_nr))?),
        target_count: reply.u32("the target count", offset_of!(DmIoctl, target_count))?,
        suspended: has(abi::DM_SUSPEND_FLAG),
        read_only: has(abi::DM_READONLY_FLAG),
        active_table: has(abi::DM_ACTIVE_PRESENT_FLAG),
        inactive_table: has(abi::DM_INACTIVE_PRESENT_FLAG),
        deferred_remove: has(abi::DM_DEFERRED_REMOVE),
        uevent_generated: has(abi::DM_UEVENT_GENERATED_FLAG),
    })
}

/// All devices.
///
/// A foreign device may have a name that is no text; it is left out, with a line in the log, for
/// one odd name must not hide the others.
pub(super) fn device_list(reply: &View) -> Result<Vec<ListedDevice>, ReplyError> {
    const WHAT: &str = "a listed device";
    let has_event_nr = version(reply)?.minor >= MINOR_WITH_EVENT_NR;
    let mut at = reply.data_start()?;
    let mut devices = Vec::new();
    if at.saturating_add(size_of::<DmNameList>()) > reply.len() {
        return Ok(devices);
    }
    loop {
        let dev = reply.u64(WHAT, at)?;
        // No device at all is one entry of device 0.
        if dev == 0 {
            return Ok(devices);
        }
        let dev = DevNo::from_dev_t(dev);
        let next = to_usize(reply.u32(WHAT, at.saturating_add(offset_of!(DmNameList, next)))?);
        let name_at = at.saturating_add(offset_of!(DmNameList, name));
        let name = reply.c_bytes("a device's name", name_at, abi::DM_NAME_LEN)?;
        let mut end = name_at.saturating_add(name.len()).saturating_add(1);
        let mut event_nr = None;
        let mut uuid: &[u8] = &[];
        if has_event_nr {
            let event_at = align(end);
            event_nr = Some(EventNr(reply.u32("an event number", event_at)?));
            let flags = reply.u32("an entry's flags", event_at.saturating_add(4))?;
            end = event_at.saturating_add(8);
            if flags & abi::DM_NAME_LIST_FLAG_HAS_UUID != 0 {
                uuid = reply.c_bytes("a device's uuid", end, abi::DM_UUID_LEN)?;
                end = end.saturating_add(uuid.len()).saturating_add(1);
            }
        }
        match text_id(name).and_then(DmName::new) {
            Ok(name) => devices.push(ListedDevice {
                name,
                dev,
                event_nr,
                uuid: text_id(uuid).and_then(DmUuid::new).ok(),
            }),
            Err(_) => tracing::debug!(
                %dev,
                name = %String::from_utf8_lossy(name),
                "device left out of the list: its name is no text"
            ),
        }
        if next == 0 {
            return Ok(devices);
        }
        at = reply.next_record(WHAT, at, end, at.saturating_add(next))?;
    }
}

/// The bytes as text, or as the empty text that no id takes.
fn text_id(bytes: &[u8]) -> Result<&str, crate::ids::IdError> {
    Ok(std::str::from_utf8(bytes).unwrap_or_default())
}

/// The targets the kernel has loaded.
pub(super) fn target_versions(reply: &View) -> Result<Vec<TargetVersion>, ReplyError> {
    const WHAT: &str = "a target's version";
    let mut at = reply.data_start()?;
    let mut targets = Vec::new();
    if at.saturating_add(size_of::<DmTargetVersions>()) > reply.len() {
        return Ok(targets);
    }
    loop {
        let next = to_usize(reply.u32(WHAT, at)?);
        let version = version_at(
            reply,
            at.saturating_add(offset_of!(DmTargetVersions, version)),
        )?;
        let name_at = at.saturating_add(offset_of!(DmTargetVersions, name));
        let name = reply.text("a target's name", name_at, usize::MAX)?;
        targets.push(TargetVersion {
            name: name.to_owned(),
            version,
        });
        if next == 0 {
            return Ok(targets);
        }
        let end = name_at.saturating_add(name.len()).saturating_add(1);
        at = reply.next_record(WHAT, at, end, at.saturating_add(next))?;
    }
}

/// The devices a table uses.
pub(super) fn deps(reply: &View) -> Result<Vec<DevNo>, ReplyError> {
    const WHAT: &str = "a device used";
    let at = reply.data_start()?;
    let count = to_usize(reply.u32("the count of devices used", at)?);
    let first = at.saturating_add(size_of::<DmTargetDeps>());
    // Bounded by the reply: the first one outside it ends the walk with an error.
    (0..count)
        .map(|nr| reply.dev(WHAT, first.saturating_add(nr.saturating_mul(8))))
        .collect()
}

/// The lines of a table or a status.
///
/// In a reply, unlike in a request, a record's `next` counts from the first record
/// (`dm-ioctl.c:retrieve_status`).
pub(super) fn target_lines(reply: &View) -> Result<Vec<TargetLine>, ReplyError> {
    const WHAT: &str = "a target";
    let count = reply.u32("the target count", offset_of!(DmIoctl, target_count))?;
    let first = reply.data_start()?;
    let mut at = first;
    let mut lines = Vec::new();
    for nr in 0..count {
        let field = |offset: usize| at.saturating_add(offset);
        let kind = reply.text(
            "a target's name",
            field(offset_of!(DmTargetSpec, target_type)),
            abi::DM_MAX_TYPE_NAME,
        )?;
        let params_at = field(size_of::<DmTargetSpec>());
        let params = reply.text("a target's line", params_at, usize::MAX)?;
        lines.push(TargetLine {
            start: Sectors::new(reply.u64(WHAT, field(offset_of!(DmTargetSpec, sector_start)))?),
            len: Sectors::new(reply.u64(WHAT, field(offset_of!(DmTargetSpec, length)))?),
            kind: kind.to_owned(),
            params: params.to_owned(),
        });
        if nr.saturating_add(1) < count {
            let end = params_at.saturating_add(params.len()).saturating_add(1);
            let next = to_usize(reply.u32(WHAT, field(offset_of!(DmTargetSpec, next)))?);
            at = reply.next_record(WHAT, at, end, first.saturating_add(next))?;
        }
    }
    Ok(lines)
}

/// The text a message answered with, where it did.
pub(super) fn message_answer(reply: &View) -> Result<Option<String>, ReplyError> {
    if reply.flags()? & abi::DM_DATA_OUT_FLAG == 0 {
        return Ok(None);
    }
    let at = reply.data_start()?;
    Ok(Some(
        reply
            .text("the message's answer", at, usize::MAX)?
            .to_owned(),
    ))
}

#[cfg(test)]
mod tests;

//! The other side of the interface: requests as the kernel reads them, replies as it writes them.
//!
//! For a stand-in of the kernel. What it answers goes through the same decoding as the kernel's words.

use std::any::Any;
use std::mem::{offset_of, size_of};

use linux_raw_sys::ioctl as numbers;
use linux_raw_sys::loop_device::{
    LOOP_CLR_FD, LOOP_CONFIGURE, LOOP_CTL_GET_FREE, LOOP_GET_STATUS64, LOOP_SET_CAPACITY,
    loop_config, loop_info64,
};
use rustix::io::Errno;
use rustix::ioctl::Opcode;

use crate::ids::DevNo;
pub(crate) use crate::ioctl::abi::Command;
use crate::ioctl::abi::{self, DmIoctl, DmTargetSpec};
use crate::ioctl::buffer::{View, align, to_usize};
use crate::ioctl::reply::TargetLine;
use crate::units::Sectors;

const HEADER: usize = size_of::<DmIoctl>();
/// The longest request but for a table.
const LONGEST: usize = HEADER + 512;
const VERSION: [u32; 3] = [4, 48, 0];

/// A command as the kernel has it.
#[derive(Debug)]
pub(crate) struct DmRequest {
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) dev: Option<DevNo>,
    flags: u32,
    targets: u32,
    payload: Vec<u8>,
}

/// What a device is, for the head of a reply.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "flags of the kernel's")]
pub(crate) struct DmHead {
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) dev: Option<DevNo>,
    pub(crate) open_count: u32,
    pub(crate) event_nr: u32,
    pub(crate) targets: u32,
    pub(crate) suspended: bool,
    pub(crate) read_only: bool,
    pub(crate) active: bool,
    pub(crate) inactive: bool,
    pub(crate) deferred: bool,
    pub(crate) uevent: bool,
}

/// What follows the head.
#[derive(Debug)]
pub(crate) enum DmBody {
    Nothing,
    Devices(Vec<(DevNo, String, u32, String)>),
    Lines(Vec<TargetLine>),
    Deps(Vec<DevNo>),
    Versions(Vec<(String, [u32; 3])>),
}

impl DmRequest {
    pub(crate) fn read(command: Command, words: &[u64]) -> Result<Self, Errno> {
        let len = match command {
            Command::TableLoad => size_of_val(words),
            // Nothing else is longer than a message.
            _ => size_of_val(words).min(LONGEST),
        };
        let view = View::of_words(words, len);
        let bad = |_| Errno::INVAL;
        let text = |at, limit| -> Result<String, Errno> {
            Ok(view.text("a name", at, limit).map_err(bad)?.to_owned())
        };
        let dev = view
            .u64("a number", offset_of!(DmIoctl, dev))
            .map_err(bad)?;
        let start = view.data_start().map_err(bad)?;
        Ok(Self {
            name: text(offset_of!(DmIoctl, name), abi::DM_NAME_LEN)?,
            uuid: text(offset_of!(DmIoctl, uuid), abi::DM_UUID_LEN)?,
            dev: (dev != 0).then(|| DevNo::from_dev_t(dev)),
            flags: view.flags().map_err(bad)?,
            targets: view
                .u32("the count", offset_of!(DmIoctl, target_count))
                .map_err(bad)?,
            payload: view.bytes_from(start).to_vec(),
        })
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn suspends(&self) -> bool {
        self.has(abi::DM_SUSPEND_FLAG)
    }

    pub(crate) fn noflush(&self) -> bool {
        self.has(abi::DM_NOFLUSH_FLAG)
    }

    pub(crate) fn skips_lockfs(&self) -> bool {
        self.has(abi::DM_SKIP_LOCKFS_FLAG)
    }

    pub(crate) fn deferred(&self) -> bool {
        self.has(abi::DM_DEFERRED_REMOVE)
    }

    pub(crate) fn read_only(&self) -> bool {
        self.has(abi::DM_READONLY_FLAG)
    }

    pub(crate) fn wants_table(&self) -> bool {
        self.has(abi::DM_STATUS_TABLE_FLAG)
    }

    fn text_from(&self, at: usize) -> String {
        let rest = self.payload.get(at..).unwrap_or_default();
        let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// The new name in a rename.
    pub(crate) fn new_name(&self) -> String {
        self.text_from(0)
    }

    /// The text of a message.
    pub(crate) fn message(&self) -> String {
        self.text_from(8)
    }

    /// The lines of a table.
    pub(crate) fn table(&self) -> Result<Vec<TargetLine>, Errno> {
        let bad = |_| Errno::INVAL;
        let view = View::new(self.payload.clone());
        let mut at = 0_usize;
        let mut lines = Vec::new();
        for _ in 0..self.targets {
            let field = |offset: usize| at.saturating_add(offset);
            let text = |at, limit| view.text("a target", at, limit).map_err(bad);
            let number = |at| view.u64("a target", at).map_err(bad);
            lines.push(TargetLine {
                start: Sectors::new(number(field(offset_of!(DmTargetSpec, sector_start)))?),
                len: Sectors::new(number(field(offset_of!(DmTargetSpec, length)))?),
                kind: text(
                    field(offset_of!(DmTargetSpec, target_type)),
                    abi::DM_MAX_TYPE_NAME,
                )?
                .to_owned(),
                params: text(field(size_of::<DmTargetSpec>()), usize::MAX)?.to_owned(),
            });
            let next = view
                .u32("a target", field(offset_of!(DmTargetSpec, next)))
                .map_err(bad)?;
            at = field(to_usize(next));
        }
        Ok(lines)
    }
}

fn padded(bytes: &mut Vec<u8>) {
    bytes.resize(align(bytes.len()), 0);
}

fn number(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_ne_bytes()
}

fn put(bytes: &mut [u8], at: usize, from: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(from) {
        *to = *from;
    }
}

impl DmBody {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Each record says where the next one is, the last one 0.
        let mut chain = |records: Vec<Vec<u8>>, next_at: usize, from_first: bool| {
            let last = records.len().saturating_sub(1);
            let mut begin = 0_usize;
            for (nr, mut record) in records.into_iter().enumerate() {
                padded(&mut record);
                let end = begin.saturating_add(record.len());
                let next = match (nr == last && !from_first, from_first) {
                    (true, _) => 0,
                    (false, true) => end,
                    (false, false) => record.len(),
                };
                put(&mut record, next_at, &number(next));
                bytes.extend_from_slice(&record);
                begin = end;
            }
        };
        match self {
            Self::Nothing => {}
            Self::Devices(devices) => {
                let record = |(dev, name, event, uuid): &(DevNo, String, u32, String)| {
                    let mut record = dev.to_dev_t().to_ne_bytes().to_vec();
                    record.extend_from_slice(&[0; 4]);
                    record.extend_from_slice(name.as_bytes());
                    record.push(0);
                    padded(&mut record);
                    record.extend_from_slice(&event.to_ne_bytes());
                    let has_uuid = !uuid.is_empty();
                    record.extend_from_slice(&u32::from(has_uuid).to_ne_bytes());
                    if has_uuid {
                        record.extend_from_slice(uuid.as_bytes());
                        record.push(0);
                    }
                    record
                };
                let mut records: Vec<_> = devices.iter().map(record).collect();
                if records.is_empty() {
                    records.push(vec![0; 16]);
                }
                chain(records, 8, false);
            }
            Self::Lines(lines) => {
                let record = |line: &TargetLine| {
                    let mut record = line.start.get().to_ne_bytes().to_vec();
                    record.extend_from_slice(&line.len.get().to_ne_bytes());
                    record.extend_from_slice(&[0; 8]);
                    let mut kind = [0; abi::DM_MAX_TYPE_NAME];
                    put(&mut kind, 0, line.kind.as_bytes());
                    record.extend_from_slice(&kind);
                    record.extend_from_slice(line.params.as_bytes());
                    record.push(0);
                    record
                };
                chain(lines.iter().map(record).collect(), 20, true);
            }
            Self::Deps(deps) => {
                bytes.extend_from_slice(&number(deps.len()));
                bytes.extend_from_slice(&[0; 4]);
                for dev in deps {
                    bytes.extend_from_slice(&dev.to_dev_t().to_ne_bytes());
                }
            }
            Self::Versions(targets) => {
                let record = |(name, version): &(String, [u32; 3])| {
                    let mut record = vec![0; 4];
                    for part in version {
                        record.extend_from_slice(&part.to_ne_bytes());
                    }
                    record.extend_from_slice(name.as_bytes());
                    record.push(0);
                    record
                };
                chain(targets.iter().map(record).collect(), 0, false);
            }
        }
        bytes
    }
}

/// Writes a reply over its request.
pub(crate) fn reply(words: &mut [u64], head: &DmHead, body: &DmBody) {
    let mut bytes = vec![0; HEADER];
    let payload = body.bytes();
    let mut flags = 0;
    for (is_so, flag) in [
        (head.suspended, abi::DM_SUSPEND_FLAG),
        (head.read_only, abi::DM_READONLY_FLAG),
        (head.active, abi::DM_ACTIVE_PRESENT_FLAG),
        (head.inactive, abi::DM_INACTIVE_PRESENT_FLAG),
        (head.deferred, abi::DM_DEFERRED_REMOVE),
        (head.uevent, abi::DM_UEVENT_GENERATED_FLAG),
    ] {
        if is_so {
            flags |= flag;
        }
    }
    let end = HEADER.saturating_add(payload.len());
    if end > size_of_val(words) {
        flags |= abi::DM_BUFFER_FULL_FLAG;
    } else {
        bytes.extend_from_slice(&payload);
        padded(&mut bytes);
    }
    for (part, at) in VERSION.iter().zip([0, 4, 8]) {
        put(&mut bytes, at, &part.to_ne_bytes());
    }
    let mut set = |at, n: u32| put(&mut bytes, at, &n.to_ne_bytes());
    set(
        offset_of!(DmIoctl, data_size),
        u32::try_from(end).unwrap_or(u32::MAX),
    );
    set(
        offset_of!(DmIoctl, data_start),
        u32::try_from(HEADER).unwrap_or(0),
    );
    set(offset_of!(DmIoctl, target_count), head.targets);
    set(offset_of!(DmIoctl, open_count), head.open_count);
    set(offset_of!(DmIoctl, flags), flags);
    set(offset_of!(DmIoctl, event_nr), head.event_nr);
    let dev = head.dev.map_or(0, DevNo::to_dev_t);
    put(&mut bytes, offset_of!(DmIoctl, dev), &dev.to_ne_bytes());
    put(&mut bytes, offset_of!(DmIoctl, name), head.name.as_bytes());
    put(&mut bytes, offset_of!(DmIoctl, uuid), head.uuid.as_bytes());
    for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_ne_bytes(eight.first_chunk().copied().unwrap_or_default());
    }
}

/// An `ioctl` that is not the control node's.
#[derive(Debug)]
pub(crate) enum Call<'a> {
    LoopFree,
    /// The descriptor of the file.
    LoopConfigure {
        fd: u32,
        autoclear: bool,
        read_only: bool,
    },
    LoopStatus(LoopStatus<'a>),
    LoopSetCapacity,
    LoopClear,
    Size(&'a mut u64),
    BlockSize(&'a mut i32),
    PhysicalBlockSize(&'a mut u32),
    ReadOnly(&'a mut i32),
    Discard {
        at: u64,
        len: u64,
    },
    /// The bytes discarded.
    Trim(&'a mut u64),
    ResizeExt4 {
        blocks: u64,
    },
}

/// Where the state of a loop device goes.
pub(crate) struct LoopStatus<'a>(&'a mut loop_info64);

impl std::fmt::Debug for LoopStatus<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LoopStatus")
    }
}

impl LoopStatus<'_> {
    pub(crate) fn set(&mut self, dev: u64, ino: u64, autoclear: bool, read_only: bool) {
        self.0.lo_device = dev;
        self.0.lo_inode = ino;
        self.0.lo_flags = abi::LO_FLAGS_DIRECT_IO;
        if autoclear {
            self.0.lo_flags |= abi::LO_FLAGS_AUTOCLEAR;
        }
        if read_only {
            self.0.lo_flags |= abi::LO_FLAGS_READ_ONLY;
        }
    }
}

impl<'a> Call<'a> {
    /// What an operation's number and argument mean; `ENOTTY` for those that no model has.
    pub(crate) fn read(opcode: Opcode, arg: &'a mut dyn Any) -> Result<Self, Errno> {
        fn of<T: 'static>(arg: &mut dyn Any) -> Result<&mut T, Errno> {
            arg.downcast_mut().ok_or(Errno::NOTTY)
        }
        Ok(match opcode {
            n if n == Opcode::from(LOOP_CTL_GET_FREE) => Self::LoopFree,
            n if n == Opcode::from(LOOP_CONFIGURE) => {
                let config: &mut loop_config = of(arg)?;
                let has = |flag| config.info.lo_flags & flag != 0;
                Self::LoopConfigure {
                    fd: config.fd,
                    autoclear: has(abi::LO_FLAGS_AUTOCLEAR),
                    read_only: has(abi::LO_FLAGS_READ_ONLY),
                }
            }
            n if n == Opcode::from(LOOP_GET_STATUS64) => Self::LoopStatus(LoopStatus(of(arg)?)),
            n if n == Opcode::from(LOOP_SET_CAPACITY) => Self::LoopSetCapacity,
            n if n == Opcode::from(LOOP_CLR_FD) => Self::LoopClear,
            n if n == Opcode::from(numbers::BLKGETSIZE64) => Self::Size(of(arg)?),
            n if n == Opcode::from(numbers::BLKSSZGET) => Self::BlockSize(of(arg)?),
            n if n == Opcode::from(numbers::BLKPBSZGET) => Self::PhysicalBlockSize(of(arg)?),
            n if n == Opcode::from(numbers::BLKROGET) => Self::ReadOnly(of(arg)?),
            n if n == Opcode::from(numbers::BLKDISCARD) => {
                let [at, len] = *of::<[u64; 2]>(arg)?;
                Self::Discard { at, len }
            }
            abi::FITRIM => Self::Trim(&mut of::<abi::FstrimRange>(arg)?.len),
            abi::EXT4_IOC_RESIZE_FS => Self::ResizeExt4 { blocks: *of(arg)? },
            _ => return Err(Errno::NOTTY),
        })
    }
}

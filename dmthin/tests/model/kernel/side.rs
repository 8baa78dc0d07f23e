//! One of the two kernels: does as it is told, and looks.
//!
//! Numbers of devices are each side's own: those in the words are those of who was told first.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dmthin::dm::PoolStatus;
use dmthin::ids::{DevNo, DmName, DmUuid};
use dmthin::ioctl::{
    Access, Control, Cookie, Deferred, DevId, DeviceInfo, Flush, IoctlError, LoopDevice,
    LoopOptions, SuspendFlags, TargetLine, attach_loop, discard, ensure_block_node, open_direct,
    open_direct_to_write, open_exclusive,
};
use dmthin::model::{DmTold, Told};
use dmthin::units::{Bytes, Sectors};

const BLOCK: u64 = 64 << 10;
/// What is written: whoever has a device open past the page cache wants it aligned.
static PAGE: Page = Page([1; 4096]);
/// As udev gets it that is to leave a device alone.
const COOKIE: u16 = 0x4f;
/// How often it is looked again before it is said to be otherwise: a device that goes with its last user
/// goes a little later (`drivers/md/dm.c:do_deferred_remove`).
const LOOKS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

#[repr(align(4096))]
struct Page([u8; 4096]);

pub(super) struct Side {
    control: Control,
    /// Where nodes of dm devices are made.
    nodes: PathBuf,
    files: PathBuf,
    loops: BTreeMap<DevNo, (LoopDevice, File)>,
    /// What the devices in the words are here.
    devices: BTreeMap<DevNo, DevNo>,
    open: BTreeMap<u64, (DevNo, OwnedFd)>,
}

fn answer<T>(result: Result<T, IoctlError>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(IoctlError::NoLiveTable { .. }) => "no live table".to_owned(),
        Err(IoctlError::Busy { .. }) => "busy".to_owned(),
        Err(error) => match error.errno() {
            Some(errno) => format!("{errno:?}"),
            None => panic!("{error}"),
        },
    }
}

fn how(noflush: bool, skip_lockfs: bool) -> SuspendFlags {
    SuspendFlags {
        noflush,
        skip_lockfs,
    }
}

impl Side {
    pub(super) fn new(files: &Path, nodes: &Path) -> Self {
        std::fs::create_dir(files).unwrap();
        Self {
            control: Control::open_in(nodes).unwrap(),
            nodes: nodes.to_owned(),
            files: files.to_owned(),
            loops: BTreeMap::new(),
            devices: BTreeMap::new(),
            open: BTreeMap::new(),
        }
    }

    /// A table with the numbers that devices have here.
    fn own_table(&self, table: &[TargetLine]) -> Vec<TargetLine> {
        let own = |word: &str| -> String {
            let dev = word.parse().ok().and_then(|dev| self.devices.get(&dev));
            dev.map_or_else(|| word.to_owned(), ToString::to_string)
        };
        let line = |line: &TargetLine| TargetLine {
            params: line
                .params
                .split(' ')
                .map(own)
                .collect::<Vec<_>>()
                .join(" "),
            ..line.clone()
        };
        table.iter().map(line).collect()
    }

    /// Params with the numbers that devices have in the words.
    fn told_params(&self, params: &str) -> String {
        let told = |word: &str| -> String {
            let dev = word.parse::<DevNo>().ok();
            let found = self.devices.iter().find(|(_, own)| Some(**own) == dev);
            found.map_or_else(|| word.to_owned(), |(told, _)| told.to_string())
        };
        params.split(' ').map(told).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn obey(&mut self, word: &Told) -> String {
        match word {
            Told::Dm {
                name,
                uuid,
                dev,
                what,
            } => self.command(name, uuid, *dev, what),
            Told::Attached { dev, size } => {
                self.attach(*dev, *size);
                "attached".to_owned()
            }
            Told::Detached { dev } => {
                self.loops.remove(dev);
                "detached".to_owned()
            }
            Told::Opened { nr, dev, exclusive } => {
                let Some((node, access)) = self.node(*dev) else {
                    return "no device".to_owned();
                };
                let opened = match exclusive {
                    true => open_exclusive(&node, access),
                    false if access == Access::ReadOnly => open_direct(&node).map(OwnedFd::from),
                    false => open_direct_to_write(&node).map(OwnedFd::from),
                };
                match opened {
                    Ok(fd) => {
                        self.open.insert(*nr, (*dev, fd));
                        "opened".to_owned()
                    }
                    Err(error) => answer::<()>(Err(error)),
                }
            }
            Told::Closed { nr } => {
                self.open.remove(nr);
                "closed".to_owned()
            }
            Told::Wrote { dev, blocks } => self.on_device(*dev, |fd| {
                for block in blocks {
                    rustix::io::pwrite(fd.as_fd(), &PAGE.0, block * BLOCK).unwrap();
                }
                rustix::fs::fsync(fd.as_fd()).unwrap();
                "written".to_owned()
            }),
            Told::Discarded { dev, at, len } => self.on_device(*dev, |fd| {
                answer(discard(fd.as_fd(), Bytes::new(*at), Bytes::new(*len)))
            }),
        }
    }

    fn command(&mut self, name: &str, uuid: &str, dev: Option<DevNo>, what: &DmTold) -> String {
        let control = &self.control;
        let cookie = Cookie::new(0, COOKIE);
        let (dm_name, dm_uuid) = (DmName::new(name), DmUuid::new(uuid));
        let own = dev.and_then(|dev| self.devices.get(&dev).copied());
        if let DmTold::Create = what {
            let (name, uuid) = (dm_name.unwrap(), dm_uuid.ok());
            let made = control.create(&name, uuid.as_ref());
            if let (Ok(made), Some(dev)) = (&made, dev) {
                self.devices.insert(dev, made.dev);
            }
            return answer(made);
        }
        let id = match (&dm_name, &dm_uuid, own) {
            (Ok(name), _, _) => DevId::Name(name),
            (_, Ok(uuid), _) => DevId::Uuid(uuid),
            (_, _, Some(dev)) => DevId::Dev(dev),
            _ => return "no device".to_owned(),
        };
        let waits = matches!(what, DmTold::Suspend { .. } | DmTold::Resume { .. });
        if waits && !self.lies_on_what_flows(id) {
            return "would wait".to_owned();
        }
        match what {
            DmTold::Create => unreachable!("just done"),
            DmTold::Load { table, read_only } => {
                answer(control.load(id, &self.own_table(table), *read_only))
            }
            DmTold::Clear => answer(control.clear(id)),
            DmTold::Suspend {
                noflush,
                skip_lockfs,
            } => answer(control.suspend(id, how(*noflush, *skip_lockfs))),
            DmTold::Resume {
                noflush: false,
                skip_lockfs: false,
            } => answer(control.resume(id, cookie)),
            DmTold::Resume {
                noflush,
                skip_lockfs,
            } => answer(control.swap(id, how(*noflush, *skip_lockfs))),
            DmTold::Remove { deferred } => {
                let deferred = match deferred {
                    true => Deferred::Yes,
                    false => Deferred::No,
                };
                answer(control.remove(id, deferred, cookie))
            }
            DmTold::Rename { to } => {
                let to = DmName::new(to.as_str()).unwrap();
                answer(control.rename(&dm_name.unwrap(), &to, cookie))
            }
            DmTold::Message { text } => answer(control.message(id, Sectors::ZERO, text)),
        }
    }

    fn attach(&mut self, dev: DevNo, size: u64) {
        if let Some((device, file)) = self.loops.get(&dev) {
            file.set_len(size).unwrap();
            device.update_capacity().unwrap();
            return;
        }
        let path = self.files.join(dev.to_string());
        let mut open = File::options();
        open.read(true).write(true).create(true).truncate(false);
        let file = open.open(&path).unwrap();
        file.set_len(size).unwrap();
        let device = attach_loop(&file, &path, LoopOptions::default()).unwrap();
        self.devices.insert(dev, device.dev());
        self.loops.insert(dev, (device, file));
    }

    /// The node of a device, and how it can be opened.
    fn node(&self, dev: DevNo) -> Option<(PathBuf, Access)> {
        let own = *self.devices.get(&dev)?;
        let found = self.control.status(DevId::Dev(own)).ok()?;
        let node = self.nodes.join(format!("compared-{dev}"));
        drop(std::fs::remove_file(&node));
        ensure_block_node(&node, own).unwrap();
        let access = match found.read_only {
            true => Access::ReadOnly,
            false => Access::ReadWrite,
        };
        Some((node, access))
    }

    /// Whether no pool is suspended but this device itself: a thin device, its table live or not, is suspended
    /// with its pool, and is neither suspended nor resumed until that is (`drivers/md/dm.c:dm_suspend`,
    /// `dm_resume`).
    fn lies_on_what_flows(&self, id: DevId<'_>) -> bool {
        let own = self.control.status(id).ok().map(|found| found.dev);
        let is_pool = |dev: DevNo| {
            let table = self.control.table(DevId::Dev(dev));
            table.is_ok_and(|(_, lines)| lines.iter().any(|line| line.kind == "thin-pool"))
        };
        let waits = |dev: DevNo| Some(dev) != own && is_pool(dev) && !self.is_running(dev);
        !self.devices.values().copied().any(waits)
    }

    fn is_running(&self, dev: DevNo) -> bool {
        let found = self.control.status(DevId::Dev(dev));
        found.is_ok_and(|found| found.active_table && !found.suspended)
    }

    /// Whether what is written to a device does not wait.
    fn flows(&self, dev: DevNo) -> bool {
        self.is_running(dev) && self.lies_on_what_flows(DevId::Dev(dev))
    }

    /// Works on a thin device through whoever has it open, or else alone.
    fn on_device(&self, dev: DevNo, does: impl FnOnce(&OwnedFd) -> String) -> String {
        let Some(own) = self.devices.get(&dev).filter(|own| self.flows(**own)) else {
            return "cannot".to_owned();
        };
        let (_, lines) = self.control.table(DevId::Dev(*own)).unwrap();
        if lines.iter().any(|line| line.kind != "thin") {
            return "no thin device".to_owned();
        }
        if let Some((_, fd)) = self.open.values().find(|(open, _)| *open == dev) {
            return does(fd);
        }
        let Some((node, access)) = self.node(dev) else {
            return "no device".to_owned();
        };
        match open_exclusive(&node, access) {
            Ok(fd) => does(&fd),
            Err(error) => answer::<()>(Err(error)),
        }
    }

    /// What there is to see of every device of the words.
    pub(super) fn look(&self, after: &Told) -> String {
        // A commit costs flushes of the disk, so only what is not in the status else is committed first.
        let flush = match after {
            Told::Wrote { .. } | Told::Discarded { .. } => Flush::Yes,
            _ => Flush::No,
        };
        let changes_table = matches!(
            after,
            Told::Dm {
                what: DmTold::Resume { .. },
                ..
            }
        );
        let mut devices: Vec<_> = self.control.list_devices().unwrap();
        devices.sort_by(|one, other| one.name.cmp(&other.name));
        let mut text = String::new();
        for device in devices {
            if !device.name.as_str().starts_with("dmthin-") {
                continue;
            }
            let id = DevId::Dev(device.dev);
            let Ok((found, lines)) = self.control.table_status(id, flush) else {
                continue;
            };
            text += &self.told(&found);
            if changes_table && let Ok((_, table)) = self.control.table(id) {
                for line in table {
                    let params = self.told_params(&line.params);
                    text += &format!("\n  {} {} {} {params}", line.start, line.len, line.kind);
                }
            }
            for line in lines {
                text += &format!("\n  {}", status(&line));
            }
            text.push('\n');
        }
        text
    }

    fn told(&self, found: &DeviceInfo) -> String {
        let DeviceInfo {
            name,
            uuid,
            open_count,
            suspended,
            read_only,
            active_table,
            inactive_table,
            deferred_remove,
            ..
        } = found;
        format!(
            "{name} {uuid:?}: open {open_count}, suspended {suspended}, read-only {read_only}, \
             live {active_table}, inactive {inactive_table}, deferred {deferred_remove}"
        )
    }

    /// Looks until it is so, or is not for long enough.
    pub(super) fn look_for(&self, expected: &str, after: &Told) -> String {
        let mut found = self.look(after);
        for _ in 0..LOOKS {
            if found == expected {
                break;
            }
            std::thread::sleep(PAUSE);
            found = self.look(after);
        }
        found
    }

    /// Takes every device away.
    pub(super) fn clear(&mut self) {
        self.open.clear();
        let cookie = Cookie::new(0, COOKIE);
        // A device goes only after those that use it, so as many passes as there are devices.
        for _ in 0..self.devices.len() {
            for dev in self.devices.values() {
                let id = DevId::Dev(*dev);
                if self.lies_on_what_flows(id) {
                    drop(self.control.resume(id, cookie));
                }
                drop(self.control.remove(id, Deferred::No, cookie));
            }
        }
        for dev in self.devices.keys() {
            drop(std::fs::remove_file(
                self.nodes.join(format!("compared-{dev}")),
            ));
        }
        self.loops.clear();
    }
}

/// A status line; of a pool without what the model does not claim: how many blocks of its metadata are in use, and
/// where the metadata snapshot lies.
fn status(line: &TargetLine) -> String {
    match PoolStatus::parse(&line.params) {
        Ok(PoolStatus::Working(pool)) if line.kind == "thin-pool" => format!(
            "{} {}/{} of {}, held {}, {} {} {} check {} {:?}",
            pool.transaction_id,
            pool.used_data,
            pool.total_data,
            pool.total_metadata,
            pool.held_root.is_some(),
            pool.mode,
            pool.discard,
            pool.on_full,
            pool.needs_check,
            pool.metadata_low_water
        ),
        _ => line.params.trim().to_owned(),
    }
}

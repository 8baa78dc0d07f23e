//! Device mapper (`drivers/md/dm-ioctl.c`, `dm.c`, `dm-table.c`).

use crate::ids::DevNo;
use crate::ioctl::wire::{Command, DmBody, DmHead, DmRequest, reply};
use crate::ioctl::{Errno, TargetLine};
use crate::model::state::{DM_MAJOR, Device, LOOP_MAJOR, State};

pub(super) fn devices_of(line: &TargetLine) -> impl Iterator<Item = DevNo> {
    line.params.split(' ').filter_map(|word| word.parse().ok())
}

/// As the kernel prints a pool's table: with the number of features, and a space at the end
/// (`dm-thin.c:emit_flags`).
fn pool_table(params: &str) -> String {
    match params.split_whitespace().count() {
        4 => format!("{params} 0 "),
        _ => format!("{} ", params.trim_end()),
    }
}

/// The length of a table in sectors.
pub(super) fn length(table: &[TargetLine]) -> u64 {
    table.iter().map(|line| line.len.get()).sum()
}

impl State {
    pub(super) fn dm(&mut self, command: Command, words: &mut [u64]) -> Result<i32, Errno> {
        let request = DmRequest::read(command, words)?;
        let mut head = DmHead::default();
        let mut body = DmBody::Nothing;
        match command {
            Command::Version | Command::DevArmPoll => {}
            Command::ListVersions => {
                let targets = ["thin", "thin-pool", "linear", "error"];
                let target = |name: &str| (name.to_owned(), [1, 23, 0]);
                body = DmBody::Versions(targets.into_iter().map(target).collect());
            }
            Command::ListDevices => {
                let entry = |(minor, device): (&u32, &Device)| {
                    let dev = DevNo::new(DM_MAJOR, *minor);
                    (
                        dev,
                        device.name.clone(),
                        device.event_nr,
                        device.uuid.clone(),
                    )
                };
                body = DmBody::Devices(self.devices.iter().map(entry).collect());
            }
            Command::DevCreate => {
                let taken = |device: &Device| {
                    device.name == request.name
                        || (!request.uuid.is_empty() && device.uuid == request.uuid)
                };
                if self.devices.values().any(taken) {
                    return Err(Errno::BUSY);
                }
                let free = |minor: &u32| !self.devices.contains_key(minor);
                let minor = (0..).find(free).ok_or(Errno::NOSPC)?;
                let device = Device {
                    name: request.name,
                    uuid: request.uuid,
                    ..Device::default()
                };
                self.devices.insert(minor, device);
                self.block_file(DevNo::new(DM_MAJOR, minor), 0)?;
                head = self.head(minor);
            }
            Command::DevRename if self.has_name(&request.new_name()) => {
                // Asked before the device is looked for (`dm_hash_rename`).
                return Err(Errno::BUSY);
            }
            _ => {
                let minor = self.find(&request)?;
                self.on(command, minor, &request, &mut head, &mut body)?;
            }
        }
        reply(words, &head, &body);
        Ok(0)
    }

    fn find(&self, request: &DmRequest) -> Result<u32, Errno> {
        let is_it = |(minor, device): (&u32, &Device)| {
            if !request.name.is_empty() {
                device.name == request.name
            } else if !request.uuid.is_empty() {
                device.uuid == request.uuid
            } else {
                request.dev == Some(DevNo::new(DM_MAJOR, *minor))
            }
        };
        let found = self.devices.iter().find(|found| is_it(*found));
        found.map(|(minor, _)| *minor).ok_or(Errno::NXIO)
    }

    fn has_name(&self, name: &str) -> bool {
        self.devices.values().any(|device| device.name == name)
    }

    fn device(&mut self, minor: u32) -> &mut Device {
        self.devices.get_mut(&minor).expect("found before")
    }

    fn head(&self, minor: u32) -> DmHead {
        let device = &self.devices[&minor];
        let dev = DevNo::new(DM_MAJOR, minor);
        DmHead {
            name: device.name.clone(),
            uuid: device.uuid.clone(),
            dev: Some(dev),
            open_count: self.open_count(dev),
            event_nr: device.event_nr,
            targets: u32::try_from(device.live.as_ref().map_or(0, Vec::len)).unwrap(),
            suspended: device.suspended,
            read_only: device.live.is_some() && device.read_only,
            active: device.live.is_some(),
            inactive: device.inactive.is_some(),
            deferred: device.deferred,
            uevent: false,
        }
    }

    fn on(
        &mut self,
        command: Command,
        minor: u32,
        request: &DmRequest,
        head: &mut DmHead,
        body: &mut DmBody,
    ) -> Result<(), Errno> {
        let dev = DevNo::new(DM_MAJOR, minor);
        match command {
            Command::DevRemove => {
                if self.open_count(dev) > 0 {
                    if !request.deferred() {
                        return Err(Errno::BUSY);
                    }
                    self.device(minor).deferred = true;
                    *head = self.head(minor);
                    return Ok(());
                }
                *head = self.head(minor);
                head.deferred = false;
                head.uevent = true;
                self.destroy(minor);
                return Ok(());
            }
            Command::DevRename => {
                let to = request.new_name();
                *head = self.head(minor);
                head.uevent = true;
                self.device(minor).name = to;
                return Ok(());
            }
            Command::DevSuspend if request.suspends() => self.suspend(minor),
            Command::DevSuspend => {
                let uevent = self.resume(minor)?;
                *head = self.head(minor);
                head.uevent = uevent;
                return Ok(());
            }
            Command::TableLoad => {
                let table = request.table()?;
                self.load(minor, &table)?;
                let device = self.device(minor);
                device.is_disk = true;
                device.inactive = Some(table);
                device.inactive_read_only = request.read_only();
            }
            Command::TableClear => self.device(minor).inactive = None,
            Command::TableDeps => {
                let live = self.devices[&minor].live.iter().flatten();
                let mut deps: Vec<_> = live.flat_map(devices_of).collect();
                deps.dedup();
                *body = DmBody::Deps(deps);
            }
            Command::TableStatus => *body = DmBody::Lines(self.lines(minor, request)),
            Command::TargetMsg => self.message(minor, &request.message())?,
            Command::DevStatus | Command::DevWait => {}
            _ => return Err(Errno::NOTTY),
        }
        *head = self.head(minor);
        Ok(())
    }

    fn lines(&mut self, minor: u32, request: &DmRequest) -> Vec<TargetLine> {
        let mut lines = self.devices[&minor].live.clone().unwrap_or_default();
        for line in &mut lines {
            if request.wants_table() {
                match line.kind.as_str() {
                    "error" => line.params.clear(),
                    "thin-pool" => line.params = pool_table(&line.params),
                    _ => {}
                }
                continue;
            }
            if line.kind == "thin-pool" && !request.noflush() {
                self.commit(minor);
            }
            line.params = match line.kind.as_str() {
                "thin-pool" => self.pool_status(minor),
                "thin" => self.thin_status(line),
                _ => String::new(),
            };
        }
        lines
    }

    fn message(&mut self, minor: u32, text: &str) -> Result<(), Errno> {
        if text == "@cancel_deferred_remove" {
            self.device(minor).deferred = false;
            return Ok(());
        }
        let live = self.devices[&minor].live.as_deref();
        match live.and_then(|table| table.first()) {
            Some(line) if line.kind == "thin-pool" => self.pool_message(minor, text),
            _ => Err(Errno::INVAL),
        }
    }

    fn load(&mut self, minor: u32, table: &[TargetLine]) -> Result<(), Errno> {
        if table.is_empty() {
            return Err(Errno::INVAL);
        }
        // A thin-pool stays one (`dm-table.c:dm_table_get_immutable_target_type`).
        if let Some([line]) = self.devices[&minor].live.as_deref()
            && line.kind == "thin-pool"
            && table.iter().any(|line| line.kind != "thin-pool")
        {
            return Err(Errno::INVAL);
        }
        for line in table {
            match line.kind.as_str() {
                "thin-pool" => self.load_pool(minor, line)?,
                "thin" => self.load_thin(line)?,
                "linear" => {
                    let dev = devices_of(line).next().ok_or(Errno::INVAL)?;
                    if self.size(dev).is_none() {
                        return Err(Errno::NODEV);
                    }
                }
                "error" => {}
                _ => return Err(Errno::INVAL),
            }
        }
        Ok(())
    }

    /// The size of a device in bytes.
    pub(super) fn size(&self, dev: DevNo) -> Option<u64> {
        match dev.major() {
            LOOP_MAJOR => self.loops.get(&dev.minor()).map(|found| found.size),
            DM_MAJOR => {
                let device = self.devices.get(&dev.minor())?;
                Some(device.live.as_deref().map_or(0, length) * 512)
            }
            _ => None,
        }
    }

    fn suspend(&mut self, minor: u32) {
        if self.devices[&minor].suspended {
            return;
        }
        self.take_writes(DevNo::new(DM_MAJOR, minor));
        if self.pools.contains_key(&minor) {
            self.commit(minor);
            self.pool(minor).suspended = true;
        }
        self.device(minor).suspended = true;
    }

    /// Whether a uevent was sent.
    fn resume(&mut self, minor: u32) -> Result<bool, Errno> {
        if self.devices[&minor].inactive.is_some() {
            if self.devices[&minor].live.is_some() {
                self.suspend(minor);
            }
            let device = self.device(minor);
            device.live = device.inactive.take();
            device.read_only = device.inactive_read_only;
            device.suspended = true;
        }
        if !self.devices[&minor].suspended {
            return Ok(false);
        }
        let Some(table) = self.devices[&minor].live.clone() else {
            return Err(Errno::INVAL);
        };
        if let [line] = table.as_slice()
            && line.kind == "thin-pool"
        {
            self.resume_pool(minor, line)?;
        }
        let dev = DevNo::new(DM_MAJOR, minor);
        self.device(minor).suspended = false;
        self.block_file(dev, length(&table) * 512)?;
        self.show(dev);
        Ok(true)
    }

    /// Whether a number is that of a device that can be opened.
    pub(super) fn is_disk(&self, minor: u32) -> bool {
        self.devices
            .get(&minor)
            .is_some_and(|device| device.is_disk)
    }

    pub(super) fn destroy(&mut self, minor: u32) {
        self.take_writes(DevNo::new(DM_MAJOR, minor));
        if let Some(pool) = self.pools.get(&minor) {
            if !pool.suspended {
                self.commit(minor);
            }
            let pool = self.pools.remove(&minor).expect("just seen");
            self.write_data(&pool);
            self.write_metadata(pool.metadata, &pool.path, pool.committed);
        }
        self.devices.remove(&minor);
    }
}

//! `device list` and `device inspect`: every dm device of ours, whichever pool it is of.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::dm::{OwnKind, OwnUuid, PartKind, ThinPoolTable, ThinStatus, ThinTable};
use crate::fs;
use crate::graph::code::ErrorCode;
use crate::graph::error::PoolError;
use crate::graph::host::Host;
use crate::graph::layout::DATA_FILE;
use crate::graph::pool::Pool;
use crate::graph::report::{DeviceKind, DeviceReport};
use crate::ids::{PoolUuid, VolumeId, VolumeKind};
use crate::ioctl::{DevId, DeviceInfo, Flush, TargetLine, node_dev};
use crate::units::{Bytes, Sectors};

impl Host {
    /// Every dm device that bears a uuid of ours, sorted by name.
    pub(crate) fn own_devices(&self) -> Result<Vec<(DeviceInfo, OwnUuid)>, PoolError> {
        let dm = self.dm()?;
        let mut ours = Vec::new();
        for listed in dm.control().list_devices()? {
            // One that went since the listing is none of ours any more.
            let Some(device) = dm.find(DevId::Dev(listed.dev))? else {
                continue;
            };
            if let Some(own) = device
                .uuid
                .as_ref()
                .and_then(|uuid| uuid.as_str().parse().ok())
            {
                ours.push((device, own));
            }
        }
        ours.sort_by(|(a, _), (b, _): &(DeviceInfo, OwnUuid)| a.name.cmp(&b.name));
        Ok(ours)
    }

    /// Every device of ours, sorted by name: those of pools under other roots, or of none, too.
    ///
    /// # Errors
    /// [`PoolError::Dm`] where the kernel cannot be asked.
    pub fn devices(&self) -> Result<Vec<DeviceReport>, PoolError> {
        let pools = self.pools_by_uuid()?;
        let ours = self.own_devices()?;
        let mut reports = Vec::new();
        for (device, own) in &ours {
            let root = match pools.contains_key(&own.pool) {
                true => None,
                false => self.other_root(own.pool, &ours)?,
            };
            match self.device_report(device, own, &pools, root) {
                // One whose removal was deferred may go at any time.
                Err(error) if error.code() == ErrorCode::NotFound => {}
                report => reports.push(report?),
            }
        }
        Ok(reports)
    }

    /// One device, by its dm name, by its container's, or by its data volume's.
    ///
    /// # Errors
    /// [`PoolError::DeviceNotFound`], and as [`Host::devices`].
    pub fn device(&self, name: &str) -> Result<DeviceReport, PoolError> {
        let mut devices = self.devices()?;
        let found = devices
            .iter()
            .position(|device| device.name.as_str() == name)
            .or_else(|| {
                // A container goes before a data volume of its name.
                [VolumeKind::Container, VolumeKind::Data]
                    .into_iter()
                    .find_map(|kind| {
                        devices.iter().position(|device| {
                            matches!(device.kind, DeviceKind::Volume(is) if is == kind)
                                && device.owner.as_deref() == Some(name)
                        })
                    })
            });
        match found {
            Some(index) => Ok(devices.swap_remove(index)),
            None => Err(PoolError::DeviceNotFound {
                name: name.to_owned(),
            }),
        }
    }

    /// The device's node, where it leads to the device.
    pub(crate) fn node_of(&self, device: &DeviceInfo) -> Result<Option<PathBuf>, PoolError> {
        let node = self.dm()?.dev_dir().join(device.name.as_str());
        Ok((node_dev(&node)? == Some(device.dev)).then_some(node))
    }

    /// Bytes that an active thin device has mapped, those it shares included.
    pub(crate) fn mapped(&self, device: &DeviceInfo) -> Result<Option<Bytes>, PoolError> {
        let (_, lines) = self
            .dm()?
            .control()
            .table_status(DevId::Dev(device.dev), Flush::No)?;
        let [line] = lines.as_slice() else {
            return Ok(None);
        };
        Ok(match ThinStatus::parse(&line.params) {
            Ok(ThinStatus::Working { mapped, .. }) if line.kind == ThinTable::TARGET => {
                Some(mapped.to_bytes_saturating())
            }
            _ => None,
        })
    }

    /// The pools whose catalogue can be read; a damaged one must not hide the others' devices.
    fn pools_by_uuid(&self) -> Result<HashMap<PoolUuid, Pool>, PoolError> {
        let mut pools = HashMap::new();
        for summary in self.pools()? {
            if let Some(uuid) = summary.uuid {
                pools.insert(uuid, self.pool(&summary.name)?);
            }
        }
        Ok(pools)
    }

    /// The root that a pool is open under which is not under ours, where its data are in a file there.
    pub(crate) fn other_root(
        &self,
        pool: PoolUuid,
        devices: &[(DeviceInfo, OwnUuid)],
    ) -> Result<Option<PathBuf>, PoolError> {
        let is_it = |own: &OwnUuid| own.pool == pool && own.kind == OwnKind::Pool;
        let Some((device, _)) = devices.iter().find(|(_, own)| is_it(own)) else {
            return Ok(None);
        };
        let (_, table) = self.dm()?.control().table(DevId::Dev(device.dev))?;
        let data = table
            .first()
            .filter(|line| line.kind == ThinPoolTable::TARGET)
            .and_then(|line| ThinPoolTable::parse(&line.params).ok())
            .map(|table| table.data);
        let file = data.and_then(|data| {
            let link = format!("/sys/dev/block/{data}/loop/backing_file");
            std::fs::read(link).ok()
        });
        Ok(file.and_then(|file| {
            let file = Path::new(OsStr::from_bytes(file.trim_ascii_end()));
            let root = file.parent()?.parent()?;
            file.ends_with(DATA_FILE).then(|| root.to_owned())
        }))
    }

    fn device_report(
        &self,
        device: &DeviceInfo,
        own: &OwnUuid,
        pools: &HashMap<PoolUuid, Pool>,
        root: Option<PathBuf>,
    ) -> Result<DeviceReport, PoolError> {
        let control = self.dm()?.control();
        let id = DevId::Dev(device.dev);
        let (_, table) = control.table(id)?;
        let (_, status) = control.table_status(id, Flush::No)?;
        let size = table.iter().fold(Sectors::ZERO, |sum, line| {
            sum.checked_add(line.len).unwrap_or(sum)
        });
        let size: Bytes = size.to_bytes_saturating();
        let pool = pools.get(&own.pool);
        Ok(DeviceReport {
            name: device.name.clone(),
            uuid: own.to_dm_uuid(),
            kind: match own.kind {
                OwnKind::Pool => DeviceKind::Pool,
                OwnKind::Ballast => DeviceKind::Ballast,
                OwnKind::Mirror => DeviceKind::Mirror,
                OwnKind::Part(PartKind::Metadata) => DeviceKind::Metadata,
                OwnKind::Part(PartKind::Data) => DeviceKind::Data,
                OwnKind::Volume(kind, _) => DeviceKind::Volume(kind),
            },
            pool: pool.map(|pool| pool.name().clone()),
            root,
            owner: pool.map(|pool| pool.owner(own)).transpose()?.flatten(),
            devno: device.dev,
            node: self.node_of(device)?,
            size,
            table: table.iter().map(line_text).collect(),
            status: status.iter().map(line_text).collect(),
            open_count: device.open_count,
            event_nr: device.event_nr.get(),
            suspended: device.suspended,
            read_only: device.read_only,
            deferred_remove: device.deferred_remove,
            below: control.deps(id)?,
            mounts: fs::mounts_of(device.dev)?
                .into_iter()
                .map(|mount| mount.target)
                .collect(),
        })
    }
}

/// A target line as `dmsetup` prints it.
fn line_text(line: &TargetLine) -> String {
    format!("{} {} {} {}", line.start, line.len, line.kind, line.params)
}

impl Pool {
    /// What a volume that is being removed was called.
    fn removed_owner(&self, id: VolumeId) -> Result<Option<String>, PoolError> {
        let removals = self.catalogue().removals()?;
        let name = removals
            .into_iter()
            .find(|removal| removal.volume.id == id)
            .and_then(|removal| removal.name);
        Ok(name.map(|name| format!("{name} (removed)")))
    }

    /// Whose device this is, in a word for a person; `None` where the catalogue does not know it.
    pub(crate) fn owner(&self, own: &OwnUuid) -> Result<Option<String>, PoolError> {
        let OwnKind::Volume(kind, id) = own.kind else {
            return Ok(Some(self.name().to_string()));
        };
        Ok(match kind {
            VolumeKind::Base => self
                .catalogue()
                .bases()?
                .iter()
                .any(|base| base.id == id)
                .then(|| "base".to_owned()),
            VolumeKind::Layer => self
                .catalogue()
                .layers()?
                .iter()
                .find(|layer| layer.volume.id == id)
                .map(|layer| layer.layer.diff_id.to_string()),
            VolumeKind::Container | VolumeKind::Data => self
                .catalogue()
                .writable_on(id)?
                .map(|writable| writable.name.to_string())
                .map_or_else(|| self.removed_owner(id), |name| Ok(Some(name)))?,
            VolumeKind::Snapshot => self
                .catalogue()
                .all_snapshots()?
                .iter()
                .find(|snapshot| snapshot.volume.id == id)
                .map(|snapshot| snapshot.name.to_string()),
        })
    }
}

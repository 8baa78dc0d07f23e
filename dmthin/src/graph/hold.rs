//! Devices that are suspended: by a process that died, or by us so that a full pool fails nobody.
//!
//! A container whose device is suspended waits, its virtual machine too, with no limit and no error,
//! where the kernel's pool fails what it cannot serve after 60 s. The monitor that holds it has a lock
//! (`locks.rs`, byte 6) which goes with it: `gc` resumes what nobody living holds.

use crate::dm::{OwnKind, OwnUuid};
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::step::Step;
use crate::ids::VolumeId;
use crate::ioctl::{DevId, DeviceInfo};

impl Live<'_> {
    fn own(&self) -> Result<Vec<(DeviceInfo, OwnUuid)>, PoolError> {
        let mut devices = self.pool().host().own_devices()?;
        devices.retain(|(device, own)| own.pool == self.record().uuid && device.active_table);
        Ok(devices)
    }

    /// Resumes every device of the pool that is suspended. The caller holds the whole pool: no verb
    /// has one suspended just now.
    pub(crate) fn resume_all(&self) -> Result<(), PoolError> {
        let mut suspended = self.own()?;
        suspended.retain(|(device, _)| device.suspended);
        // A volume's resume waits for its pool's.
        suspended.sort_by_key(|(_, own)| own.kind);
        for (device, _) in suspended {
            tracing::info!(device = %device.name, "resuming a device that was left suspended");
            self.thin_pool().dm().resume(DevId::Dev(device.dev))?;
            Step::O3.passed(self.pool().name());
        }
        Ok(())
    }

    /// Devices of containers and data volumes that are suspended, or that somebody uses and that are
    /// not. What nobody has open is left alone: nobody writes to it, and removing and mounting it would wait for ever.
    fn containers(&self, suspended: bool) -> Result<Vec<(DeviceInfo, VolumeId)>, PoolError> {
        let containers = self
            .own()?
            .into_iter()
            .filter(|(device, _)| device.suspended == suspended)
            .filter(|(device, _)| suspended || device.open_count > 0)
            .filter_map(|(device, own)| match own.kind {
                OwnKind::Volume(kind, id) if kind.is_writable() => Some((device, id)),
                _ => None,
            });
        Ok(containers.collect())
    }

    /// Has every container wait that would write; gives how many do now. Those that a verb works on
    /// are left to it.
    pub(crate) fn hold_containers(&self) -> Result<u64, PoolError> {
        self.each(false, |device| {
            self.thin_pool().dm().hold(DevId::Dev(device.dev))
        })
    }

    /// Lets the containers go on that wait; gives how many.
    pub(crate) fn let_containers_go(&self) -> Result<u64, PoolError> {
        self.each(true, |device| {
            self.thin_pool()
                .dm()
                .resume(DevId::Dev(device.dev))
                .map(drop)
        })
    }

    fn each(
        &self,
        suspended: bool,
        act: impl Fn(&DeviceInfo) -> Result<(), crate::dm::DmError>,
    ) -> Result<u64, PoolError> {
        let mut done = 0_u64;
        for (device, volume) in self.containers(suspended)? {
            let Some(_lock) = self.pool().locks().try_volume(volume)? else {
                continue;
            };
            match act(&device) {
                Err(crate::dm::DmError::NotFound { .. }) => {}
                result => {
                    result?;
                    done = done.saturating_add(1);
                }
            }
        }
        Ok(done)
    }
}

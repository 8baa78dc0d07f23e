//! `who`: what holds a container's device, whoever holds it.

use crate::fs::{self, Holder};
use crate::graph::error::PoolError;
use crate::graph::pool::Pool;
use crate::graph::report::WhoReport;
use crate::ids::{ContainerName, DevNo};
use crate::store::VolumeRecord;

impl Pool {
    /// Who holds a container open or mounted, in every mount namespace.
    ///
    /// # Errors
    /// [`StoreError::ContainerNotFound`](crate::store::StoreError::ContainerNotFound), and
    /// [`PoolError::Fs`] where `/proc` or loop devices cannot be read.
    pub fn who(&self, name: &ContainerName) -> Result<WhoReport, PoolError> {
        let volume = self.catalogue().container(name)?.volume;
        self.who_holds(name, &volume)
    }

    fn who_holds(
        &self,
        name: &ContainerName,
        volume: &VolumeRecord,
    ) -> Result<WhoReport, PoolError> {
        let device = self.volume_device(volume)?;
        Ok(WhoReport {
            name: name.clone(),
            volume: volume.id,
            devno: device.as_ref().map(|device| device.dev),
            open_count: device.as_ref().map_or(0, |device| device.open_count),
            holders: device.map_or(Ok(Vec::new()), |device| self.holders(device.dev))?,
        })
    }

    /// What holds a device of ours.
    pub(crate) fn holders(&self, dev: DevNo) -> Result<Vec<Holder>, PoolError> {
        let found = fs::holders_of(&[dev])?;
        Ok(found.into_iter().map(|(_, holder)| holder).collect())
    }
}

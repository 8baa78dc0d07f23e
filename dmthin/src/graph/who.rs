//! `who`: what holds the device of a container or data volume, whoever holds it.

use crate::fs::{self, Holder};
use crate::graph::error::PoolError;
use crate::graph::pool::Pool;
use crate::graph::report::WhoReport;
use crate::ids::{ContainerName, DevNo, WritableName};
use crate::store::{StoreError, VolumeRecord, VolumeState};

impl Pool {
    /// Who holds a container open or mounted, in every mount namespace; where no container has the
    /// name any more, the one that had it last and is in the queue of removals.
    ///
    /// # Errors
    /// [`StoreError::ContainerNotFound`], and [`PoolError::Fs`] where `/proc` or loop devices cannot be read.
    pub fn who(&self, name: &ContainerName) -> Result<WhoReport, PoolError> {
        let volume = match self.catalogue().container(name) {
            Ok(container) => container.volume,
            Err(error @ StoreError::ContainerNotFound { .. }) => {
                let removals = self.catalogue().removals()?.into_iter().rev();
                let mut namesakes = removals.filter(|r| r.name.as_ref() == Some(name));
                namesakes.next().ok_or(error)?.volume
            }
            Err(error) => return Err(error.into()),
        };
        self.who_holds(name.into(), &volume)
    }

    pub(crate) fn who_holds(
        &self,
        name: WritableName,
        volume: &VolumeRecord,
    ) -> Result<WhoReport, PoolError> {
        let device = self.volume_device(volume)?;
        Ok(WhoReport {
            name,
            volume: volume.id,
            removed: volume.state == VolumeState::Deleting,
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

/// Holders told in a line, the first three of them.
pub(crate) fn told(holders: &[Holder]) -> String {
    let mut words: Vec<String> = holders.iter().take(3).map(ToString::to_string).collect();
    let more = holders.len().saturating_sub(words.len());
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    words.join(", ")
}

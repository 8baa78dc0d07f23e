//! Volumes of a pool as devices.

use std::thread;
use std::time::Duration;

use crate::dm::device::{ActivateOptions, Device};
use crate::dm::error::DmError;
use crate::dm::pool::{ThinPool, only_line};
use crate::dm::status::{PoolStatus, ThinStatus};
use crate::dm::table::ThinTable;
use crate::ids::{DmName, DmUuid, ThinId};
use crate::ioctl::{DevId, Errno, Flush, SuspendFlags, TargetLine};
use crate::units::Sectors;

/// How often a volume is tried whose pool is suspended, and the pause after each try: two seconds.
const SUSPENDED_TRIES: u32 = 100;
const SUSPENDED_PAUSE: Duration = Duration::from_millis(20);

impl ThinPool<'_> {
    /// Activates a volume as a device of this size, which may differ from its size before.
    ///
    /// # Errors
    /// [`DmError::NoSuchThin`], and as of [`crate::dm::Dm::activate`].
    pub fn activate_thin(
        &self,
        name: &DmName,
        uuid: &DmUuid,
        id: ThinId,
        size: Sectors,
        options: ActivateOptions,
    ) -> Result<Device, DmError> {
        let table = [self.thin_line(id, size)];
        self.once_resumed(|| self.dm().activate(name, uuid, &table, options))
            .map_err(|error| match error {
                DmError::Ioctl(cause) if cause.errno() == Some(Errno::NODATA) => {
                    self.no_such_thin(id)
                }
                error => error,
            })
    }

    /// Loads a volume's table, again while the pool is suspended, as it is for a moment when somebody
    /// grows it: the kernel refuses that (`drivers/md/dm-thin.c:thin_ctr`) by the same EINVAL as a
    /// table that is wrong, which ours are not.
    fn once_resumed<T>(&self, mut load: impl FnMut() -> Result<T, DmError>) -> Result<T, DmError> {
        let mut tries = SUSPENDED_TRIES;
        loop {
            match load() {
                Err(error) if error.errno() == Some(Errno::INVAL) && tries > 0 => {
                    if self.status()? == PoolStatus::Fail {
                        return Err(error);
                    }
                    tries = tries.saturating_sub(1);
                    thread::sleep(SUSPENDED_PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Makes an active volume's device as long as this, where it is shorter. A file system on it is
    /// frozen for the moment.
    ///
    /// # Errors
    /// As of [`crate::dm::Dm::reload`], [`DmError::WrongTarget`].
    pub fn lengthen_thin(
        &self,
        volume: DevId<'_>,
        id: ThinId,
        size: Sectors,
    ) -> Result<(), DmError> {
        let (info, lines) = self.dm().control().table(volume)?;
        let line = only_line(&info.name, ThinTable::TARGET, lines)?;
        if line.len < size {
            let table = [self.thin_line(id, size)];
            let how = SuspendFlags::default();
            self.once_resumed(|| self.dm().reload(volume, &table, info.read_only, how))?;
        }
        Ok(())
    }

    /// What an active volume says of itself: how much is mapped.
    ///
    /// # Errors
    /// [`DmError::WrongTarget`], [`DmError::Line`], [`DmError::Ioctl`].
    pub fn thin_status(&self, volume: DevId<'_>) -> Result<ThinStatus, DmError> {
        let (info, lines) = self.dm().control().table_status(volume, Flush::No)?;
        let line = only_line(&info.name, ThinTable::TARGET, lines)?;
        ThinStatus::parse(&line.params).map_err(|cause| DmError::Line {
            device: info.name.to_string(),
            cause,
        })
    }

    fn thin_line(&self, id: ThinId, size: Sectors) -> TargetLine {
        let table = ThinTable {
            pool: self.device().dev(),
            id,
            external_origin: None,
        };
        TargetLine {
            start: Sectors::ZERO,
            len: size,
            kind: ThinTable::TARGET.to_owned(),
            params: table.to_string(),
        }
    }
}

//! Volumes of a pool as devices.

use crate::dm::device::{ActivateOptions, Device};
use crate::dm::error::DmError;
use crate::dm::pool::{ThinPool, only_line};
use crate::dm::status::ThinStatus;
use crate::dm::table::ThinTable;
use crate::ids::{DmName, DmUuid, ThinId};
use crate::ioctl::{Cookie, Deferred, DevId, Errno, Flush, TargetLine};
use crate::units::{BlockSize, Sectors};

/// How many names are tried for a probe.
const PROBE_TRIES: u32 = 8;

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
        self.dm()
            .activate(name, uuid, &[self.thin_line(id, size)], options)
            .map_err(|error| match error {
                DmError::Ioctl(cause) if cause.errno() == Some(Errno::NODATA) => {
                    self.no_such_thin(id)
                }
                error => error,
            })
    }

    /// Whether the pool has a volume of this id.
    ///
    /// The pool has no question for that: a table that names the volume is loaded into a device
    /// made for it, which is removed again without having been resumed, so nothing is written.
    ///
    /// # Errors
    /// [`DmError::Ioctl`], [`DmError::Random`], [`DmError::Rollback`] where the device cannot be
    /// removed after another failure.
    pub fn exists(&self, id: ThinId) -> Result<bool, DmError> {
        let control = self.dm().control();
        let mut tries = PROBE_TRIES;
        let dev = loop {
            match control.create(&probe_name(id)?, None) {
                Ok(info) => break info.dev,
                Err(error) if error.errno() == Some(Errno::BUSY) && tries > 0 => {
                    tries = tries.saturating_sub(1);
                }
                Err(error) => return Err(error.into()),
            }
        };
        // A multiple of whatever logical block size the pool's data device has.
        let line = self.thin_line(id, BlockSize::DEFAULT.to_sectors());
        let answer = match control.load(DevId::Dev(dev), &[line], true) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Some(Errno::NODATA) => Ok(false),
            Err(error) => Err(DmError::from(error)),
        };
        let removed = control
            .remove(DevId::Dev(dev), Deferred::Yes, Cookie::NONE)
            .map(drop)
            .map_err(DmError::from);
        match answer {
            Ok(answer) => removed.map(|()| answer),
            Err(cause) => Err(cause.after_undo(removed)),
        }
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

/// A name nobody has, so that two probes of one id do not meet.
fn probe_name(id: ThinId) -> Result<DmName, DmError> {
    let mut salt = [0; 8];
    rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| DmError::Random { errno })?;
    let salt = u64::from_ne_bytes(salt);
    let name = format!("dmthin-probe-{id}-{salt:016x}");
    Ok(DmName::new(name).expect("plain letters, and at most 38 of them"))
}

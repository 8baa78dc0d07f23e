//! Suspension as a scope: whatever happens in it, the device is resumed.

use crate::dm::device::Dm;
use crate::dm::error::DmError;
use crate::ids::{DevNo, DmName};
use crate::ioctl::{DevId, DeviceInfo};

/// A suspended device. Dropping this resumes it and logs a failure; [`Suspended::resume`] reports
/// it.
#[must_use = "the device is resumed when this is dropped"]
#[derive(Debug)]
pub struct Suspended<'a> {
    dm: &'a Dm,
    name: DmName,
    dev: DevNo,
    resumed: bool,
}

impl<'a> Suspended<'a> {
    /// Takes charge of a device that was just suspended.
    pub(super) fn new(dm: &'a Dm, info: &DeviceInfo) -> Self {
        Self {
            dm,
            name: info.name.clone(),
            dev: info.dev,
            resumed: false,
        }
    }

    /// The device's number.
    #[must_use]
    pub fn dev(&self) -> DevNo {
        self.dev
    }

    /// Resumes the device. Where that fails it is tried once more when this is dropped.
    ///
    /// # Errors
    /// [`DmError::Ioctl`].
    pub fn resume(mut self) -> Result<DeviceInfo, DmError> {
        let info = self.resume_once()?;
        self.resumed = true;
        Ok(info)
    }

    fn resume_once(&self) -> Result<DeviceInfo, DmError> {
        self.dm.resume(DevId::Dev(self.dev))
    }
}

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        if self.resumed {
            return;
        }
        if let Err(error) = self.resume_once() {
            tracing::error!(
                device = %self.name,
                dev = %self.dev,
                %error,
                "cannot resume a suspended device; all that use it hang: try `dmsetup resume`"
            );
        }
    }
}

//! A part of a device as a device of its own.

use crate::dm::device::{ActivateOptions, Device, Dm};
use crate::dm::error::DmError;
use crate::dm::pool::only_line;
use crate::dm::table::LinearTable;
use crate::ids::{DmName, DmUuid};
use crate::ioctl::{SuspendFlags, TargetLine};
use crate::units::Sectors;

impl Dm {
    /// The device of this uuid, which is `len` of what the table leads to: made where it is not there,
    /// made longer where it is shorter, in use or not. It is never made shorter.
    ///
    /// # Errors
    /// [`DmError::LeadsElsewhere`] where it is there and is a part of something else, and as of
    /// [`Dm::activate`] and [`Dm::reload`].
    pub fn ensure_linear(
        &self,
        name: &DmName,
        uuid: &DmUuid,
        table: &LinearTable,
        len: Sectors,
    ) -> Result<Device, DmError> {
        let wanted = TargetLine {
            start: Sectors::ZERO,
            len,
            kind: LinearTable::TARGET.to_owned(),
            params: table.to_string(),
        };
        let Some(device) = self.active(uuid)? else {
            return self.activate(name, uuid, &[wanted], ActivateOptions::default());
        };
        let (info, lines) = self.control().table(device.id())?;
        let line = only_line(&info.name, LinearTable::TARGET, lines)?;
        let found = LinearTable::parse(&line.params).map_err(|cause| DmError::Line {
            device: info.name.to_string(),
            cause,
        })?;
        if found != *table {
            return Err(DmError::LeadsElsewhere {
                name: info.name,
                found: found.device,
                expected: table.device,
            });
        }
        if line.len < len {
            // Nothing on it is frozen, and what waits goes on at its new length.
            let how = SuspendFlags {
                noflush: true,
                skip_lockfs: true,
            };
            self.reload(device.id(), &[wanted], info.read_only, how)?;
        }
        Ok(device)
    }
}

//! LVM's volumes below a pool: made larger by LVM's own tool, for its metadata are its own.

use crate::dm::PartKind;
use crate::fs::Tool;
use crate::graph::error::PoolError;
use crate::graph::pool::Pool;
use crate::ioctl::DevId;
use crate::store::PoolRecord;
use crate::units::Bytes;

const LVEXTEND: Tool = Tool {
    name: "lvextend",
    package: "lvm2",
};

impl Pool {
    /// Has LVM make the volume that is one half of the pool this large, rounded up to LVM's extents. What
    /// is no volume of LVM's is left alone. Gives the size it has then.
    pub(crate) fn lvextend(
        &self,
        record: &PoolRecord,
        half: PartKind,
        to: Bytes,
    ) -> Result<Bytes, PoolError> {
        let attached = self.attach(record, half)?;
        let device = self.host().dm()?.find(DevId::Dev(attached.dev()))?;
        // `lib/activate/dev_manager.c` of lvm2: its uuids begin so.
        let is_lvm = device
            .and_then(|device| device.uuid)
            .is_some_and(|uuid| uuid.as_str().starts_with("LVM-"));
        if !is_lvm {
            return Ok(attached.size());
        }
        let backing = match half {
            PartKind::Data => &record.data,
            PartKind::Metadata => &record.metadata,
        };
        let args = ["-q", "-L", &format!("{}b", to.get())].map(str::to_owned);
        LVEXTEND.run(&args, &self.backing_path(backing))?;
        Ok(self.attach(record, half)?.size())
    }
}

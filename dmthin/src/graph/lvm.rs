//! LVM's volumes below a pool: made larger by LVM's own tool, for its metadata are its own.

use std::path::Path;

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
const LVS: Tool = Tool {
    name: "lvs",
    package: "lvm2",
};

/// Whether volumes of LVM that are too short are extended, by LVM's tool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Lvextend {
    /// They are left alone.
    #[default]
    Never,
    /// To what was asked for, or not at all.
    Exactly,
    /// To what was asked for, or by what their volume group has left.
    AsFar,
}

/// What the group of a volume has left.
fn group_room(volume: &Path) -> Result<Bytes, PoolError> {
    let args = ["--noheadings", "--nosuffix", "--units=b", "-o", "vg_free"].map(str::to_owned);
    let told = LVS.answer(&args, volume)?;
    // What cannot be read is no room: lvextend says then what is wrong.
    Ok(Bytes::new(told.trim().parse().unwrap_or(0)))
}

impl Pool {
    /// Has LVM make the volume that is one half of the pool this large, rounded up to LVM's extents. What
    /// is no volume of LVM's is left alone. Gives the size it has then, which is less where it was to be
    /// extended as far as that goes.
    pub(crate) fn lvextend(
        &self,
        record: &PoolRecord,
        half: PartKind,
        to: Bytes,
        how: Lvextend,
    ) -> Result<Bytes, PoolError> {
        let attached = self.attach(record, half)?;
        let device = self.host().dm()?.find(DevId::Dev(attached.dev()))?;
        // `lib/activate/dev_manager.c` of lvm2: its uuids begin so.
        let is_lvm = device
            .and_then(|device| device.uuid)
            .is_some_and(|uuid| uuid.as_str().starts_with("LVM-"));
        let size = attached.size();
        if !is_lvm || how == Lvextend::Never {
            return Ok(size);
        }
        let backing = match half {
            PartKind::Data => &record.data,
            PartKind::Metadata => &record.metadata,
        };
        let volume = self.backing_path(backing);
        let most = match how {
            Lvextend::AsFar => size.saturating_add(group_room(&volume)?),
            Lvextend::Never | Lvextend::Exactly => to,
        };
        // Where there is no room at all, LVM is to say so.
        let to = if most > size { to.min(most) } else { to };
        let args = ["-q", "-L", &format!("{}b", to.get())].map(str::to_owned);
        LVEXTEND.run(&args, &volume)?;
        Ok(self.attach(record, half)?.size())
    }
}

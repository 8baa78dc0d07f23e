//! Making a space larger, by what is below it.

use crate::backing::{self, SparseFile};
use crate::graph::error::PoolError;
use crate::graph::grow::GrowPool;
use crate::graph::guard::host_least;
use crate::graph::lvm::Lvextend;
use crate::graph::monitor::{NoGrowth, PoolMonitor, Space};
use crate::graph::report::Usage;
use crate::store::BackingRecord;
use crate::units::{BlockSize, Bytes, NewSize, Percent};

/// A space with what it may become.
pub(super) struct Room<'a> {
    pub(super) space: Space,
    pub(super) usage: Usage,
    pub(super) least: Percent,
    pub(super) backing: &'a BackingRecord,
    pub(super) size: Bytes,
    pub(super) block_size: BlockSize,
    pub(super) most: Option<Bytes>,
}

impl PoolMonitor {
    /// Grows one space as far as it may; gives its size then.
    pub(super) fn grow_to(&self, room: &Room<'_>, target: Bytes) -> Result<Bytes, NoGrowth> {
        // Part of a block is of no use to the pool.
        let block_size = room.block_size.to_bytes();
        let mut to = target.checked_round_up(block_size).unwrap_or(target);
        if let Some(most) = room.most {
            if most <= room.size {
                return Err(NoGrowth::AtMost { most });
            }
            to = to.min(most);
        }
        let BackingRecord::File { .. } = room.backing else {
            return self.grow_device(room, to);
        };
        let path = self.pool.backing_path(room.backing);
        let allocated = SparseFile::open(&path)
            .and_then(|file| file.allocated())
            .map_err(PoolError::from)?;
        let host = backing::host_room(&path).map_err(PoolError::from)?;
        // What the file has not taken yet of its size, it may still take.
        let most = allocated.saturating_add(host.free.saturating_sub(host_least(host)));
        if most <= room.size {
            let free = host.free;
            return Err(NoGrowth::HostRoom { path, free });
        }
        self.grown(room, Some(to.min(most)))
    }

    /// Takes a device that has become larger, or makes it larger first, where that is allowed.
    fn grow_device(&self, room: &Room<'_>, to: Bytes) -> Result<Bytes, NoGrowth> {
        let size = self.grown(room, None)?;
        if size > room.size {
            return Ok(size);
        }
        if self.policy.lvextend {
            match self.grown(room, Some(to)) {
                // It is no volume of LVM's.
                Err(NoGrowth::Failed(PoolError::DeviceShort { .. })) => {}
                result => return result,
            }
        }
        let path = self.pool.backing_path(room.backing);
        let size = room.size;
        Err(NoGrowth::Device { path, size })
    }

    /// `pool grow` for one space; its size then.
    fn grown(&self, room: &Room<'_>, to: Option<Bytes>) -> Result<Bytes, NoGrowth> {
        let to = to.map(NewSize::To);
        let mut grow = GrowPool {
            lvextend: match self.policy.lvextend {
                true => Lvextend::AsFar,
                false => Lvextend::Never,
            },
            ..GrowPool::default()
        };
        match room.space {
            Space::Data => grow.data = to,
            Space::Metadata => grow.metadata = to,
        }
        let (_, report) = self.pool.grow(&grow)?;
        Ok(match room.space {
            Space::Data => report.data.size,
            Space::Metadata => report.metadata.size,
        })
    }
}

//! What must hold of a pool that was settled, and at the end.

use std::collections::BTreeSet;

use dmthin::graph::FindingKind;
use dmthin::ids::{DevNo, ThinId};
use dmthin::model::{DmTold, Told};

use super::{Checked, World, require, told};
use crate::plan::Verb;

impl World {
    /// That nothing is where it should not be, in an open pool that was settled.
    pub(crate) fn check(&mut self) -> Checked<()> {
        for device in self.model.devices() {
            require(!device.suspended && device.active, || {
                format!("left: {device:?}")
            })?;
        }
        let (loops, mounts) = (self.model.nr_loops(), self.model.nr_mounts());
        require((loops, mounts) == (2, 0), || {
            format!("{loops} loops, {mounts} mounts")
        })?;
        // First, for a check releases what a dead reader left.
        let (_, held) = self.model.thins(&self.metadata()).map_err(told)?;
        require(!held, || "a metadata snapshot is held".to_owned())?;
        let pool = self.pool().map_err(told)?;
        let (findings, _) = pool.check().map_err(told)?;
        let held = |kind| kind == FindingKind::HeldRemoval && self.held.is_some();
        if let Some(found) = findings.iter().find(|found| !held(found.kind)) {
            return Err(format!("check finds {}", found.text));
        }
        let catalogue = self.rows()?;
        let volumes = catalogue.all_volumes().map_err(told)?;
        let ballast = catalogue.ballast().map_err(told)?;
        let mut rows: BTreeSet<u32> = volumes.iter().map(|row| row.thin_id.get()).collect();
        rows.extend(ballast.map(|ballast| ballast.thin_id.get()));
        rows.insert(ThinId::MIRROR.get());
        let (thins, _) = self.model.thins(&self.metadata()).map_err(told)?;
        let in_pool: BTreeSet<u32> = thins.iter().map(|thin| thin.id).collect();
        require(rows == in_pool, || {
            format!("rows have {rows:?}, the pool has {in_pool:?}")
        })?;
        for row in &volumes {
            let volume = row.id.get();
            let before = *self.ids.entry(row.thin_id.get()).or_insert(volume);
            require(before == volume, || {
                format!("thin id {} was that of volume {before}", row.thin_id)
            })?;
        }
        for found in catalogue.writables().map_err(told)? {
            let id = found.volume.thin_id.get();
            let thin = thins.iter().find(|thin| thin.id == id);
            let fs_size = thin.and_then(|thin| thin.fs_size);
            require(fs_size == Some(found.volume.size.get()), || {
                format!("{:?}: a file system of {fs_size:?}", found.name)
            })?;
        }
        let status = pool.status().map_err(told)?;
        let live = status.live.ok_or("the pool is not open")?;
        let sizes = [live.data, live.metadata].map(|usage| usage.map(|usage| usage.total));
        let expected = [status.data.size, status.metadata.size].map(Some);
        require(sizes == expected, || {
            format!("the kernel has {sizes:?}, the catalogue {expected:?}")
        })?;
        let paired = live.transaction_id;
        require(paired == Some(status.generation), || {
            format!("generation {}, the pool's {paired:?}", status.generation)
        })
    }

    /// The device of the catalogue's copy in the pool.
    fn mirror_device(&self) -> Option<DevNo> {
        let made = |told| match told {
            Told::Dm {
                name,
                dev,
                what: DmTold::Create,
                ..
            } if name == "dmthin-tank-mirror" => dev,
            _ => None,
        };
        self.model.told(0).into_iter().filter_map(made).next_back()
    }

    /// That one more opening finds nothing to do.
    pub(crate) fn open_again(&mut self) -> Checked<()> {
        let before = self.model.told(0).len();
        self.open()
            .map_err(|error| format!("not opened again: {}", told(error)))?;
        let mut done = self.model.told(before);
        let mirror = self.mirror_device();
        done.retain(|told| match told {
            Told::Opened { .. } | Told::Closed { .. } => false,
            // The copy of the catalogue is written anew each time.
            Told::Wrote { dev, .. } => Some(*dev) != mirror,
            _ => true,
        });
        require(done.is_empty(), || format!("opened again it did {done:?}"))
    }

    /// That the pool goes on as any other, and leaves nothing.
    pub(crate) fn end(&mut self) -> Checked<()> {
        self.let_go();
        if !self.seen.queued.is_empty() {
            self.open().map_err(told)?;
            self.expect(&[self.settled(self.seen.clone())])?;
        }
        if self.seen.images.is_empty() {
            self.step(Verb::Import(1))?;
        }
        self.step(Verb::Create {
            image: 0,
            larger: false,
        })?;
        // The names count up, so the last one is not the last in order.
        let last = format!("c{}", self.named - 1);
        let last = self.seen.named('c').position(|name| *name == last);
        self.step(Verb::Remove {
            container: u64::try_from(last.ok_or("it is not there")?).unwrap(),
            queued: false,
        })?;
        self.close().map_err(told)?;
        let (devices, loops) = (self.model.devices(), self.model.nr_loops());
        require(devices.is_empty() && loops == 0, || {
            format!("left after close: {devices:?}, {loops} loops")
        })?;
        let findings = self.host.check(None).map_err(told)?.findings;
        require(findings.is_empty(), || format!("check finds {findings:?}"))?;
        self.restart();
        self.host.destroy_pool(&self.name).map_err(told)?;
        require(!self.pool_dir().exists(), || "files are left".to_owned())
    }
}
